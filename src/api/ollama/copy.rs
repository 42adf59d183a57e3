//! `/api/copy`: another name for a model (ollama-api §4.9). No weight is copied.

use std::sync::Arc;

use http::StatusCode;

use super::blobs::empty;
use super::error::ApiError;
use super::names::allow;
use super::types::CopyRequest;
use super::{change, json};
use crate::api::{App, Call, Reply};
use crate::model::ModelName;

/// `POST /api/copy`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn copy(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let text = json::text(&call.body)?;
    let request: CopyRequest = json::decode(&text)?;
    let name = |what, text: &str| ModelName::parse(text).map_err(|_| ApiError::InvalidNameOf(what, text.to_owned()));
    let source = name("source", &request.source)?;
    let destination = name("destination", &request.destination)?;
    allow(&call, &source)?;
    allow(&call, &destination)?;
    let model = app.store.find(&source).ok_or_else(|| ApiError::NothingToCopy(request.source.to_string()))?;
    call.facts.set_model(model.name.display());
    if source != destination {
        let (key, name) = (model.engine_key(), destination.clone());
        change::change(&app, &destination, Some(key), move |store| store.copy(&model, &name).map(drop)).await?;
    }
    Ok(empty(StatusCode::OK))
}
