//! The state all requests share.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use crate::arguments::Arguments;
use crate::settings::Settings;
use crate::sleep::Sleep;
use crate::vocabulary::Vocabulary;

/// The engine as its HTTP server sees it.
#[derive(Debug)]
pub struct Engine {
    /// Its command line.
    pub arguments: Arguments,
    /// Its environment.
    pub settings: Settings,
    /// Longest sequence in tokens.
    pub max_model_len: u64,
    /// Its tokens.
    pub vocabulary: Vocabulary,
    /// Requests being answered now.
    pub running: AtomicUsize,
    /// Steps taken so far.
    pub iterations: AtomicU64,
    /// Prompt tokens so far.
    pub prompt_tokens: AtomicU64,
    /// Generated tokens so far.
    pub generation_tokens: AtomicU64,
    /// Answers that ended with a stop, and with the length.
    pub finished: [AtomicU64; 2],
    /// Whether SIGTERM has come.
    pub stopping: AtomicBool,
    /// Becomes true when the core has died.
    pub core_dead: watch::Sender<bool>,
    /// Whether it sleeps.
    pub sleep: Sleep,
    /// Pid of the core.
    pub core: i32,
    last_request: Mutex<Value>,
}

impl Engine {
    /// A fresh engine.
    pub fn new(arguments: Arguments, settings: Settings, max_model_len: u64, core: i32) -> Arc<Self> {
        Arc::new(Self {
            arguments,
            settings,
            max_model_len,
            vocabulary: Vocabulary::default(),
            running: AtomicUsize::new(0),
            iterations: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
            finished: [AtomicU64::new(0), AtomicU64::new(0)],
            stopping: AtomicBool::new(false),
            core_dead: watch::channel(false).0,
            sleep: Sleep::default(),
            core,
            last_request: Mutex::new(Value::Null),
        })
    }

    /// Whether it has the routes for sleeping. (vLLM has them in development mode without the flag too, and fails there.)
    pub fn can_sleep(&self) -> bool {
        self.settings.development && self.arguments.sleep_mode
    }

    /// Counts a request as running until the returned guard is dropped.
    pub fn start_running(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(self))
    }

    /// Writes a request down for the tests to look at.
    pub fn record(&self, request: Value) {
        self.note(&request);
        *self.last_request.lock().unwrap_or_else(PoisonError::into_inner) = request;
    }

    /// Writes a request into the file of requests, and leaves the last one as it is.
    pub fn note(&self, request: &Value) {
        if let Some(path) = &self.settings.requests {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let mut line = request.to_string();
            line.push('\n');
            file.and_then(|mut file| file.write_all(line.as_bytes())).expect("FAKE_VLLM_REQUESTS: a file to write to");
        }
    }

    /// The request recorded last.
    pub fn last_request(&self) -> Value {
        self.last_request.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keeps a request counted as running.
#[derive(Debug)]
pub struct Running(pub Arc<Engine>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
