//! The scheduler's state at one moment, for health, `/api/ps` and people on call.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::KeepAlive;
use super::book::{Book, Member, Totals};
use crate::engine::{State, Status};
use crate::model::ModelName;
use crate::model::plan::Change;

/// State of all engines at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// One entry for each engine that was ever asked for, the first one first.
    pub engines: Vec<EngineSnapshot>,
    /// What engines run on.
    pub devices: Vec<DeviceSnapshot>,
    /// Times a loaded model was stopped, or sent to sleep, to make room for another one.
    pub swaps: u64,
    /// Times a model in use took no new requests, so that room for another one would be made.
    pub drains: u64,
}

impl Snapshot {
    /// Requests that engines work on, and those that wait for one.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.engines.iter().map(|engine| engine.leases + engine.waiting).sum()
    }
}

/// The memory of one device at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSnapshot {
    /// `cpu`, or the driver's number of a GPU; `gpu` while nothing is known of the GPUs.
    pub name: String,
    /// Bytes that engines may take; `None` where that is not known.
    pub budget: Option<u64>,
    /// Bytes that they are charged for.
    pub used: u64,
}

/// State of one engine at one moment.
#[derive(Clone, Debug)]
pub struct EngineSnapshot {
    /// The model it serves, by the name that was asked for last.
    pub model: ModelName,
    /// What it serves: equal for all names that share it.
    pub key: String,
    /// `stopped`, `starting`, `ready`, `stopping`, `restarting`, `failed`, or how it sleeps.
    pub state: &'static str,
    /// Whether a request would be answered now, or after a load that a request starts by itself.
    pub serves: bool,
    /// Whether the model is loaded or about to be: it is in `/api/ps`.
    pub loaded: bool,
    /// What it is doing while it starts, e.g. `loading weights`; empty otherwise.
    pub phase: &'static str,
    /// Progress of the start, 0–100.
    pub percent: u8,
    /// Number of starts so far; 0 before the first.
    pub generation: u64,
    /// Starts after a crash.
    pub restarts: u64,
    /// Starts of all engines that served the same since vllama was started.
    pub starts: u64,
    /// Those of them after a crash, by what had happened.
    pub restarts_by_failure: Vec<(&'static str, u64)>,
    /// Times an engine of these was ended because it did nothing though it had requests.
    pub wedges: u64,
    /// Times a request was asked again because its engine had died.
    pub replayed: u64,
    /// Open leases.
    pub leases: usize,
    /// Requests waiting for the engine.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub oldest_wait: Option<Duration>,
    /// How long a request that comes now would wait, if nobody else were in the way.
    pub estimate: Duration,
    /// The last death of the engine, or why it cannot be started, for users; `None` once it is ready again.
    pub failure: Option<String>,
    /// The identifier of that death, e.g. `out_of_memory`.
    pub failure_name: Option<&'static str>,
    /// What was changed of its plan because it failed, in lines for people.
    pub changes: Vec<String>,
    /// Bytes of main memory the engine's processes hold; `None` while there are none, or when nobody measured.
    pub memory_bytes: Option<u64>,
    /// Bytes of GPU memory it is charged for; `None` on the CPU.
    pub gpu_bytes: Option<u64>,
    /// Effective context length in tokens, known once ready.
    pub context_length: Option<u64>,
    /// Time its last start took.
    pub start_took: Option<Duration>,
    /// How long each phase of that start took, as far as its log told.
    pub start_phases: Vec<(&'static str, Duration)>,
    /// When it will be unloaded if nobody asks again; `None` = never.
    pub expires_at: Option<SystemTime>,
}

impl EngineSnapshot {
    pub(super) fn new(member: &Member) -> Self {
        let book = member.book.borrow();
        let told = member.status.as_ref().map(|status| status.borrow());
        let unborn = Status::default();
        let status = told.as_deref().unwrap_or(&unborn);
        let ready = status.state == State::Ready;
        let now = Instant::now();
        let (phase, percent) = match &status.startup {
            Some(startup) => (startup.phase().label(), startup.percent(now)),
            None => ("", if ready { 100 } else { 0 }),
        };
        let comes_back = match status.state {
            State::Stopped => status.generation > 0 && book.problem.is_none(),
            State::Ready | State::FallingAsleep | State::Asleep { .. } | State::Waking => true,
            _ => false,
        };
        let totals = Totals::of(status).and(&member.before);
        let problem = book.problem.as_ref().map(ToString::to_string);
        Self {
            model: member.model.name.clone(),
            key: member.key.to_string(),
            state: status.state.word(),
            serves: !book.closed && comes_back,
            loaded: !matches!(status.state, State::Stopped | State::Stopping | State::Failed | State::Restarting),
            phase,
            percent,
            generation: status.generation,
            restarts: status.restarts,
            starts: totals.starts,
            restarts_by_failure: totals.restarts.into_iter().collect(),
            wedges: totals.wedges,
            replayed: member.replayed.load(Ordering::Relaxed),
            leases: book.leases,
            waiting: book.waiting,
            oldest_wait: book.oldest.map(|since| now.saturating_duration_since(since)),
            estimate: book.estimate,
            failure: status.failure.as_ref().map(|failure| failure.message.clone()).or(problem),
            failure_name: status.failure.as_ref().map(|failure| failure.kind.name()),
            changes: status.plan.iter().flat_map(|plan| &plan.changes).map(Change::describe).collect(),
            memory_bytes: status.measured_bytes,
            gpu_bytes: member.on_gpu.then_some(book.device_bytes),
            context_length: status.max_model_len,
            start_took: status.start_took,
            start_phases: status.start_phases.clone(),
            expires_at: expires_at(&book, now),
        }
    }

    /// With the memory its processes hold, as measured last or, before that, as `/proc` has it now.
    pub(super) fn measured(mut self, member: &Member) -> Self {
        self.memory_bytes = self.memory_bytes.or_else(|| member.status.as_ref()?.borrow().memory_bytes());
        self
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
