//! Everything that can go wrong with a native request: one status and one exact text each (ollama-api §14).

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;

use super::refusals;
use crate::api::{self, Refused, Reply};
use crate::model::digest::{InvalidDigest, Sha256Digest};
use crate::model::pull::PullError;
use crate::scheduler::{EngineGone, LeaseError};

/// The sentence of a prompt that does not fit (ollama-api §6.9).
const TOO_LONG: &str = "the prompt is longer than the context length currently available to the model; shorten the \
    prompt, adjust the context length in settings, or use a model with a longer context length";

/// Why a native request is not answered. `Display` is the text of `{"error":…}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No body.
    #[error("missing request body")]
    MissingBody,
    /// No JSON, or a field of the wrong type; the text of the reader.
    #[error("{0}")]
    BadJson(String),
    /// `keep_alive` that is no duration (§6.2).
    #[error("{0}")]
    BadKeepAlive(String),
    /// `think` that is no boolean or level (§6.5).
    #[error("{0}")]
    BadThink(String),
    /// `top_logprobs` out of range.
    #[error("top_logprobs must be between 0 and 20")]
    TopLogprobs,
    /// No model named, on routes that say so.
    #[error("model is required")]
    ModelRequired,
    /// Something else a request has to say and does not, on routes that say so; what it is, in words.
    #[error("{0}")]
    Required(&'static str),
    /// The name breaks the grammar (§4.1).
    #[error("invalid model name")]
    InvalidName,
    /// `:local` and a cloud suffix together (§4.1).
    #[error("use either :local or :cloud, not both: \"{0}\"")]
    LocalAndCloud(String),
    /// A model of Ollama's cloud.
    #[error("ollama cloud is disabled: {0}")]
    Cloud(&'static str),
    /// A model that the key of the request may not use; its name.
    #[error("this key may not use the model '{0}'; ask the operator for a key that may")]
    NotAllowed(String),
    /// The key of the request lacks the scope `manage`, and this would take a model from others.
    #[error(
        "this key may not unload models, since others may be using them; leave that to their keep_alive, or ask the operator \
         for a key with the scope manage"
    )]
    MayNotUnload,
    /// Something only an account of Ollama's cloud may do; Ollama's words.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// Not installed; the name as the route shows it.
    #[error("model '{0}' not found")]
    NotFound(String),
    /// Not installed, as the embedding routes tell it; the name as sent.
    #[error("model {0:?} not found, try pulling it first")]
    NotPulled(String),
    /// `input` that is neither a text nor a list of texts (§3.5).
    #[error("invalid input type")]
    InvalidInput,
    /// A text to embed does not fit, and may not be cut (§3.5).
    #[error("the input length exceeds the context length")]
    InputTooLong,
    /// A text to embed would have to be cut to nothing (§3.5).
    #[error("input after truncation exceeds maximum context length")]
    NothingLeft,
    /// A vector that cannot be told in JSON (§3.5).
    #[error("embedding contains NaN or Inf values")]
    NotFinite,
    /// Not installed, in the words of `/api/copy`.
    #[error("model {0:?} not found")]
    NothingToCopy(String),
    /// A name that breaks the grammar, on routes that say which: what it was for, and the name.
    #[error("{0} {1:?} is invalid")]
    InvalidNameOf(&'static str, String),
    /// Something `/api/create` cannot make a model of; Ollama's words.
    #[error("{0}")]
    BadCreate(&'static str),
    /// No digest, or none that Ollama knows.
    #[error("{0}")]
    InvalidDigest(#[from] InvalidDigest),
    /// A file whose bytes have another digest than its name says: the one expected and the one found.
    #[error("digest mismatch, expected \"{0}\", got \"{1}\"")]
    DigestMismatch(Sha256Digest, Sha256Digest),
    /// A file that nobody has uploaded.
    #[error("blob \"{0}\" not found")]
    NoBlob(Sha256Digest),
    /// A body that was not taken to its end.
    #[error("{0}")]
    Upload(#[from] Refused),
    /// The import of a file failed through no fault of the file: what happened and what to do.
    #[error("{0}")]
    Import(String),
    /// The model store does not do what it should; what the system says.
    #[error("the model store could not be changed: {0}; check the disk and the directory's permissions")]
    Store(String),
    /// No room for what is to be written: bytes needed and bytes free.
    #[error(
        "there is not enough room in the model store: {0} bytes are needed, {1} are free; delete a model, or enlarge the disk"
    )]
    NoRoom(u64, u64),
    /// A name that begins with `http://`, without leave.
    #[error("insecure protocol http")]
    InsecureProtocol,
    /// The model was not pulled.
    #[error("{0}")]
    Pull(#[from] PullError),
    /// The model lacks the ability: the name as the case shows it, and the ability.
    #[error("{0} does not support {1}")]
    Unable(String, &'static str),
    /// `raw` with something that needs a template.
    #[error("raw mode does not support template, system, or context")]
    RawConflict,
    /// A `template` that is no Go template, or asks for what vllama's do not give (§6.7).
    #[error("invalid template: {0}")]
    BadTemplate(String),
    /// Something Ollama does and vllama does not; says what to do instead.
    #[error("{0}")]
    NotSupported(String),
    /// A call in the history whose arguments are no JSON object (§3.3).
    #[error("invalid tool call arguments: expected a JSON object")]
    BadArguments,
    /// An option of the wrong type (§5). Ollama says 500; it is the client's fault all the same (decision 0033).
    #[error("option \"{0}\" must be {1}")]
    BadOption(String, &'static str),
    /// `format` that is neither `"json"` nor a schema; the JSON as sent (§6.4). As with options, not 500.
    #[error("invalid format: {0:?}; expected \"json\" or a valid JSON Schema object")]
    BadFormat(String),
    /// The scheduler gave no lease.
    #[error("{0}")]
    NoLease(#[from] LeaseErrorText),
    /// The prompt does not fit (§6.9).
    #[error("{TOO_LONG}")]
    TooLong,
    /// The engine refused the request; its own words.
    #[error("{0}")]
    Refused(String),
    /// The engine has no room.
    #[error("server busy, please try again.  maximum pending requests exceeded")]
    Busy,
    /// The engine failed while it worked; its own words.
    #[error("an error was encountered while running the model: {0}")]
    Failed(String),
    /// The engine died (§8.3).
    #[error(
        "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, \
         check ollama server logs for details"
    )]
    Gone,
    /// The engine dies of the request; in words.
    #[error("{0}")]
    Poisoned(EngineGone),
}

/// A [`LeaseError`] with its status; compared by text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct LeaseErrorText {
    status: StatusCode,
    text: String,
    /// Seconds after which trying again may help.
    retry_after: Option<u64>,
}

impl From<LeaseError> for ApiError {
    fn from(error: LeaseError) -> Self {
        let text = error.to_string();
        let status = match &error {
            LeaseError::Permanent(_) => StatusCode::INTERNAL_SERVER_ERROR,
            // Not 404: clients answer that with a download (§13.25), which would not help.
            LeaseError::Retiring
            | LeaseError::ShuttingDown
            | LeaseError::QueueFull { .. }
            | LeaseError::TooSlow { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        let retry_after = match error {
            LeaseError::QueueFull { retry_after } | LeaseError::TooSlow { retry_after } => Some(seconds(retry_after)),
            _ => None,
        };
        Self::NoLease(LeaseErrorText { status, text, retry_after })
    }
}

impl From<EngineGone> for ApiError {
    fn from(gone: EngineGone) -> Self {
        match gone {
            EngineGone::Unreached | EngineGone::HungUp => Self::Gone,
            EngineGone::Poisoned => Self::Poisoned(gone),
            EngineGone::TooSlow { retry_after } => Self::NoLease(LeaseErrorText {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: gone.to_string(),
                retry_after: Some(seconds(retry_after)),
            }),
        }
    }
}

/// A time for `Retry-After`: whole seconds, at least one.
fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1)
}

impl From<std::io::Error> for ApiError {
    /// What the store says: a checkpoint that is none is the client's doing, the rest is ours.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::InvalidData => Self::NotSupported(error.to_string()),
            _ => Self::Store(error.to_string()),
        }
    }
}

impl ApiError {
    /// The status of the answer, where it can still be said.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) | Self::NotPulled(_) | Self::NothingToCopy(_) | Self::NoBlob(_) => StatusCode::NOT_FOUND,
            Self::Upload(refused) => refused.status,
            Self::NoRoom(..) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Cloud(_) | Self::NotAllowed(_) | Self::MayNotUnload => StatusCode::FORBIDDEN,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Failed(_) | Self::Gone | Self::Poisoned(_) | Self::Import(_) | Self::Store(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            // What Ollama's registry says comes as 500, also where there is no such model (§14).
            Self::Pull(PullError::Registry(_) | PullError::Gguf(_) | PullError::Unsuitable(_)) => {
                StatusCode::BAD_REQUEST
            }
            Self::Pull(PullError::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Pull(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoLease(error) => error.status,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Reads an engine's error answer (vllm-engine §3.4): `error` may be a string or an object, `detail` may stand in
    /// for it. A trace of the engine is never passed on.
    #[must_use]
    pub fn from_engine(status: StatusCode, body: &[u8]) -> Self {
        let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let error = value.get("error").unwrap_or(&value);
        let text = [error, &error["message"], &value["message"], &value["detail"]]
            .into_iter()
            .find_map(serde_json::Value::as_str)
            .unwrap_or("the engine gave no reason");
        Self::from_engine_text(status, text)
    }

    /// Sorts an engine's error by its status and text.
    #[must_use]
    pub fn from_engine_text(status: StatusCode, text: &str) -> Self {
        let text = text.split("Traceback (most recent call last)").next().unwrap_or_default().trim();
        let dead = ["EngineCore", "EngineDead", "engine is dead"].iter().any(|word| text.contains(word));
        if text.contains("maximum context length") || text.contains("max_model_len") {
            Self::TooLong
        } else if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            Self::Busy
        } else if let Some(told) = refusals::told(text, !status.is_client_error()) {
            Self::Refused(told.to_owned())
        } else if status.is_client_error() {
            Self::Refused(text.to_owned())
        } else if dead {
            Self::Gone
        } else {
            Self::Failed(if text.is_empty() { "the engine gave no reason" } else { text }.to_owned())
        }
    }

    /// `{"error":"…"}` with its status.
    #[must_use]
    pub fn reply(&self) -> Reply {
        self.timed(refuse(self.status(), &self.to_string()))
    }

    /// Adds when trying again may help, where that is known, to an answer in any dialect.
    #[must_use]
    pub fn timed(&self, mut reply: Reply) -> Reply {
        if let Self::NoLease(LeaseErrorText { retry_after: Some(seconds), .. }) = self {
            reply.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from(*seconds));
        }
        reply
    }

    /// The last line of a stream that has already begun.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = error_object(&self.to_string());
        line.push(b'\n');
        line
    }
}

/// Any refusal in the shape of the native API.
#[must_use]
pub fn refuse(status: StatusCode, text: &str) -> Reply {
    api::whole(status, super::JSON, error_object(text))
}

fn error_object(text: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct ErrorObject<'a> {
        error: &'a str,
    }
    // A struct with one string always becomes JSON.
    serde_json::to_vec(&ErrorObject { error: text }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_status_and_text_of_the_catalogue() {
        let s = str::to_owned;
        for (error, status, text) in [
            (ApiError::MissingBody, 400, "missing request body"),
            (ApiError::BadJson(s("unexpected EOF")), 400, "unexpected EOF"),
            (ApiError::ModelRequired, 400, "model is required"),
            (ApiError::InvalidName, 400, "invalid model name"),
            (ApiError::NotFound(s("nope")), 404, "model 'nope' not found"),
            (ApiError::NotFound(s("")), 404, "model '' not found"),
            (ApiError::NotPulled(s("nope")), 404, "model \"nope\" not found, try pulling it first"),
            (ApiError::InvalidInput, 400, "invalid input type"),
            (ApiError::InputTooLong, 400, "the input length exceeds the context length"),
            (ApiError::NothingLeft, 400, "input after truncation exceeds maximum context length"),
            (ApiError::NotFinite, 400, "embedding contains NaN or Inf values"),
            (ApiError::Unable(s("\"x\""), "chat"), 400, "\"x\" does not support chat"),
            (ApiError::Unable(s("\"x\""), "generate"), 400, "\"x\" does not support generate"),
            (ApiError::Unable(s("\"x\""), "thinking"), 400, "\"x\" does not support thinking"),
            (
                ApiError::Unable(s("registry.ollama.ai/library/x:latest"), "tools"),
                400,
                "registry.ollama.ai/library/x:latest does not support tools",
            ),
            (ApiError::TopLogprobs, 400, "top_logprobs must be between 0 and 20"),
            (ApiError::RawConflict, 400, "raw mode does not support template, system, or context"),
            (
                ApiError::BadOption(s("temperature"), "of type float32"),
                400,
                "option \"temperature\" must be of type float32",
            ),
            (
                ApiError::BadFormat(s("\"xml\"")),
                400,
                "invalid format: \"\\\"xml\\\"\"; expected \"json\" or a valid JSON Schema object",
            ),
            (
                ApiError::from(LeaseError::QueueFull { retry_after: std::time::Duration::ZERO }),
                503,
                "server busy, please try again.  maximum pending requests exceeded",
            ),
            (ApiError::from(LeaseError::Permanent(s("no memory"))), 500, "no memory"),
            (
                ApiError::Cloud("remote inference is unavailable"),
                403,
                "ollama cloud is disabled: remote inference is unavailable",
            ),
            (ApiError::Unauthorized("unauthorized"), 401, "unauthorized"),
        ] {
            assert_eq!((error.status().as_u16(), error.to_string().as_str()), (status, text));
        }
        assert!(ApiError::Gone.to_string().starts_with("model runner has unexpectedly stopped"));
    }

    #[test]
    fn engine_errors_are_flattened_whatever_their_shape() {
        let refused = |text: &str| ApiError::Refused(text.to_owned());
        for (status, body, error) in [
            (
                400,
                r#"{"error":{"message":"bad schema","type":"BadRequestError","param":null,"code":400}}"#,
                refused("bad schema"),
            ),
            (400, r#"{"error":{"message":"bad","code":"invalid"}}"#, refused("bad")),
            (401, r#"{"error":"Unauthorized"}"#, refused("Unauthorized")),
            (404, r#"{"detail":"Not Found"}"#, refused("Not Found")),
            (400, r#"{"object":"error","message":"old shape"}"#, refused("old shape")),
            (400, "<html>", refused("the engine gave no reason")),
            (503, r#"{"error":{"message":"queue is full"}}"#, ApiError::Busy),
            (500, r#"{"error":{"message":"EngineCore encountered an issue."}}"#, ApiError::Gone),
            (
                500,
                r#"{"error":{"message":"boom\nTraceback (most recent call last):\n  File x"}}"#,
                ApiError::Failed("boom".into()),
            ),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 2048 tokens. However, you requested 9000"}}"#,
                ApiError::TooLong,
            ),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(ApiError::from_engine(status, body.as_bytes()), error, "{body}");
        }
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let full = |milliseconds| LeaseError::QueueFull { retry_after: std::time::Duration::from_millis(milliseconds) };
        for (milliseconds, seconds) in [(0, "1"), (1000, "1"), (41_001, "42")] {
            let reply = ApiError::from(full(milliseconds)).reply();
            assert_eq!(reply.headers().get("retry-after").and_then(|value| value.to_str().ok()), Some(seconds));
        }
        assert!(ApiError::from(LeaseError::ShuttingDown).reply().headers().get("retry-after").is_none());
    }

    #[test]
    fn an_error_line_is_one_line() {
        let line = ApiError::Failed("a\nb".to_owned()).line();
        assert_eq!(line, b"{\"error\":\"an error was encountered while running the model: a\\nb\"}\n");
    }
}
