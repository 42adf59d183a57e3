//! One engine as the core sees it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Ticket;
use super::events::{Report, Stage};
use crate::scheduler::KeepAlive;

/// What a sleeping engine still holds on its device: context and graphs (vllm-engine §6.1), in bytes.
const RESIDUE: u64 = 2 << 30;

/// How long a failure for good is told to requests before one of them tries again.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// What an engine needs, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheduler) struct Needs {
    /// Bytes on each of its devices.
    pub bytes: u64,
    /// Number of devices.
    pub devices: usize,
    /// Most requests it is given at a time.
    pub concurrency: usize,
    /// Whether it can sleep, and the bytes of main memory its weights take then.
    pub sleeps: Option<u64>,
    /// How long it takes to start.
    pub start: Duration,
}

/// Where an engine is in its life, as the core has ordered and been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheduler) enum Life {
    /// Nothing runs.
    Down,
    /// Broken for good; nothing runs.
    Failed,
    /// It was told to start, or starts again after a death.
    Starting,
    /// It answers.
    Ready,
    /// It died and waits for its next start.
    Restarting,
    /// It was told to stop, perhaps in its sleep.
    Leaving {
        /// It slept.
        asleep: bool,
    },
    /// It was told to sleep at this level.
    DozingOff(u8),
    /// It sleeps at this level.
    Asleep(u8),
    /// It was told to wake.
    Waking,
}

impl Life {
    /// Whether nothing runs.
    pub(in crate::scheduler) fn is_down(self) -> bool {
        matches!(self, Self::Down | Self::Failed)
    }

    /// Whether it holds memory, or will by itself.
    pub(in crate::scheduler) fn is_resident(self) -> bool {
        !self.is_down()
    }

    /// Whether an order to stop makes sense.
    pub(super) fn can_be_stopped(self) -> bool {
        matches!(self, Self::Starting | Self::Ready | Self::Restarting | Self::Asleep(_) | Self::Waking)
    }

    /// Whether it takes memory right now that others must not take too.
    pub(super) fn is_starting(self) -> bool {
        matches!(self, Self::Starting | Self::Waking)
    }

    /// Whether it counts as a loaded model; sleeping ones do not.
    pub(super) fn is_loaded(self) -> bool {
        self.is_resident() && !matches!(self, Self::Asleep(_) | Self::Leaving { asleep: true })
    }
}

/// A request that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) since: Instant,
    pub(super) keep_alive: Option<KeepAlive>,
    /// When it has waited as long as it is willing to; `None` = never.
    pub(super) until: Option<Instant>,
}

/// One engine.
#[derive(Debug)]
pub(in crate::scheduler) struct Seat {
    /// What it needs.
    pub needs: Needs,
    /// Where it is in its life.
    pub life: Life,
    /// The devices it is charged to; none while it is down.
    pub place: Vec<usize>,
    /// The keep-alive that holds now.
    pub keep_alive: KeepAlive,
    /// When it goes if nobody asks; `None` while it is used or kept for ever.
    pub expires: Option<Instant>,
    /// Open leases.
    pub leases: usize,
    /// Why waiting is no use, if it is none.
    pub failure: Option<String>,
    /// The keep-alive where no request names one.
    pub(super) usual_keep_alive: KeepAlive,
    /// Requests that wait, oldest first.
    pub(super) waiting: VecDeque<Waiting>,
    /// So many of them, from the front, waited when it became ready: it was loaded for them.
    pub(super) owed: usize,
    /// Wanted up without a request, since then.
    pub(super) wanted: Option<Instant>,
    /// When `life` began.
    pub(super) since: Instant,
    /// When somebody asked for it, or stopped using it, last.
    pub(super) last_used: Instant,
    /// Its place is promised to another model: new requests queue, running ones finish.
    pub(super) yields: bool,
    /// Its files are about to change.
    pub(super) retiring: bool,
    /// That it is gone for that has been said.
    pub(super) retired: bool,
    /// When it is started again, while it pauses after a death.
    pub(super) paused_until: Option<Instant>,
    /// Number of its starts, as told last.
    pub(super) generation: u64,
    /// The start that was ordered last; a report that it is down from before that start is old.
    pub(super) ordered: u64,
}

impl Seat {
    pub(super) fn new(needs: Needs, keep_alive: KeepAlive, now: Instant) -> Self {
        Self {
            needs,
            life: Life::Down,
            place: Vec::new(),
            keep_alive,
            usual_keep_alive: keep_alive,
            expires: None,
            leases: 0,
            failure: None,
            waiting: VecDeque::new(),
            owed: 0,
            wanted: None,
            since: now,
            last_used: now,
            yields: false,
            retiring: false,
            retired: false,
            paused_until: None,
            generation: 0,
            ordered: 0,
        }
    }

    /// Requests that wait.
    pub(in crate::scheduler) fn waits(&self) -> usize {
        self.waiting.len()
    }

    /// Since when the oldest request waits.
    pub(in crate::scheduler) fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.since)
    }

    /// Bytes it is charged for on all of its devices together.
    pub(in crate::scheduler) fn held_bytes(&self) -> u64 {
        self.charge().saturating_mul(self.needs.devices.max(1) as u64)
    }

    /// Whether it has been said that nothing of it is left, for whoever changes its files.
    pub(in crate::scheduler) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Whether it broke for good so long ago that a request may try it once more: with many models what was wrong may
    /// have been another one, and an operator may have put it right.
    pub(super) fn may_be_tried_again(&self, now: Instant) -> bool {
        self.life == Life::Failed && now >= self.since + TRY_AGAIN
    }

    /// A request may try it again, if it broke.
    pub(super) fn forgive(&mut self, now: Instant) {
        if self.life == Life::Failed {
            self.enter(Life::Down, now);
            self.failure = None;
        }
    }

    /// It is to be loaded, or woken, for somebody who does not wait for that but will be back.
    pub(super) fn want(&mut self, now: Instant) {
        self.forgive(now);
        if matches!(self.life, Life::Down | Life::Leaving { .. } | Life::Asleep(_) | Life::DozingOff(_)) {
            self.wanted.get_or_insert(now);
            self.expires = None;
            self.outlive_unload();
        }
    }

    /// An unload that was asked for before a request is carried out or forgotten; it is not the request's wish.
    pub(super) fn outlive_unload(&mut self) {
        if self.keep_alive == KeepAlive::For(Duration::ZERO) {
            self.keep_alive = self.usual_keep_alive;
        }
    }

    /// Whether it would still be there for somebody who comes back when it has been loaded.
    pub(in crate::scheduler) fn stays(&self) -> bool {
        self.usual_keep_alive != KeepAlive::For(Duration::ZERO)
    }

    /// Whether nobody uses it or waits for it.
    pub(super) fn is_unused(&self) -> bool {
        self.leases == 0 && self.waiting.is_empty()
    }

    /// Whether the next one who waits gets a lease now.
    pub(super) fn grants(&self) -> bool {
        self.life == Life::Ready && self.leases < self.needs.concurrency && (!self.yields || self.owed > 0)
    }

    /// How many of those who wait, from the front, get a lease now.
    pub(super) fn granted_next(&self) -> usize {
        if self.grants() { self.needs.concurrency - self.leases } else { 0 }
    }

    /// Whoever waits at this place of the queue waits no more.
    pub(super) fn leave_queue(&mut self, place: usize, now: Instant) {
        self.waiting.remove(place);
        if place < self.owed {
            self.owed -= 1;
        }
        self.last_used = now;
        if self.life == Life::Ready {
            self.rest(now);
        }
    }

    /// Whether a request that comes now would get its lease at once.
    pub(super) fn takes_one_more(&self) -> bool {
        self.grants() && !self.yields && self.waiting.is_empty()
    }

    /// Bytes it is charged for on each of its devices.
    pub(super) fn charge(&self) -> u64 {
        match self.life {
            Life::Down | Life::Failed => 0,
            Life::Asleep(_) | Life::Leaving { asleep: true } => self.residue(),
            _ => self.needs.bytes,
        }
    }

    /// Bytes it holds on each device while it sleeps.
    pub(super) fn residue(&self) -> u64 {
        RESIDUE.min(self.needs.bytes)
    }

    /// It was told to stop.
    pub(super) fn part(&mut self) {
        self.expires = None;
        self.life = Life::Leaving { asleep: matches!(self.life, Life::Asleep(_) | Life::Leaving { asleep: true }) };
    }

    pub(super) fn enter(&mut self, life: Life, now: Instant) {
        self.life = life;
        self.since = now;
    }

    /// Begins the keep-alive when nobody uses it or waits for it.
    pub(super) fn rest(&mut self, now: Instant) {
        if self.is_unused() && self.life.can_be_stopped() {
            self.expires = match self.keep_alive {
                KeepAlive::Forever => None,
                // A time beyond the clock's end is for ever.
                KeepAlive::For(time) => now.checked_add(time),
            };
        }
    }

    /// Whether a report is news. Reports may be older than the last order: one is on its way while the other is given.
    pub(super) fn believes(&self, report: &Report) -> bool {
        match (self.life, report.stage) {
            (Life::Starting, Stage::Down) => report.generation >= self.ordered,
            (Life::Leaving { .. }, stage) => matches!(stage, Stage::Down | Stage::Failed),
            (Life::DozingOff(_), stage) => stage != Stage::Ready,
            (Life::Waking, stage) => !matches!(stage, Stage::Asleep(_)),
            (Life::Down, stage) => stage == Stage::Down,
            (Life::Failed, stage) => matches!(stage, Stage::Down | Stage::Failed),
            _ => true,
        }
    }
}
