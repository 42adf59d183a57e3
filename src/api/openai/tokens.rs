//! `/tokenize` and `/detokenize`: vLLM's own routes (vllm-engine §3.1). They take text and conversations as they are, without
//! what a model was made with.

use std::sync::Arc;

use super::stream::DIALECT;
use crate::api::pass::{PassError, Request, find, media};
use crate::api::{App, Call, Reply};

/// `POST /tokenize`.
///
/// # Errors
/// [`PassError`].
pub async fn tokenize(app: Arc<App>, call: Call) -> Result<Reply, PassError> {
    pass(&app, call, "/tokenize").await
}

/// `POST /detokenize`.
///
/// # Errors
/// [`PassError`].
pub async fn detokenize(app: Arc<App>, call: Call) -> Result<Reply, PassError> {
    pass(&app, call, "/detokenize").await
}

async fn pass(app: &App, mut call: Call, path: &'static str) -> Result<Reply, PassError> {
    let request = Request::read(&mut call)?;
    let model = find(app, &call, request.asked())?;
    request.member("messages").map_or(Ok(()), media::check)?;
    request.pass(app, call, &model, path, &DIALECT).await
}
