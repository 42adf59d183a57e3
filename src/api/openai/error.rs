//! Errors in OpenAI's shape (ollama-api §10): `{"error":{"message","type","param","code"}}`.
//!
//! What goes wrong before the engine is asked goes wrong as in the native API, with the same words. What the engine
//! refuses keeps the engine's words, and the parameter they are about.

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::JSON;
use crate::api::ollama::error::ApiError;
use crate::api::{self, Reply};

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenAiError {
    /// As in the native API.
    #[error(transparent)]
    Native(#[from] ApiError),
    /// The engine refused it or failed.
    #[error("the engine answered {status}")]
    Engine {
        /// Its status.
        status: StatusCode,
        /// Its words, as they came.
        body: Bytes,
        /// The model's name as the client wrote it.
        asked: String,
    },
}

/// The engine's own error object (vllm-engine §3.4), as far as it is passed on.
#[derive(Debug, Default, Deserialize)]
struct EngineObject {
    #[serde(default)]
    error: EngineError,
}

#[derive(Debug, Default, Deserialize)]
struct EngineError {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    param: Option<String>,
    #[serde(default)]
    code: Value,
}

impl OpenAiError {
    /// The answer.
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self {
            Self::Native(error) => error.timed(refuse(error.status(), &error.to_string())),
            Self::Engine { status, body, asked } => {
                let EngineError { message, param, code } =
                    serde_json::from_slice::<EngineObject>(body).unwrap_or_default().error;
                // Sorts out what is the client's fault, and what must not be passed on.
                let native = ApiError::from_engine(*status, body);
                let (status, text) = match (&native, message) {
                    // Of these the native API has words of its own, which say less than the engine's.
                    (ApiError::TooLong, Some(message)) => (StatusCode::BAD_REQUEST, message),
                    (ApiError::Refused(_), None) if *status == StatusCode::NOT_FOUND => {
                        (*status, format!("{asked:?} does not serve this route"))
                    }
                    (ApiError::Refused(text), _) => (*status, text.clone()),
                    (error, _) => (error.status(), error.to_string()),
                };
                // The engine's code is its status in a number; OpenAI's are words.
                let code = code.as_str().map(str::to_owned);
                whole(status, &text, param.as_deref(), code.as_deref())
            }
        }
    }
}

/// Any refusal in this dialect's shape.
#[must_use]
pub fn refuse(status: StatusCode, text: &str) -> Reply {
    whole(status, text, None, None)
}

fn whole(status: StatusCode, message: &str, param: Option<&str>, code: Option<&str>) -> Reply {
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
    let r#type = match status {
        StatusCode::NOT_FOUND => "not_found_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    };
    // Strings always become JSON.
    let body = serde_json::to_vec(&Object { error: Error { message, r#type, param, code } }).unwrap_or_default();
    api::whole(status, JSON, body)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn told(error: OpenAiError) -> (u16, Value) {
        let reply = error.reply();
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice::<Value>(&body).expect("JSON")["error"].take())
    }

    fn engine(status: u16, body: &'static str) -> OpenAiError {
        let status = StatusCode::from_u16(status).expect("a status");
        OpenAiError::Engine { status, body: Bytes::from_static(body.as_bytes()), asked: "mini".to_owned() }
    }

    #[tokio::test]
    async fn native_errors_keep_their_words_and_get_the_type_of_their_status() {
        for (error, status, kind) in [
            (ApiError::ModelRequired, 400, "invalid_request_error"),
            (ApiError::NotPulled("x".into()), 404, "not_found_error"),
            (ApiError::Busy, 503, "api_error"),
            (ApiError::Gone, 500, "api_error"),
        ] {
            let text = error.to_string();
            let object = serde_json::json!({"message": text, "type": kind, "param": null, "code": null});
            assert_eq!(told(error.into()).await, (status, object));
        }
    }

    #[tokio::test]
    async fn the_engines_words_and_parameter_are_passed_on() {
        let refused = r#"{"error":{"message":"Model 'm' does not support Matryoshka embeddings","type":"BadRequestError","param":"dimensions","code":400}}"#;
        let (status, error) = told(engine(400, refused)).await;
        let object = serde_json::json!({"message": "Model 'm' does not support Matryoshka embeddings",
            "type": "invalid_request_error", "param": "dimensions", "code": null});
        assert_eq!((status, error), (400, object));
        let long = r#"{"error":{"message":"This model's maximum context length is 256 tokens. However,","type":"BadRequestError","param":"input_text","code":400}}"#;
        let (status, error) = told(engine(400, long)).await;
        assert_eq!((status, &error["param"]), (400, &Value::from("input_text")));
        assert!(error["message"].as_str().is_some_and(|text| text.contains("256 tokens")), "{error}");
    }

    #[tokio::test]
    async fn what_is_the_engines_own_affair_is_not_passed_on() {
        let (status, error) = told(engine(404, r#"{"detail":"Not Found"}"#)).await;
        assert_eq!((status, &error["message"]), (404, &Value::from("\"mini\" does not serve this route")));
        let (status, error) =
            told(engine(500, r#"{"error":{"message":"boom\nTraceback (most recent call last):\n x"}}"#)).await;
        assert_eq!(status, 500);
        assert!(!error["message"].to_string().contains("Traceback"), "{error}");
        let (status, error) = told(engine(500, "<html>")).await;
        assert_eq!((status, &error["type"]), (500, &Value::from("api_error")));
    }
}
