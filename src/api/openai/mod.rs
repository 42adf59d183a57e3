//! OpenAI's API, which vLLM speaks itself: bodies pass through as bytes ([`pass`](super::pass); ollama-api §10). What a
//! model brings along, and what Ollama's clients expect and vLLM does otherwise, is spliced into the request.
//!
//! In: a [`Call`](super::Call). It is passed to the engine over a lease. Out: a [`Reply`](super::Reply) with the engine's
//! bytes, or an error in OpenAI's shape ([`error`]). Knows nothing of sockets and processes.

pub mod chat;
pub mod completions;
pub mod defaults;
pub mod embeddings;
pub mod error;
pub mod models;
pub mod reasoning;
pub mod responses;
pub mod routes;
pub mod scores;
pub mod stream;
pub mod tokens;
pub mod transcriptions;

const JSON: &str = "application/json";
