//! The JSON of `/health`, made from a snapshot: never waits, asks nobody.

use std::time::Duration;

use serde::Serialize;

use crate::model::ModelName;
use crate::scheduler::{EngineSnapshot, Snapshot};

/// How vllama is, as `GET /health` tells it.
#[derive(Debug, Serialize)]
pub struct Health {
    /// `ok` when the default model can answer, else `starting`, `stopped`, `failed` or another state of its engine.
    pub status: &'static str,
    /// Why it cannot answer, for people; absent when it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Version of vllama.
    pub version: &'static str,
    /// The default model.
    pub model: String,
    /// Its engine; absent before there is one.
    pub engine: Option<Engine>,
    /// What the hardware helper last said about the GPUs; `null` when there are none or nothing is known.
    pub gpus: Option<serde_json::Value>,
    /// Main memory.
    pub memory: Memory,
    /// Seconds since vllama started.
    pub uptime_seconds: u64,
}

/// One engine, as `/health` tells it.
#[derive(Debug, Serialize)]
pub struct Engine {
    /// `stopped`, `starting`, `ready`, `stopping`, `restarting` or `failed`.
    pub state: &'static str,
    /// What it is doing while it starts.
    pub phase: &'static str,
    /// Progress of the start, 0–100.
    pub percent: u8,
    /// Number of starts.
    pub generation: u64,
    /// Starts after a crash.
    pub restarts: u64,
    /// Requests it is working on.
    pub running: usize,
    /// Requests waiting for it.
    pub waiting: usize,
    /// Why it failed for good.
    pub failure: Option<String>,
}

/// Main memory in bytes; `null` where unknown.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// Held by all engines together.
    pub engine_bytes: Option<u64>,
    /// Held by vllama itself.
    pub vllama_bytes: Option<u64>,
}

impl Health {
    /// Puts the answer together.
    #[must_use]
    pub fn report(
        snapshot: &Snapshot,
        default_model: &ModelName,
        gpus: Option<serde_json::Value>,
        uptime: Duration,
    ) -> Self {
        let engine = snapshot.engines.iter().find(|engine| engine.model == *default_model);
        let (status, reason) = judge(engine);
        let held: Vec<u64> = snapshot.engines.iter().filter_map(|engine| engine.memory_bytes).collect();
        Self {
            status,
            reason,
            version: env!("CARGO_PKG_VERSION"),
            model: default_model.display(),
            engine: engine.map(|engine| Engine {
                state: engine.state,
                phase: engine.phase,
                percent: engine.percent,
                generation: engine.generation,
                restarts: engine.restarts,
                running: engine.leases,
                waiting: engine.waiting,
                failure: engine.failure.clone(),
            }),
            gpus,
            memory: Memory { engine_bytes: (!held.is_empty()).then(|| held.iter().sum()), vllama_bytes: own_memory() },
            uptime_seconds: uptime.as_secs(),
        }
    }

    /// Whether the default model can answer: the question of `/health/ready`.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.status == "ok"
    }
}

fn judge(engine: Option<&EngineSnapshot>) -> (&'static str, Option<String>) {
    let Some(engine) = engine else {
        return ("stopped", Some("no engine has been started for the default model".to_owned()));
    };
    if let Some(failure) = &engine.failure {
        return (engine.state, Some(failure.clone()));
    }
    if engine.serves {
        return ("ok", None);
    }
    let reason = match engine.state {
        "starting" | "restarting" => format!("the engine is {}: {} ({} %)", engine.state, engine.phase, engine.percent),
        state => format!("the engine is {state}"),
    };
    (engine.state, Some(reason))
}

/// Resident memory of this process, from the second field of `/proc/self/statm`, which counts pages of 4 KiB.
fn own_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(state: &'static str, serves: bool, failure: Option<&str>) -> EngineSnapshot {
        EngineSnapshot {
            model: ModelName::parse("smollm2:135m").expect("a valid name"),
            state,
            serves,
            loaded: true,
            phase: "loading weights",
            percent: 40,
            generation: 1,
            restarts: 0,
            leases: 0,
            waiting: 2,
            failure: failure.map(str::to_owned),
            memory_bytes: Some(1000),
            context_length: None,
            expires_at: None,
        }
    }

    fn report(engines: Vec<EngineSnapshot>) -> Health {
        let model = ModelName::parse("smollm2:135m").expect("a valid name");
        Health::report(&Snapshot { engines }, &model, None, Duration::from_secs(7))
    }

    #[test]
    fn an_engine_that_serves_is_ok_and_ready() {
        let health = report(vec![engine("ready", true, None)]);
        assert!(health.ready());
        assert_eq!((health.status, health.reason, health.uptime_seconds), ("ok", None, 7));
        assert_eq!(health.memory.engine_bytes, Some(1000));
    }

    #[test]
    fn a_starting_engine_says_how_far_it_is() {
        let health = report(vec![engine("starting", false, None)]);
        assert!(!health.ready());
        assert_eq!(health.status, "starting");
        assert_eq!(health.reason.as_deref(), Some("the engine is starting: loading weights (40 %)"));
    }

    #[test]
    fn a_failure_is_told_in_its_own_words() {
        let health = report(vec![engine("failed", false, Some("out of memory"))]);
        assert_eq!((health.status, health.reason.as_deref()), ("failed", Some("out of memory")));
    }

    #[test]
    fn without_an_engine_it_is_not_ready() {
        assert!(!report(vec![]).ready());
    }
}
