//! The scheduler's state at one moment, for health, `/api/ps` and people on call.

use std::time::{Instant, SystemTime};

use super::KeepAlive;
use super::keeper::Book;
use crate::engine::{State, Status};
use crate::model::{Installed, ModelName};

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
    /// Whether the engine is up: it is in `/api/ps`.
    pub loaded: bool,
    /// What it is doing while it starts, e.g. `loading weights`; empty otherwise.
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
    /// The last death of the engine, for users; `None` once it is ready again.
    pub failure: Option<String>,
    /// Bytes of main memory the engine's processes hold; `None` while there are none, or when nobody measured.
    pub memory_bytes: Option<u64>,
    /// Effective context length in tokens, known once ready.
    pub context_length: Option<u64>,
    /// When it will be unloaded if nobody asks again; `None` = never.
    pub expires_at: Option<SystemTime>,
}

impl EngineSnapshot {
    pub(super) fn new(model: &Installed, status: &Status, book: &Book) -> Self {
        let ready = status.state == State::Ready;
        let now = Instant::now();
        let (phase, percent) = match &status.startup {
            Some(startup) => (startup.phase().label(), startup.percent(now)),
            None => ("", if ready { 100 } else { 0 }),
        };
        Self {
            model: model.name.clone(),
            state: status.state.word(),
            serves: !book.closed && (ready || (status.state == State::Stopped && status.generation > 0)),
            loaded: ready,
            phase,
            percent,
            generation: status.generation,
            restarts: status.restarts,
            leases: book.leases,
            waiting: book.waiting,
            failure: status.failure.as_ref().map(|failure| failure.message.clone()),
            memory_bytes: None,
            context_length: status.max_model_len,
            expires_at: expires_at(book, now),
        }
    }
}

/// While the model is in use its keep-alive has not begun: the earliest moment it can end is told.
fn expires_at(book: &Book, now: Instant) -> Option<SystemTime> {
    let left = match (book.expires, book.keep_alive) {
        (Some(expires), _) => expires.saturating_duration_since(now),
        (None, KeepAlive::For(time)) => time,
        (None, KeepAlive::Forever) => return None,
    };
    SystemTime::now().checked_add(left)
}
