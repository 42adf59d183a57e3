//! Errors in OpenAI's shape (ollama-api §10): `{"error":{"message","type","param","code"}}`.

use http::StatusCode;
use serde::Serialize;

use super::JSON;
use crate::api::pass::{PassError, Told};
use crate::api::{self, Reply};

#[derive(Serialize)]
struct Object<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

/// The answer that tells an error.
#[must_use]
pub fn reply(error: &PassError) -> Reply {
    error.timed(whole(&error.told()))
}

/// An error as a whole answer.
#[must_use]
pub fn whole(told: &Told) -> Reply {
    api::whole(told.status, JSON, object(told))
}

/// Any refusal in this dialect's shape.
#[must_use]
pub fn refuse(status: StatusCode, text: &str) -> Reply {
    // Clients of OpenAI's tell these by their codes.
    let code = match status {
        StatusCode::UNAUTHORIZED => Some("invalid_api_key"),
        StatusCode::TOO_MANY_REQUESTS => Some("rate_limit_exceeded"),
        _ => None,
    };
    whole(&Told { status, message: text.to_owned(), param: None, code: code.map(str::to_owned) })
}

/// The error object.
#[must_use]
pub fn object(told: &Told) -> Vec<u8> {
    let Told { message, param, code, .. } = told;
    let r#type = kind(told.status);
    let error = Error { message, r#type, param: param.as_deref(), code: code.as_deref() };
    // Strings always become JSON.
    serde_json::to_vec(&Object { error }).unwrap_or_default()
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "not_found_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::ollama::error::ApiError;

    async fn told(error: PassError) -> (u16, Value) {
        let reply = reply(&error);
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice::<Value>(&body).expect("JSON")["error"].take())
    }

    #[tokio::test]
    async fn errors_keep_their_words_and_get_the_type_of_their_status() {
        for (error, status, kind) in [
            (ApiError::ModelRequired, 400, "invalid_request_error"),
            (ApiError::NotPulled("x".into()), 404, "not_found_error"),
            (ApiError::Busy, 503, "api_error"),
            (ApiError::Gone, 500, "api_error"),
        ] {
            let text = error.to_string();
            let object = json!({"message": text, "type": kind, "param": null, "code": null});
            assert_eq!(told(error.into()).await, (status, object));
        }
    }
}
