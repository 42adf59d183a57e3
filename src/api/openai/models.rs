//! `/v1/models` (ollama-api §10.4): what is installed, by the names Ollama's clients know. Never waits.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::StatusCode;
use serde::Serialize;

use super::JSON;
use crate::api::ollama::names::Wanted;
use crate::api::pass::PassError;
use crate::api::{self, App, Call, Reply};
use crate::model::Installed;

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: Cow<'a, str>,
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    owned_by: &'a str,
}

impl<'a> Model<'a> {
    fn of(model: &'a Installed, id: Cow<'a, str>) -> Self {
        let created = model.modified_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { id, object: "model", created, owned_by: model.name.namespace() }
    }
}

/// `GET /v1/models`, the newest first.
///
/// # Errors
/// None.
pub async fn list(app: Arc<App>, call: Call) -> Result<Reply, PassError> {
    let installed = app.visible(&call.grant);
    let data = installed.iter().map(|model| Model::of(model, model.name.display().into())).collect();
    Ok(told(&List { object: "list", data }))
}

/// `GET /v1/models/{id}`. Identities with slashes are taken too, and the client's writing of it is told.
///
/// # Errors
/// [`PassError`] when there is no such model.
pub async fn retrieve(app: Arc<App>, call: Call) -> Result<Reply, PassError> {
    let asked = unescaped(&call.parameter);
    let wanted = Wanted::parse(&asked)?;
    let model = wanted.find(&app, &call, &wanted.name.display(), "remote model details are unavailable")?;
    Ok(told(&Model::of(&model, asked)))
}

fn told(object: &impl Serialize) -> Reply {
    // Strings and numbers always become JSON.
    api::whole(StatusCode::OK, JSON, serde_json::to_vec(object).unwrap_or_default())
}

/// A part of a path with its `%2F`s as what they stand for; what is no escape stays.
fn unescaped(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return path.into();
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape =
            (*first == b'%').then(|| after.get(..2)).flatten().filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let byte = escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_in_a_path_are_read() {
        for (path, text) in [
            ("smollm2:135m", "smollm2:135m"),
            ("a%2Fb%3Ac", "a/b:c"),
            ("a%2fb", "a/b"),
            ("100%", "100%"),
            ("%zz%2", "%zz%2"),
            ("%+1", "%+1"),
            ("%C3%BC%ff", "ü\u{fffd}"),
        ] {
            assert_eq!(unescaped(path), text, "{path}");
        }
    }
}
