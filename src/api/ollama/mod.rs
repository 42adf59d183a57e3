//! The native Ollama API, so that no client notices the difference (the contract is ollama-api.md; § numbers in
//! comments are its sections).
//!
//! In: a [`Call`](super::Call). On its way it becomes an engine request ([`request`]), posted over a lease; what the
//! engine answers is turned back line by line ([`response`], [`stream`]). Out: a [`Reply`](super::Reply).
//! Knows nothing of sockets and processes, and decides nothing about models: the scheduler does.

pub mod asking;
pub mod blobs;
pub mod change;
pub mod cloud;
pub mod copy;
pub mod create;
pub mod debug;
pub mod delete;
pub mod embed;
pub mod engine;
pub mod error;
pub mod fit;
pub mod format;
pub mod generate;
pub mod go_template;
pub mod images;
pub mod inference;
pub mod input;
pub mod json;
pub mod keep_alive;
pub mod listing;
pub mod logprobs;
pub mod messages;
pub mod names;
pub mod options;
pub mod order;
mod path;
pub mod pattern;
pub mod prelude;
pub mod progress;
pub mod pull;
pub mod push;
mod refusals;
pub mod request;
pub mod response;
pub mod routes;
pub mod run;
pub mod show;
pub mod sse;
pub mod stream;
pub mod surrogates;
pub mod think;
pub mod thoughts;
pub mod tool_calls;
pub mod tools;
pub mod types;
pub mod vectors;
pub mod window;

#[cfg(test)]
mod replay_tests;

/// The version that `/api/version` reports: a recent release of Ollama whose behaviour this follows. Clients compare it
/// with the oldest they support, digit by digit (§13.1), so it must be a plain Ollama number; vllama's own version is
/// in the `Server` header.
pub const OLLAMA_VERSION: &str = "0.32.15";

const JSON: &str = "application/json; charset=utf-8";
const NDJSON: &str = "application/x-ndjson";
