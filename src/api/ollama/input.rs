//! The `input` of `/api/embed`: one text, or a list of texts (ollama-api §3.5).

use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ApiError;
use super::json::{self, Text};

/// Most texts of one request. Ollama has no such limit; a body of empty texts, three bytes each, would become vectors of
/// kilobytes each. The sizes that clients cut their work into are far below.
const MOST: usize = 10_000;

/// Reads `input`. An empty text alone is no text; in a list it is one like any other.
///
/// # Errors
/// [`ApiError::InvalidInput`] for what is neither, [`ApiError::NotSupported`] for a list that is too long.
pub fn texts(input: Option<&RawValue>) -> Result<Vec<Text<'_>>, ApiError> {
    let Some(input) = input else { return Ok(Vec::new()) };
    match input.get().as_bytes().first() {
        Some(b'"') => {
            let text: Text = json::read(input).map_err(|_| ApiError::InvalidInput)?;
            Ok(if text.is_empty() { Vec::new() } else { vec![text] })
        }
        Some(b'[') => match json::read(input) {
            Ok(List::Whole(texts)) => Ok(texts),
            Ok(List::TooLong) => Err(ApiError::NotSupported(format!(
                "there are more than {MOST} texts in the input; send them in several requests"
            ))),
            Err(_) => Err(ApiError::InvalidInput),
        },
        Some(b'n') => Ok(Vec::new()),
        _ => Err(ApiError::InvalidInput),
    }
}

/// A list of texts; of one that is too long nothing is kept.
enum List<'a> {
    Whole(Vec<Text<'a>>),
    TooLong,
}

impl<'de: 'a, 'a> Deserialize<'de> for List<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;

        impl<'de> Visitor<'de> for ListVisitor {
            type Value = List<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    if texts.len() == MOST {
                        while list.next_element::<Text>()?.is_some() {}
                        return Ok(List::TooLong);
                    }
                    texts.push(text);
                }
                Ok(List::Whole(texts))
            }
        }

        deserializer.deserialize_seq(ListVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<String>, ApiError> {
        let raw = RawValue::from_string(json.to_owned()).expect("the test's JSON");
        texts(Some(&raw)).map(|texts| texts.iter().map(|text| text.to_string()).collect())
    }

    #[test]
    fn inputs_are_a_text_or_a_list_of_texts() {
        for (json, expected) in [
            (r#""""#, vec![]),
            ("null", vec![]),
            ("[]", vec![]),
            (r#""a""#, vec!["a"]),
            (r#"["a","","\u00fc"]"#, vec!["a", "", "ü"]),
        ] {
            assert_eq!(read(json).expect("texts"), expected, "{json}");
        }
        for json in ["5", "true", "{}", "[1]", r#"["a",null]"#, r#"[["a"]]"#, "[101,102]"] {
            assert_eq!(read(json), Err(ApiError::InvalidInput), "{json}");
        }
        assert_eq!(texts(None).map(|texts| texts.len()), Ok(0));
    }

    #[test]
    fn a_list_without_end_is_refused() {
        let list = |number: usize| format!("[{}]", vec![r#""""#; number].join(","));
        assert_eq!(read(&list(MOST)).map(|texts| texts.len()), Ok(MOST));
        let refused = read(&list(MOST + 1)).expect_err("too many");
        assert_eq!(refused.to_string(), "there are more than 10000 texts in the input; send them in several requests");
        assert_eq!(refused.status(), 400);
        assert_eq!(read(&list(MOST + 5).replace(r#""]"#, r#"",1]"#)), Err(ApiError::InvalidInput));
    }
}
