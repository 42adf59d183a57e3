//! Errors in Anthropic's shape (ollama-api §11): `{"type":"error","error":{"type","message"},"request_id"}`.

use std::borrow::Cow;

use http::StatusCode;
use serde::Serialize;

use super::JSON;
use crate::api::pass::{PassError, Told};
use crate::api::{self, Reply};
use crate::model::digest::Sha256Digest;

/// vLLM's words for a call that it has read and cannot tell.
const BAD_CALL: &str = "validation error for AnthropicContentBlock";

#[derive(Serialize)]
struct Object<'a> {
    r#type: &'static str,
    error: Error<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Error<'a> {
    r#type: &'static str,
    message: &'a str,
}

/// The answer that tells an error of the request with this identity.
#[must_use]
pub fn reply(error: &PassError, id: &str) -> Reply {
    let Told { status, message, .. } = error.told();
    // vLLM makes this the client's fault, and it is the model's.
    let status = if message.contains(BAD_CALL) { StatusCode::INTERNAL_SERVER_ERROR } else { status };
    error.timed(refuse(status, &words(&message), id))
}

/// Any refusal in this dialect's shape.
#[must_use]
pub fn refuse(status: StatusCode, text: &str, id: &str) -> Reply {
    api::whole(status, JSON, object(status, text, Some(&request_id(id))))
}

/// The event that ends a stream which has begun. The identity of the request is in the headers.
#[must_use]
pub fn event(told: &Told, _events: u64) -> Vec<u8> {
    [b"event: error\ndata: ", &object(told.status, &words(&told.message), None)[..], b"\n\n"].concat()
}

fn object(status: StatusCode, message: &str, request_id: Option<&str>) -> Vec<u8> {
    let error = Error { r#type: kind(status), message };
    // Strings always become JSON.
    serde_json::to_vec(&Object { r#type: "error", error, request_id }).unwrap_or_default()
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    }
}

/// The identity of a request as Anthropic writes it: `req_` and 24 hexadecimal digits. One that vllama made begins with the
/// same eight digits in the log and in `X-Request-Id`; of one that a client brought it is a digest.
#[must_use]
pub fn request_id(id: &str) -> String {
    const DIGITS: usize = 24;
    let digits: String = id.chars().filter(|letter| *letter != '-').collect();
    let own = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = if own { digits.to_ascii_lowercase() } else { Sha256Digest::of(id.as_bytes()).as_str().to_owned() };
    format!("req_{}", &digits[..DIGITS])
}

/// The words for what vLLM tells in words that help nobody here.
fn words(message: &str) -> Cow<'_, str> {
    if message.contains("ChatCompletionStreamResponse") {
        // It could not read its own error (tests/golden/vllm/messages-stream-engine-killed).
        return "an error was encountered while running the model: the engine failed in the middle of its answer"
            .into();
    }
    if message.contains(BAD_CALL) {
        return "the model called a tool with arguments that are no object; try again, or set `strict` for the tool"
            .into();
    }
    too_long(message).map_or(Cow::Borrowed(message), Cow::Owned)
}

/// Clients such as Claude Code know by these words of Anthropic's that a conversation has to become shorter, and read
/// the two numbers. vLLM has words of its own, with the same numbers.
fn too_long(message: &str) -> Option<String> {
    let number = |after: &str| {
        let (_, rest) = message.split_once(after)?;
        let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
        rest[..end].parse::<u64>().ok()
    };
    let most = number("maximum context length is ")?;
    Some(match number("your prompt contains at least ") {
        Some(tokens) => format!("prompt is too long: {tokens} tokens > {most} maximum"),
        None => format!("prompt is too long: {message}"),
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::ollama::error::ApiError;
    use crate::scheduler::LeaseError;

    const ID: &str = "0a1b2c3d-4e5f-4789-8abc-def012345678";

    async fn body(reply: Reply) -> Value {
        let body = reply.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice(&body).expect("JSON")
    }

    #[tokio::test]
    async fn errors_keep_their_words_and_get_the_type_of_their_status() {
        let full = LeaseError::QueueFull { retry_after: std::time::Duration::from_secs(3) };
        for (error, status, kind) in [
            (ApiError::ModelRequired, 400, "invalid_request_error"),
            (ApiError::NotFound("x".into()), 404, "not_found_error"),
            (ApiError::Cloud("remote inference is unavailable"), 403, "permission_error"),
            (ApiError::Busy, 503, "overloaded_error"),
            (full.into(), 503, "overloaded_error"),
            (ApiError::Gone, 500, "api_error"),
        ] {
            let text = error.to_string();
            let reply = reply(&error.into(), ID);
            assert_eq!(reply.status(), status);
            let expected = json!({"type": "error", "error": {"type": kind, "message": text},
                "request_id": "req_0a1b2c3d4e5f47898abcdef0"});
            assert_eq!(body(reply).await, expected);
        }
    }

    #[test]
    fn every_status_has_a_type() {
        for (status, expected) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (405, "invalid_request_error"),
            (408, "invalid_request_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (503, "overloaded_error"),
        ] {
            assert_eq!(kind(StatusCode::from_u16(status).expect("a status")), expected);
        }
    }

    #[test]
    fn an_error_in_a_stream_is_an_event() {
        let told =
            Told { status: StatusCode::INTERNAL_SERVER_ERROR, message: "a\n\"b\"".into(), param: None, code: None };
        let expected = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"a\\n\\\"b\\\"\"}}\n\n";
        assert_eq!(String::from_utf8(event(&told, 3)).as_deref(), Ok(expected));
    }

    #[test]
    fn a_prompt_that_is_too_long_is_told_in_anthropics_words() {
        for (text, expected) in [
            (
                "This model's maximum context length is 8192 tokens. However, your prompt contains at least 8193 input tokens, \
                 which exceeds this limit. (parameter=input_tokens, value=8193)",
                "prompt is too long: 8193 tokens > 8192 maximum",
            ),
            (
                "This model's maximum context length is 8192 tokens. However, your prompt contains 150000 characters",
                "prompt is too long: This model's maximum context length is 8192 tokens. However, your prompt contains 150000 characters",
            ),
            ("bad schema", "bad schema"),
        ] {
            assert_eq!(words(text), expected);
        }
    }

    #[test]
    fn a_request_is_known_by_its_first_digits() {
        assert_eq!(request_id(ID), "req_0a1b2c3d4e5f47898abcdef0");
        for id in ["mine", "", "req_1", &"f".repeat(31)] {
            let told = request_id(id);
            assert!(told.len() == 28 && told[4..].bytes().all(|byte| byte.is_ascii_hexdigit()), "{told}");
        }
        assert_ne!(request_id("mine"), request_id("yours"));
    }
}
