//! What happens next, decided without doing it: events with their time go in, actions come out.
//!
//! Knows no engine, no clock and no task, so that every rule can be tried by thousands of random steps. The
//! [keeper](super::keeper) carries the actions out and reports what engines do.
//!
//! ```text
//!          room found               report              lease or nobody
//!  Down ──────────────> Starting ──────────> Ready <──────────────────┐
//!   ↑                       │                 │ │ room is needed       │
//!   └──────── Leaving <─────┴── stop ─────────┘ └──> DozingOff ─> Asleep ─> Waking
//! ```

mod events;
mod forecast;
#[cfg(test)]
mod random;
mod room;
mod seat;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(super) use events::{Action, Event, Refusal, Report, Stage};
pub(super) use seat::{Life, Needs, Seat};

use super::{KeepAlive, Limits};
use seat::Waiting;

/// Identity of an engine here.
pub(super) type EngineId = u64;
/// Identity of one request for a lease.
pub(super) type Ticket = u64;

/// The operator's choices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Most requests that wait, for all models together.
    pub max_queue: usize,
    /// Most engines that are up; 0 = as many as memory allows.
    pub max_loaded: usize,
    /// A request that has waited this long for another model's place gets it once that model's running requests end.
    pub max_wait: Duration,
    /// An engine keeps its place this long from the moment it was ready.
    pub min_residence: Duration,
    /// An engine counts as idle only when nobody has used it this long: between two requests of one client it is not.
    pub linger: Duration,
    /// Main memory that sleeping engines may take, weights and processes, in bytes.
    pub sleeping_memory: u64,
}

/// The scheduler's book and its rules.
#[derive(Debug)]
pub(super) struct Core {
    rules: Rules,
    /// Budget of each device in bytes; `None` = unknown.
    devices: Vec<Option<u64>>,
    seats: BTreeMap<EngineId, Seat>,
    /// Requests that wait, over all seats.
    waiting: usize,
    /// No more leases.
    closed: bool,
    actions: Vec<Action>,
    /// When to look again although nothing happens.
    look_at: Option<Instant>,
    /// Times a loaded engine went to make room.
    swaps: u64,
    /// Times an engine in use took nothing new to make room.
    drains: u64,
}

impl Core {
    pub(super) fn new(rules: Rules, devices: Vec<Option<u64>>) -> Self {
        let (seats, actions) = (BTreeMap::new(), Vec::new());
        Self { rules, devices, seats, waiting: 0, closed: false, actions, look_at: None, swaps: 0, drains: 0 }
    }

    /// Makes an engine known; it is down. The keep-alive is for requests that name none.
    pub(super) fn add(&mut self, engine: EngineId, needs: Needs, keep_alive: KeepAlive, now: Instant) {
        self.seats.insert(engine, Seat::new(needs, keep_alive, now));
    }

    /// Forgets an engine that is down and that nobody waits for or uses; false when it is not so.
    pub(super) fn remove(&mut self, engine: EngineId) -> bool {
        let free = self.seats.get(&engine).is_some_and(|seat| seat.is_unused() && !seat.life.is_resident());
        if free {
            self.seats.remove(&engine);
        }
        free
    }

    /// An engine was made anew to be started: it counts its starts from the beginning, and needs what its plan says now.
    pub(super) fn renew(&mut self, engine: EngineId, needs: Needs) {
        self.with(engine, |seat| {
            seat.needs = needs;
            seat.generation = 0;
            seat.ordered = 1;
        });
    }

    /// What is known of an engine.
    pub(super) fn seat(&self, engine: EngineId) -> Option<&Seat> {
        self.seats.get(&engine)
    }

    /// How often a loaded engine went to make room, and how often one in use took nothing new for that.
    pub(super) fn moves(&self) -> (u64, u64) {
        (self.swaps, self.drains)
    }

    /// The budget of each device, and what engines are charged for there, in bytes.
    pub(super) fn devices(&self) -> Vec<(Option<u64>, u64)> {
        let mut devices: Vec<_> = self.devices.iter().map(|budget| (*budget, 0)).collect();
        for seat in self.seats.values() {
            for device in &seat.place {
                if let Some((_, used)) = devices.get_mut(*device) {
                    *used += seat.charge();
                }
            }
        }
        devices
    }

    /// Whether no more leases are given.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether nothing runs any more.
    pub(super) fn is_down(&self) -> bool {
        self.seats.values().all(|seat| !seat.life.is_resident())
    }

    /// Other limits from now on. Whoever waits already waits on.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        let Limits { max_queue, max_loaded, max_wait, min_residence } = limits;
        self.rules = Rules { max_queue, max_loaded, max_wait, min_residence, ..self.rules };
    }

    /// Another keep-alive for requests that name none. It holds at once, counted from now,
    /// unless a request has named another one.
    pub(super) fn set_keep_alive(&mut self, engine: EngineId, keep_alive: KeepAlive, now: Instant) {
        let Some(seat) = self.seats.get_mut(&engine) else { return };
        let before = std::mem::replace(&mut seat.usual_keep_alive, keep_alive);
        if before != keep_alive && seat.keep_alive == before {
            seat.keep_alive = keep_alive;
            seat.rest(now);
        }
    }

    /// When [`Core::handle`] wants to be called with [`Event::Time`], if nothing else happens before.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Takes in what has happened and says what to do now, in this order.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Time => {}
            Event::Load(engine) => self.with(engine, |seat| seat.wanted = seat.life.is_down().then_some(now)),
            Event::Request { ticket, engine, keep_alive, patience } => {
                self.request((ticket, keep_alive, patience), engine, now);
            }
            Event::GivenUp { ticket, engine } => self.give_up(ticket, engine, now),
            Event::Released(engine) => self.with(engine, |seat| {
                seat.leases = seat.leases.saturating_sub(1);
                seat.last_used = now;
                seat.rest(now);
            }),
            Event::Unload(engine) => self.with(engine, |seat| {
                seat.keep_alive = KeepAlive::For(Duration::ZERO);
                seat.wanted = None;
                seat.rest(now);
            }),
            Event::Retire(engine) => self.with(engine, |seat| {
                seat.retiring = true;
                seat.wanted = None;
            }),
            Event::Restored(engine) => self.with(engine, |seat| {
                seat.retiring = false;
                seat.retired = false;
            }),
            Event::Needs { engine, needs } => self.with(engine, |seat| seat.needs = needs),
            Event::Devices(devices) => {
                self.devices = devices;
                self.refuse_what_cannot_fit();
            }
            Event::Report { engine, report } => self.report(engine, report, now),
            Event::Close => self.close(),
            Event::Stop { at_once } => self.stop_all(at_once),
        }
        self.settle(now);
        std::mem::take(&mut self.actions)
    }

    fn with(&mut self, engine: EngineId, edit: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self.seats.get_mut(&engine) {
            edit(seat);
        }
    }

    fn request(
        &mut self,
        (ticket, keep_alive, patience): (Ticket, Option<KeepAlive>, Option<Duration>),
        engine: EngineId,
        now: Instant,
    ) {
        if let Some(refusal) = self.refusal(engine, now) {
            return self.actions.push(Action::Refuse(ticket, refusal));
        }
        let retry_after = self.estimate(engine, now);
        let stays = self.seats.get(&engine).is_some_and(Seat::stays);
        let patience = patience.filter(|_| stays);
        if patience.is_some_and(|patience| retry_after > patience) {
            // Or it would be as far away when the client comes back.
            self.with(engine, |seat| seat.want(now));
            return self.actions.push(Action::Refuse(ticket, Refusal::TooSlow { retry_after }));
        }
        self.with(engine, |seat| {
            seat.forgive(now);
            seat.expires = None;
            if let Some(keep_alive) = keep_alive {
                seat.keep_alive = keep_alive;
            } else {
                seat.outlive_unload();
            }
            // A time beyond the clock's end is for ever.
            let until = patience.and_then(|patience| now.checked_add(patience));
            seat.waiting.push_back(Waiting { ticket, since: now, keep_alive, until });
        });
        self.waiting += 1;
    }

    /// Why a request that comes now is not even queued.
    fn refusal(&self, engine: EngineId, now: Instant) -> Option<Refusal> {
        if self.closed {
            return Some(Refusal::ShuttingDown);
        }
        let Some(seat) = self.seats.get(&engine) else { return Some(Refusal::Retiring) };
        if seat.retiring {
            return Some(Refusal::Retiring);
        }
        if let Some(failure) = &seat.failure
            && !seat.may_be_tried_again(now)
        {
            return Some(Refusal::Broken(failure.clone()));
        }
        if seat.life.is_down()
            && let Some(too_large) = self.too_large(&seat.needs)
        {
            return Some(too_large);
        }
        if self.waiting >= self.rules.max_queue && !seat.takes_one_more() {
            return Some(Refusal::QueueFull { retry_after: self.estimate(engine, now) });
        }
        None
    }

    fn give_up(&mut self, ticket: Ticket, engine: EngineId, now: Instant) {
        let Some(seat) = self.seats.get_mut(&engine) else { return };
        let Some(place) = seat.waiting.iter().position(|waiting| waiting.ticket == ticket) else { return };
        seat.leave_queue(place, now);
        self.waiting -= 1;
    }

    fn report(&mut self, engine: EngineId, report: Report, now: Instant) {
        let Some(seat) = self.seats.get_mut(&engine) else { return };
        if !seat.believes(&report) {
            return;
        }
        seat.generation = report.generation;
        seat.paused_until = report.paused_until;
        seat.failure = report.failure;
        match report.stage {
            Stage::Down | Stage::Failed => {
                seat.enter(if report.stage == Stage::Failed { Life::Failed } else { Life::Down }, now);
                seat.place.clear();
                seat.expires = None;
                seat.owed = 0;
                // What was asked for by those who wait goes on; what an earlier load was told ends with it.
                let asked = seat.waiting.iter().rev().find_map(|waiting| waiting.keep_alive);
                seat.keep_alive = asked.unwrap_or(seat.usual_keep_alive);
            }
            Stage::Starting if seat.life != Life::Starting => seat.enter(Life::Starting, now),
            Stage::Starting => {}
            Stage::Ready if seat.life != Life::Ready => {
                seat.enter(Life::Ready, now);
                seat.wanted = None;
                seat.last_used = now;
                seat.owed = seat.waiting.len();
                seat.rest(now);
            }
            Stage::Ready => {}
            Stage::Restarting => seat.enter(Life::Restarting, now),
            Stage::Asleep(level) => seat.enter(Life::Asleep(level), now),
        }
        if seat.failure.is_some() {
            seat.wanted = None;
            self.refuse_waiting(engine);
        }
    }

    /// Tells those who wait for a broken engine why.
    fn refuse_waiting(&mut self, engine: EngineId) {
        let Some(seat) = self.seats.get_mut(&engine) else { return };
        let Some(failure) = seat.failure.clone() else { return };
        seat.owed = 0;
        self.waiting -= seat.waiting.len();
        let refused = std::mem::take(&mut seat.waiting);
        let refuse = |waiting: Waiting| Action::Refuse(waiting.ticket, Refusal::Broken(failure.clone()));
        self.actions.extend(refused.into_iter().map(refuse));
    }

    /// When budgets change, what waited for its place may turn out never to fit.
    fn refuse_what_cannot_fit(&mut self) {
        let down = self.seats.iter().filter(|(_, seat)| seat.life.is_down());
        let hopeless: Vec<_> = down.filter_map(|(id, seat)| Some((*id, self.too_large(&seat.needs)?))).collect();
        for (engine, refusal) in hopeless {
            let Some(seat) = self.seats.get_mut(&engine) else { continue };
            seat.wanted = None;
            self.waiting -= seat.waiting.len();
            let refused = std::mem::take(&mut seat.waiting);
            self.actions.extend(refused.into_iter().map(|waiting| Action::Refuse(waiting.ticket, refusal.clone())));
        }
    }

    fn close(&mut self) {
        self.closed = true;
        for seat in self.seats.values_mut() {
            seat.wanted = None;
            let refused = std::mem::take(&mut seat.waiting);
            self.actions
                .extend(refused.into_iter().map(|waiting| Action::Refuse(waiting.ticket, Refusal::ShuttingDown)));
        }
        self.waiting = 0;
    }

    /// The end of vllama: the one case in which an engine is stopped under its leases.
    fn stop_all(&mut self, at_once: bool) {
        self.close();
        for (id, seat) in &mut self.seats {
            if !seat.life.is_resident() {
                continue;
            }
            let leaving = matches!(seat.life, Life::Leaving { .. });
            seat.part();
            if at_once {
                self.actions.push(Action::Kill(*id));
            } else if !leaving {
                self.actions.push(Action::Stop(*id));
            }
        }
    }

    /// Carries out what the book demands: ends what has expired, makes room, starts, and grants.
    fn settle(&mut self, now: Instant) {
        self.look_at = None;
        self.refuse_impatient(now);
        self.end_what_is_over(now);
        if !self.closed {
            self.make_room(now);
        }
        self.grant(now);
    }

    /// Tells those who have waited as long as they are willing to. Their model is loaded all the same.
    fn refuse_impatient(&mut self, now: Instant) {
        let engines: Vec<_> = self.seats.iter().filter(|(_, seat)| seat.waits() > 0).map(|(id, _)| *id).collect();
        for engine in engines {
            let retry_after = self.estimate(engine, now);
            let Some(seat) = self.seats.get_mut(&engine) else { continue };
            let mut place = seat.granted_next();
            while let Some(waiting) = seat.waiting.get(place) {
                if waiting.until.is_some_and(|until| until <= now) {
                    self.actions.push(Action::Refuse(waiting.ticket, Refusal::TooSlow { retry_after }));
                    seat.leave_queue(place, now);
                    seat.want(now);
                    self.waiting -= 1;
                } else {
                    place += 1;
                }
            }
            let next = seat.waiting.iter().filter_map(|waiting| waiting.until).min();
            next.into_iter().for_each(|at| self.look(at, now));
        }
    }

    fn end_what_is_over(&mut self, now: Instant) {
        let mut over = Vec::new();
        let mut looks = Vec::new();
        for (id, seat) in &mut self.seats {
            if !seat.is_unused() {
                continue;
            }
            let expired = seat.expires.is_some_and(|expires| expires <= now);
            if seat.life.can_be_stopped() && (expired || seat.retiring) {
                over.push(*id);
            } else if seat.retiring && !seat.life.is_resident() && !seat.retired {
                seat.retired = true;
                self.actions.push(Action::Retired(*id));
            } else {
                looks.extend(seat.expires);
            }
        }
        over.into_iter().for_each(|engine| self.stop(engine));
        looks.into_iter().for_each(|at| self.look(at, now));
    }

    fn stop(&mut self, engine: EngineId) {
        let Some(seat) = self.seats.get_mut(&engine) else { return };
        debug_assert_eq!(seat.leases, 0, "an engine with leases is never stopped");
        seat.part();
        self.actions.push(Action::Stop(engine));
    }

    fn grant(&mut self, now: Instant) {
        for (id, seat) in &mut self.seats {
            while seat.grants() {
                let Some(waiting) = seat.waiting.pop_front() else { break };
                self.waiting -= 1;
                seat.owed = seat.owed.saturating_sub(1);
                seat.leases += 1;
                seat.last_used = now;
                seat.expires = None;
                self.actions.push(Action::Grant(waiting.ticket, *id));
            }
        }
    }

    /// Wants to be asked again at `at`, unless that is over.
    fn look(&mut self, at: Instant, now: Instant) {
        if at > now {
            self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
        }
    }
}
