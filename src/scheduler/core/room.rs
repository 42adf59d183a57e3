//! Who gets a place, and who goes for that.
//!
//! Those who need a place are looked at in the order in which their oldest requests came. Whoever cannot have one yet
//! reserves what will be free, so that later ones take only what is left over and nobody waits for ever.

use std::collections::BTreeSet;
use std::time::Instant;

use super::events::{Action, Refusal};
use super::{Core, EngineId, Life, Needs, Seat};

/// More than any device has.
const UNKNOWN: i128 = 1 << 100;

/// Main memory that an engine's processes take whatever its model, in bytes: each imports torch.
const SLEEPING_PROCESSES: u64 = 3 << 30;

/// An engine that needs a place.
#[derive(Clone, Debug)]
struct Head {
    engine: EngineId,
    since: Instant,
    /// Whether somebody waits for it; one that is only to be loaded displaces nobody who is in use.
    asked: bool,
    /// Bytes it needs on each device, beside what it holds.
    bytes: i128,
    devices: usize,
    /// The devices it must have, when it sleeps there.
    place: Option<Vec<usize>>,
}

/// What is free, and what will be when all who are leaving or have been asked to leave are gone.
struct Ledger {
    free: Vec<i128>,
    future: Vec<i128>,
    slots: i64,
    slots_future: i64,
    /// Devices on which an engine starts.
    starting: BTreeSet<usize>,
}

impl Ledger {
    fn fits(&self, head: &Head, place: &[usize]) -> bool {
        self.slots >= 1 && place.iter().all(|device| self.free[*device] >= head.bytes) && self.will_fit(head, place)
    }

    fn will_fit(&self, head: &Head, place: &[usize]) -> bool {
        self.slots_future >= 1 && place.iter().all(|device| self.future[*device] >= head.bytes)
    }

    fn take_now(&mut self, head: &Head, place: &[usize]) {
        place.iter().for_each(|device| self.free[*device] -= head.bytes);
        self.slots -= 1;
    }

    fn reserve(&mut self, head: &Head, place: &[usize]) {
        place.iter().for_each(|device| self.future[*device] -= head.bytes);
        self.slots_future -= 1;
    }
}

/// How an engine makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Stop,
    Sleep,
}

/// Whether an engine may go for another one; the earlier, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leave {
    /// Now.
    Now,
    /// When its running requests have ended; new ones are to queue.
    Drained,
    /// Not yet.
    NotYet,
}

impl Core {
    /// Why an engine with these needs never gets a place, if it does not.
    pub(in crate::scheduler) fn too_large(&self, needs: &Needs) -> Option<Refusal> {
        let mut budgets: Vec<u64> = self.devices.iter().copied().collect::<Option<_>>()?;
        budgets.sort_unstable_by(|one, other| other.cmp(one));
        let devices = needs.devices.max(1);
        let budget = budgets.get(devices - 1).copied().unwrap_or_default();
        (needs.bytes > budget).then_some(Refusal::TooLarge { needs: needs.bytes, devices, budget })
    }

    /// Starts and wakes what has room, and makes room for the others where it may be made.
    pub(super) fn make_room(&mut self, now: Instant) {
        let heads = self.heads();
        let yielding: BTreeSet<EngineId> =
            self.seats.iter().filter(|(_, seat)| seat.yields).map(|(id, _)| *id).collect();
        self.seats.values_mut().for_each(|seat| seat.yields = false);
        if heads.is_empty() {
            return;
        }
        let mut ledger = self.ledger();
        let mut spent = BTreeSet::new();
        for head in heads {
            let place = self.choose_place(&head, &ledger, &spent);
            if ledger.fits(&head, &place) {
                ledger.take_now(&head, &place);
                ledger.reserve(&head, &place);
                // Two starts at a time would measure each other's memory as taken.
                if place.iter().all(|device| !ledger.starting.contains(device)) {
                    ledger.starting.extend(&place);
                    self.begin(head.engine, place, now);
                }
                continue;
            }
            if !ledger.will_fit(&head, &place) {
                let chosen = [true, false]
                    .into_iter()
                    .find_map(|sleep| self.choose_victims(&head, &place, &ledger, &spent, (&yielding, sleep), now));
                for (victim, exit) in chosen.iter().flatten() {
                    spent.insert(*victim);
                    let seat = &self.seats[victim];
                    seat.place.iter().for_each(|device| ledger.future[*device] += gain(seat, *exit));
                    ledger.slots_future += i64::from(seat.life.is_loaded());
                }
                // Whoever came before may need all there is. His turn comes when he is the first.
                let Some(victims) = chosen else { continue };
                self.ask_to_leave(&head, victims, now);
            }
            ledger.reserve(&head, &place);
        }
        let newly = self.seats.iter().filter(|(id, seat)| seat.yields && !yielding.contains(id)).count();
        self.drains += newly as u64;
    }

    /// Those who need a place, in the order in which they asked.
    fn heads(&self) -> Vec<Head> {
        let needs_place = |(id, seat): (&EngineId, &Seat)| {
            if !matches!(seat.life, Life::Down | Life::Asleep(_)) {
                return None;
            }
            let since = [seat.oldest(), seat.wanted].into_iter().flatten().min()?;
            let needs = &seat.needs;
            Some(Head {
                engine: *id,
                since,
                asked: seat.oldest().is_some(),
                bytes: i128::from(needs.bytes) - i128::from(seat.charge()),
                devices: needs.devices.max(1),
                place: matches!(seat.life, Life::Asleep(_)).then(|| seat.place.clone()),
            })
        };
        let mut heads: Vec<_> = self.seats.iter().filter_map(needs_place).collect();
        heads.retain(|head| head.place.is_some() || self.too_large(&self.seats[&head.engine].needs).is_none());
        heads.sort_by_key(|head| (!head.asked, head.since));
        heads
    }

    fn ledger(&self) -> Ledger {
        let free: Vec<i128> = self.devices.iter().map(|budget| budget.map_or(UNKNOWN, i128::from)).collect();
        let unknown = self.devices.iter().any(Option::is_none);
        let slots = match self.rules.max_loaded {
            // Without figures one at a time is the only thing that is sure to fit.
            0 if unknown => 1,
            0 => i64::MAX >> 1,
            limit => i64::try_from(limit).unwrap_or(i64::MAX >> 1),
        };
        let mut ledger = Ledger { future: free.clone(), free, slots, slots_future: slots, starting: BTreeSet::new() };
        for seat in self.seats.values() {
            let leaves = match seat.life {
                Life::Leaving { .. } => i128::from(seat.charge()),
                Life::DozingOff(_) => gain(seat, Exit::Sleep),
                _ => 0,
            };
            let goes = i64::from(matches!(seat.life, Life::Leaving { asleep: false } | Life::DozingOff(_)));
            for device in &seat.place {
                ledger.free[*device] -= i128::from(seat.charge());
                ledger.future[*device] += leaves - i128::from(seat.charge());
            }
            ledger.slots -= i64::from(seat.life.is_loaded());
            ledger.slots_future += goes - i64::from(seat.life.is_loaded());
            if seat.life.is_starting() {
                ledger.starting.extend(&seat.place);
            }
        }
        ledger
    }

    /// The devices with most room: free now, else free soon, else to be freed.
    fn choose_place(&self, head: &Head, ledger: &Ledger, spent: &BTreeSet<EngineId>) -> Vec<usize> {
        if let Some(place) = &head.place {
            return place.clone();
        }
        if self.devices.iter().any(Option::is_none) {
            return vec![0];
        }
        let all = 0..self.devices.len();
        let best = |mut devices: Vec<usize>, room: &dyn Fn(usize) -> i128| {
            devices.sort_by_key(|device| std::cmp::Reverse(room(*device)));
            devices.truncate(head.devices);
            (devices.len() == head.devices).then_some(devices)
        };
        let now = |device: usize| ledger.free[device].min(ledger.future[device]);
        let soon = |device: usize| ledger.future[device];
        let at_most = |device: usize| {
            let others = self.seats.iter().filter(|(id, seat)| !spent.contains(id) && seat.life.can_be_stopped());
            let held: i128 = others
                .filter(|(_, seat)| seat.place.contains(&device))
                .map(|(_, seat)| i128::from(seat.charge()))
                .sum();
            ledger.future[device] + held
        };
        let fitting = |room: &dyn Fn(usize) -> i128| all.clone().filter(|device| room(*device) >= head.bytes).collect();
        best(fitting(&now), &now)
            .or_else(|| best(fitting(&soon), &soon))
            .or_else(|| best(all.clone().collect(), &at_most))
            .unwrap_or_default()
    }

    /// The engines whose going makes room for `head`: those that may go now first, then the least recently used ones,
    /// and none that need not. `None` when all together do not suffice.
    fn choose_victims(
        &self,
        head: &Head,
        place: &[usize],
        ledger: &Ledger,
        spent: &BTreeSet<EngineId>,
        (yielding, sleep): (&BTreeSet<EngineId>, bool),
        now: Instant,
    ) -> Option<Vec<(EngineId, Exit)>> {
        let exit = |seat: &Seat| {
            if sleep && seat.needs.sleeps.is_some() && seat.life == Life::Ready { Exit::Sleep } else { Exit::Stop }
        };
        let crowded = ledger.slots_future < 1;
        let mut candidates: Vec<_> = self
            .seats
            .iter()
            .filter(|(id, seat)| **id != head.engine && !spent.contains(id) && seat.life.can_be_stopped())
            .filter(|(_, seat)| {
                (crowded && seat.life.is_loaded()) || seat.place.iter().any(|device| place.contains(device))
            })
            .collect();
        candidates.sort_by_key(|(id, seat)| {
            let asleep = matches!(seat.life, Life::Asleep(_));
            (self.leave(seat, head, now).0, asleep, !yielding.contains(id), seat.last_used)
        });
        let suffices = |victims: &[(&EngineId, &Seat)]| {
            let slots: i64 = victims.iter().map(|(_, seat)| i64::from(seat.life.is_loaded())).sum();
            let freed = |device: usize| -> i128 {
                let here = victims.iter().filter(|(_, seat)| seat.place.contains(&device));
                here.map(|(_, seat)| gain(seat, exit(seat))).sum()
            };
            ledger.slots_future + slots >= 1
                && place.iter().all(|device| ledger.future[*device] + freed(*device) >= head.bytes)
        };
        let mut victims = Vec::new();
        for candidate in candidates {
            if suffices(&victims) {
                break;
            }
            victims.push(candidate);
        }
        if !suffices(&victims) {
            return None;
        }
        let mut at = 0;
        while at < victims.len() {
            let candidate = victims.remove(at);
            if !suffices(&victims) {
                victims.insert(at, candidate);
                at += 1;
            }
        }
        Some(victims.into_iter().map(|(id, seat)| (*id, exit(seat))).collect())
    }

    /// Lets them go when all of them may; until then those that must be waited for take nothing new, once nothing but
    /// their running requests is in the way.
    fn ask_to_leave(&mut self, head: &Head, victims: Vec<(EngineId, Exit)>, now: Instant) {
        let leaves: Vec<_> = victims.iter().map(|(id, _)| self.leave(&self.seats[id], head, now)).collect();
        let last = leaves.iter().map(|(leave, _)| *leave).max();
        match last {
            Some(Leave::Now) => victims.into_iter().for_each(|(id, exit)| self.leave_now(id, exit, now)),
            Some(Leave::Drained) => {
                for ((id, _), (leave, _)) in victims.into_iter().zip(leaves) {
                    self.with(id, |seat| seat.yields = leave == Leave::Drained);
                }
            }
            _ => leaves.into_iter().filter_map(|(_, at)| at).for_each(|at| self.look(at, now)),
        }
    }

    /// Whether an engine may go for `head`, and when to ask again if time can change that.
    fn leave(&self, seat: &Seat, head: &Head, now: Instant) -> (Leave, Option<Instant>) {
        let starves_at = head.since + self.rules.max_wait;
        let starves = head.asked && now >= starves_at;
        if seat.life == Life::Ready && now < seat.since + self.rules.min_residence {
            return (Leave::NotYet, Some(seat.since + self.rules.min_residence));
        }
        let served = match seat.life {
            Life::Ready => seat.owed == 0,
            Life::Starting | Life::Waking => seat.waiting.is_empty(),
            _ => true,
        };
        let quiet_at = seat.last_used + self.rules.linger;
        let quiet = seat.is_unused() && now >= quiet_at;
        if seat.leases == 0 && served && (quiet || starves) {
            (Leave::Now, None)
        } else if starves {
            (Leave::Drained, None)
        } else {
            let ask = [head.asked.then_some(starves_at), seat.is_unused().then_some(quiet_at)];
            (Leave::NotYet, ask.into_iter().flatten().filter(|at| *at > now).min())
        }
    }

    fn leave_now(&mut self, engine: EngineId, exit: Exit, now: Instant) {
        self.swaps += u64::from(self.seats.get(&engine).is_some_and(|seat| seat.life.is_loaded()));
        if exit == Exit::Stop {
            return self.stop(engine);
        }
        let Some(level) = self.level_of_sleep(engine) else { return self.stop(engine) };
        self.with(engine, |seat| seat.enter(Life::DozingOff(level), now));
        self.actions.push(Action::Sleep(engine, level));
    }

    /// The level at which there is main memory for an engine to sleep: at the second one the weights are forgotten, and
    /// read again later. `None` when there is not even memory for its processes.
    fn level_of_sleep(&self, engine: EngineId) -> Option<u8> {
        let asleep = |seat: &Seat| match seat.life {
            Life::Asleep(level) | Life::DozingOff(level) => held_asleep(seat, level),
            _ => 0,
        };
        let taken: u64 = self.seats.values().map(asleep).sum();
        let seat = self.seats.get(&engine)?;
        [1, 2].into_iter().find(|level| taken.saturating_add(held_asleep(seat, *level)) <= self.rules.sleeping_memory)
    }

    fn begin(&mut self, engine: EngineId, place: Vec<usize>, now: Instant) {
        let known = self.devices.iter().all(Option::is_some);
        let Some(seat) = self.seats.get_mut(&engine) else { return };
        if matches!(seat.life, Life::Asleep(_)) {
            seat.enter(Life::Waking, now);
            return self.actions.push(Action::Wake(engine));
        }
        seat.place.clone_from(&place);
        seat.ordered = seat.generation + 1;
        seat.enter(Life::Starting, now);
        self.actions.push(Action::Start(engine, if known { place } else { Vec::new() }));
    }
}

/// Bytes of main memory that an engine takes while it sleeps at this level.
fn held_asleep(seat: &Seat, level: u8) -> u64 {
    let weights = if level == 1 { seat.needs.sleeps.unwrap_or_default() } else { 0 };
    weights.saturating_add(SLEEPING_PROCESSES)
}

/// Bytes that get free on each device of an engine when it goes.
fn gain(seat: &Seat, exit: Exit) -> i128 {
    let kept = if exit == Exit::Sleep { seat.residue() } else { 0 };
    i128::from(seat.charge()) - i128::from(kept)
}
