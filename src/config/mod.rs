//! What the operator wants: flags over environment over file over defaults, parsed once into one frozen [`Config`].
//!
//! In: the command line, the environment and the configuration file; this is the only room that reads the environment.
//! Out: a [`Verb`] or a [`ConfigError`]. Knows no other rooms but for the names of models, what plans can be asked for, and what keys
//! may be.

mod arguments;
mod command_line;
mod file;
mod host;
mod key;
mod models;
mod ollama;
mod resolve;
mod service;
mod settings;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use arguments::{Verb, parse};
pub use key::{KeyAction, KeyOrder};
pub use models::{ModelSettings, Size};
pub use service::{Service, journal};
pub use settings::{SETTINGS, Setting};

use tracing_subscriber::filter::Targets;

use crate::model::ModelName;
use crate::model::plan::FrontendWish;

/// Everything `vllama serve` is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The model to load at the start; `None` = the only one installed, or the default one if that is.
    pub model: Option<ModelName>,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// A second address, for `/metrics` and `/health` alone.
    pub metrics_listen: Option<SocketAddr>,
    /// The collector of traces, as it was written.
    pub otlp: Option<String>,
    /// Directory of the models.
    pub models: PathBuf,
    /// Directory of models that are only read, below the others; may be missing.
    pub base_models: PathBuf,
    /// Directory for logs and caches.
    pub state: PathBuf,
    /// Directory for sockets and temporary files of engines; a short path.
    pub run: PathBuf,
    /// The `vllm` program.
    pub engine: PathBuf,
    /// Arguments for `vllm serve`, last and verbatim.
    pub engine_arguments: Vec<String>,
    /// Which program answers the engines' requests, for models that do not say themselves.
    pub engine_frontend: FrontendWish,
    /// GiB of key/value cache on the CPU; `None` = chosen.
    pub cpu_cache_gib: Option<u64>,
    /// The `vllama-gpu` program; `None` = beside this one.
    pub gpu_helper: Option<PathBuf>,
    /// A start without any output of the engine for this long is given up.
    pub start_limit: Duration,
    /// Times a request is asked again when its engine died before it had an answer.
    pub replays: u32,
    /// A ready engine that gives no sign of life for this long while it has requests is ended and started again; zero =
    /// never.
    pub heartbeat: Duration,
    /// Running requests may finish for this long at a stop.
    pub drain: Duration,
    /// Time from SIGTERM to SIGKILL for an engine.
    pub stop_limit: Duration,
    /// Keep-alive as Ollama writes it, `5m` or `-1`; `None` = for ever, since a start of vLLM takes a minute.
    pub keep_alive: Option<String>,
    /// `num_ctx` of requests and models that say nothing, in tokens; `None` = what the engine takes.
    pub context_length: Option<u64>,
    /// Most requests that wait, for all models together.
    pub max_queue: usize,
    /// Most models that are loaded at a time; 0 = as many as memory allows.
    pub max_loaded: usize,
    /// Bytes for engines: of main memory, or of each GPU; `None` = all there is.
    pub memory_budget: Option<u64>,
    /// How long a request for a model that is not loaded waits before loaded ones take no new requests.
    pub max_wait: Duration,
    /// How long a loaded model keeps its place at least.
    pub min_residence: Duration,
    /// Answers of models that one client may have on their way at a time; 0 = any number.
    pub streams_per_client: usize,
    /// The longest wait for a model that a request takes upon itself, by what is known of it, where the client says nothing;
    /// `None` = any.
    pub patience: Option<Duration>,
    /// How long a client may read nothing of its answer.
    pub stall_limit: Duration,
    /// Largest request body, in bytes.
    pub body_limit: usize,
    /// Largest uploaded file, in bytes.
    pub blob_limit: u64,
    /// Most connections at a time.
    pub max_connections: usize,
    /// The key file; `None` = no keys are asked for.
    pub keys: Option<PathBuf>,
    /// Browser origins allowed beside the local ones.
    pub origins: Vec<String>,
    /// Whether logs are JSON.
    pub json_logs: bool,
    /// Whether colours are welcome on a terminal (`NO_COLOR` says no).
    pub colour: bool,
    /// Log filter, e.g. `info` or `info,vllm=debug`.
    pub log: Targets,
    /// How `vllama serve` itself talks.
    pub voice: Voice,
    /// What the service manager that started vllama has told.
    pub service: Service,
    /// vllama's own environment, for engines.
    pub environment: Vec<(String, String)>,
    /// What the operator should know about the environment: one sentence each.
    pub warnings: Vec<String>,
    /// What the configuration file says about single models, by [`ModelName::key`].
    pub settings_by_model: BTreeMap<[String; 4], ModelSettings>,
}

impl Config {
    /// What the configuration file says about this model.
    #[must_use]
    pub fn model_settings(&self, name: &ModelName) -> Option<&ModelSettings> {
        self.settings_by_model.get(&name.key())
    }
}

/// The environment vllama was started with.
#[must_use]
pub fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// How a verb talks to whoever started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// For people: lines, and a progress bar on a terminal.
    Human,
    /// Errors only.
    Quiet,
    /// One JSON object a line on standard output.
    Json,
}

/// What is wrong with the command line, the environment or the configuration file: what, why, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);
