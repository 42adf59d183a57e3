//! The task that owns the scheduler's state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use super::lease::Lease;
use super::{KeepAlive, LeaseError, Settings};
use crate::engine::{Engine, State, Status};

/// After so many failed starts in a row requests are told why instead of waiting on; the starts go on.
const PATIENCE: u32 = 3;

/// What others ask of the task.
#[derive(Debug)]
pub(super) enum Command {
    Load,
    Lease {
        keep_alive: Option<KeepAlive>,
        reply: oneshot::Sender<Result<Lease, LeaseError>>,
    },
    /// Somebody may have stopped waiting for a lease.
    GivenUp,
    Released,
    Unload,
    Close,
}

/// What the task tells everybody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Book {
    /// Open leases.
    pub leases: usize,
    /// Requests that wait for the engine.
    pub waiting: usize,
    /// The keep-alive that holds now.
    pub keep_alive: KeepAlive,
    /// When the model will be unloaded; `None` while it is in use or kept for ever.
    pub expires: Option<Instant>,
    /// No more leases.
    pub closed: bool,
}

impl Book {
    pub(super) fn new(keep_alive: KeepAlive) -> Self {
        Self { leases: 0, waiting: 0, keep_alive, expires: None, closed: false }
    }
}

pub(super) struct Keeper {
    engine: Engine,
    settings: Settings,
    commands: mpsc::WeakUnboundedSender<Command>,
    served_name: Arc<str>,
    told: watch::Sender<Book>,
    book: Book,
    waiting: VecDeque<oneshot::Sender<Result<Lease, LeaseError>>>,
}

impl Keeper {
    pub(super) fn new(
        engine: Engine,
        settings: Settings,
        commands: mpsc::WeakUnboundedSender<Command>,
        told: watch::Sender<Book>,
        served_name: Arc<str>,
    ) -> Self {
        let book = Book::new(settings.keep_alive);
        Self { engine, settings, commands, served_name, told, book, waiting: VecDeque::new() }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut status = self.engine.status();
        loop {
            let expires = self.book.expires;
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command, &status.borrow()),
                    None => return,
                },
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = status.borrow_and_update().clone();
                    self.engine_changed(&now);
                }
                () = sleep_until(expires.unwrap_or_else(Instant::now).into()), if expires.is_some() => {
                    tracing::info!(model = %self.served_name, "unloading the model: nobody has asked for its keep-alive");
                    self.unload();
                }
            }
            self.book.waiting = self.waiting.len();
            self.told.send_replace(self.book);
        }
    }

    fn obey(&mut self, command: Command, status: &Status) {
        match command {
            Command::Load => self.engine.start(),
            Command::Lease { keep_alive, reply } => self.lease(keep_alive, reply, status),
            Command::GivenUp => self.waiting.retain(|waiting| !waiting.is_closed()),
            Command::Released => {
                self.book.leases -= 1;
                self.rest();
            }
            Command::Unload => {
                self.book.keep_alive = KeepAlive::For(std::time::Duration::ZERO);
                self.rest();
            }
            Command::Close => {
                self.book.closed = true;
                self.refuse_all(&LeaseError::ShuttingDown);
            }
        }
    }

    fn lease(
        &mut self,
        keep_alive: Option<KeepAlive>,
        reply: oneshot::Sender<Result<Lease, LeaseError>>,
        status: &Status,
    ) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        let refusal = if self.book.closed {
            Some(LeaseError::ShuttingDown)
        } else if let Some(error) = hopeless(status) {
            Some(error)
        } else if status.client.is_none() && self.waiting.len() >= self.settings.max_queue {
            Some(LeaseError::QueueFull)
        } else {
            None
        };
        if let Some(error) = refusal {
            // The client may be gone already.
            let _ = reply.send(Err(error));
            return;
        }
        self.book.expires = None;
        if let Some(keep_alive) = keep_alive {
            self.book.keep_alive = keep_alive;
        } else if self.book.keep_alive == KeepAlive::For(std::time::Duration::ZERO) {
            // An unload that was asked for before this request is carried out or forgotten; it is not this one's wish.
            self.book.keep_alive = self.settings.keep_alive;
        }
        if status.client.is_some() {
            self.grant(reply, status);
        } else {
            self.waiting.push_back(reply);
            if status.state == State::Stopped {
                self.engine.start();
            }
        }
    }

    fn grant(&mut self, reply: oneshot::Sender<Result<Lease, LeaseError>>, status: &Status) {
        self.book.leases += 1;
        // A client that is gone drops the lease, which then comes back as released.
        let _ = reply.send(Ok(Lease {
            engine: self.engine.status(),
            max_model_len: status.max_model_len.unwrap_or_default(),
            served_name: self.served_name.clone(),
            commands: self.commands.clone(),
        }));
    }

    fn engine_changed(&mut self, status: &Status) {
        if let Some(error) = hopeless(status) {
            return self.refuse_all(&error);
        }
        match status.state {
            State::Ready => {
                for reply in std::mem::take(&mut self.waiting) {
                    self.grant(reply, status);
                }
                if self.book.leases == 0 && self.book.expires.is_none() {
                    self.rest();
                }
            }
            State::Stopped => {
                self.book.expires = None;
                self.book.keep_alive = self.settings.keep_alive;
                self.waiting.retain(|waiting| !waiting.is_closed());
                if !self.waiting.is_empty() {
                    self.engine.start();
                }
            }
            _ => {}
        }
    }

    /// Begins the keep-alive when nobody uses the model or waits for it.
    fn rest(&mut self) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        if self.book.leases > 0 || !self.waiting.is_empty() {
            return;
        }
        match self.book.keep_alive {
            KeepAlive::Forever => self.book.expires = None,
            KeepAlive::For(time) if time.is_zero() => self.unload(),
            // A time beyond the clock's end is for ever.
            KeepAlive::For(time) => self.book.expires = Instant::now().checked_add(time),
        }
    }

    fn unload(&mut self) {
        self.book.expires = None;
        self.engine.stop();
    }

    fn refuse_all(&mut self, error: &LeaseError) {
        for reply in std::mem::take(&mut self.waiting) {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

/// Why waiting for this engine is no use, if it is none.
pub(super) fn hopeless(status: &Status) -> Option<LeaseError> {
    let failure = status.failure.as_ref()?;
    match status.state {
        State::Failed => Some(LeaseError::Permanent(failure.message.clone())),
        State::Starting | State::Restarting if status.failures_in_a_row >= PATIENCE => Some(LeaseError::Permanent(
            format!("{}; {} starts have failed, vllama keeps trying", failure.message, status.failures_in_a_row),
        )),
        _ => None,
    }
}
