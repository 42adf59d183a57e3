//! vLLM's routes for sleeping, there in development mode only. What is asleep takes requests and answers none of them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::engine::Engine;
use crate::startup;

/// One way to go wrong; `FAKE_VLLM_SLEEP_FAULT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepFault {
    /// `sleep-hangs`: `/sleep` is never answered.
    SleepHangs,
    /// `sleep-500`: `/sleep` fails.
    SleepFails,
    /// `sleep-ignored`: `/sleep` is answered and nothing sleeps, as on vLLM's CPU build.
    SleepIgnored,
    /// `wake-500`: `/wake_up` fails.
    WakeFails,
    /// `wake-hangs`: `/wake_up` is never answered.
    WakeHangs,
    /// `reload-500`: `/collective_rpc` fails.
    ReloadFails,
    /// `dies-asleep`: the program leaves, with status 0, soon after it has fallen asleep.
    DiesAsleep,
}

impl SleepFault {
    /// The fault of that name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sleep-hangs" => Self::SleepHangs,
            "sleep-500" => Self::SleepFails,
            "sleep-ignored" => Self::SleepIgnored,
            "wake-500" => Self::WakeFails,
            "wake-hangs" => Self::WakeHangs,
            "reload-500" => Self::ReloadFails,
            "dies-asleep" => Self::DiesAsleep,
            _ => return None,
        })
    }
}

/// What sleeps, of the two kinds of memory that vLLM names.
const TAGS: [&str; 2] = ["weights", "kv_cache"];

/// Whether the engine sleeps, and how.
#[derive(Debug)]
pub struct Sleep {
    asleep: watch::Sender<bool>,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    sleeping: BTreeSet<&'static str>,
    /// Level 2 threw the weights away and nobody has loaded them again.
    weights_lost: bool,
}

impl Default for Sleep {
    fn default() -> Self {
        Self { asleep: watch::channel(false).0, memory: Mutex::default() }
    }
}

impl Sleep {
    /// Waits until the engine is awake.
    pub async fn awake(&self) {
        let _ = self.asleep.subscribe().wait_for(|asleep| !*asleep).await;
    }

    /// Whether weights are missing, so that answers would be nonsense.
    pub fn weights_lost(&self) -> bool {
        self.memory().weights_lost
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Status and body of the answer to `GET path`; `None` where there is no such route.
pub fn get(path: &str, engine: &Engine) -> Option<(u16, Value)> {
    let known = path == "/is_sleeping" && engine.can_sleep();
    known.then(|| (200, json!({"is_sleeping": *engine.sleep.asleep.borrow()})))
}

/// Status and body of the answer to `POST path?query`; `None` where there is no such route.
pub async fn post(path: &str, query: &str, body: &[u8], engine: &Engine) -> Option<(u16, Value)> {
    if !engine.can_sleep() {
        return None;
    }
    let fault = engine.settings.sleep_fault;
    let failed =
        (500, json!({"error": {"message": "CUDA error: out of memory", "type": "InternalServerError", "code": 500}}));
    let answer = match path {
        "/sleep" if fault == Some(SleepFault::SleepHangs) => std::future::pending().await,
        "/sleep" if fault == Some(SleepFault::SleepFails) => failed,
        "/sleep" => fall_asleep(query, engine).await,
        "/wake_up" if fault == Some(SleepFault::WakeHangs) => std::future::pending().await,
        "/wake_up" if fault == Some(SleepFault::WakeFails) => failed,
        "/wake_up" => wake(query, engine),
        "/collective_rpc" if fault == Some(SleepFault::ReloadFails) => failed,
        "/collective_rpc" => call(body, engine),
        "/reset_prefix_cache" => (200, json!({"success": true})),
        _ => return None,
    };
    Some(answer)
}

async fn fall_asleep(query: &str, engine: &Engine) -> (u16, Value) {
    let level = match values(query, "level").next() {
        None => 1,
        Some(text) => match text.parse::<u8>() {
            Ok(level @ 0..=2) => level,
            _ => return (400, json!({"error": {"message": "Input should be less than or equal to 2", "code": 400}})),
        },
    };
    sleep(engine.settings.sleep_time).await;
    if engine.settings.sleep_fault != Some(SleepFault::SleepIgnored) {
        // An executor that sleeps ignores a second call.
        let mut memory = engine.sleep.memory();
        if level > 0 && memory.sleeping.is_empty() {
            memory.sleeping = TAGS.into();
            memory.weights_lost = level == 2;
        }
        drop(memory);
        engine.sleep.asleep.send_replace(true);
    }
    if engine.settings.sleep_fault == Some(SleepFault::DiesAsleep) {
        let core = engine.core;
        tokio::spawn(async move {
            sleep(Duration::from_millis(100)).await;
            startup::leave(core, 0)
        });
    }
    (200, json!({"status": "sleeping", "level": level}))
}

fn wake(query: &str, engine: &Engine) -> (u16, Value) {
    let tags: Vec<&str> = values(query, "tags").collect();
    let mut memory = engine.sleep.memory();
    if tags.is_empty() {
        memory.sleeping.clear();
    }
    memory.sleeping.retain(|tag| !tags.contains(tag));
    let awake = memory.sleeping.is_empty();
    drop(memory);
    if awake {
        engine.sleep.asleep.send_replace(false);
    }
    let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
    (200, json!({"status": if awake { "awake" } else { "sleeping" }, "tags": tags}))
}

fn call(body: &[u8], engine: &Engine) -> (u16, Value) {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    match asked["method"].as_str() {
        Some("reload_weights") => {
            let mut memory = engine.sleep.memory();
            if memory.sleeping.contains("weights") {
                return (500, json!({"error": {"message": "weights are not resident", "code": 500}}));
            }
            memory.weights_lost = false;
            (200, json!({"results": [null]}))
        }
        Some(method) => (500, json!({"error": {"message": format!("no method {method}"), "code": 500}})),
        None => (400, json!({"error": {"message": "Missing 'method' in request body", "code": 400}})),
    }
}

/// The values of a parameter in a query string.
fn values<'query>(query: &'query str, name: &str) -> impl Iterator<Item = &'query str> {
    query
        .split('&')
        .filter_map(move |pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}
