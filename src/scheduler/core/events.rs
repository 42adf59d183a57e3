//! What goes into the core and what comes out.

use std::time::{Duration, Instant};

use super::seat::Needs;
use super::{EngineId, Ticket};
use crate::scheduler::KeepAlive;

/// Something that has happened.
#[derive(Clone, Debug)]
pub(in crate::scheduler) enum Event {
    /// Time has passed.
    Time,
    /// An engine is wanted up without a request.
    Load(EngineId),
    /// Somebody asks for a lease.
    Request {
        /// Who.
        ticket: Ticket,
        /// On which engine.
        engine: EngineId,
        /// The keep-alive the request names.
        keep_alive: Option<KeepAlive>,
        /// How long it is willing to wait; `None` = as long as it takes.
        patience: Option<Duration>,
    },
    /// Somebody has stopped waiting; one who has had an answer is not known any more, and that is fine.
    GivenUp {
        /// Who.
        ticket: Ticket,
        /// For which engine.
        engine: EngineId,
    },
    /// A lease has ended.
    Released(EngineId),
    /// An engine is to go once nobody uses it.
    Unload(EngineId),
    /// The files under an engine are about to change: nobody new may use it, and it is to go when those who asked
    /// before have been served.
    Retire(EngineId),
    /// The files are as they were, or whoever changes them has given up.
    Restored(EngineId),
    /// What an engine needs is known better now.
    Needs {
        /// Which.
        engine: EngineId,
        /// What.
        needs: Needs,
    },
    /// The budgets of all devices are known now, or are not any more.
    Devices(Vec<Option<u64>>),
    /// An engine has changed.
    Report {
        /// Which.
        engine: EngineId,
        /// How.
        report: Report,
    },
    /// No more leases.
    Close,
    /// Everything is to go, with patience or at once.
    Stop {
        /// At once.
        at_once: bool,
    },
}

/// What an engine says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheduler) struct Report {
    /// What it does.
    pub stage: Stage,
    /// Number of its starts so far.
    pub generation: u64,
    /// When it is started again, while it pauses after a death.
    pub paused_until: Option<Instant>,
    /// Why waiting for it is no use, if it is none.
    pub failure: Option<String>,
}

/// What an engine does, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheduler) enum Stage {
    /// Nothing runs.
    Down,
    /// It starts.
    Starting,
    /// It answers.
    Ready,
    /// It died and will be started again by itself.
    Restarting,
    /// It sleeps, at this level.
    Asleep(u8),
    /// It died for good.
    Failed,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheduler) enum Action {
    /// Start an engine on these devices; none = wherever it likes, since devices are not known.
    Start(EngineId, Vec<usize>),
    /// Stop an engine, with patience.
    Stop(EngineId),
    /// Stop an engine at once.
    Kill(EngineId),
    /// Let an engine sleep at this level.
    Sleep(EngineId, u8),
    /// Wake an engine.
    Wake(EngineId),
    /// Give a lease on an engine.
    Grant(Ticket, EngineId),
    /// Give no lease.
    Refuse(Ticket, Refusal),
    /// Nothing of the engine is left, and nothing new will be until it is restored.
    Retired(EngineId),
}

/// Why no lease is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheduler) enum Refusal {
    /// vllama shuts down.
    ShuttingDown,
    /// The model is being deleted or replaced.
    Retiring,
    /// The engine cannot start, or does not again and again: what happened, for users.
    Broken(String),
    /// It never fits: bytes it needs on each of so many devices, and the largest budget there is for that.
    TooLarge {
        /// Bytes needed on each device.
        needs: u64,
        /// Devices needed.
        devices: usize,
        /// Bytes of the largest budget that so many devices have each; 0 when there are fewer devices.
        budget: u64,
    },
    /// Too many wait already.
    QueueFull {
        /// How long until it may be worth trying again.
        retry_after: Duration,
    },
    /// It would wait longer than it is willing to, or has; the model is loaded meanwhile.
    TooSlow {
        /// How much longer it would wait.
        retry_after: Duration,
    },
}
