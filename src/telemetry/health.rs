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
    /// The default model; `null` when there is none.
    pub model: Option<String>,
    /// Its engine; `null` before there is one.
    pub engine: Option<Engine>,
    /// All engines that were ever asked for.
    pub engines: Vec<Engine>,
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
    /// The model it serves, by the name that was asked for last.
    pub model: String,
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
    /// What it died of, until it is ready again.
    pub failure: Option<String>,
    /// The identifier of that, e.g. `out_of_memory`.
    pub failure_name: Option<&'static str>,
    /// What was changed of its plan because it failed.
    pub changes: Vec<String>,
}

/// Main memory in bytes; `null` where unknown.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// Held by all engines together.
    pub engine_bytes: Option<u64>,
    /// Held by vllama itself.
    pub vllama_bytes: Option<u64>,
}

/// As much of it as anybody may know.
#[derive(Debug, Serialize)]
pub struct Brief {
    /// As in [`Health::status`].
    pub status: &'static str,
}

impl Health {
    /// Puts the answer together. The default model is given with the key of its engine, which it lacks when it is not
    /// installed any more.
    #[must_use]
    pub fn report(
        snapshot: &Snapshot,
        default_model: Option<(&ModelName, Option<String>)>,
        gpus: Option<serde_json::Value>,
        uptime: Duration,
    ) -> Self {
        let key = default_model.as_ref().and_then(|(_, key)| key.as_deref());
        let engine = snapshot.engines.iter().find(|engine| Some(&*engine.key) == key);
        let (status, reason) = match &default_model {
            // A server that lacks models only has to be up: they are installed through it.
            None => ("ok", None),
            Some((name, None)) => ("stopped", Some(format!("the default model {name} is not installed any more"))),
            Some(_) => judge(engine),
        };
        let held: Vec<u64> = snapshot.engines.iter().filter_map(|engine| engine.memory_bytes).collect();
        Self {
            status,
            reason,
            version: env!("CARGO_PKG_VERSION"),
            model: default_model.map(|(name, _)| name.display()),
            engine: engine.map(Engine::new),
            engines: snapshot.engines.iter().map(Engine::new).collect(),
            gpus,
            memory: Memory { engine_bytes: (!held.is_empty()).then(|| held.iter().sum()), vllama_bytes: own_memory() },
            uptime_seconds: uptime.as_secs(),
        }
    }

    /// The same of a vllama on its way out.
    #[must_use]
    pub fn stopping(self) -> Self {
        Self { status: "stopping", reason: Some("vllama is shutting down".to_owned()), ..self }
    }

    /// As much of it as anybody may know: no names, no paths, no figures.
    #[must_use]
    pub fn brief(&self) -> Brief {
        Brief { status: self.status }
    }

    /// Whether the default model can answer: the question of `/health/ready`.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.status == "ok"
    }
}

impl Engine {
    fn new(engine: &EngineSnapshot) -> Self {
        Self {
            model: engine.model.display(),
            state: engine.state,
            phase: engine.phase,
            percent: engine.percent,
            generation: engine.generation,
            restarts: engine.restarts,
            running: engine.leases,
            waiting: engine.waiting,
            failure: engine.failure.clone(),
            failure_name: engine.failure_name,
            changes: engine.changes.clone(),
        }
    }
}

fn judge(engine: Option<&EngineSnapshot>) -> (&'static str, Option<String>) {
    // It was replaced under its name since the start, and nobody has asked for it yet: a request loads it.
    let Some(engine) = engine else { return ("ok", None) };
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
            key: "digest".to_owned(),
            state,
            serves,
            loaded: true,
            phase: "loading weights",
            percent: 40,
            generation: 1,
            restarts: 0,
            starts: 1,
            restarts_by_failure: Vec::new(),
            wedges: 0,
            replayed: 0,
            leases: 0,
            waiting: 2,
            oldest_wait: None,
            estimate: Duration::ZERO,
            failure: failure.map(str::to_owned),
            failure_name: None,
            changes: Vec::new(),
            memory_bytes: Some(1000),
            gpu_bytes: None,
            context_length: None,
            start_took: None,
            start_phases: Vec::new(),
            expires_at: None,
        }
    }

    fn report(engines: Vec<EngineSnapshot>) -> Health {
        let model = ModelName::parse("smollm2:135m").expect("a valid name");
        let default = Some((&model, Some("digest".to_owned())));
        Health::report(&Snapshot { engines, ..Snapshot::default() }, default, None, Duration::from_secs(7))
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
    fn a_default_model_that_nobody_has_asked_for_since_it_was_replaced_is_ready_but_a_deleted_one_is_not() {
        assert!(report(vec![]).ready());
        let model = ModelName::parse("smollm2:135m").expect("a valid name");
        let health = Health::report(&Snapshot::default(), Some((&model, None)), None, Duration::ZERO);
        assert!(!health.ready() && health.reason.is_some_and(|reason| reason.contains("is not installed any more")));
    }

    #[test]
    fn without_a_default_model_it_is_ready_and_lists_all_engines() {
        let snapshot = Snapshot { engines: vec![engine("ready", true, None)], ..Snapshot::default() };
        let health = Health::report(&snapshot, None, None, Duration::ZERO);
        assert!(health.ready() && health.model.is_none() && health.engine.is_none());
        assert_eq!(health.engines.iter().map(|engine| engine.model.as_str()).collect::<Vec<_>>(), ["smollm2:135m"]);
    }
}
