//! The same with the real vLLM and a real model: what can be done to its processes from outside, while real streams run.
//! What needs a process that obeys (garbage, slow deaths) is left to the fake.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::faults::{Blow, Effect, Fault, Part, Phase};
use super::ground::Usage;
use super::load::{Fate, Ledger};
use super::report::{Report, quantile};
use super::rounds::start_time;
use super::zombies::Zombies;
use crate::harness::processes::{self, Process};
use crate::harness::{Client, Request, Vllama, default_model, within};

/// The default model.
const MODEL: &str = default_model::NAME;
/// How long an engine may do nothing though it has requests.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long an engine may say nothing while it starts: longer than its longest silence, the imports.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for anything: a start, after whatever was before it.
const PATIENCE: Duration = Duration::from_secs(400);
/// Clients that read a stream, that want one piece, and that hang up.
const CLIENTS: [(Manner, usize); 3] = [(Manner::Streams, 6), (Manner::Waits, 4), (Manner::Leaves, 2)];
/// Growth of resident memory that says nothing, in bytes.
const MEMORY: u64 = 24 << 20;
/// Threads that come with work that blocks, and go ten seconds after it.
const THREADS: usize = 24;
/// What vllama may add to the start of an engine (issue 5).
const RATIO: f64 = 1.1;

/// What goes wrong, in this order. A short run has the first two, which the group `deaths` of tests/real does not have. Hardly
/// ever does one engine die soon after another, which vllama would answer with a pause, without a stop that was asked for in between.
const FAULTS: [Fault; 25] = [
    Fault::All(Phase::Streaming),
    Fault::Blow(Blow::Kill, Part::Leader, Phase::Load),
    Fault::Blow(Blow::Stop, Part::Core, Phase::Streaming),
    Fault::Blow(Blow::Kill, Part::Core, Phase::Stopping),
    Fault::Blow(Blow::Kill, Part::Leader, Phase::Streaming),
    Fault::Vanish,
    Fault::Blow(Blow::Kill, Part::Core, Phase::Load),
    Fault::Blow(Blow::Kill, Part::Core, Phase::Streaming),
    Fault::Blow(Blow::Term, Part::Leader, Phase::Streaming),
    Fault::Blow(Blow::Kill, Part::Leader, Phase::Import),
    Fault::Blow(Blow::Kill, Part::Core, Phase::Ready),
    Fault::Unload,
    Fault::Blow(Blow::Stop, Part::Leader, Phase::Stopping),
    Fault::Blow(Blow::Term, Part::Core, Phase::Streaming),
    Fault::Blow(Blow::Stop, Part::Leader, Phase::Streaming),
    Fault::All(Phase::Load),
    Fault::Blow(Blow::Kill, Part::Leader, Phase::Ready),
    Fault::Noise,
    Fault::Blow(Blow::Term, Part::Leader, Phase::Load),
    Fault::All(Phase::Ready),
    Fault::Blow(Blow::Stop, Part::Core, Phase::Ready),
    Fault::Blow(Blow::Kill, Part::Leader, Phase::Stopping),
    Fault::Twice,
    Fault::Blow(Blow::Stop, Part::Core, Phase::Load),
    Fault::Blow(Blow::Stop, Part::Core, Phase::Stopping),
];

/// How a client takes its answers.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Streams,
    Waits,
    Leaves,
}

/// Runs rounds, all but the first `from`, prints what was seen and checks it.
pub async fn run(venv: &Path, from: usize, rounds: usize, seed: u64) {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    default_model::import(venv, &place.join("models"));
    let vllama = Vllama::with_real(venv, &place.join("models"), &place.join("state"))
        .env("VLLAMA_LOG", "info")
        .env("VLLAMA_HEARTBEAT", &format!("{}s", HEARTBEAT.as_secs()))
        .env("VLLAMA_START_TIMEOUT", &format!("{}s", START_TIMEOUT.as_secs()))
        .start()
        .await;
    let zombies = Zombies::watch();
    zombies.watch_children_of(vllama.pid());
    let world = Real { ground: Held::by(&vllama), vllama, ledger: Ledger::default() };
    let mut random = fastrand::Rng::with_seed(seed);
    let mut report = Report::default();
    for fault in FAULTS.into_iter().cycle().skip(from).take(rounds) {
        let began = Instant::now();
        let back = world.round(fault, &mut random).await;
        world.check(&fault.name()).await;
        let start = start_time(&world.vllama).await;
        report.round(fault, back, start);
        let [back, took] = [back, began.elapsed()].map(|time| time.as_secs_f64());
        println!("  {}: back after {back:.1} s, a start takes {start:.1} s, the round {took:.1} s", fault.name());
    }
    let Real { vllama, ledger, .. } = world;
    let said = |what: &str| vllama.stderr().iter().filter(|line| line.contains(what)).count();
    report.requests = ledger.count();
    report.requests.replayed = said("the request is asked again");
    report.starts = usize::try_from(vllama.health().await["engine"]["generation"].as_u64().unwrap()).unwrap();
    report.zombies = zombies.found();
    vllama.stop().await;
    assert_eq!(segments(), BTreeSet::new(), "shared memory left behind");
    report.print();
    report.check();
    assert!(quantile(&report.ratios(), 0.5) <= RATIO, "a service that is back is a start and little more");
}

/// A vllama with the real engine.
struct Real {
    vllama: Vllama,
    ledger: Ledger,
    ground: Held,
}

/// What is there when all is well.
struct Held {
    processes: Vec<String>,
    segments: BTreeSet<String>,
    usage: Usage,
}

impl Held {
    fn by(vllama: &Vllama) -> Self {
        let mut processes: Vec<_> = vllama.processes().into_iter().map(|process| process.name).collect();
        processes.sort_unstable();
        Self { processes, segments: segments(), usage: Usage::of(vllama) }
    }
}

impl Real {
    async fn round(&self, fault: Fault, random: &mut fastrand::Rng) -> Duration {
        let mut load = None;
        match fault.phase() {
            Some(phase @ (Phase::Import | Phase::Load)) => {
                self.unload().await;
                self.state("stopped").await;
                load = Some(self.load(random));
                self.starts(phase).await;
            }
            Some(Phase::Stopping) => {
                self.unload().await;
                self.state("stopping").await;
            }
            Some(Phase::Ready) => {}
            Some(Phase::Streaming) | None => {
                load = Some(self.load(random));
                let runs = async || (self.engine().await["running"].as_u64() > Some(4)).then_some(());
                within(PATIENCE, "requests run", runs).await;
            }
        }
        let old = self.generation().await;
        let begun = Instant::now();
        self.strike(fault).await;
        let load = load.unwrap_or_else(|| self.load(random));
        self.answered(fault, old).await;
        let back = begun.elapsed();
        load.end().await;
        back
    }

    async fn strike(&self, fault: Fault) {
        match fault {
            Fault::Blow(blow, part, _) => {
                let signal = match blow {
                    Blow::Stop => Signal::SIGSTOP,
                    Blow::Term => Signal::SIGTERM,
                    _ => Signal::SIGKILL,
                };
                // One that stops may be gone by now.
                if let Some(process) = self.process(part) {
                    processes::signal(process.pid, signal);
                }
            }
            Fault::All(_) => {
                for process in self.engine_processes() {
                    processes::signal(process.pid, Signal::SIGKILL);
                }
            }
            Fault::Twice => {
                let old = self.generation().await;
                let kill = || {
                    let leader = self.process(Part::Leader).unwrap();
                    processes::signal(leader.pid, Signal::SIGKILL);
                };
                kill();
                within(PATIENCE, "the next one starts", async || (self.generation().await > old).then_some(())).await;
                self.starts(Phase::Load).await;
                kill();
            }
            Fault::Unload => self.unload().await,
            Fault::Noise => {
                for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGUSR2] {
                    self.vllama.signal(signal);
                }
            }
            _ => {
                let mut clients = JoinSet::new();
                for _ in 0..40 {
                    clients.spawn(ask(self.vllama.client.clone(), self.ledger.clone(), Manner::Leaves));
                }
                clients.join_all().await;
            }
        }
    }

    /// Checks that nothing is left of the round.
    async fn check(&self, fault: &str) {
        let is_idle = async || {
            let engine = self.engine().await;
            (engine["state"] == "ready" && engine["running"] == 0 && engine["waiting"] == 0).then_some(())
        };
        within(PATIENCE, &format!("ready and idle after {fault}"), is_idle).await;
        let Held { processes, segments, usage } = &self.ground;
        let mut held = Held::by(&self.vllama);
        let mut is_as_before = async || {
            held = Held::by(&self.vllama);
            let few = held.usage.descriptors <= usage.descriptors && held.usage.threads <= usage.threads + THREADS;
            (few && held.processes == *processes && held.segments.len() == segments.len()).then_some(())
        };
        let all = async {
            while is_as_before().await.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), all).await.is_ok();
        let now = (&held.processes, &held.segments, held.usage);
        assert!(in_time, "as it was after {fault}: {now:?} instead of {:?}", (processes, segments, usage));
        assert_eq!(self.vllama.generations().len(), 1, "directories of generations after {fault}");
        within(PATIENCE, "the engine has no requests", async || {
            (self.vllama.engine_running().await == 0).then_some(())
        })
        .await;
        let grown = held.usage.memory.saturating_sub(usage.memory);
        assert!(grown < MEMORY, "resident memory has grown by {grown} bytes after {fault}");
    }

    /// All processes of the engine.
    fn engine_processes(&self) -> Vec<Process> {
        let mut all = self.vllama.processes();
        all.retain(|process| process.pid != self.vllama.pid() && !process.name.starts_with("vllama"));
        all
    }

    fn process(&self, part: Part) -> Option<Process> {
        let engine = self.engine_processes();
        engine.into_iter().find(|process| match part {
            Part::Leader => process.parent == self.vllama.pid() && !process.name.starts_with("VLLM::EngineCor"),
            Part::Core | Part::Worker => process.name.starts_with("VLLM::EngineCor"),
        })
    }

    /// Waits until an engine imports, or until its core loads.
    async fn starts(&self, phase: Phase) {
        let part = if phase == Phase::Import { Part::Leader } else { Part::Core };
        let there = async || (self.engine().await["state"] == "starting" && self.process(part).is_some()).then_some(());
        within(PATIENCE, &format!("an engine is in {phase:?}"), there).await;
    }

    async fn engine(&self) -> Value {
        self.vllama.health().await["engine"].clone()
    }

    async fn generation(&self) -> Option<u64> {
        self.engine().await["generation"].as_u64()
    }

    async fn state(&self, state: &str) {
        let is_there = async || (self.engine().await["state"] == state).then_some(());
        within(PATIENCE, &format!("the engine is {state}"), is_there).await;
    }

    async fn unload(&self) {
        let body = json!({"model": MODEL, "keep_alive": 0});
        assert_eq!(self.vllama.post("/api/generate", &body).await.status(), 200);
    }

    async fn answered(&self, fault: Fault, old: Option<u64>) {
        let back = async || {
            if fault.effect() != Effect::Bearable && self.generation().await <= old {
                return None;
            }
            let body = json!({"model": MODEL, "prompt": "Hi", "stream": false, "options": {"num_predict": 1}});
            let mut exchange = self.vllama.client.send(&Request::post("/api/generate", &body)).await.ok()?;
            exchange.patience = PATIENCE;
            (exchange.answer().await.ok()?.status() == 200).then_some(())
        };
        within(PATIENCE, &format!("an answer after {}", fault.name()), back).await;
    }

    fn load(&self, random: &mut fastrand::Rng) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for (manner, number) in CLIENTS {
            for _ in 0..number {
                let (client, ledger, stop) = (self.vllama.client.clone(), self.ledger.clone(), stop.clone());
                let late = Duration::from_millis(random.u64(..500));
                clients.spawn(async move {
                    tokio::time::sleep(late).await;
                    while !stop.load(Ordering::Relaxed) {
                        ask(client.clone(), ledger.clone(), manner).await;
                    }
                });
            }
        }
        Load { clients, stop }
    }
}

/// Clients at work until they are told to stop.
struct Load {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Load {
    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("a client does not panic");
        }
    }
}

/// One request. Its answer must begin with its number, since the schema allows no other.
async fn ask(client: Client, ledger: Ledger, manner: Manner) {
    let number = ledger.open();
    let schema = json!({
        "type": "object", "required": ["number", "story"], "additionalProperties": false,
        "properties": {"number": {"const": number}, "story": {"type": "string", "minLength": 100, "maxLength": 200}},
    });
    let body = json!({
        "model": MODEL, "prompt": format!("Tell a story about the number {number}."), "format": schema,
        "stream": matches!(manner, Manner::Streams), "options": {"num_predict": 100},
    });
    let answer = async {
        let mut exchange = client.send(&Request::post("/api/generate", &body)).await?;
        exchange.patience = PATIENCE;
        exchange.answer().await
    };
    let fate = match manner {
        // In the middle of the answer, or while it waits for an engine.
        Manner::Leaves => match tokio::time::timeout(Duration::from_millis(300 + number % 7 * 100), answer).await {
            Ok(Err(error)) => Fate::Lost(error.to_string()),
            _ => Fate::Left,
        },
        _ => match answer.await {
            Ok(answer) => judge(&answer.text(), number),
            Err(error) => Fate::Lost(error.to_string()),
        },
    };
    ledger.close(number, fate);
}

/// Whether this is the whole answer to this request, once, or a reason in its stead.
fn judge(text: &str, number: u64) -> Fate {
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let Some(last) = lines.last() else { return Fate::Lost(format!("no lines: {text:?}")) };
    if last["error"].as_str().is_some_and(|reason| !reason.is_empty()) {
        return Fate::Failed;
    }
    let said: String = lines.iter().filter_map(|line| line["response"].as_str()).collect();
    let ends = lines.iter().filter(|line| line["done"] == true).count();
    let begins: String = said.chars().filter(|character| !character.is_whitespace()).collect();
    if ends == 1 && last["done"] == true && begins.starts_with(&format!("{{\"number\":{number},\"story\":\"")) {
        return Fate::Answered;
    }
    Fate::Lost(format!("{said:?} for number {number}, and last {last}"))
}

/// What engines have in `/dev/shm`, which is this program's own where it may have one.
fn segments() -> BTreeSet<String> {
    let names = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    // Where it may not, those of a fake engine are of other tests.
    let is_engines = |name: &String| ["psm_", "sem.mp-", "__KMP_"].iter().any(|prefix| name.starts_with(prefix));
    names.filter(|name| is_engines(name) && !name.starts_with("psm_fake")).collect()
}
