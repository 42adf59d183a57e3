//! `/v1/score`, `/v1/rerank` and `/pooling`: vLLM's own routes for models that judge texts or turn them into vectors
//! (vllm-engine §3.1).

use std::sync::Arc;

use super::stream::DIALECT;
use crate::api::ollama::error::ApiError;
use crate::api::pass::{PassError, Request, find, media};
use crate::api::{App, Call, Reply};

/// Members that may hold images.
const MEDIA: [&str; 9] = ["text_1", "text_2", "data_1", "data_2", "query", "queries", "documents", "items", "messages"];

/// `POST /v1/score`.
///
/// # Errors
/// [`PassError`].
pub async fn score(app: Arc<App>, call: Call) -> Result<Reply, PassError> {
    pass(&app, call, "/v1/score").await
}

/// `POST /v1/rerank`.
///
/// # Errors
/// [`PassError`].
pub async fn rerank(app: Arc<App>, call: Call) -> Result<Reply, PassError> {
    pass(&app, call, "/v1/rerank").await
}

/// `POST /pooling`.
///
/// # Errors
/// [`PassError`].
pub async fn pooling(app: Arc<App>, call: Call) -> Result<Reply, PassError> {
    pass(&app, call, "/pooling").await
}

async fn pass(app: &App, mut call: Call, path: &'static str) -> Result<Reply, PassError> {
    let request = Request::read(&mut call)?;
    let model = find(app, &call, request.asked())?;
    if !model.card.is_pooling() {
        let asked = request.asked();
        return Err(ApiError::NotSupported(format!(
            "{asked:?} does not support {path}: its engine makes text; use an embedding model such as all-minilm, or a reranker"
        ))
        .into());
    }
    MEDIA.iter().filter_map(|name| request.member(name)).try_for_each(media::check)?;
    request.pass(app, call, &model, path, &DIALECT).await
}
