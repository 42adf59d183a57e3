//! A conversation in the engine's words: images as parts, calls with ids and their results paired (ollama-api §6.8).

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Serialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::images::Part;
use super::json::{self, Text};
use super::types::{Message, ToolCall};

/// One turn, as the engine wants it.
#[derive(Clone, Debug, Serialize)]
pub struct Turn<'a> {
    role: Cow<'a, str>,
    content: Content<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Called<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<Part<'a>>),
}

#[derive(Clone, Debug, Serialize)]
struct Called<'a> {
    id: Cow<'a, str>,
    r#type: &'static str,
    function: CalledFunction<'a>,
}

#[derive(Clone, Debug, Serialize)]
struct CalledFunction<'a> {
    name: &'a str,
    /// JSON in a string.
    arguments: Cow<'a, str>,
}

/// A call whose result has not been seen yet.
struct Open<'a> {
    id: Cow<'a, str>,
    name: &'a str,
}

impl<'a> Turn<'a> {
    /// A turn of text, with the images that belong to it after the text.
    #[must_use]
    pub fn new(role: &'a str, text: &'a str, images: &'a [Text<'a>]) -> Self {
        Self {
            role: Cow::Borrowed(role),
            content: content(text, images),
            reasoning: "",
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: "",
        }
    }

    /// Whether the model is to go on with this turn instead of answering it: an assistant's unfinished text.
    #[must_use]
    pub fn is_begun_answer(&self) -> bool {
        self.role == "assistant"
            && self.tool_calls.is_empty()
            && matches!(self.content, Content::Text(text) if !text.is_empty())
    }
}

impl Turn<'_> {
    /// `system`, `user`, `assistant`, `tool`, or what the template knows.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Bytes of its text, its thoughts and its calls.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Text(text) => text.len(),
            Content::Parts(parts) => parts.iter().map(|part| part.text().map_or(0, str::len)).sum(),
        };
        let calls = self.tool_calls.iter().map(|call| call.function.name.len() + call.function.arguments.len());
        content + self.reasoning.len() + calls.sum::<usize>()
    }

    /// Number of its images and sounds.
    #[must_use]
    pub fn images(&self) -> usize {
        match &self.content {
            Content::Text(_) => 0,
            Content::Parts(parts) => parts.iter().filter(|part| part.text().is_none()).count(),
        }
    }

    /// The turn without its images and sounds.
    #[must_use]
    pub fn without_images(&self) -> Self {
        let mut turn = self.clone();
        if let Content::Parts(parts) = &self.content {
            turn.content = Content::Text(parts.iter().find_map(Part::text).unwrap_or_default());
        }
        turn
    }
}

fn content<'a>(text: &'a str, images: &'a [Text<'a>]) -> Content<'a> {
    if images.is_empty() {
        return Content::Text(text);
    }
    let text = (!text.is_empty()).then_some(Part::Text { text });
    Content::Parts(text.into_iter().chain(images.iter().map(|image| Part::of(image))).collect())
}

/// Puts a whole conversation in the engine's words.
///
/// # Errors
/// [`ApiError::BadArguments`] when a call in the history has arguments that are no object.
pub fn turns<'a>(messages: impl IntoIterator<Item = &'a Message<'a>>) -> Result<Vec<Turn<'a>>, ApiError> {
    let mut open: VecDeque<Open<'a>> = VecDeque::new();
    let mut calls_so_far = 0;
    let messages = messages.into_iter();
    let mut turns = Vec::with_capacity(messages.size_hint().0);
    for message in messages {
        let mut turn = Turn::new(&message.role, &message.content, &message.images);
        if message.role.bytes().any(|byte| byte.is_ascii_uppercase()) {
            turn.role = Cow::Owned(message.role.to_ascii_lowercase());
        }
        turn.reasoning = &message.thinking;
        for call in &message.tool_calls {
            calls_so_far += 1;
            let called = called(call, calls_so_far)?;
            open.push_back(Open { id: called.id.clone(), name: called.function.name });
            turn.tool_calls.push(called);
        }
        if turn.role == "tool" {
            let (id, name) = pair(message, &mut open);
            turn.tool_call_id = Some(id);
            turn.name = name;
        }
        turns.push(turn);
    }
    Ok(turns)
}

fn called<'a>(call: &'a ToolCall<'a>, number: usize) -> Result<Called<'a>, ApiError> {
    let id = match &*call.id {
        // Counted, not random: the same history must always make the same prompt, or no prefix is ever cached.
        "" => Cow::Owned(format!("call_{number:08}")),
        id => Cow::Borrowed(id),
    };
    let arguments = arguments(call.function.arguments)?;
    Ok(Called { id, r#type: "function", function: CalledFunction { name: &call.function.name, arguments } })
}

/// Arguments as JSON in a string. Clients send an object; an object in a string is understood too.
fn arguments(raw: Option<&RawValue>) -> Result<Cow<'_, str>, ApiError> {
    let Some(raw) = raw else { return Ok(Cow::Borrowed("{}")) };
    if raw.get().starts_with('{') {
        return Ok(Cow::Borrowed(raw.get()));
    }
    let text: Text = json::read(raw).map_err(|_| ApiError::BadArguments)?;
    if text.trim().is_empty() {
        return Ok(Cow::Borrowed("{}"));
    }
    json::compact_object(&text).map(Cow::Owned).ok_or(ApiError::BadArguments)
}

/// Finds the call a result belongs to: by id, else by the function's name, else the oldest open one (§13.13).
fn pair<'a>(message: &'a Message<'a>, open: &mut VecDeque<Open<'a>>) -> (Cow<'a, str>, &'a str) {
    let (id, name) = (&*message.tool_call_id, &*message.tool_name);
    let place = if id.is_empty() {
        open.iter().position(|call| !name.is_empty() && call.name == name).or((!open.is_empty()).then_some(0))
    } else {
        open.iter().position(|call| call.id == id)
    };
    let call = place.and_then(|place| open.remove(place));
    let name_of_call = call.as_ref().map_or("", |call| call.name);
    let name = if name.is_empty() { name_of_call } else { name };
    match call {
        _ if !id.is_empty() => (Cow::Borrowed(id), name),
        Some(call) => (call.id, name),
        None => (Cow::Borrowed("call_00000000"), name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ollama::types::ChatRequest;

    fn translated(messages: &str) -> Result<String, ApiError> {
        let body = format!(r#"{{"messages":{messages}}}"#);
        let request: ChatRequest = json::decode(&body).expect("the test's JSON");
        turns(&request.messages).map(|turns| serde_json::to_string(&turns).expect("turns are JSON"))
    }

    #[test]
    fn turns_keep_their_text_and_their_thoughts() {
        let turns = translated(
            r#"[{"role":"System","content":"s"},{"role":"user","content":"hi","images":[]},
                {"role":"assistant","content":"x","thinking":"t"},{"role":"alien","content":"a"}]"#,
        );
        let expected = r#"[{"role":"system","content":"s"},{"role":"user","content":"hi"},{"role":"assistant","content":"x","reasoning":"t"},{"role":"alien","content":"a"}]"#;
        assert_eq!(turns.as_deref(), Ok(expected));
    }

    #[test]
    fn images_follow_the_text_they_belong_to() {
        let turns = translated(r#"[{"role":"user","content":"what?","images":["iVBORw0KGgo="]}]"#);
        let expected = r#"[{"role":"user","content":[{"type":"text","text":"what?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]"#;
        assert_eq!(turns.as_deref(), Ok(expected));
    }

    #[test]
    fn results_find_their_calls_by_id_by_name_and_by_order() {
        let turns = translated(
            r#"[{"role":"assistant","content":"","tool_calls":[
                  {"function":{"name":"f","arguments":{"a":1}}},
                  {"function":{"name":"g","arguments":"{ \"b\": 2 }"}},
                  {"id":"call_mine","function":{"name":"h"}},
                  {"function":{"name":"f","arguments":""}}]},
                {"role":"tool","content":"3","tool_call_id":"call_mine"},
                {"role":"tool","content":"2","tool_name":"g"},
                {"role":"tool","content":"1"},
                {"role":"tool","content":"4"},
                {"role":"tool","content":"0"}]"#,
        )
        .expect("a good history");
        let turns: serde_json::Value = serde_json::from_str(&turns).expect("turns are JSON");
        let call = |number: usize| turns[0]["tool_calls"][number].clone();
        assert_eq!(call(0)["id"], "call_00000001");
        assert_eq!(call(0)["function"]["arguments"], r#"{"a":1}"#);
        assert_eq!(call(1)["function"]["arguments"], r#"{"b":2}"#);
        assert_eq!(call(3)["function"]["arguments"], "{}");
        let paired: Vec<_> = (1..=5).map(|turn| [&turns[turn]["tool_call_id"], &turns[turn]["name"]]).collect();
        let expected = [["call_mine", "h"], ["call_00000002", "g"], ["call_00000001", "f"], ["call_00000004", "f"]];
        for (paired, expected) in paired.iter().zip(expected) {
            assert_eq!([paired[0].as_str(), paired[1].as_str()], expected.map(Some));
        }
        assert_eq!(paired[4][0], "call_00000000");
    }

    #[test]
    fn arguments_that_are_no_object_are_refused() {
        for arguments in ["[1]", "3", r#""x""#] {
            let messages = format!(
                r#"[{{"role":"assistant","tool_calls":[{{"function":{{"name":"f","arguments":{arguments}}}}}]}}]"#
            );
            assert_eq!(translated(&messages), Err(ApiError::BadArguments), "{arguments}");
        }
    }
}
