//! `/api/delete`: a name goes, and with the last name of a checkpoint its weights (ollama-api §4.9).

use std::sync::Arc;

use http::StatusCode;

use super::blobs::empty;
use super::error::ApiError;
use super::names::allow;
use super::types::DeleteRequest;
use super::{change, json};
use crate::api::{App, Call, Reply};
use crate::model::ModelName;

/// `DELETE /api/delete`. A model in use goes when its requests are done.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn delete(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let text = json::text(&call.body)?;
    let request: DeleteRequest = json::decode(&text)?;
    let asked = if request.model.trim().is_empty() { request.name.trim() } else { request.model.trim() };
    if asked.is_empty() {
        return Err(ApiError::ModelRequired);
    }
    let name = ModelName::parse(asked).map_err(|_| ApiError::InvalidNameOf("name", asked.to_owned()))?;
    allow(&call, &name)?;
    let not_found = || ApiError::NotFound(asked.to_owned());
    let model = app.store.find(&name).ok_or_else(not_found)?;
    call.facts.set_model(model.name.display());
    let gone = name.clone();
    let there = change::change(&app, &name, None, move |store| store.remove(&gone)).await?;
    if there { Ok(empty(StatusCode::OK)) } else { Err(not_found()) }
}
