//! What the scheduler's task tells everybody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::snapshot::DeviceSnapshot;
use super::{KeepAlive, LeaseError};
use crate::engine::Status;
use crate::model::{Installed, ParserChoice};

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

/// The scheduler's side of the whole house.
#[derive(Clone, Debug, Default)]
pub(super) struct House {
    /// What engines run on.
    pub devices: Vec<DeviceSnapshot>,
    /// Times a loaded model went to make room for another.
    pub swaps: u64,
    /// Times a model in use took no new requests to make room for another.
    pub drains: u64,
}

/// What has happened to an engine so often.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// It was started.
    pub starts: u64,
    /// It was started after a crash, by what had happened.
    pub restarts: BTreeMap<&'static str, u64>,
    /// It was ended because it did nothing.
    pub wedges: u64,
}

impl Totals {
    /// What an engine tells of itself.
    pub fn of(status: &Status) -> Self {
        let restarts = status.restarts_by_failure.iter().map(|(kind, count)| (kind.name(), *count)).collect();
        Self { starts: status.generation, restarts, wedges: status.wedges }
    }

    /// With what has happened to the engines before it.
    pub fn and(mut self, before: &Self) -> Self {
        self.starts += before.starts;
        self.wedges += before.wedges;
        before.restarts.iter().for_each(|(failure, count)| *self.restarts.entry(failure).or_default() += count);
        self
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
    /// What changes have taken from its plan.
    pub given_up: ParserChoice,
    /// What has happened to the engines that served the same before this one was made.
    pub before: Totals,
    /// Requests that were asked again.
    pub replayed: Arc<AtomicU64>,
    /// What the scheduler says.
    pub book: watch::Receiver<Book>,
}
