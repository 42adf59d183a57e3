//! The blocks that messages are made of. vLLM refuses a whole request for one block that it does not know; Ollama skips
//! such blocks (ollama-api §11), and so does vllama.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::members::{elements, list, parsed, place, said};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::json::Text;

/// What vLLM 0.32 knows.
const KNOWN: [&str; 9] = [
    "text",
    "image",
    "tool_use",
    "tool_result",
    "tool_reference",
    "thinking",
    "redacted_thinking",
    "tool_addition",
    "tool_removal",
];

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, default)]
    r#type: Option<Text<'a>>,
    #[serde(borrow, default)]
    source: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow, default)]
    r#type: Option<Text<'a>>,
    #[serde(borrow, default)]
    data: Option<Text<'a>>,
}

#[derive(Serialize)]
struct TextBlock<'a> {
    r#type: &'static str,
    text: &'a str,
}

/// Bytes to put in the place of a part of the body.
pub type Edit = (Range<usize>, Vec<u8>);

/// The messages of a request.
#[derive(Debug)]
pub struct Messages<'a> {
    body: &'a [u8],
    elements: Vec<&'a RawValue>,
}

impl<'a> Messages<'a> {
    /// Reads the list of messages that stands in `body`.
    ///
    /// # Errors
    /// [`ApiError::Required`] when there are none, [`ApiError::BadJson`] when they are no list.
    pub fn read(body: &'a [u8], messages: Option<&'a RawValue>) -> Result<Self, ApiError> {
        let required = ApiError::Required("messages is required");
        let messages = said(messages).ok_or(required.clone())?;
        let elements = elements(messages, "messages")?;
        let elements = elements.ok_or_else(|| ApiError::BadJson("messages: expected a list".to_owned()))?;
        if elements.is_empty() { Err(required) } else { Ok(Self { body, elements }) }
    }

    /// Where the first one stands in the body.
    pub fn start(&self) -> usize {
        self.elements.first().map_or(0, |message| place(self.body, message).start)
    }

    /// Whether the first one is a system prompt.
    pub fn begin_with_system(&self) -> bool {
        let first = self.elements.first().and_then(|message| serde_json::from_str::<Message>(message.get()).ok());
        first.and_then(|message| message.role).is_some_and(|role| role.get() == "\"system\"")
    }

    /// What is to be put in the place of what vLLM would refuse.
    ///
    /// # Errors
    /// [`ApiError::NotSupported`] for an image that is not in the request itself, [`ApiError::BadJson`] for what is no
    /// message.
    pub fn edits(&self) -> Result<Vec<Edit>, ApiError> {
        let mut edits = Vec::new();
        for message in &self.elements {
            let Message { content, .. } = parsed(message.get().as_bytes(), "messages")?;
            let Some(content) = content else { continue };
            if let Some(blocks) = edited(content)? {
                edits.push((place(self.body, content), blocks));
            }
        }
        Ok(edits)
    }
}

/// The blocks without what vLLM would refuse; `None` where that is all of them.
fn edited(content: &RawValue) -> Result<Option<Vec<u8>>, ApiError> {
    let Some(blocks) = elements(content, "messages")? else { return Ok(None) };
    let mut kept = Vec::with_capacity(blocks.len());
    let mut same = true;
    for raw in blocks {
        let block: Block = parsed(raw.get().as_bytes(), "messages: content")?;
        match block.r#type.as_deref() {
            // vLLM's own words say what is missing.
            None => kept.push(Cow::Borrowed(raw.get().as_bytes())),
            Some(kind) if KNOWN.contains(&kind) => {
                check_images(kind, &block)?;
                kept.push(Cow::Borrowed(raw.get().as_bytes()));
            }
            Some(kind) => {
                same = false;
                kept.extend(document(kind, &block).map(Cow::Owned));
            }
        }
    }
    Ok((!same).then(|| list(kept.iter().map(|block| &**block))))
}

/// A document that is plain text, as a block of text.
fn document(kind: &str, block: &Block<'_>) -> Option<Vec<u8>> {
    let source = block.source.filter(|_| kind == "document")?;
    let source: Source = serde_json::from_str(source.get()).ok()?;
    let text = source.data.filter(|_| source.r#type.as_deref() == Some("text"))?;
    serde_json::to_vec(&TextBlock { r#type: "text", text: &text }).ok()
}

/// An image has to be in the request: an engine that fetched it would let clients look into the network it is in.
fn check_images(kind: &str, block: &Block<'_>) -> Result<(), ApiError> {
    match kind {
        "image" => check_source(block.source),
        "tool_result" => {
            let Some(content) = block.content else { return Ok(()) };
            for raw in elements(content, "messages: content")?.unwrap_or_default() {
                // What is no object the engine leaves out.
                if raw.get().starts_with('{') {
                    let item: Block = parsed(raw.get().as_bytes(), "messages: content")?;
                    if item.r#type.as_deref() == Some("image") {
                        check_source(item.source)?;
                    }
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_source(source: Option<&RawValue>) -> Result<(), ApiError> {
    let Some(source) = source else { return Ok(()) };
    let source: Source = parsed(source.get().as_bytes(), "messages: source")?;
    match source.r#type.as_deref() {
        None | Some("base64") => Ok(()),
        Some(_) => {
            let text = "image URLs are not currently supported, please use base64 encoded data instead";
            Err(ApiError::NotSupported(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(content: &str) -> Result<String, String> {
        let body = format!(r#"{{"messages": [{{"role":"user" , "content":{content}}}]}}"#);
        let members = super::super::members::Members::read(body.as_bytes()).map_err(|error| error.to_string())?;
        let messages = Messages::read(body.as_bytes(), members.messages).map_err(|error| error.to_string())?;
        let edits = messages.edits().map_err(|error| error.to_string())?;
        let mut out = body.clone();
        for (range, text) in edits.into_iter().rev() {
            out.replace_range(range, std::str::from_utf8(&text).expect("text"));
        }
        let start = out.find(r#""content":"#).expect("content") + r#""content":"#.len();
        Ok(out[start..out.len() - "}]}".len()].to_owned())
    }

    #[test]
    fn what_vllm_knows_stays_as_it_came() {
        for content in [
            r#""text""#,
            "null",
            "[]",
            r#"[ {"type":"text","text":"a\u00e9" , "cache_control":{"type":"ephemeral"}} ]"#,
            r#"[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]"#,
            r#"[{"type":"tool_use","id":"t","name":"f","input":{"type":"document"}},{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"x"},{"type":"search_result"},7]}]"#,
            r#"[{"type":"thinking","thinking":"x","signature":"y"},{"type":"redacted_thinking","data":"z"}]"#,
            r#"[{"text":"without a type"}]"#,
        ] {
            assert_eq!(edited(content).as_deref(), Ok(content));
        }
    }

    #[test]
    fn blocks_that_vllm_does_not_know_are_skipped() {
        let known = r#"{"type":"text", "text":"x"}"#;
        for (content, kept) in [
            (
                format!(r#"[{{"type":"server_tool_use","id":"s","name":"web_search","input":{{}}}} , {known}]"#),
                format!("[{known}]"),
            ),
            (
                format!(r#"[{known},{{"type":"web_search_tool_result","content":[]}},{known}]"#),
                format!("[{known},{known}]"),
            ),
            (r#"[{"type":"container_upload"}]"#.to_owned(), "[]".to_owned()),
            (
                r#"[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AA"}}]"#
                    .to_owned(),
                "[]".to_owned(),
            ),
        ] {
            assert_eq!(edited(&content), Ok(kept));
        }
    }

    #[test]
    fn a_document_of_plain_text_becomes_text() {
        let document =
            r#"[{"type":"document","title":"t","source":{"type":"text","media_type":"text/plain","data":"a\n\"b\""}}]"#;
        assert_eq!(edited(document).as_deref(), Ok(r#"[{"type":"text","text":"a\n\"b\""}]"#));
    }

    #[test]
    fn images_from_elsewhere_are_refused_wherever_they_stand() {
        let image = r#"{"type":"image","source":{"type":"url","url":"http://10.0.0.1/x.png"}}"#;
        let escaped = r#"{"type":"im\u0061ge","source":{"type":"\u0075rl","url":"http://10.0.0.1/x.png"}}"#;
        let file = r#"{"type":"image","source":{"type":"file","file_id":"f"}}"#;
        for image in [image, escaped, file] {
            for content in
                [format!("[{image}]"), format!(r#"[{{"type":"tool_result","tool_use_id":"t","content":[{image}]}}]"#)]
            {
                let error = edited(&content).expect_err(&content);
                assert!(error.starts_with("image URLs are not currently supported"), "{error}");
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for content in [
            r#"[{"type":"image","source":{"type":"base64","type":"url","url":"x"}}]"#,
            r#"[{"type":"text","type":"image","source":{"type":"url"}}]"#,
            r#"["text"]"#,
            r#"[{"type":7}]"#,
        ] {
            assert!(edited(content).is_err(), "{content}");
        }
    }
}
