//! Round after round: a load, a fault, the service back, nothing left of it. Several vllamas live through them side by side,
//! each for a hundred rounds at most.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::RwLock;

use super::faults::{self, Deck, Effect, Fault, Phase};
use super::ground::Ground;
use super::load::{Ledger, Load};
use super::narrow::Narrow;
use super::orders::Orders;
use super::report::Report;
use super::strike::World;
use super::zombies::Zombies;
use crate::harness::{Vllama, eventually};

/// Clients that ask all the time.
const CLIENTS: u64 = 6;
/// Rounds that one vllama lives through.
const LIFE: usize = 100;
/// What a start of an engine takes, from its imports to its server.
const START: &str = "import:150,load:200,serving:100";
/// Times a request is asked again after a death.
pub const REPLAYS: usize = 1;

/// What is common to all that runs side by side.
pub struct Course {
    deck: Mutex<(Deck, fastrand::Rng)>,
    left: AtomicUsize,
    narrow: bool,
    zombies: Zombies,
    report: Mutex<Report>,
    /// There is one `/dev/shm` for all: who fills it has it alone.
    shared_memory: RwLock<()>,
}

/// Runs this many rounds on this many vllamas at a time, and gives what was seen.
pub fn run(runtime: &Runtime, rounds: usize, lanes: usize, seed: u64, narrow: bool) -> Report {
    let course = Course {
        deck: Mutex::new((Deck::new(faults::all(narrow)), fastrand::Rng::with_seed(seed))),
        left: AtomicUsize::new(rounds),
        narrow,
        zombies: Zombies::watch(),
        report: Mutex::default(),
        shared_memory: RwLock::default(),
    };
    let failed = std::thread::scope(|scope| {
        let course = &course;
        let lane = |lane| runtime.block_on(course.lane(fastrand::Rng::with_seed(seed ^ (lane << 40))));
        let lanes: Vec<_> = (1..=lanes as u64).map(|number| scope.spawn(move || lane(number))).collect();
        lanes.into_iter().filter_map(|lane| lane.join().err()).count()
    });
    let mut report = course.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
    report.zombies = course.zombies.found();
    if failed > 0 {
        report.print();
        panic!("a round has failed, as it says above; these were before it");
    }
    report
}

/// Takes the rounds away that are left, when it is dropped.
struct EndsAll<'a>(&'a AtomicUsize);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Course {
    async fn lane(&self, mut random: fastrand::Rng) {
        // Who fails has seen enough for all.
        let _ends_all = EndsAll(&self.left);
        while self.left.load(Ordering::Relaxed) > 0 {
            self.life(&mut random).await;
        }
    }

    /// Takes one of the rounds that are left.
    fn take(&self) -> Option<Fault> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.ok()?;
        let mut deck = self.deck.lock().unwrap_or_else(PoisonError::into_inner);
        let (deck, random) = &mut *deck;
        Some(deck.deal(random))
    }

    fn report(&self, note: impl FnOnce(&mut Report)) {
        note(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// One vllama, from its start to its orderly end.
    async fn life(&self, random: &mut fastrand::Rng) {
        let world = {
            // No vllama starts where /dev/shm is full.
            let _shared = self.shared_memory.read().await;
            World::start(self.narrow.then(Narrow::new)).await
        };
        self.zombies.watch_children_of(world.vllama.pid());
        let ground = Ground::of(&world.vllama);
        for _ in 0..LIFE {
            let Some(fault) = self.take() else { break };
            self.round(&world, &ground, fault, random).await;
        }
        let World { vllama, ledger, .. } = &world;
        let convicted = vllama.stderr().iter().filter(|line| line.contains("has died of a request")).count();
        let counts = ledger.count_with(&vllama.path("requests"), 1 + REPLAYS + convicted);
        self.report(|report| {
            report.requests.add(&counts);
            report.starts += vllama.starts();
        });
        self.zombies.forget(vllama.pid());
        world.vllama.stop().await;
    }

    async fn round(&self, world: &World, ground: &Ground, fault: Fault, random: &mut fastrand::Rng) {
        let alone = fault == Fault::FullSharedMemory;
        let _shared = if alone { None } else { Some(self.shared_memory.read().await) };
        let _alone = if alone { Some(self.shared_memory.write().await) } else { None };
        let name = fault.name();
        let back = world.round(fault, random).await;
        ground.check(&world.vllama, &name).await;
        let start = start_time(&world.vllama).await;
        self.report(|report| report.round(fault, back, start));
    }
}

impl World {
    /// A vllama whose engine is complete.
    pub async fn start(narrow: Option<Narrow>) -> Self {
        let builder = Vllama::with_fake();
        let requests = builder.path().join("requests");
        let builder = match &narrow {
            Some(narrow) => builder.env("VLLAMA_STATE", &narrow.path().to_string_lossy()),
            None => builder,
        };
        let vllama = builder
            .env("FAKE_VLLM_START", START)
            .env("FAKE_VLLM_FIRST_TOKEN_MS", "10")
            .env("FAKE_VLLM_TOKEN_RATE", "100")
            .env("FAKE_VLLM_STRAYS", "1")
            .env("FAKE_VLLM_ZOMBIES", "1")
            .env("FAKE_VLLM_LEAVE_FILES", "tracked")
            .with_phases()
            .env("FAKE_VLLM_REQUESTS", &requests.to_string_lossy())
            .env("VLLAMA_LOG", "info")
            .env("VLLAMA_HEARTBEAT", "600ms")
            .env("VLLAMA_START_TIMEOUT", "1s")
            .env("VLLAMA_STOP_TIMEOUT", "1s")
            .env("VLLAMA_STALL_TIMEOUT", "500ms")
            .env("VLLAMA_REPLAYS", &REPLAYS.to_string())
            .start()
            .await;
        let orders = Orders::to(&vllama);
        let world = Self { vllama, orders, ledger: Ledger::default(), narrow };
        let is_complete = async || world.orders.all_take_orders(&world.vllama).then_some(());
        eventually("the engine is complete", is_complete).await;
        world
    }

    /// A fault while requests run, until the service is back and they have ended; how long it took to be back.
    async fn round(&self, fault: Fault, random: &mut fastrand::Rng) -> Duration {
        let start =
            |random: &mut fastrand::Rng| Load::start(&self.vllama.client, CLIENTS, random.u64(..), &self.ledger);
        let mut load = None;
        match fault.phase() {
            Some(phase @ (Phase::Import | Phase::Load)) => {
                self.unload().await;
                self.vllama.engine_state("stopped").await;
                self.orders.hold(phase);
                load = Some(start(random));
                self.orders.reached(phase).await;
                if fault == Fault::All(phase) {
                    // Not even the tracker is left to tell what there was: vllama must have seen it.
                    let is_seen =
                        async || (self.vllama.health().await["engine"]["phase"] == "loading weights").then_some(());
                    eventually("vllama knows that the weights load", is_seen).await;
                }
            }
            Some(phase @ Phase::Stopping) => {
                self.orders.hold(phase);
                self.unload().await;
                load = Some(start(random));
                self.orders.reached(phase).await;
            }
            Some(Phase::Ready) => self.rested().await,
            None if fault == Fault::TermIgnored => {}
            Some(Phase::Streaming) | None => {
                load = Some(start(random));
                self.rested().await;
                let runs = async || (self.vllama.health().await["engine"]["running"].as_u64() > Some(0)).then_some(());
                eventually("a request runs", runs).await;
            }
        }
        let old = self.generation().await;
        let begun = Instant::now();
        let full = self.strike(fault, random).await;
        for phase in [Phase::Import, Phase::Load, Phase::Stopping] {
            self.orders.release(phase);
        }
        let load = load.unwrap_or_else(|| start(random));
        self.answered(fault, old).await;
        let back = begun.elapsed();
        drop(full);
        load.end().await;
        if fault == Fault::Tracker {
            // The engine lives on without it; the next one has one again.
            self.unload().await;
            self.vllama.engine_state("stopped").await;
            assert_eq!(self.vllama.chat("FAKE:count 1").await.status(), 200);
        }
        back
    }

    /// Waits until the engine has been ready as long as its start took: one that dies sooner is not started again at once.
    pub async fn rested(&self) {
        let mut before = None;
        loop {
            let took = start_time(&self.vllama).await;
            let generation = self.generation().await;
            if generation == before {
                return;
            }
            before = generation;
            tokio::time::sleep(Duration::from_secs_f64(took)).await;
        }
    }

    /// Waits until a request of no special kind is answered, by another generation than the old one where that must go.
    pub async fn answered(&self, fault: Fault, old: Option<u64>) {
        let back = async || {
            let is_new = fault.effect() == Effect::Bearable || self.generation().await > old;
            (is_new && self.vllama.chat("FAKE:count 1").await.status() == 200).then_some(())
        };
        eventually(&format!("an answer after {}", fault.name()), back).await;
    }
}

/// How long the start of the engine that is ready now took by itself, in seconds.
pub async fn start_time(vllama: &Vllama) -> f64 {
    let told = async || {
        let generation = &vllama.health().await["engine"]["generation"];
        let events = vllama.events();
        let event = events.iter().rev().find(|event| event["event"] == "ready" && event["generation"] == *generation);
        event.and_then(|event| event["seconds"].as_f64())
    };
    eventually("vllama tells how long the start took", told).await
}
