//! Reading the parts of a request, and writing them anew.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::api::ollama::error::ApiError;

/// Reads JSON into `T`; `what` begins the error.
///
/// # Errors
/// [`ApiError::BadJson`].
pub fn parsed<'a, T: Deserialize<'a>>(json: &'a str, what: &str) -> Result<T, ApiError> {
    serde_json::from_str(json).map_err(|error| ApiError::BadJson(format!("{what}: {error}")))
}

/// The elements of a list; `None` where it is none.
///
/// # Errors
/// [`ApiError::BadJson`].
pub fn elements<'a>(json: &'a str, what: &str) -> Result<Option<Vec<&'a RawValue>>, ApiError> {
    if json.starts_with('[') { parsed(json, what).map(Some) } else { Ok(None) }
}

/// A list of these elements, which are JSON.
pub fn list<T: AsRef<str>>(elements: impl IntoIterator<Item = T>) -> String {
    let mut list = String::from("[");
    for element in elements {
        if list.len() > 1 {
            list.push(',');
        }
        list.push_str(element.as_ref());
    }
    list.push(']');
    list
}

/// JSON of what always becomes some: strings, lists, finite numbers.
pub fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
