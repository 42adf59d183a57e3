//! The members of a request that are looked at, as they stand in its body.

use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::api::ollama::error::ApiError;

/// The members. One that stands twice is refused: vLLM would take the other one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Members<'a> {
    #[serde(borrow, deserialize_with = "found")]
    pub max_tokens: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub messages: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub system: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub temperature: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub top_k: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub top_p: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub stop_sequences: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub tools: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub tool_choice: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub thinking: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub output_config: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "found")]
    pub chat_template_kwargs: Option<&'a RawValue>,
}

/// Keeps a `null` apart from what is not there: the one has to be replaced, the other added.
fn found<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl<'a> Members<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ApiError::BadJson`] when it is no JSON, or a member stands twice.
    pub fn read(body: &'a [u8]) -> Result<Self, ApiError> {
        parsed(body, "the body is no request")
    }
}

/// Reads JSON into `T`; `what` begins the error.
///
/// # Errors
/// [`ApiError::BadJson`].
pub fn parsed<'a, T: Deserialize<'a>>(json: &'a [u8], what: &str) -> Result<T, ApiError> {
    serde_json::from_slice(json).map_err(|error| ApiError::BadJson(format!("{what}: {error}")))
}

/// A member that says something: `null` is as good as nothing.
pub fn said(member: Option<&RawValue>) -> Option<&RawValue> {
    member.filter(|raw| raw.get() != "null")
}

/// The elements of a list; `None` where it is none.
///
/// # Errors
/// [`ApiError::BadJson`].
pub fn elements<'a>(raw: &'a RawValue, what: &str) -> Result<Option<Vec<&'a RawValue>>, ApiError> {
    if raw.get().starts_with('[') { parsed(raw.get().as_bytes(), what).map(Some) } else { Ok(None) }
}

/// A list of these elements.
pub fn list<'a>(elements: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut list = vec![b'['];
    for element in elements {
        if list.len() > 1 {
            list.push(b',');
        }
        list.extend_from_slice(element);
    }
    list.push(b']');
    list
}

/// Where a value that was read from `body` stands in it.
pub fn place(body: &[u8], raw: &RawValue) -> Range<usize> {
    // It is a piece of the body.
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + raw.get().len()
}
