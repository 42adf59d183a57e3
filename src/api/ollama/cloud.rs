//! The routes of Ollama's cloud and its accounts, answered as a server without a cloud does (ollama-api §2).

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;

use super::JSON;
use super::error::ApiError;
use crate::api::{self, App, Call, Reply};
use crate::model::{Capability, Installed};

/// `GET /api/status`: clients hide models and tools of the cloud when they read that it is disabled.
#[must_use]
pub fn status() -> Reply {
    api::whole(StatusCode::OK, JSON, r#"{"cloud":{"disabled":true,"source":"env"}}"#)
}

/// `POST /api/me`: nobody is signed in here.
///
/// # Errors
/// Always [`ApiError::Unauthorized`].
pub async fn me(_: Arc<App>, _: Call) -> Result<Reply, ApiError> {
    Err(ApiError::Unauthorized("unauthorized"))
}

/// `POST /api/signout`, and `DELETE /api/user/keys/{key}` of older clients.
///
/// # Errors
/// Always [`ApiError::Unauthorized`].
pub async fn sign_out(_: Arc<App>, _: Call) -> Result<Reply, ApiError> {
    Err(ApiError::Unauthorized("you are not currently signed in"))
}

/// `POST /api/experimental/web_search`.
///
/// # Errors
/// Always [`ApiError::Cloud`].
pub async fn web_search(_: Arc<App>, _: Call) -> Result<Reply, ApiError> {
    Err(ApiError::Cloud("web search is unavailable"))
}

/// `POST /api/experimental/web_fetch`.
///
/// # Errors
/// Always [`ApiError::Cloud`].
pub async fn web_fetch(_: Arc<App>, _: Call) -> Result<Reply, ApiError> {
    Err(ApiError::Cloud("web fetch is unavailable"))
}

/// `GET /api/experimental/model-recommendations`: of the installed models those that chat, newest first.
#[must_use]
pub fn recommendations<'a>(models: impl IntoIterator<Item = &'a Installed>) -> Reply {
    #[derive(Serialize)]
    struct Recommendation {
        model: String,
        description: String,
        #[serde(skip_serializing_if = "is_zero")]
        context_length: u64,
    }
    #[derive(Serialize)]
    struct Recommendations {
        recommendations: Vec<Recommendation>,
    }
    let chats = models.into_iter().filter(|model| model.card.can(Capability::Completion));
    let recommendations = chats.map(|model| Recommendation {
        model: model.name.display(),
        description: description(model),
        context_length: model.card.context_length,
    });
    let body = Recommendations { recommendations: recommendations.collect() };
    // Strings and numbers always become JSON.
    api::whole(StatusCode::OK, JSON, serde_json::to_vec(&body).unwrap_or_default())
}

/// What the model can do beside answering.
fn description(model: &Installed) -> String {
    let more = model.card.capabilities.iter().filter(|capability| **capability != Capability::Completion);
    let more: Vec<_> = more.map(|capability| capability.name()).collect();
    if more.is_empty() {
        "installed on this server".into()
    } else {
        format!("installed on this server: {}", more.join(", "))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
