//! `tools`: functions a model may call (ollama-api §3.3). They reach the engine as they came, with everything a schema may
//! hold; Ollama knows only some of it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::model::{Capability, Installed};

/// Whether a model can call tools.
///
/// # Errors
/// [`ApiError::Unable`].
pub fn able(model: &Installed) -> Result<(), ApiError> {
    match model.card.can(Capability::Tools) {
        true => Ok(()),
        false => Err(ApiError::Unable(model.name.full(), "tools")),
    }
}

/// The tools of a request; `None` when there are none, which is an error in the engine. They come as the bytes that were
/// sent, unless one has a type that the engine does not know: Ollama never looks at it, and some clients leave it empty.
///
/// # Errors
/// [`ApiError::BadJson`] when it is no list, or a list of something else than objects.
pub fn parse(raw: Option<&RawValue>) -> Result<Option<Cow<'_, RawValue>>, ApiError> {
    let Some(raw) = raw else { return Ok(None) };
    let tools: Vec<&RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| ApiError::BadJson("json: cannot unmarshal tools: expected a list".to_owned()))?;
    if tools.iter().any(|tool| !tool.get().starts_with('{')) {
        return Err(ApiError::BadJson("json: cannot unmarshal tools: each must be an object".to_owned()));
    }
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(borrow)]
        r#type: Option<&'a RawValue>,
    }
    let known = |tool: &&RawValue| {
        let typed: Typed<'_> = super::json::read(tool).unwrap_or(Typed { r#type: None });
        typed.r#type.is_none_or(|kind| kind.get() == "\"function\"")
    };
    match tools.is_empty() {
        true => Ok(None),
        false if tools.iter().all(known) => Ok(Some(Cow::Borrowed(raw))),
        false => Ok(Some(Cow::Owned(retyped(raw)))),
    }
}

/// The same tools, each with the one type there is.
fn retyped(raw: &RawValue) -> Box<RawValue> {
    let mut tools: Vec<Map<String, Value>> = super::json::read(raw).unwrap_or_default();
    for tool in &mut tools {
        tool.insert("type".to_owned(), "function".into());
    }
    // What was JSON is JSON again.
    serde_json::value::to_raw_value(&tools).unwrap_or_else(|_| raw.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_a_list_of_objects_and_stay_as_they_came() {
        let parsed = |text: &str| {
            let raw = RawValue::from_string(text.to_owned()).expect("the test's JSON");
            parse(Some(&raw)).map(|tools| tools.map(|tools| tools.get().to_owned())).map_err(|error| error.status())
        };
        for none in ["[]", "[ ]"] {
            assert_eq!(parsed(none), Ok(None));
        }
        let tools = r#"[ {"function":{"parameters":{"z":1,"a":{"$ref":"x"}}}} ]"#;
        assert_eq!(parsed(tools), Ok(Some(tools.to_owned())));
        let empty = r#"[{"type":"","function":{"name":"f"}},{"type":null,"function":{}},{"function":{"z":1,"a":2}}]"#;
        let named = r#"[{"type":"function","function":{"name":"f"}},{"type":"function","function":{}},{"function":{"z":1,"a":2},"type":"function"}]"#;
        assert_eq!(parsed(empty), Ok(Some(named.to_owned())));
        for wrong in ["{}", "\"x\"", "[1]", "[null]", "true"] {
            assert_eq!(parsed(wrong), Err(http::StatusCode::BAD_REQUEST), "{wrong}");
        }
        assert!(parse(None).expect("nothing").is_none());
    }
}
