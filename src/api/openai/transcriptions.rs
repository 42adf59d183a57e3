//! `/v1/audio/transcriptions` (ollama-api §10.6): vLLM's own route, where the model hears.

use std::sync::Arc;

use http::StatusCode;

use super::stream::DIALECT;
use crate::api::ollama::error::ApiError;
use crate::api::pass::form::Form;
use crate::api::pass::{PassError, Question, find};
use crate::api::{self, App, Body, Call, Refused, Reply};
use crate::model::Capability;

/// Longest form in bytes: OpenAI's limit for a file, and some room for the other fields.
const LIMIT: usize = (25 << 20) + (64 << 10);

/// `POST /v1/audio/transcriptions`.
///
/// # Errors
/// [`PassError`].
pub async fn transcribe(app: Arc<App>, mut call: Call) -> Result<Reply, PassError> {
    let body = std::mem::take(&mut call.body);
    if body.len() > LIMIT {
        let text = "the sound is too large: the limit is 25 MiB; send it in parts, or compressed".to_owned();
        return Err(ApiError::from(Refused { status: StatusCode::PAYLOAD_TOO_LARGE, text }).into());
    }
    let form = Form::read(body)?;
    let model = find(&app, &call, form.asked())?;
    if !model.card.can(Capability::Audio) {
        return Err(ApiError::Unable(format!("{:?}", form.asked()), "audio").into());
    }
    if form.value("file").is_none() {
        let text = "the form brings no sound: send it as a file, in the field `file`".to_owned();
        return Err(ApiError::NotSupported(text).into());
    }
    let lease = app.lease(&call, &model, None).await.map_err(ApiError::from)?;
    let asked = form.asked().to_owned();
    let content = form.renamed(lease.served_name());
    let as_text = form.value("response_format") == Some(b"text");
    drop(form);
    let path = "/v1/audio/transcriptions";
    let reply = Question { content, asked, hides_usage: false, path, dialect: &DIALECT }.ask(lease, call).await?;
    Ok(if as_text { plain(reply) } else { reply })
}

/// The words alone, as OpenAI and Ollama tell them: vLLM wraps them in JSON for `text`, too. A stream stays one.
fn plain(reply: Reply) -> Reply {
    #[derive(serde::Deserialize)]
    struct Answer {
        text: String,
    }
    match reply.body() {
        Body::Whole(Some(json)) => match serde_json::from_slice(json) {
            Ok(Answer { text }) => api::whole(StatusCode::OK, "text/plain; charset=utf-8", text),
            Err(_) => reply,
        },
        _ => reply,
    }
}
