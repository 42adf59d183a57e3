//! OpenAI's API, which vLLM speaks itself: bodies pass through as bytes ([`pass`](super::pass); ollama-api §10).
//!
//! In: a [`Call`](super::Call). It is passed to the engine over a lease. Out: a [`Reply`](super::Reply) with the engine's
//! bytes, or an error in OpenAI's shape ([`error`]). Knows nothing of sockets and processes.

pub mod embeddings;
pub mod error;
pub mod generation;
pub mod routes;

const JSON: &str = "application/json";
