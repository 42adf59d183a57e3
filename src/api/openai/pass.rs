//! A request on its way through: the engine's name for the model inward, the client's own name outward.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;

use super::JSON;
use super::error::OpenAiError;
use super::model_name::{self, Place};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::names::Wanted;
use crate::api::{self, App, Call, Reply};
use crate::model::Installed;

/// A body whose model is known.
#[derive(Debug)]
pub struct Passing<'a> {
    body: &'a Bytes,
    place: Place<'a>,
}

impl<'a> Passing<'a> {
    /// Looks for the model's name in the body.
    ///
    /// # Errors
    /// When there is no body, no JSON, or no model in it.
    pub fn read(call: &'a Call) -> Result<Self, OpenAiError> {
        if call.body.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::BadJson("EOF".to_owned()).into());
        }
        let place = model_name::find(&call.body)
            .map_err(|error| ApiError::BadJson(format!("the body is no request: {error}")))?
            .filter(|place| !place.name.trim().is_empty())
            .ok_or(ApiError::ModelRequired)?;
        Ok(Self { body: &call.body, place })
    }

    /// The model's name as the client wrote it.
    #[must_use]
    pub fn asked(&self) -> &str {
        &self.place.name
    }

    /// Waits for a lease on `model`, asks the engine at `path`, and answers with what it says.
    ///
    /// # Errors
    /// [`OpenAiError`].
    pub async fn pass(
        self,
        app: &App,
        call: &Call,
        model: &Arc<Installed>,
        path: &'static str,
    ) -> Result<Reply, OpenAiError> {
        let lease = app.scheduler.lease(model, None).await.map_err(ApiError::from)?;
        let body = model_name::replaced(self.body, &self.place, lease.served_name());
        let answer = lease.post(path, body, &call.request_id).await.map_err(ApiError::from)?;
        let status = answer.status();
        let answer = answer.into_body().collect().await.map_err(ApiError::from)?.to_bytes();
        if !status.is_success() {
            return Err(OpenAiError::Engine { status, body: answer, asked: self.asked().to_owned() });
        }
        // vLLM has formats that are no JSON; they name no model.
        Ok(match model_name::find_early(&answer) {
            Some(place) => api::whole(StatusCode::OK, JSON, model_name::replaced(&answer, &place, self.asked())),
            None => api::whole(StatusCode::OK, "application/octet-stream", answer),
        })
    }
}

/// Looks the model up and notes it for the log.
///
/// # Errors
/// [`ApiError::NotFound`] and what is wrong with the name.
pub fn find(app: &App, call: &Call, asked: &str) -> Result<Arc<Installed>, ApiError> {
    let model = Wanted::parse(asked)?.find(app, asked, "remote inference is unavailable")?;
    call.facts.set_model(model.name.display());
    Ok(model)
}
