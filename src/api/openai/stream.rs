//! How the streams of chats and completions begin, fail and end (ollama-api §10.1, vllm-engine §3.3).

use super::error;
use crate::api::pass::{Dialect, Meaning, Request, Told};

/// Chats, completions, and all routes whose answers are never streams.
pub static DIALECT: Dialect = Dialect { names: &[&["model"]], meaning, error: told };

/// Leaves `stream_options` out of a request that is no stream: to Ollama they are nothing then, to the engine an error.
pub fn leave_out_options(request: &mut Request) {
    if request.member("stream") != Some("true") && request.member("stream_options").is_some() {
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
