//! `/v1/messages` and `/v1/messages/count_tokens`: vLLM's own routes, with what it would refuse put right.

use std::sync::Arc;

use super::error;
use super::routes::{COUNT_TOKENS, MESSAGES};
use super::shape::{self, Route};
use crate::api::ollama::error::ApiError;
use crate::api::pass::{Dialect, Meaning, PassError, Request, find};
use crate::api::{App, Call, Reply};
use crate::model::Capability;

/// How answers and streams are told.
pub static DIALECT: Dialect = Dialect { names: &[&["model"], &["message", "model"]], meaning, error: error::event };

/// `POST /v1/messages`.
///
/// # Errors
/// [`PassError`].
pub async fn messages(app: Arc<App>, call: Call) -> Result<Reply, PassError> {
    pass(&app, call, Route::Messages, MESSAGES).await
}

/// `POST /v1/messages/count_tokens`.
///
/// # Errors
/// [`PassError`].
pub async fn count_tokens(app: Arc<App>, call: Call) -> Result<Reply, PassError> {
    pass(&app, call, Route::CountTokens, COUNT_TOKENS).await
}

async fn pass(app: &App, mut call: Call, route: Route, path: &'static str) -> Result<Reply, PassError> {
    let mut request = Request::read(&mut call)?;
    shape::check(&request, route)?;
    let model = find(app, &call, request.asked())?;
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{:?}", request.asked()), "chat").into());
    }
    shape::shape(&mut request, &model, route)?;
    let lease = app.lease(&call, &model, None).await.map_err(ApiError::from)?;
    if route == Route::Messages {
        shape::limit(&mut request, lease.max_model_len());
    }
    request.pass_over(lease, call, path, &DIALECT).await
}

fn meaning(name: &[u8], _data: &[u8]) -> Meaning {
    match name {
        b"message_stop" => Meaning::Last,
        b"error" => Meaning::Error,
        _ => Meaning::More,
    }
}
