//! OpenAI's API, which vLLM speaks itself: bodies pass through as bytes, and of all their fields only `model` is looked
//! at and rewritten ([`model_name`]), so that a new field of vLLM works the day it ships (ollama-api §10).
//!
//! In: a [`Call`](super::Call). It is passed to the engine over a lease ([`pass`]). Out: a [`Reply`](super::Reply) with the
//! engine's bytes, or an error in OpenAI's shape ([`error`]). Knows nothing of sockets and processes.

pub mod embeddings;
pub mod error;
pub mod model_name;
pub mod pass;
pub mod routes;

const JSON: &str = "application/json";
