//! The blocks that messages are made of. vLLM refuses a whole request for one block that it does not know; Ollama skips
//! such blocks (ollama-api §11), and so does vllama.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::{elements, json, list, parsed};
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

/// The messages of a request.
#[derive(Debug)]
pub struct Messages<'a>(Vec<&'a RawValue>);

impl<'a> Messages<'a> {
    /// Reads the list of messages, which is JSON.
    ///
    /// # Errors
    /// [`ApiError::Required`] when there are none, [`ApiError::BadJson`] when they are no list.
    pub fn read(messages: Option<&'a str>) -> Result<Self, ApiError> {
        let required = ApiError::Required("messages is required");
        let Some(messages) = messages else { return Err(required) };
        let elements = elements(messages, "messages")?;
        let elements = elements.ok_or_else(|| ApiError::BadJson("messages: expected a list".to_owned()))?;
        if elements.is_empty() { Err(required) } else { Ok(Self(elements)) }
    }

    /// Whether the first one is a system prompt.
    pub fn begin_with_system(&self) -> bool {
        let first = self.0.first().and_then(|message| serde_json::from_str::<Message>(message.get()).ok());
        first.and_then(|message| message.role).is_some_and(|role| role.get() == "\"system\"")
    }

    /// The list without what vLLM would refuse; `None` where that is all of it.
    ///
    /// # Errors
    /// [`ApiError::NotSupported`] for an image that is not in the request itself, [`ApiError::BadJson`] for what is no
    /// message.
    pub fn without_unknown(&self) -> Result<Option<String>, ApiError> {
        let mut same = true;
        let mut messages = Vec::with_capacity(self.0.len());
        for message in &self.0 {
            let raw = message.get();
            let Message { content, .. } = parsed(raw, "messages")?;
            match content.map(known_blocks).transpose()?.flatten().zip(content) {
                None => messages.push(Cow::Borrowed(raw)),
                Some((blocks, content)) => {
                    same = false;
                    // The content is a piece of the message.
                    let start = content.get().as_ptr() as usize - raw.as_ptr() as usize;
                    let end = start + content.get().len();
                    messages.push(Cow::Owned([&raw[..start], &blocks, &raw[end..]].concat()));
                }
            }
        }
        Ok((!same).then(|| list(messages)))
    }
}

/// The blocks of a message without what vLLM would refuse; `None` where that is all of them.
fn known_blocks(content: &RawValue) -> Result<Option<String>, ApiError> {
    let Some(blocks) = elements(content.get(), "messages")? else { return Ok(None) };
    let mut kept = Vec::with_capacity(blocks.len());
    let mut same = true;
    for raw in blocks {
        let raw = raw.get();
        let block: Block = parsed(raw, "messages: content")?;
        match block.r#type.as_deref() {
            // vLLM's own words say what is missing.
            None => kept.push(Cow::Borrowed(raw)),
            Some(kind) if KNOWN.contains(&kind) => {
                check_images(kind, &block)?;
                kept.push(Cow::Borrowed(raw));
            }
            Some(kind) => {
                same = false;
                kept.extend(document(kind, &block).map(Cow::Owned));
            }
        }
    }
    Ok((!same).then(|| list(kept)))
}

/// A document that is plain text, as a block of text.
fn document(kind: &str, block: &Block<'_>) -> Option<String> {
    let source = block.source.filter(|_| kind == "document")?;
    let source: Source = serde_json::from_str(source.get()).ok()?;
    let text = source.data.filter(|_| source.r#type.as_deref() == Some("text"))?;
    Some(json(&TextBlock { r#type: "text", text: &text }))
}

/// An image has to be in the request: an engine that fetched it would let clients look into the network it is in.
fn check_images(kind: &str, block: &Block<'_>) -> Result<(), ApiError> {
    match kind {
        "image" => check_source(block.source),
        "tool_result" => {
            let Some(content) = block.content else { return Ok(()) };
            for raw in elements(content.get(), "messages: content")?.unwrap_or_default() {
                // What is no object the engine leaves out.
                if raw.get().starts_with('{') {
                    let item: Block = parsed(raw.get(), "messages: content")?;
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
    let source: Source = parsed(source.get(), "messages: source")?;
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
        let messages = format!(r#"[{{"role":"user" , "content":{content}}}]"#);
        let read = Messages::read(Some(&messages)).map_err(|error| error.to_string())?;
        let told = read.without_unknown().map_err(|error| error.to_string())?.unwrap_or_else(|| messages.clone());
        let content = told.strip_prefix(r#"[{"role":"user" , "content":"#).and_then(|rest| rest.strip_suffix("}]"));
        Ok(content.expect("the rest as it came").to_owned())
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
