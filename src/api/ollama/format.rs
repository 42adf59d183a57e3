//! `format`: answers that are JSON, or JSON of a given schema (ollama-api §6.4).

use serde::Serialize;
use serde_json::value::RawValue;

use super::error::ApiError;

/// The engine's `response_format`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Format<'a> {
    /// Any JSON object.
    JsonObject,
    /// JSON that the schema allows.
    JsonSchema {
        /// The schema in the engine's wrapping.
        json_schema: Schema<'a>,
    },
}

/// A named schema, as the engine wants it; passed on as it came, so the order of properties stays.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Schema<'a> {
    name: &'static str,
    schema: &'a RawValue,
}

/// Reads the `format` of a request: absent, `null` and `""` are none.
///
/// # Errors
/// [`ApiError::BadFormat`] for anything but `"json"` and an object.
pub fn parse(raw: Option<&RawValue>) -> Result<Option<Format<'_>>, ApiError> {
    let Some(raw) = raw else { return Ok(None) };
    match raw.get() {
        "null" | r#""""# => Ok(None),
        r#""json""# => Ok(Some(Format::JsonObject)),
        text if text.starts_with('{') => {
            Ok(Some(Format::JsonSchema { json_schema: Schema { name: "schema", schema: raw } }))
        }
        text => Err(ApiError::BadFormat(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_put_in_the_engines_words() {
        for (format, engine) in [
            ("null", "null"),
            (r#""""#, "null"),
            (r#""json""#, r#"{"type":"json_object"}"#),
            (
                r#"{"type":"object", "z":1}"#,
                r#"{"type":"json_schema","json_schema":{"name":"schema","schema":{"type":"object", "z":1}}}"#,
            ),
        ] {
            let raw = RawValue::from_string(format.to_owned()).expect("the test's JSON");
            let read = parse(Some(&raw)).expect("a good format");
            assert_eq!(serde_json::to_string(&read).expect("formats are JSON"), engine);
        }
        let raw = RawValue::from_string("[1]".to_owned()).expect("the test's JSON");
        assert_eq!(parse(Some(&raw)).expect_err("a list").status().as_u16(), 400);
    }
}
