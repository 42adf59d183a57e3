//! Thousands of random steps, and what must hold after each of them: nothing is stopped or put to sleep under a lease, a
//! lease outlives its generation only by a crash, no device holds more than its budget, starts on one device are one at a
//! time, every request gets exactly one answer, and nobody waits for ever.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;

const GIB: u64 = 1 << 30;

/// Numbers that only look random: the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let sides = from.len() as u64;
        (sides > 0).then(|| from[usize::try_from(self.roll(sides)).expect("an index")])
    }
}

/// What an engine really does, whatever the core believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Real {
    Down,
    Starting,
    Ready,
    Stopping { asleep: bool },
    DozingOff(u8),
    Asleep(u8),
    Waking,
    Restarting,
    Failed,
}

#[derive(Debug)]
struct Engine {
    real: Real,
    generation: u64,
    crashes: u64,
    place: Vec<usize>,
    /// Its last change has not been reported yet.
    news: bool,
    /// It sleeps as soon as it is up.
    dozes: Option<u8>,
    /// Nobody else may start beside it: its start was ordered, not one after a crash.
    ordered_start: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    engine: EngineId,
    generation: u64,
    crashes: u64,
}

struct World {
    core: Core,
    now: Instant,
    dice: Dice,
    engines: Vec<Engine>,
    needs: Vec<Needs>,
    budgets: Vec<u64>,
    waiting: BTreeMap<Ticket, (EngineId, Instant)>,
    leases: Vec<Lease>,
    tickets: Ticket,
    retired: BTreeSet<EngineId>,
    answered: u64,
    swaps: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let now = Instant::now();
        let devices = 1 + dice.roll(3);
        let budgets: Vec<u64> = (0..devices).map(|_| (8 + dice.roll(20)) * GIB).collect();
        let rules = Rules {
            max_queue: usize::try_from(dice.roll(30) + 1).expect("small"),
            max_loaded: usize::try_from(dice.roll(4)).expect("small"),
            max_wait: Duration::from_secs(30),
            min_residence: Duration::from_secs(10),
            linger: Duration::from_millis(500),
            sleeping_memory: dice.roll(20) * GIB,
        };
        let mut core = Core::new(rules, budgets.iter().copied().map(Some).collect());
        let needs: Vec<Needs> = (0..=dice.roll(5) + 1)
            .map(|_| Needs {
                bytes: (1 + dice.roll(14)) * GIB,
                devices: usize::try_from(1 + dice.roll(2)).expect("small"),
                concurrency: usize::try_from(1 + dice.roll(4)).expect("small"),
                sleeps: (dice.roll(2) == 0).then_some(4 * GIB),
                start: Duration::from_secs(20),
            })
            .collect();
        for (id, needs) in needs.iter().enumerate() {
            let usual = dice.pick(&[KeepAlive::Forever, KeepAlive::For(Duration::from_secs(300))]).expect("one");
            core.add(id as EngineId, *needs, usual, now);
        }
        let engine = || Engine {
            real: Real::Down,
            generation: 0,
            crashes: 0,
            place: Vec::new(),
            news: false,
            dozes: None,
            ordered_start: false,
        };
        let engines = needs.iter().map(|_| engine()).collect();
        let (waiting, leases, retired) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { core, now, dice, engines, needs, budgets, waiting, leases, tickets: 0, retired, answered: 0, swaps: 0 }
    }

    fn tell(&mut self, event: Event) {
        let actions = self.core.handle(event, self.now);
        for action in actions {
            self.act(action);
        }
        self.check();
    }

    fn leased(&self, engine: EngineId) -> bool {
        self.leases.iter().any(|lease| lease.engine == engine)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(id, place) => {
                let devices = self.needs[id as usize].devices;
                assert_eq!(place.iter().collect::<BTreeSet<_>>().len(), devices, "as many devices as it needs");
                let engine = &mut self.engines[id as usize];
                assert!(matches!(engine.real, Real::Down | Real::Failed), "{engine:?} was started");
                (engine.real, engine.place, engine.news) = (Real::Starting, place, true);
                engine.generation += 1;
                engine.ordered_start = true;
            }
            Action::Stop(id) => {
                assert!(!self.leased(id), "stopped under a lease");
                let engine = &mut self.engines[id as usize];
                assert!(engine.real != Real::Down || engine.news, "stopped twice");
                self.swaps += 1;
                // What has just died stays so, and will be told.
                if !matches!(engine.real, Real::Failed | Real::Down) {
                    engine.dozes = None;
                    engine.real = Real::Stopping { asleep: matches!(engine.real, Real::Asleep(_)) };
                }
            }
            Action::Sleep(id, level) => {
                assert!(!self.leased(id), "put to sleep under a lease");
                let engine = &mut self.engines[id as usize];
                match engine.real {
                    Real::Ready => engine.real = Real::DozingOff(level),
                    // It has just died, and nobody wants it awake.
                    Real::Restarting => (engine.real, engine.news) = (Real::Down, true),
                    // It has died and starts again: it sleeps as soon as it is up.
                    Real::Starting => engine.dozes = Some(level),
                    Real::Failed => {}
                    other => panic!("{other:?} was put to sleep"),
                }
            }
            Action::Wake(id) => {
                let engine = &mut self.engines[id as usize];
                match engine.real {
                    Real::Asleep(_) => engine.real = Real::Waking,
                    // It died in its sleep.
                    Real::Down => {
                        (engine.real, engine.generation, engine.news) = (Real::Starting, engine.generation + 1, true)
                    }
                    other => panic!("{other:?} was woken"),
                }
            }
            Action::Grant(ticket, id) => {
                let (engine, _) = self.waiting.remove(&ticket).expect("one answer for somebody who waits");
                assert_eq!(engine, id);
                assert!(!self.retired.contains(&id), "a lease on a retired engine");
                let Engine { generation, mut crashes, real, news, .. } = self.engines[id as usize];
                // It may have died a moment ago; whoever holds the lease waits for its next generation.
                if real != Real::Ready || news {
                    assert!(news && crashes > 0, "granted on an engine that is {real:?}");
                    crashes -= 1;
                }
                self.leases.push(Lease { engine, generation, crashes });
                let limit = self.needs[id as usize].concurrency;
                assert!(self.leases.iter().filter(|lease| lease.engine == id).count() <= limit, "too many at a time");
                self.answered += 1;
            }
            Action::Refuse(ticket, _) => {
                self.waiting.remove(&ticket).expect("one answer for somebody who waits");
                self.answered += 1;
            }
            Action::Retired(id) => {
                assert!(!self.leased(id));
                assert!(matches!(self.engines[id as usize].real, Real::Down | Real::Failed));
                self.retired.insert(id);
            }
            Action::Kill(_) => panic!("nobody ends this vllama"),
        }
    }

    /// What must hold at any time.
    fn check(&self) {
        for lease in &self.leases {
            let engine = &self.engines[lease.engine as usize];
            let same = engine.generation == lease.generation && engine.real == Real::Ready;
            assert!(same || engine.crashes > lease.crashes, "{lease:?} has outlived {engine:?}");
        }
        for (device, budget) in self.budgets.iter().enumerate() {
            let here = || self.engines.iter().zip(&self.needs).filter(|(engine, _)| engine.place.contains(&device));
            let held: u64 = here()
                .map(|(engine, needs)| match engine.real {
                    Real::Down | Real::Failed | Real::Restarting => 0,
                    Real::Asleep(_) | Real::Stopping { asleep: true } => needs.bytes.min(2 * GIB),
                    _ => needs.bytes,
                })
                .sum();
            assert!(held <= *budget, "device {device} holds {held} of {budget}: {:?}", self.engines);
            let starting = here().filter(|(engine, _)| engine.real == Real::Starting && engine.ordered_start).count();
            assert!(starting <= 1, "{starting} starts at a time on device {device}");
        }
        let loaded = |engine: &&Engine| {
            !matches!(engine.real, Real::Down | Real::Failed | Real::Asleep(_) | Real::Stopping { asleep: true })
        };
        let loaded = self.engines.iter().filter(loaded).count();
        assert!(self.core.rules.max_loaded == 0 || loaded <= self.core.rules.max_loaded, "{loaded} are loaded");
        assert!(
            self.waiting.len() <= self.core.rules.max_queue + self.needs.iter().map(|n| n.concurrency).sum::<usize>()
        );
        assert_eq!(self.core.waiting, self.waiting.len(), "the core counts who waits");
    }

    fn any_engine(&mut self) -> EngineId {
        self.dice.roll(self.engines.len() as u64)
    }

    fn request(&mut self, engine: EngineId) {
        let ticket = self.tickets;
        self.tickets += 1;
        self.waiting.insert(ticket, (engine, self.now));
        let seconds = |seconds| Some(KeepAlive::For(Duration::from_secs(seconds)));
        let keep_alive = self.dice.pick(&[None, None, None, seconds(0), seconds(60), Some(KeepAlive::Forever)]);
        let patience = self.dice.pick(&[None, None, None, Some(Duration::ZERO), Some(Duration::from_secs(20))]);
        let (keep_alive, patience) = (keep_alive.expect("one of them"), patience.expect("one of them"));
        self.tell(Event::Request { ticket, engine, keep_alive, patience });
    }

    /// An engine gets on with what it is doing.
    fn proceed(&mut self, id: EngineId) {
        let engine = &mut self.engines[id as usize];
        let next = match engine.real {
            Real::Starting | Real::Waking => engine.dozes.take().map_or(Real::Ready, Real::DozingOff),
            Real::Stopping { .. } => Real::Down,
            Real::DozingOff(level) => Real::Asleep(level),
            Real::Restarting => {
                engine.generation += 1;
                engine.ordered_start = false;
                Real::Starting
            }
            other => other,
        };
        engine.news |= next != engine.real;
        engine.real = next;
    }

    /// An engine dies, if it lives.
    fn crash(&mut self, id: EngineId, for_good: bool) {
        let engine = &mut self.engines[id as usize];
        let next = match engine.real {
            Real::Starting | Real::Ready | Real::Waking if for_good => Real::Failed,
            Real::Starting | Real::Ready | Real::Waking => Real::Restarting,
            Real::Stopping { .. } | Real::DozingOff(_) | Real::Asleep(_) => Real::Down,
            other => other,
        };
        if next != engine.real {
            let unwanted = next == Real::Restarting && engine.dozes.take().is_some();
            (engine.real, engine.news) = (if unwanted { Real::Down } else { next }, true);
            engine.crashes += 1;
        }
    }

    /// Tells the core what an engine does now; what it did in between is lost, as on a watch channel.
    fn report(&mut self, id: EngineId) {
        let engine = &mut self.engines[id as usize];
        let stage = match engine.real {
            Real::Down => Stage::Down,
            Real::Starting => Stage::Starting,
            Real::Ready => Stage::Ready,
            Real::Restarting => Stage::Restarting,
            Real::Asleep(level) => Stage::Asleep(level),
            Real::Failed => Stage::Failed,
            Real::Stopping { .. } | Real::DozingOff(_) | Real::Waking => return,
        };
        engine.news = false;
        let failure = (stage == Stage::Failed).then(|| "broken".to_owned());
        let report = Report { stage, generation: engine.generation, paused_until: None, failure };
        self.tell(Event::Report { engine: id, report });
    }

    fn step(&mut self) {
        let engine = self.any_engine();
        match self.dice.roll(100) {
            0..30 => self.request(engine),
            30..36 => {
                let waiting: Vec<_> = self.waiting.iter().map(|(ticket, (engine, _))| (*ticket, *engine)).collect();
                if let Some((ticket, engine)) = self.dice.pick(&waiting) {
                    self.waiting.remove(&ticket);
                    self.tell(Event::GivenUp { ticket, engine });
                }
            }
            36..58 => self.release_one(),
            58..72 => self.proceed(engine),
            72..84 => self.report(engine),
            84..94 => {
                self.now += Duration::from_millis(self.dice.roll(8000));
                self.tell(Event::Time);
            }
            94..96 => self.crash(engine, false),
            96 => {
                let for_good = self.dice.roll(10) == 0;
                self.crash(engine, for_good);
            }
            97 => self.tell(Event::Unload(engine)),
            98 if self.retired.remove(&engine) => self.tell(Event::Restored(engine)),
            98 if self.dice.roll(4) == 0 => self.tell(Event::Retire(engine)),
            _ => self.tell(Event::Load(engine)),
        }
    }

    fn release_one(&mut self) {
        if !self.leases.is_empty() {
            let at = self.dice.roll(self.leases.len() as u64);
            let lease = self.leases.swap_remove(usize::try_from(at).expect("an index"));
            self.tell(Event::Released(lease.engine));
        }
    }

    /// Engines work, leases end, time passes, one model is asked for again and again: everybody else is served too.
    fn everybody_is_served(&mut self) {
        let popular = self.any_engine();
        let before = self.tickets;
        for _ in 0..4000 {
            self.now += Duration::from_millis(250);
            self.tell(Event::Time);
            if self.waiting.len() < self.core.rules.max_queue {
                self.request(popular);
            }
            for id in 0..self.engines.len() as u64 {
                self.proceed(id);
                self.report(id);
                if self.retired.remove(&id) {
                    self.tell(Event::Restored(id));
                }
            }
            for _ in 0..self.leases.len().div_ceil(3) {
                self.release_one();
            }
            if self.waiting.range(..before).next().is_none() {
                return;
            }
        }
        let waiting: Vec<_> = self.waiting.range(..before).collect();
        panic!("after 1000 s these still wait: {waiting:?}\n{:?}\n{:#?}", self.engines, self.core);
    }
}

#[test]
fn whatever_happens_the_promises_hold() {
    let (mut answered, mut swaps) = (0, 0);
    for seed in 1..=300 {
        let mut world = World::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..1500 {
                world.step();
            }
            world.everybody_is_served();
        }));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
        answered += world.answered;
        swaps += world.swaps;
    }
    // Otherwise the dice have not tried much.
    assert!(answered > 50_000 && swaps > 2_000, "{answered} answers, {swaps} engines stopped");
}
