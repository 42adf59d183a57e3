//! An engine at one moment, as those see it who watch it.

use std::time::Duration;

use super::client::Client;
use super::failure::Failure;
use super::startup::Startup;
use crate::init::Session;

/// What an engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing runs, nothing is wanted.
    Stopped,
    /// A generation starts.
    Starting,
    /// It answers.
    Ready,
    /// It was asked to stop.
    Stopping,
    /// It died and waits for its next start.
    Restarting,
    /// It died and starting again cannot help.
    Failed,
}

impl State {
    /// The state as one word, for people and programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Ready => "ready",
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
    /// Deaths since it was last ready.
    pub failures_in_a_row: u32,
    /// The last death, until it is ready again.
    pub failure: Option<Failure>,
    /// The way in, while it is ready.
    pub client: Option<Client>,
    /// Longest sequence in tokens; known once it was ready.
    pub max_model_len: Option<u64>,
    /// Time the last start took.
    pub start_took: Option<Duration>,
    /// Its processes, while there are any.
    pub session: Option<Session>,
}

impl Status {
    /// Bytes of main memory that the engine's processes hold; pages they share count for each of them. `None` when there
    /// are no processes. Reads `/proc`.
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
            failures_in_a_row: 0,
            failure: None,
            client: None,
            max_model_len: None,
            start_took: None,
            session: None,
        }
    }
}
