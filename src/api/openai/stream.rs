//! How the streams of chats and completions begin, fail and end (ollama-api §10.1, vllm-engine §3.3).

use super::error;
use crate::api::pass::{Dialect, Meaning, Request, Told};

/// Chats, completions, and all routes whose answers are never streams.
pub static DIALECT: Dialect = Dialect { names: &[&["model"]], meaning, error: told };

/// Has a stream say its token counts for the log, and keeps them from a client that did not ask for them. Options of what
/// is no stream are left out: to Ollama they are nothing then, to the engine an error.
pub fn count(request: &mut Request) {
    let (stream, options) = (request.member("stream") == Some("true"), request.member("stream_options").is_some());
    if stream && !options {
        request.set("stream_options", br#"{"include_usage":true}"#);
        request.hide_usage();
    } else if !stream && options {
        request.set("stream_options", b"null");
    }
}

fn meaning(_name: &[u8], data: &[u8]) -> Meaning {
    if data == b"[DONE]" {
        Meaning::Last
    } else if data.starts_with(b"{\"error\"") {
        Meaning::Error
    } else {
        Meaning::More
    }
}

/// The error, and the end that clients wait for.
fn told(told: &Told, _events: u64) -> Vec<u8> {
    [b"data: ", &error::object(told)[..], b"\n\ndata: [DONE]\n\n"].concat()
}
