//! An engine at one moment, as those see it who watch it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::failure::{Failure, Kind};
use super::startup::Startup;
use crate::init::Session;
use crate::model::plan::Plan;

/// What an engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing runs, nothing is wanted.
    Stopped,
    /// A generation starts.
    Starting,
    /// It answers.
    Ready,
    /// It gives its device's memory back.
    FallingAsleep,
    /// It holds little of its device's memory and answers nothing until it is woken.
    Asleep {
        /// vLLM's level: 1 keeps the weights in main memory, 2 nowhere (vllm-engine §6.1).
        level: u8,
    },
    /// It takes its device's memory again.
    Waking,
    /// It was asked to stop.
    Stopping,
    /// It died and waits for its next start.
    Restarting,
    /// It died and starting again cannot help.
    Failed,
}

impl State {
    /// The state in a word or two, for people and programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::FallingAsleep => "falling asleep",
            Self::Asleep { .. } => "asleep",
            Self::Waking => "waking",
            Self::Stopping => "stopping",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
        }
    }
}

/// An engine at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it does.
    pub state: State,
    /// Progress, while it starts.
    pub startup: Option<Startup>,
    /// Number of starts so far.
    pub generation: u64,
    /// Starts after a death nobody asked for.
    pub restarts: u64,
    /// Times it was ended because it did nothing though it had requests.
    pub wedges: u64,
    /// The same by what had happened.
    pub restarts_by_failure: BTreeMap<Kind, u64>,
    /// When it is started again, while it pauses after a death.
    pub paused_until: Option<Instant>,
    /// The plan it is started with; `None` only where there is no engine. Its changes were made because of failures.
    pub plan: Option<Arc<Plan>>,
    /// Deaths since it was last ready, but for those that were answered by a change of the plan.
    pub failures_in_a_row: u32,
    /// The last death, or the last sleep that failed, until it is ready again or was asked to stop.
    pub failure: Option<Failure>,
    /// The way in, while it is ready. One that sleeps has none: vLLM would take requests and never answer them.
    pub client: Option<Client>,
    /// Longest sequence in tokens; known once it was ready.
    pub max_model_len: Option<u64>,
    /// Time the last start took.
    pub start_took: Option<Duration>,
    /// How long each phase of that start took, as far as its log told.
    pub start_phases: Vec<(&'static str, Duration)>,
    /// Bytes of main memory its processes held when they were last measured, each shared page counted once; `None` before
    /// the first measurement of a generation and after its end.
    pub measured_bytes: Option<u64>,
    /// The most of these bytes while the last generation was ready; stays after its end.
    pub peak_memory_bytes: Option<u64>,
    /// Its processes, while there are any.
    pub session: Option<Session>,
}

impl Status {
    /// How long it will be until it is ready, if its start takes as long as the last one; `None` where nobody knows, or
    /// nothing starts. One that is just being swept up counts as one that starts again at once.
    #[must_use]
    pub fn ready_in(&self, now: Instant) -> Option<Duration> {
        let start = self.start_took?;
        match self.state {
            State::Ready => Some(Duration::ZERO),
            State::Starting => {
                let elapsed = self.startup.as_ref().map_or(Duration::ZERO, |startup| startup.elapsed(now));
                Some(start.saturating_sub(elapsed))
            }
            State::Stopping => Some(start),
            State::Restarting => {
                let pause = self.paused_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
                Some(pause + start)
            }
            State::Stopped | State::Failed | State::FallingAsleep | State::Asleep { .. } | State::Waking => None,
        }
    }

    /// Bytes of main memory that the engine's processes hold; pages they share count for each of them. `None` when there
    /// are no processes. Reads `/proc`; what was measured last, without that, is [`Status::measured_bytes`].
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        self.session.as_ref().map(Session::memory_bytes)
    }
}

impl Default for Status {
    fn default() -> Self {
        Self {
            state: State::Stopped,
            startup: None,
            generation: 0,
            restarts: 0,
            wedges: 0,
            restarts_by_failure: BTreeMap::new(),
            paused_until: None,
            plan: None,
            failures_in_a_row: 0,
            failure: None,
            client: None,
            max_model_len: None,
            start_took: None,
            start_phases: Vec::new(),
            measured_bytes: None,
            peak_memory_bytes: None,
            session: None,
        }
    }
}
