//! `tools`: functions a model may call (ollama-api §3.3). They reach the engine as they came, with everything a schema may
//! hold; Ollama knows only some of it.

use serde_json::value::RawValue;

use super::error::ApiError;

/// The tools of a request; `None` when there are none, which is an error in the engine.
///
/// # Errors
/// [`ApiError::BadJson`] when it is no list, or a list of something else than objects.
pub fn parse(raw: Option<&RawValue>) -> Result<Option<&RawValue>, ApiError> {
    let Some(raw) = raw else { return Ok(None) };
    let tools: Vec<&RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| ApiError::BadJson("json: cannot unmarshal tools: expected a list".to_owned()))?;
    if tools.iter().any(|tool| !tool.get().starts_with('{')) {
        return Err(ApiError::BadJson("json: cannot unmarshal tools: each must be an object".to_owned()));
    }
    Ok((!tools.is_empty()).then_some(raw))
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
        for wrong in ["{}", "\"x\"", "[1]", "[null]", "true"] {
            assert_eq!(parsed(wrong), Err(http::StatusCode::BAD_REQUEST), "{wrong}");
        }
        assert!(parse(None).expect("nothing").is_none());
    }
}
