//! What is looked at. Every question is asked on a thread of its own and waited for until a deadline only: a network file
//! system whose server is gone, or a wedged driver, must not hang whoever asks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use super::{engine_version, place, port};
use crate::config::Config;
use crate::gpu::{Host, Reading};
use crate::model::store::Inspection;

/// An answer, or why there is none.
pub(super) type Answer<T> = Result<T, String>;

/// Everything the checks judge.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Processor, memory, driver.
    pub host: Answer<Host>,
    /// What the driver tells of the GPUs; nobody asks where there is no driver.
    pub gpus: Answer<Option<Arc<Reading>>>,
    /// Shared memory, free and in all.
    pub shared_memory: Answer<Space>,
    /// The `vllm` program.
    pub engine: Answer<Program>,
    /// Where models are.
    pub models: Answer<Place>,
    /// Where logs go.
    pub state: Answer<Place>,
    /// vLLM's caches.
    pub cache: Answer<Place>,
    /// Where sockets are.
    pub run: Answer<Place>,
    /// Where clients come in.
    pub port: Answer<Port>,
    /// What this process may have.
    pub limits: Limits,
    /// Most connections at a time, as the operator wants it.
    pub max_connections: usize,
    /// What is installed.
    pub store: Answer<Inspection>,
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// That anybody may take.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// The `vllm` program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Where it should be.
    pub path: PathBuf,
    /// Whether there is such a file.
    pub exists: bool,
    /// Whether this user may run it.
    pub runs: bool,
    /// Version of vLLM as its package says; `None` where the package was not found.
    pub version: Option<String>,
}

/// A directory, or, when it is not there, the nearest one above it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// As configured.
    pub path: PathBuf,
    /// Permission bits, when it is there.
    pub mode: Option<u32>,
    /// Whether its owner is the user of this process, when it is there.
    pub is_ours: bool,
    /// Why it cannot be written; `None` when it can.
    pub not_writable: Option<String>,
    /// Space of its file system.
    pub space: Space,
    /// Whether it lies on an overlay: the layer of a container, gone with it.
    pub on_overlay: bool,
}

/// Where clients come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// Free to take.
    Free(SocketAddr),
    /// A vllama of this version listens there.
    Vllama(SocketAddr, String),
    /// Somebody else does, or the address cannot be had: why.
    Taken(SocketAddr, String),
    /// Nobody asked: it was handed over, or is about to be opened.
    NotAsked,
}

/// Limits of this process. `u64::MAX` is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Descriptors, hard limit: vllama raises the soft one by itself.
    pub descriptors: u64,
    /// Bytes that may be locked in memory, hard limit.
    pub locked: u64,
}

/// What is asked beside the common questions.
pub(super) struct Questions<'a> {
    /// Answers what the GPUs are; may block.
    pub gpus: Box<dyn FnOnce() -> Answer<Option<Arc<Reading>>> + Send>,
    /// How long that may take.
    pub gpu_patience: Duration,
    /// Whether the port is looked at.
    pub port: bool,
    /// How long everything else may take.
    pub patience: Duration,
    /// Where to look.
    pub config: &'a Config,
}

/// Asks all of it at once.
pub(super) fn gather(questions: Questions<'_>) -> Facts {
    let Questions { gpus, gpu_patience, port, patience, config } = questions;
    let now = Instant::now();
    let deadline = now + patience;
    let place_of = |path: &Path| {
        let path = path.to_path_buf();
        ask(move || place::look(&path))
    };
    let gpus = ask(gpus);
    let host = ask(|| Ok(Host::read()));
    let shared_memory = ask(|| place::space(Path::new("/dev/shm")).map_err(|error| error.to_string()));
    let program = config.engine.clone();
    let engine = ask(move || Ok(engine_version::look(&program)));
    let (models, state) = (place_of(&config.models), place_of(&config.state));
    let (cache, run) = (place_of(&config.state.join("cache")), place_of(&config.run));
    let (root, base, address) = (config.models.clone(), config.base_models.clone(), config.listen);
    let store = ask(move || Inspection::of(&root, &base).map_err(|error| error.to_string()));
    let port = ask(move || Ok(if port { port::look(address) } else { Port::NotAsked }));
    // A limit that cannot be read limits nothing.
    let hard = |resource| getrlimit(resource).map_or(u64::MAX, |(_, hard)| hard);
    Facts {
        host: host.until(deadline),
        shared_memory: shared_memory.until(deadline),
        engine: engine.until(deadline),
        models: models.until(deadline),
        state: state.until(deadline),
        cache: cache.until(deadline),
        run: run.until(deadline),
        port: port.until(deadline),
        store: store.until(deadline),
        limits: Limits { descriptors: hard(Resource::RLIMIT_NOFILE), locked: hard(Resource::RLIMIT_MEMLOCK) },
        max_connections: config.max_connections,
        // Last: it may take longest.
        gpus: gpus.until(now + gpu_patience),
    }
}

/// A question on its way.
struct Asked<T> {
    since: Instant,
    answer: Result<Receiver<Answer<T>>, String>,
}

fn ask<T: Send + 'static>(question: impl FnOnce() -> Answer<T> + Send + 'static) -> Asked<T> {
    let (sender, receiver) = sync_channel(1);
    let thread = std::thread::Builder::new().name("doctor".into()).spawn(move || {
        // Who asked may have lost patience.
        let _ = sender.send(question());
    });
    Asked { since: Instant::now(), answer: thread.map(|_| receiver).map_err(|error| format!("cannot ask: {error}")) }
}

impl<T> Asked<T> {
    fn until(self, deadline: Instant) -> Answer<T> {
        let left = deadline.saturating_duration_since(Instant::now());
        let silent = || format!("no answer for {} s", self.since.elapsed().as_secs());
        self.answer?.recv_timeout(left).unwrap_or_else(|_| Err(silent()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_nobody_answers_is_given_up_at_the_deadline() {
        let (_held, never) = sync_channel::<()>(0);
        let asked = ask(move || never.recv().map_err(|error| error.to_string()));
        let answer = asked.until(Instant::now() + Duration::from_millis(20));
        assert!(answer.is_err_and(|why| why.contains("no answer")));
        assert_eq!(ask(|| Ok(7)).until(Instant::now() + Duration::from_secs(30)), Ok(7));
    }
}
