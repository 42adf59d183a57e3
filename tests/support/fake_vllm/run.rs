//! One answer being generated: one token after the other at the set speed, until it ends or something goes wrong.

use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::engine::Running;
use crate::fault::{Fault, Planned};
use crate::orders;
use crate::processes;
use crate::startup;
use crate::vocabulary::Token;

/// Tokens between two looks at other tasks when there is no speed limit.
const PATIENCE: usize = 16;

/// Time enough for written tokens to leave this process.
const REACH: Duration = Duration::from_millis(10);

/// What happened next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// This token came, counted from 0.
    Token(usize),
    /// All tokens have come.
    Finished,
    /// The engine gave the request up.
    Aborted,
    /// The engine's core died or failed.
    EngineError,
    /// The connection ends here.
    Cut,
    /// The stream ends here as if it were complete.
    NoDone,
    /// What comes is no answer, and then the connection ends.
    Garbage,
}

/// An answer on its way. Dropping it is vLLM's abort.
#[derive(Debug)]
pub struct Run {
    /// The answer's tokens.
    pub tokens: Vec<Token>,
    running: Running,
    fault: Option<Planned>,
    core_dead: watch::Receiver<bool>,
    begun: Instant,
    first: Option<Instant>,
    next: usize,
    /// Whether all tokens come at once, whatever speed is set.
    rush: bool,
    garbage: u64,
}

impl Run {
    /// Begins an answer.
    pub fn new(running: Running, tokens: Vec<Token>, fault: Option<Planned>) -> Self {
        let core_dead = running.0.core_dead.subscribe();
        let (begun, garbage) = (Instant::now(), orders::garbage());
        Self { tokens, running, fault, core_dead, begun, first: None, next: 0, rush: false, garbage }
    }

    /// All tokens come at once, whatever speed is set.
    pub fn rushing(mut self, rush: bool) -> Self {
        self.rush = rush;
        self
    }

    /// Waits for the next token or the end.
    pub async fn step(&mut self) -> Step {
        if *self.core_dead.borrow() {
            return Step::EngineError;
        }
        if let Some(Planned { after, fault }) = self.fault
            && self.next >= after.min(self.tokens.len())
        {
            return self.fail(fault).await;
        }
        let engine = &self.running.0;
        if engine.stopping.load(Ordering::SeqCst) && self.next == 0 {
            return Step::Aborted;
        }
        if self.next == self.tokens.len() {
            return Step::Finished;
        }
        let number = u32::try_from(self.next).unwrap_or(u32::MAX);
        let pace = if self.rush { Duration::ZERO } else { engine.settings.token_time };
        let due = self.begun + engine.settings.first_token + pace * number;
        if due > Instant::now() {
            tokio::select! {
                () = sleep_until(due) => {}
                _ = self.core_dead.wait_for(|dead| *dead) => return Step::EngineError,
            }
        } else if self.next.is_multiple_of(PATIENCE) {
            tokio::task::yield_now().await;
        }
        if orders::garbage() != self.garbage {
            return Step::Garbage;
        }
        // The look at other processes takes longer than a token that is in a hurry.
        if (!self.rush || self.next.is_multiple_of(PATIENCE)) && self.core_stays_still().await {
            return Step::EngineError;
        }
        let engine = &self.running.0;
        engine.iterations.fetch_add(1, Ordering::Relaxed);
        engine.generation_tokens.fetch_add(1, Ordering::Relaxed);
        self.first.get_or_insert_with(Instant::now);
        self.next += 1;
        Step::Token(self.next - 1)
    }

    /// Time to the first token, and from the first to now.
    pub fn times(&self) -> (Duration, Duration) {
        let first = self.first.unwrap_or_else(Instant::now);
        (first - self.begun, first.elapsed())
    }

    /// Waits as long as the core does nothing; true when it dies meanwhile.
    async fn core_stays_still(&self) -> bool {
        let engine = &self.running.0;
        let Some(directory) = &engine.settings.orders else { return false };
        while orders::core_stands_still(directory, engine.core) {
            sleep(orders::LOOK).await;
            if *self.core_dead.borrow() {
                return true;
            }
        }
        false
    }

    async fn fail(&mut self, fault: Fault) -> Step {
        orders::pass(self.running.0.settings.orders.as_deref(), "fault").await;
        // The tokens before the fault reach the client before it happens.
        sleep(REACH).await;
        let core = self.running.0.core;
        match fault {
            Fault::Exit0 => startup::leave(core, 0),
            Fault::Exit1 => startup::leave(core, 1),
            Fault::Kill9 => processes::signal(i32::try_from(std::process::id()).unwrap_or_default(), Signal::SIGKILL),
            Fault::KillCore | Fault::OutOfMemory => {
                if fault == Fault::OutOfMemory {
                    startup::out_of_memory(core);
                } else {
                    processes::signal(core, Signal::SIGKILL);
                }
                let _ = self.core_dead.wait_for(|dead| *dead).await;
                return Step::EngineError;
            }
            Fault::Abort => return Step::Aborted,
            Fault::Error => return Step::EngineError,
            Fault::Cut => return Step::Cut,
            Fault::NoDone => return Step::NoDone,
            Fault::Hang | Fault::CutHead | Fault::Http400 | Fault::Http500 | Fault::Http503 | Fault::NotJson => {}
        }
        // A hang: the request runs, no step is taken; only the core's death or the client ends it.
        let _ = self.core_dead.wait_for(|dead| *dead).await;
        Step::EngineError
    }
}
