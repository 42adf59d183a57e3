//! `/api/push`: refused, for vllama sends no model anywhere (ollama-api §4.6).

use std::sync::Arc;

use super::error::ApiError;
use super::names::Wanted;
use super::types::PushRequest;
use super::{json, progress};
use crate::api::{App, Call, Reply};

const REFUSAL: &str = "push is not supported: vllama does not upload models to a registry; copy the directory of the \
    model instead, or upload its checkpoint to the Hugging Face hub";

/// `POST /api/push`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape. A stream tells the refusal in its last line, where clients that show
/// progress look for it.
pub async fn push(_: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let stream = {
        let text = json::text(&call.body)?;
        let request: PushRequest = json::decode(&text)?;
        let asked = if request.model.trim().is_empty() { request.name.trim() } else { request.model.trim() };
        if asked.is_empty() {
            return Err(ApiError::ModelRequired);
        }
        call.facts.set_wanted(Wanted::parse(asked)?.name.display());
        request.stream.unwrap_or(true)
    };
    progress::answer(stream, |teller| async move {
        teller.say("retrieving manifest");
        Err(ApiError::NotSupported(REFUSAL.to_owned()))
    })
    .await
}
