//! What the scheduler's task tells everybody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{KeepAlive, LeaseError};
use crate::engine::Status;
use crate::model::Installed;

/// The scheduler's side of one engine.
#[derive(Clone, Debug)]
pub(super) struct Book {
    /// Open leases.
    pub leases: usize,
    /// Requests that wait for the engine.
    pub waiting: usize,
    /// Since when the oldest of them waits.
    pub oldest: Option<Instant>,
    /// The keep-alive that holds now.
    pub keep_alive: KeepAlive,
    /// When the model will be unloaded; `None` while it is in use or kept for ever.
    pub expires: Option<Instant>,
    /// No more leases.
    pub closed: bool,
    /// How long a request that comes now would wait.
    pub estimate: Duration,
    /// Bytes it is charged for on all of its devices together.
    pub device_bytes: u64,
    /// Why it can never be started.
    pub problem: Option<LeaseError>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            leases: 0,
            waiting: 0,
            oldest: None,
            keep_alive: KeepAlive::Forever,
            expires: None,
            closed: false,
            estimate: Duration::ZERO,
            device_bytes: 0,
            problem: None,
        }
    }
}

/// One engine, as those see it who watch.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// The model, by the name that was asked for last.
    pub model: Arc<Installed>,
    /// What it serves.
    pub key: Arc<str>,
    /// Whether it runs on GPUs.
    pub on_gpu: bool,
    /// What the engine says; `None` before its first start.
    pub status: Option<watch::Receiver<Status>>,
    /// What the scheduler says.
    pub book: watch::Receiver<Book>,
}
