//! Which model runs where and when.
//!
//! In: a model name and a keep-alive. Out: a [`Lease`], the right to use one engine. One task owns all state; the rest
//! of the program holds a [`Scheduler`] handle and reads [`Snapshot`]s. Never speaks HTTP, never forks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::model::{Installed, ModelName};

/// How long a model stays loaded after its last request (ollama-api §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Until somebody unloads it.
    Forever,
    /// This long after the last lease is dropped; zero unloads at once.
    For(Duration),
}

/// Handle on the scheduler; cheap to clone.
#[derive(Clone)]
pub struct Scheduler {
    _private: (),
}

/// Why no lease was given. The text is what a user is told; dialects choose status and shape.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LeaseError {
    /// The model is installed but not the one this server was started for.
    #[error(
        "model '{wanted}' is installed, but this server serves '{served}' only; start another with `vllama serve {wanted}`"
    )]
    NotServed {
        /// The model asked for.
        wanted: String,
        /// The model served.
        served: String,
    },
    /// The engine cannot run and will not by itself: what happened, why, what to do.
    #[error("{0}")]
    Permanent(String),
    /// vllama is shutting down.
    #[error("vllama is shutting down; try again in a moment")]
    ShuttingDown,
    /// Too many requests wait already (§8.3).
    #[error("server busy, please try again.  maximum pending requests exceeded")]
    QueueFull,
}

impl Scheduler {
    /// Waits until the model's engine is ready and takes a place on it. Dropping the future gives up waiting.
    ///
    /// # Errors
    /// [`LeaseError`] when the engine will not become ready.
    pub async fn lease(&self, _model: &Arc<Installed>, _keep_alive: Option<KeepAlive>) -> Result<Lease, LeaseError> {
        unimplemented!("filled in beside this commit")
    }

    /// Marks the model for unloading once its last lease is dropped; answers at once. A model that is not loaded is fine.
    pub async fn unload(&self, _model: &Arc<Installed>) {
        unimplemented!("filled in beside this commit")
    }

    /// The state of all engines now; never waits.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        unimplemented!("filled in beside this commit")
    }
}

/// State of all engines at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// One entry for each engine, the default model's first.
    pub engines: Vec<EngineSnapshot>,
}

/// State of one engine at one moment.
#[derive(Clone, Debug)]
pub struct EngineSnapshot {
    /// The model it serves.
    pub model: ModelName,
    /// `stopped`, `starting`, `ready`, `stopping`, `restarting` or `failed`.
    pub state: &'static str,
    /// Whether a request would be answered now, or after a load that a request starts by itself.
    pub serves: bool,
    /// Whether the engine holds memory: it is in `/api/ps`.
    pub loaded: bool,
    /// What it is doing while it starts, e.g. `loading weights`.
    pub phase: &'static str,
    /// Progress of the start, 0–100.
    pub percent: u8,
    /// Number of starts so far; 0 before the first.
    pub generation: u64,
    /// Starts after a crash.
    pub restarts: u64,
    /// Open leases.
    pub leases: usize,
    /// Requests waiting for the engine.
    pub waiting: usize,
    /// Why it failed for good, for users; `None` while there is hope.
    pub failure: Option<String>,
    /// Bytes of main memory the engine's processes hold, where known.
    pub memory_bytes: Option<u64>,
    /// Effective context length in tokens, known once ready.
    pub context_length: Option<u64>,
    /// When it will be unloaded if nobody asks again; `None` = never.
    pub expires_at: Option<SystemTime>,
}

/// The right to use a ready engine. Dropping it frees the place; keep-alive starts when the last one is dropped.
pub struct Lease {
    _private: (),
}

impl Lease {
    /// Longest sequence (prompt and answer) the engine takes, in tokens.
    #[must_use]
    pub fn max_model_len(&self) -> u64 {
        unimplemented!("filled in beside this commit")
    }

    /// The name the engine knows the model by; goes into `model` of every engine request.
    #[must_use]
    pub fn served_name(&self) -> &str {
        unimplemented!("filled in beside this commit")
    }

    /// Sends a JSON request to the engine and waits for the head of the answer. Dropping the future, or the body of the
    /// response, closes the connection, which makes vLLM abort the request (vllm-engine §3.5). `stream` false lets the
    /// connection be reused.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine died or hung up before the head arrived.
    pub async fn post(
        &self,
        _path: &'static str,
        _body: Bytes,
        _request_id: &str,
    ) -> Result<http::Response<EngineBody>, EngineGone> {
        unimplemented!("filled in beside this commit")
    }
}

/// The engine hung up or died in the middle of a request.
#[derive(Debug, thiserror::Error)]
#[error(
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama server logs for details"
)]
pub struct EngineGone;

/// Body of an engine's answer; ends with [`EngineGone`] when the engine dies before the end.
pub struct EngineBody {
    _private: (),
}

impl http_body::Body for EngineBody {
    type Data = Bytes;
    type Error = EngineGone;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, EngineGone>>> {
        unimplemented!("filled in beside this commit")
    }
}
