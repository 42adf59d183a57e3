//! Which model runs where and when.
//!
//! In: a model and a keep-alive. Out: a [`Lease`], the right to use one engine. One task owns all state
//! (`keeper.rs`), and decides by rules that know neither tasks nor clocks (`core/`); the rest of the program holds a
//! [`Scheduler`] handle and reads [`Snapshot`]s. Never speaks HTTP, never forks.
//!
//! An engine is known by what it serves ([`Installed::engine_key`]), not by a name: two names of one checkpoint share
//! it.

mod book;
mod core;
mod factory;
mod figures;
mod given_up;
mod held;
mod keeper;
mod lease;
mod meter;
mod refusal;
mod remedies;
mod retire;
mod snapshot;
mod suspects;
mod written;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use crate::engine::{Content, EngineBody, EngineGone, Origin, Trace};
pub use factory::{Devices, Factory};
pub use lease::Lease;
pub use meter::Meter;
pub use remedies::remembered;
pub use retire::Retired;
pub use snapshot::{DeviceSnapshot, EngineSnapshot, Snapshot};

use self::core::{Rules, Ticket};
use crate::model::{Installed, ParserChoice};
use book::{House, Member};
use figures::Figures;
use given_up::GivenUp;
use keeper::{Command, Keeper, Memory, Public};
use remedies::Remedies;

/// An engine counts as idle only when nobody has used it this long: clients that send one request after the other leave
/// gaps, and a swap in such a gap would cost them a start each.
const LINGER: Duration = Duration::from_millis(500);

/// How long a model stays loaded after its last request (ollama-api §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Until somebody unloads it.
    Forever,
    /// This long after the last lease is dropped; zero unloads at once.
    For(Duration),
}

/// The operator's choices.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most requests that wait, for all models together (`OLLAMA_MAX_QUEUE`).
    pub max_queue: usize,
    /// Most engines that are up (`OLLAMA_MAX_LOADED_MODELS`); 0 = as many as memory allows.
    pub max_loaded: usize,
    /// How long a request for a model that is not loaded waits at most before loaded ones take no new requests.
    pub max_wait: Duration,
    /// How long an engine keeps its place from the moment it was ready.
    pub min_residence: Duration,
    /// Times a request is asked again when its engine died before it had an answer; 0 = never.
    pub replays: u32,
    /// Main memory that sleeping engines may take, weights and processes, in bytes.
    pub sleeping_memory: u64,
    /// File in which it is remembered what engines needed.
    pub measured: PathBuf,
    /// File in which it is remembered how plans had to be changed.
    pub changes: PathBuf,
}

/// The operator's choices that may change while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// As [`Settings::max_queue`].
    pub max_queue: usize,
    /// As [`Settings::max_loaded`].
    pub max_loaded: usize,
    /// As [`Settings::max_wait`].
    pub max_wait: Duration,
    /// As [`Settings::min_residence`].
    pub min_residence: Duration,
}

/// Why no lease was given. The text is what a user is told; dialects choose status and shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The engine does not run and waiting is no use: what happened, why, what to do.
    #[error("{0}")]
    Permanent(String),
    /// The model is being deleted or replaced.
    #[error("the model is being deleted or replaced; try again in a moment")]
    Retiring,
    /// vllama is shutting down.
    #[error("vllama is shutting down; try again in a moment")]
    ShuttingDown,
    /// Too many requests wait already (ollama-api §8.3).
    #[error("server busy, please try again.  maximum pending requests exceeded")]
    QueueFull {
        /// How long a start of the model takes, or what is left of it: when it may be worth trying again.
        retry_after: Duration,
    },
    /// The request would wait longer than it is willing to, or has. The model is being loaded.
    #[error(
        "the model is not ready: by what is known it takes another {} s, which is longer than this request waits; try \
         again then",
        .retry_after.as_secs_f64().ceil()
    )]
    TooSlow {
        /// As above.
        retry_after: Duration,
    },
}

/// Handle on the scheduler; cheap to clone.
#[derive(Clone, Debug)]
pub struct Scheduler {
    commands: mpsc::UnboundedSender<Command>,
    members: watch::Receiver<Arc<[Member]>>,
    house: watch::Receiver<House>,
    changes: watch::Receiver<u64>,
    tickets: Arc<AtomicU64>,
    given_up: GivenUp,
}

impl Scheduler {
    /// A scheduler for all models; nothing is loaded before [`Scheduler::load`] or the first lease.
    #[must_use]
    pub fn new(factory: Factory, settings: Settings) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (members, members_seen) = watch::channel(Arc::from([]));
        let (house, house_seen) = watch::channel(House::default());
        let (changes, changes_seen) = watch::channel(0);
        let public = Public { members, house, changes };
        let rules = Rules {
            max_queue: settings.max_queue,
            max_loaded: settings.max_loaded,
            max_wait: settings.max_wait,
            min_residence: settings.min_residence,
            linger: LINGER,
            sleeping_memory: settings.sleeping_memory,
        };
        let memory = Memory { figures: Figures::open(settings.measured), remedies: Remedies::open(settings.changes) };
        let factory = Arc::new(factory);
        let given_up =
            GivenUp { members: members_seen.clone(), known: memory.remedies.subscribe(), factory: factory.clone() };
        let keeper = Keeper::new(factory, rules, settings.replays, memory, commands.downgrade(), public);
        tokio::spawn(keeper.run(receiver));
        let (members, house, changes) = (members_seen, house_seen, changes_seen);
        Self { commands, members, house, changes, tickets: Arc::default(), given_up }
    }

    /// Loads a model without a request, where that displaces nobody who is in use. Returns when the load has been taken
    /// in hand; snapshots show it from then on.
    pub async fn load(&self, model: &Arc<Installed>) {
        let (known, taken) = oneshot::channel();
        self.command(Command::Load { model: model.clone(), known });
        // The task is gone only when the runtime is, and then nothing is loaded any more.
        let _ = taken.await;
    }

    /// Waits until the model's engine is ready and has a place free, however long that takes, and takes it. Dropping the
    /// future gives up waiting.
    ///
    /// # Errors
    /// [`LeaseError`] when the engine will not become ready, or too many wait already.
    pub async fn lease(&self, model: &Arc<Installed>, keep_alive: Option<KeepAlive>) -> Result<Lease, LeaseError> {
        self.lease_within(model, keep_alive, None).await
    }

    /// As [`Scheduler::lease`], but refused at once where it would take longer than `patience`, by what is known of earlier
    /// starts, and refused when it has taken longer. The model is loaded all the same, where that displaces nobody who is in
    /// use. What is left of the patience holds for the lease, should its engine die.
    ///
    /// # Errors
    /// As [`Scheduler::lease`], and [`LeaseError::TooSlow`].
    pub async fn lease_within(
        &self,
        model: &Arc<Installed>,
        keep_alive: Option<KeepAlive>,
        patience: Option<Duration>,
    ) -> Result<Lease, LeaseError> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (reply, lease) = oneshot::channel();
        let mut wait = Wait { commands: &self.commands, ticket, answered: false };
        self.command(Command::Lease { model: model.clone(), keep_alive, patience, ticket, reply });
        let answer = lease.await;
        wait.answered = true;
        answer.unwrap_or(Err(LeaseError::ShuttingDown))
    }

    /// Marks the model for unloading once its last lease is dropped; answers at once. A model that is not loaded is fine.
    pub fn unload(&self, model: &Arc<Installed>) {
        self.command(Command::Unload(model.clone()));
    }

    /// For whoever is about to delete or replace the files of a model whose engine no other installed name shares:
    /// gives no new lease on it, waits until those who asked before have been served, and stops its engine. It can be
    /// leased again when the guard is dropped.
    pub async fn retire(&self, model: &Arc<Installed>) -> Retired {
        let (reply, retired) = oneshot::channel();
        self.command(Command::Retire { model: model.clone(), reply });
        retired.await.unwrap_or_else(|_| Retired::for_ever())
    }

    /// Other limits from now on; and the factory is asked for the keep-alive of every model anew.
    pub fn set_limits(&self, limits: Limits) {
        self.command(Command::SetLimits(limits));
    }

    /// Gives no lease any more; those that wait are told that vllama is shutting down.
    pub fn close(&self) {
        self.command(Command::Close);
    }

    /// Stops all engines, with patience or at once, and waits until nothing of them is left.
    pub async fn stop(&self, at_once: bool) {
        let (reply, stopped) = oneshot::channel();
        self.command(Command::Stop { at_once, reply });
        // The task is gone only when the runtime is, and then there is nothing to wait for.
        let _ = stopped.await;
    }

    /// Counts the changes of all engines; for those who show them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// The state of all engines now, with the memory they held when it was last measured; never waits, reads nothing.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_of(EngineSnapshot::new)
    }

    /// The state of all engines now, with the memory they hold: reads `/proc`.
    #[must_use]
    pub fn measured(&self) -> Snapshot {
        self.snapshot_of(|member| EngineSnapshot::new(member).measured(member))
    }

    /// What the model's engine does not read although the model's card says that it does, because vLLM does not start with
    /// the parser for it (decision 0041). Never waits.
    #[must_use]
    pub fn given_up(&self, model: &Installed) -> ParserChoice {
        self.given_up.of(model)
    }

    /// Where ready engines tell of themselves, one for each.
    #[must_use]
    pub fn meters(&self) -> Vec<Meter> {
        let members = self.members.borrow().clone();
        members.iter().filter_map(Meter::of).collect()
    }

    fn snapshot_of(&self, engine: impl Fn(&Member) -> EngineSnapshot) -> Snapshot {
        let members = self.members.borrow().clone();
        let House { devices, swaps, drains } = self.house.borrow().clone();
        Snapshot { engines: members.iter().map(engine).collect(), devices, swaps, drains }
    }

    fn command(&self, command: Command) {
        // The task lives as long as a handle does, or the whole runtime is going down.
        let _ = self.commands.send(command);
    }
}

/// Somebody who waits for a lease; tells the keeper when he leaves without an answer.
struct Wait<'a> {
    commands: &'a mpsc::UnboundedSender<Command>,
    ticket: Ticket,
    answered: bool,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let _ = self.commands.send(Command::GivenUp(self.ticket));
        }
    }
}
