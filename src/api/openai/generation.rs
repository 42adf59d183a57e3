//! `/v1/chat/completions` and `/v1/completions` (ollama-api §10.1, §10.2): vLLM's own routes.

use std::sync::Arc;

use crate::api::pass::{Dialect, Meaning, PassError, Request, Told, find};
use crate::api::{App, Call, Reply};

/// How answers and streams of both routes are told.
pub static DIALECT: Dialect = Dialect { names: &[&["model"]], meaning, error: error_events };

/// `POST /v1/chat/completions`.
///
/// # Errors
/// [`PassError`].
pub async fn chat(app: Arc<App>, mut call: Call) -> Result<Reply, PassError> {
    let request = Request::read(&mut call)?;
    let model = find(&app, &call, request.asked())?;
    request.pass(&app, call, &model, "/v1/chat/completions", &DIALECT).await
}

/// `POST /v1/completions`.
///
/// # Errors
/// [`PassError`].
pub async fn completions(app: Arc<App>, mut call: Call) -> Result<Reply, PassError> {
    let request = Request::read(&mut call)?;
    let model = find(&app, &call, request.asked())?;
    request.pass(&app, call, &model, "/v1/completions", &DIALECT).await
}

fn meaning(_name: &[u8], data: &[u8]) -> Meaning {
    if data == b"[DONE]" {
        Meaning::Last
    } else if data.starts_with(b"{\"error\"") {
        Meaning::Error
    } else {
        Meaning::More
    }
}

/// The error, and the end that clients wait for.
fn error_events(told: &Told) -> Vec<u8> {
    [b"data: ", &super::error::object(told)[..], b"\n\ndata: [DONE]\n\n"].concat()
}
