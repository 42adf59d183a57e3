//! The JSON of `/vllama/queue`, made from a snapshot: who runs and who waits, for people on call.

use serde::Serialize;

use crate::scheduler::{EngineSnapshot, Snapshot};

/// One model, as `GET /vllama/queue` tells it.
#[derive(Debug, Serialize)]
pub struct Queue {
    /// The model, by the name that was asked for last.
    pub model: String,
    /// State of its engine: `stopped`, `starting`, `ready`, `stopping`, `restarting`, `failed`, or how it sleeps.
    pub state: &'static str,
    /// What it is doing: a part of its start, or `waiting for room`; empty when it runs or nobody wants it.
    pub phase: &'static str,
    /// Progress of the start, 0–100.
    pub percent: u8,
    /// Requests it is working on.
    pub running: usize,
    /// Requests that wait for it.
    pub waiting: usize,
    /// How long the oldest of them has waited, in seconds; `null` when none waits.
    pub oldest_wait_seconds: Option<f64>,
    /// How long a request that comes now would wait if no other model were in its way, in seconds.
    pub estimate_seconds: f64,
    /// Why it does not run; `null` when nothing is wrong.
    pub failure: Option<String>,
}

impl Queue {
    /// One entry for each model that was ever asked for.
    #[must_use]
    pub fn report(snapshot: &Snapshot) -> Vec<Self> {
        snapshot.engines.iter().map(Self::new).collect()
    }

    fn new(engine: &EngineSnapshot) -> Self {
        let waits_for_room =
            engine.waiting > 0 && matches!(engine.state, "stopped" | "stopping" | "asleep" | "falling asleep");
        Self {
            model: engine.model.display(),
            state: engine.state,
            phase: if waits_for_room { "waiting for room" } else { engine.phase },
            percent: engine.percent,
            running: engine.leases,
            waiting: engine.waiting,
            oldest_wait_seconds: engine.oldest_wait.map(|wait| wait.as_secs_f64()),
            estimate_seconds: engine.estimate.as_secs_f64(),
            failure: engine.failure.clone(),
        }
    }
}
