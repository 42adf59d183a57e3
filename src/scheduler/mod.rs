//! Which model runs where and when.
//!
//! In: a model and a keep-alive. Out: a [`Lease`], the right to use one engine. One task owns all state; the rest of the
//! program holds a [`Scheduler`] handle and reads [`Snapshot`]s. Never speaks HTTP, never forks.
//!
//! There is one engine so far, for the model the server was started with.

mod keeper;
mod lease;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use crate::engine::{EngineBody, EngineGone};
pub use lease::Lease;
pub use snapshot::{EngineSnapshot, Snapshot};

use crate::engine::{Engine, State};
use crate::model::Installed;
use keeper::{Book, Command, Keeper};

/// How long a model stays loaded after its last request (ollama-api §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Until somebody unloads it.
    Forever,
    /// This long after the last lease is dropped; zero unloads at once.
    For(Duration),
}

/// The operator's choices.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Keep-alive of a model whose requests name none.
    pub keep_alive: KeepAlive,
    /// Most requests that wait for an engine to load (`OLLAMA_MAX_QUEUE`).
    pub max_queue: usize,
}

/// Why no lease was given. The text is what a user is told; dialects choose status and shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The model is installed but not the one this server was started for.
    #[error(
        "model '{wanted}' is installed, but this server serves '{served}' only; start another with `vllama serve {wanted}`"
    )]
    NotServed {
        /// The model asked for.
        wanted: String,
        /// The model served.
        served: String,
    },
    /// The engine does not run and waiting is no use: what happened, why, what to do.
    #[error("{0}")]
    Permanent(String),
    /// vllama is shutting down.
    #[error("vllama is shutting down; try again in a moment")]
    ShuttingDown,
    /// Too many requests wait already (ollama-api §8.3).
    #[error("server busy, please try again.  maximum pending requests exceeded")]
    QueueFull,
}

/// Handle on the scheduler; cheap to clone.
#[derive(Clone, Debug)]
pub struct Scheduler {
    model: Arc<Installed>,
    engine: Engine,
    commands: mpsc::UnboundedSender<Command>,
    book: watch::Receiver<Book>,
}

impl Scheduler {
    /// A scheduler for one model and its engine; nothing is loaded before [`Scheduler::load`] or the first lease.
    #[must_use]
    pub fn new(model: Arc<Installed>, engine: Engine, settings: Settings) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (book, reader) = watch::channel(Book::new(settings.keep_alive));
        let keeper =
            Keeper::new(engine.clone(), settings, commands.downgrade(), book, model.manifest.name.as_str().into());
        tokio::spawn(keeper.run(receiver));
        Self { model, engine, commands, book: reader }
    }

    /// Loads the model without a request.
    pub fn load(&self) {
        self.command(Command::Load);
    }

    /// Waits until the model's engine is ready and takes a place on it. Dropping the future gives up waiting.
    ///
    /// # Errors
    /// [`LeaseError`] when the engine will not become ready.
    pub async fn lease(&self, model: &Arc<Installed>, keep_alive: Option<KeepAlive>) -> Result<Lease, LeaseError> {
        if model.engine_key() != self.model.engine_key() {
            return Err(LeaseError::NotServed {
                wanted: model.manifest.name.clone(),
                served: self.model.manifest.name.clone(),
            });
        }
        // Declared before the receiver and so dropped after it: the keeper then sees the reply channel closed.
        let _told_at_the_end = TellGivenUp(&self.commands);
        let (reply, lease) = oneshot::channel();
        self.command(Command::Lease { keep_alive, reply });
        lease.await.unwrap_or(Err(LeaseError::ShuttingDown))
    }

    /// Marks the model for unloading once its last lease is dropped; answers at once. A model that is not loaded is fine.
    pub fn unload(&self, model: &Arc<Installed>) {
        if model.engine_key() == self.model.engine_key() {
            self.command(Command::Unload);
        }
    }

    /// Waits until the open leases of a model are gone and its engine is stopped, for whoever is about to delete or
    /// replace the files of a model whose engine no other installed name shares.
    pub async fn retire(&self, model: &Arc<Installed>) -> Retired {
        if model.engine_key() == self.model.engine_key() {
            self.unload(model);
            // Either channel closes only when the whole runtime goes down.
            let _ = self.book.clone().wait_for(|book| book.leases == 0 && book.waiting == 0).await;
            let down = |state| matches!(state, State::Stopped | State::Failed);
            let _ = self.engine.status().wait_for(|status| down(status.state)).await;
        }
        Retired(())
    }

    /// Gives no lease any more; those that wait are told that vllama is shutting down.
    pub fn close(&self) {
        self.command(Command::Close);
    }

    /// Stops the engine, with patience or at once, and waits until nothing of it is left.
    pub async fn stop(&self, at_once: bool) {
        if at_once {
            self.engine.kill();
        } else {
            self.engine.stop();
        }
        let down = |state| matches!(state, State::Stopped | State::Failed);
        // The channel closes only when the engine's task is gone, and then there is nothing to wait for.
        let _ = self.engine.status().wait_for(|status| down(status.state)).await;
    }

    /// Waits until the state of the engine changes; for those who show it.
    pub fn changes(&self) -> watch::Receiver<crate::engine::Status> {
        self.engine.status()
    }

    /// The state of all engines now, but for the memory they hold; never waits, reads nothing.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let engine = EngineSnapshot::new(&self.model, &self.engine.status().borrow(), &self.book.borrow());
        Snapshot { engines: vec![engine] }
    }

    /// The state of all engines now, with the memory they hold: reads `/proc`.
    #[must_use]
    pub fn measured(&self) -> Snapshot {
        let mut snapshot = self.snapshot();
        for engine in &mut snapshot.engines {
            engine.memory_bytes = self.engine.status().borrow().memory_bytes();
        }
        snapshot
    }

    fn command(&self, command: Command) {
        // The task lives as long as a handle does, or the whole runtime is going down.
        let _ = self.commands.send(command);
    }
}

/// Held while the files of a retired model are changed.
#[derive(Debug)]
#[must_use]
pub struct Retired(());

/// Tells the keeper, when a wait for a lease ends, to look who still waits.
struct TellGivenUp<'a>(&'a mpsc::UnboundedSender<Command>);

impl Drop for TellGivenUp<'_> {
    fn drop(&mut self) {
        let _ = self.0.send(Command::GivenUp);
    }
}
