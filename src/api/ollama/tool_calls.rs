//! Calls come from the engine in pieces and leave whole, exactly once (ollama-api §3.4, §6.8).

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::engine::CallPiece;
use super::json;

/// Calls of one answer, growing.
#[derive(Debug, Default)]
pub struct ToolCalls {
    growing: Vec<Growing>,
}

#[derive(Debug)]
struct Growing {
    /// The engine's number of the call.
    index: usize,
    id: String,
    name: String,
    arguments: String,
}

/// A whole call in Ollama's shape.
#[derive(Debug, Serialize)]
pub struct ToolCall {
    id: String,
    function: Function,
}

#[derive(Debug, Serialize)]
struct Function {
    index: usize,
    name: String,
    arguments: Box<RawValue>,
}

impl ToolCalls {
    /// Takes in pieces.
    pub fn add(&mut self, pieces: &[CallPiece<'_>]) {
        for (position, piece) in pieces.iter().enumerate() {
            let index = piece.index.unwrap_or(position);
            let place = self.growing.iter().position(|call| call.index == index).unwrap_or_else(|| {
                self.growing.push(Growing { index, id: String::new(), name: String::new(), arguments: String::new() });
                self.growing.len() - 1
            });
            let call = &mut self.growing[place];
            if let Some(id) = &piece.id {
                call.id = id.to_string();
            }
            if let Some(function) = &piece.function {
                call.name.push_str(function.name.as_deref().unwrap_or_default());
                call.arguments.push_str(function.arguments.as_deref().unwrap_or_default());
            }
        }
    }

    /// Hands out all calls, whole, and forgets them. Where the answer was `cut` at its limit, the call that it was cut in
    /// is left out: half a call must not be run. (vLLM's parsers write `{}` for arguments that have not begun.)
    pub fn take(&mut self, cut: bool) -> Vec<ToolCall> {
        let mut growing = std::mem::take(&mut self.growing);
        growing.pop_if(|last| cut && json::compact_object(&last.arguments).is_none_or(|object| object == "{}"));
        growing.into_iter().enumerate().map(|(index, call)| call.finish(index)).collect()
    }
}

impl Growing {
    fn finish(self, index: usize) -> ToolCall {
        let id = match self.id.as_str() {
            "" => new_id(),
            id if id.starts_with("chatcmpl-tool-") => new_id(),
            // Some templates read their own ids again (Kimi's `functions.name:0`, Mistral's nine characters).
            _ => self.id,
        };
        ToolCall { id, function: Function { index, name: self.name, arguments: arguments(&self.arguments) } }
    }
}

/// An id as Ollama makes them: `call_` and eight characters.
fn new_id() -> String {
    let mut id = format!("call_{}", uuid::Uuid::new_v4().simple());
    id.truncate("call_".len() + 8);
    id
}

/// Arguments as an object on one line. What a model wrote instead of an object is put into one, because clients break
/// on anything else (§13.8).
fn arguments(text: &str) -> Box<RawValue> {
    let object = if text.trim().is_empty() {
        Cow::Borrowed("{}")
    } else if let Some(object) = json::compact_object(text) {
        Cow::Owned(object)
    } else {
        tracing::warn!(
            "a model wrote tool arguments that are no JSON object; they are passed on as its member \"arguments\""
        );
        let value: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        Cow::Owned(serde_json::json!({ "arguments": value }).to_string())
    };
    // All three are JSON.
    RawValue::from_string(object.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(events: &[&str]) -> serde_json::Value {
        let mut calls = ToolCalls::default();
        for event in events {
            let pieces: Vec<CallPiece> = serde_json::from_str(event).expect("the test's JSON");
            calls.add(&pieces);
        }
        let whole = serde_json::to_value(calls.take(false)).expect("calls are JSON");
        assert!(calls.take(false).is_empty(), "calls are handed out once");
        whole
    }

    #[test]
    fn pieces_of_several_calls_are_put_together() {
        let whole = calls(&[
            r#"[{"index":0,"id":"chatcmpl-tool-aa","type":"function","function":{"name":"f"}}]"#,
            r#"[{"index":0,"function":{"arguments":"{\"a\": "}}]"#,
            r#"[{"index":0,"function":{"arguments":"[1, 2.0]}"}},{"index":1,"id":"functions.g:1","function":{"name":"g","arguments":""}}]"#,
        ]);
        assert_eq!(whole[0]["function"].to_string(), r#"{"index":0,"name":"f","arguments":{"a":[1,2.0]}}"#);
        let id = whole[0]["id"].as_str().expect("an id");
        assert!(id.len() == 13 && id.starts_with("call_"), "{id}");
        assert_eq!(whole[1].to_string(), r#"{"id":"functions.g:1","function":{"index":1,"name":"g","arguments":{}}}"#);
    }

    #[test]
    fn whole_calls_are_counted_by_position() {
        let whole = calls(&[
            r#"[{"id":"call_x","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"call_y","function":{"name":"g","arguments":"{}"}}]"#,
        ]);
        assert_eq!(whole[1]["function"]["index"], 1);
    }

    #[test]
    fn arguments_that_are_no_object_are_put_into_one() {
        for (text, object) in [
            ("\"Paris\"", r#"{"arguments":"Paris"}"#),
            ("{\"a\":", r#"{"arguments":"{\"a\":"}"#),
            ("[1]", r#"{"arguments":[1]}"#),
        ] {
            assert_eq!(arguments(text).get(), object);
        }
    }

    #[test]
    fn a_call_that_the_limit_has_cut_is_left_out() {
        let pieces = |arguments: &str| {
            format!(
                r#"[{{"index":0,"function":{{"name":"f","arguments":"{{}}"}}}},{{"index":1,"function":{{"name":"g","arguments":{arguments:?}}}}}]"#
            )
        };
        for (arguments, number) in [("", 1), ("{}", 1), ("{\"a\":", 1), ("{\"a\":1}", 2)] {
            let mut calls = ToolCalls::default();
            let event = pieces(arguments);
            let pieces: Vec<CallPiece> = serde_json::from_str(&event).expect("the test's JSON");
            calls.add(&pieces);
            assert_eq!(calls.take(true).len(), number, "{arguments}");
        }
    }
}
