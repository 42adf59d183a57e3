//! Anthropic's API, which vLLM speaks itself (ollama-api §11): bodies pass through as bytes ([`pass`](super::pass)). What
//! clients such as Claude Code send and vLLM refuses is put right in the body before ([`shape`], decision 0025).
//!
//! In: a [`Call`](super::Call). It is passed to the engine over a lease. Out: a [`Reply`](super::Reply) with the engine's
//! bytes, or an error in Anthropic's shape ([`error`]). Knows nothing of sockets and processes.

mod content;
pub mod error;
mod json;
pub mod messages;
pub mod routes;
mod shape;
mod thinking;
mod tools;

const JSON: &str = "application/json";
