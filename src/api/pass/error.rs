//! Why a request that passes through is not answered, before a dialect puts it into its shape.
//!
//! What goes wrong before the engine is asked goes wrong as in the native API, with the same words. What the engine
//! refuses keeps the engine's words, and the parameter they are about, with the client's name for the model in them.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::api::Reply;
use crate::api::ollama::error::ApiError;

/// Why an engine has no route that others have (decision 0031).
const FEWER_ROUTES: &str = ": its engine has vLLM's frontend in Rust, which has fewer; set engine_frontend to python";

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// As in the native API.
    #[error(transparent)]
    Native(#[from] ApiError),
    /// The engine refused it or failed.
    #[error("the engine answered {}", .0.status)]
    Engine(EngineError),
}

/// What an engine says against a request (vllm-engine §3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineError {
    /// Its status.
    pub status: StatusCode,
    /// Its words, as they came.
    pub body: Bytes,
    /// The engine's name for the model.
    pub served: String,
    /// The client's name for it.
    pub asked: String,
}

/// What a client is told, in any dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The status; of an error in a stream, what it would have been.
    pub status: StatusCode,
    /// What happened.
    pub message: String,
    /// The parameter it is about, where the engine names one.
    pub param: Option<String>,
    /// A word for it, where the engine has one.
    pub code: Option<String>,
}

/// The engine's error object, as far as it is passed on.
#[derive(Debug, Default, Deserialize)]
struct Object {
    #[serde(default)]
    error: Members,
}

#[derive(Debug, Default, Deserialize)]
struct Members {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    param: Option<String>,
    #[serde(default)]
    code: Value,
}

impl PassError {
    /// What to tell.
    #[must_use]
    pub fn told(&self) -> Told {
        match self {
            Self::Native(error) => Told { status: error.status(), message: error.to_string(), param: None, code: None },
            Self::Engine(error) => error.told(),
        }
    }

    /// Adds to an answer when trying again may help, where that is known.
    #[must_use]
    pub fn timed(&self, reply: Reply) -> Reply {
        match self {
            Self::Native(error) => error.timed(reply),
            Self::Engine(_) => reply,
        }
    }
}

impl EngineError {
    /// An error in the middle of a stream; its status is in its `code`.
    #[must_use]
    pub fn in_stream(data: Bytes, served: String, asked: String) -> Self {
        let code = serde_json::from_slice::<Object>(&data).unwrap_or_default().error.code;
        let status = code.as_u64().and_then(|code| u16::try_from(code).ok());
        let status = status.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.filter(|status| status.is_client_error() || status.is_server_error());
        Self { status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body: data, served, asked }
    }

    fn told(&self) -> Told {
        let Members { message, param, code } = serde_json::from_slice::<Object>(&self.body).unwrap_or_default().error;
        // Sorts out what is the client's fault, and what must not be passed on.
        let native = ApiError::from_engine(self.status, &self.body);
        let (status, message) = match (&native, message) {
            // Of these the native API has words of its own, which say less than the engine's.
            (ApiError::TooLong, Some(message)) => (StatusCode::BAD_REQUEST, message),
            (ApiError::Refused(_), None) if self.status == StatusCode::NOT_FOUND => {
                // The frontend in Python says something with every 404.
                let why = if self.body.is_empty() { FEWER_ROUTES } else { "" };
                (self.status, format!("{:?} does not serve this route{why}", self.asked))
            }
            (ApiError::Refused(text), _) if self.status.is_client_error() => (self.status, text.clone()),
            (error, _) => (error.status(), error.to_string()),
        };
        let message = if self.served == self.asked { message } else { message.replace(&self.served, &self.asked) };
        // The engine's code is its status in a number; the dialects' are words.
        Told { status, message, param, code: code.as_str().map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &'static str) -> Told {
        let status = StatusCode::from_u16(status).expect("a status");
        let body = Bytes::from_static(body.as_bytes());
        PassError::Engine(EngineError { status, body, served: "mini:latest".into(), asked: "Mini".into() }).told()
    }

    #[test]
    fn the_engines_words_and_parameter_are_passed_on_with_the_clients_name_for_the_model() {
        let refused = r#"{"error":{"message":"Model 'mini:latest' does not support Matryoshka embeddings","type":"BadRequestError","param":"dimensions","code":400}}"#;
        let expected = Told {
            status: StatusCode::BAD_REQUEST,
            message: "Model 'Mini' does not support Matryoshka embeddings".into(),
            param: Some("dimensions".into()),
            code: None,
        };
        assert_eq!(told(400, refused), expected);
        let long = r#"{"error":{"message":"This model's maximum context length is 256 tokens. However,","type":"BadRequestError","param":"input_text","code":400}}"#;
        let long = told(400, long);
        assert_eq!((long.status.as_u16(), long.param.as_deref()), (400, Some("input_text")));
        assert!(long.message.contains("256 tokens"), "{long:?}");
        let tools = r#"{"error":{"message":"failed to submit chat request: tool parsing is disabled by frontend configuration","type":"server_error","param":null,"code":"server_error"}}"#;
        assert_eq!(told(500, tools).status, 400, "a mistake of the client's");
    }

    #[test]
    fn what_is_the_engines_own_affair_is_not_passed_on() {
        let missing = told(404, r#"{"detail":"Not Found"}"#);
        assert_eq!((missing.status.as_u16(), missing.message.as_str()), (404, "\"Mini\" does not serve this route"));
        let fewer = told(404, "").message;
        assert!(
            fewer.starts_with("\"Mini\" does not serve this route: ") && fewer.contains("engine_frontend"),
            "{fewer}"
        );
        let trace = told(500, r#"{"error":{"message":"boom\nTraceback (most recent call last):\n x"}}"#);
        assert_eq!(trace.status, 500);
        assert!(!trace.message.contains("Traceback"), "{trace:?}");
        assert_eq!(told(500, "<html>").status, 500);
    }

    #[test]
    fn an_error_in_a_stream_says_its_status_itself() {
        for (data, status) in [
            (r#"{"error": {"message": "EngineCore encountered an issue.", "code": 500}}"#, 500),
            (r#"{"error":{"message":"bad","code":400}}"#, 400),
            (r#"{"error":{"message":"odd","code":200}}"#, 500),
            (r#"{"type":"error","error":{"type":"internal_error","message":"odd"}}"#, 500),
            (r#"{"error":"text"}"#, 500),
            ("", 500),
        ] {
            let error = EngineError::in_stream(Bytes::from_static(data.as_bytes()), "m".into(), "m".into());
            assert_eq!(error.status, status, "{data}");
        }
    }
}
