//! `/v1/embeddings` (ollama-api §10.3): vLLM's own route. It takes lists of tokens too, and knows formats of its own.

use std::sync::Arc;

use super::stream::DIALECT;
use crate::api::ollama::embed::able;
use crate::api::ollama::error::ApiError;
use crate::api::pass::{PassError, Request, find};
use crate::api::{App, Call, Reply};

/// `POST /v1/embeddings`.
///
/// # Errors
/// [`PassError`].
pub async fn embeddings(app: Arc<App>, mut call: Call) -> Result<Reply, PassError> {
    let request = Request::read(&mut call)?;
    let model = find(&app, &call, request.asked()).map_err(|error| match error {
        // The words agents look for on this route (§13.25).
        ApiError::NotFound(name) => ApiError::NotPulled(name),
        error => error,
    })?;
    able(&model, request.asked())?;
    request.pass(&app, call, &model, "/v1/embeddings", &DIALECT).await
}
