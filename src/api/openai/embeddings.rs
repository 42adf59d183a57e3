//! `/v1/embeddings` (ollama-api §10.3): vLLM's own route. It takes lists of tokens too, and knows formats of its own.

use std::sync::Arc;

use super::error::OpenAiError;
use super::pass::{Passing, find};
use crate::api::ollama::embed::able;
use crate::api::ollama::error::ApiError;
use crate::api::{App, Call, Reply};

/// `POST /v1/embeddings`.
///
/// # Errors
/// [`OpenAiError`].
pub async fn embeddings(app: Arc<App>, call: Call) -> Result<Reply, OpenAiError> {
    let passing = Passing::read(&call)?;
    let model = find(&app, &call, passing.asked()).map_err(|error| match error {
        // The words agents look for on this route (§13.25).
        ApiError::NotFound(name) => ApiError::NotPulled(name),
        error => error,
    })?;
    able(&model, passing.asked())?;
    passing.pass(&app, &call, &model, "/v1/embeddings").await
}
