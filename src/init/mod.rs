//! PID 1: signals in, zombies out, sessions.
//!
//! In: Unix signals, exit statuses of children, orders to start a program ([`Spawner`]) or to end ([`Stopper`]).
//! Out: [`Signal`]s for the rest of the program, an [`Exit`] for every program started, [`Session`]s to signal and sweep.
//!
//! Must not know: HTTP, tokio, models, engines, any other room. Everything here is synchronous, and it is the only room
//! with `unsafe` (`sys` and `fork`).
//!
//! ```text
//!   any thread ── Spawner::spawn ──> [one lock] ──> fork, exec ──> own session
//!   main thread ── Init::run: wait for a signal ──> [one lock] waitpid ──> on_exit(Exit)
//! ```
//!
//! **One owner of waitpid.** A `waitpid(-1)` loop takes the exit status of every child, also of those that
//! `std::process` or `tokio::process` wait for; so nothing else in this program may start processes. Forking and
//! reaping take the same lock: no child can be reaped before it is on the list, and no pid can be recycled while
//! somebody who holds the lock sends it a signal.
//!
//! Order at start: [`Init::new`] first thing on the main thread, then other threads, then [`Init::run`].

mod command;
mod fork;
mod inherit;
mod memory;
mod processes;
mod reap;
mod run;
mod session;
mod spawn;
mod strays;
mod survival;
mod sys;

pub use command::run_command;
pub use inherit::inherited_listeners;
pub use memory::{give_back_memory, keep_memory_at_hand};
pub use reap::{Exit, OnExit};
pub use run::{Init, Pulse, Signal, Stopper};
pub use session::{Frozen, Session};
pub use spawn::{Child, GENERATION, Spawner, Spec};
pub use strays::{kill_strays, strays};
pub use survival::ask_to_be_spared;
