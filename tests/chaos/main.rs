//! Everything goes wrong, again and again, while requests run (issue 5). After each round: the service is back, every
//! request has been answered once or refused with a reason, and nothing is left of what was before: no process, no zombie, no
//! directory, no shared memory, no descriptor.
//!
//! A runner of its own, since its figures are of the whole run. `VLLAMA_CHAOS_ROUNDS` (40) and `VLLAMA_CHAOS_SEED` choose
//! another run; `make chaos` runs two thousand rounds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the black-box tests, which use all of it")]
mod harness;

mod faults;
mod load;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use faults::{FAULTS, Fault};
use harness::{Vllama, eventually, processes};
use load::{Counts, Load};

/// Clients that ask all the time.
const CLIENTS: u64 = 6;
/// Rounds that one vllama lives through.
const LIFE: usize = 100;
/// A dead child is collected within this time.
const ZOMBIE_LIMIT: Duration = Duration::from_millis(100);
/// Descriptors that come and go with connections.
const DESCRIPTORS: usize = 64;
/// Growth of resident memory that says nothing, in bytes: the allocator keeps what a busy moment took.
const MEMORY: u64 = 24 << 20;

fn main() -> ExitCode {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rounds, seed) = (number("VLLAMA_CHAOS_ROUNDS", 40), number("VLLAMA_CHAOS_SEED", 20_261_124));
    println!("chaos: {rounds} rounds from seed {seed}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = std::panic::catch_unwind(|| runtime.block_on(run(rounds as usize, seed)));
    let (word, passed, failed) = if outcome.is_ok() { ("ok", 1, 0) } else { ("FAILED", 0, 1) };
    println!("test result: {word}. {passed} passed; {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What has been measured of one kind of fault.
#[derive(Default)]
struct Measured {
    rounds: usize,
    /// From the fault to the first answer after it, in seconds.
    back: Vec<f64>,
}

async fn run(rounds: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let counts = Arc::<Counts>::default();
    let mut measured: BTreeMap<String, Measured> = BTreeMap::new();
    let mut order: Vec<Fault> = Vec::new();
    let (mut done, mut restarts) = (0, 0);
    while done < rounds {
        let vllama = Vllama::with_fake()
            .env("FAKE_VLLM_START", "import:20,load:20,serving:10")
            .env("FAKE_VLLM_FIRST_TOKEN_MS", "10")
            .env("FAKE_VLLM_TOKEN_RATE", "200")
            .env("FAKE_VLLM_STRAYS", "1")
            .env("FAKE_VLLM_ZOMBIES", "1")
            .env("FAKE_VLLM_LEAVE_FILES", "1")
            .env("FAKE_VLLM_IGNORE_TERM", if random.bool() { "1" } else { "0" })
            .env("VLLAMA_HEARTBEAT", "300ms")
            .env("VLLAMA_STOP_TIMEOUT", "1s")
            .start()
            .await;
        let ground = Ground::of(&vllama);
        for _ in 0..LIFE.min(rounds - done) {
            // Every kind once before any kind twice.
            if order.is_empty() {
                order.extend(FAULTS);
                random.shuffle(&mut order);
            }
            let fault = order.pop().unwrap();
            let load = Load::start(&vllama.client, CLIENTS, random.u64(..), &counts);
            tokio::time::sleep(Duration::from_millis(random.u64(0..60))).await;
            let begun = Instant::now();
            fault.strike(&vllama, &mut random).await;
            answered(&vllama, &fault.name()).await;
            let entry = measured.entry(fault.name()).or_default();
            entry.rounds += 1;
            entry.back.push(begun.elapsed().as_secs_f64());
            load.end().await;
            ground.check(&vllama, &fault.name()).await;
            done += 1;
        }
        restarts += vllama.health().await["engine"]["restarts"].as_u64().unwrap_or_default();
        vllama.stop().await;
    }
    table(&measured);
    let [sent, answered, failed, left, lost] = counts.read();
    println!("{rounds} rounds, {restarts} restarts of engines");
    println!(
        "requests: {sent} sent, {answered} answered, {failed} refused or broken off with a reason, {left} given up by clients, {lost} lost"
    );
    assert_eq!(lost, 0, "lost requests; they are named above");
    assert_eq!(sent, answered + failed + left);
    assert!(answered > sent / 2, "most requests are answered");
}

/// Waits until a request of no special kind is answered.
async fn answered(vllama: &Vllama, fault: &str) {
    eventually(&format!("an answer after {fault}"), async || {
        (vllama.chat("FAKE:count 1").await.status() == 200).then_some(())
    })
    .await;
}

/// What a vllama has when nothing has gone wrong yet.
struct Ground {
    descriptors: usize,
    memory: u64,
}

impl Ground {
    fn of(vllama: &Vllama) -> Self {
        Self { descriptors: descriptors(vllama), memory: memory(vllama) }
    }

    /// Checks that nothing is left of the round.
    async fn check(&self, vllama: &Vllama, fault: &str) {
        let state = async || (vllama.health().await["engine"]["state"] == "ready").then_some(());
        eventually(&format!("ready after {fault}"), state).await;
        eventually(&format!("one generation after {fault}"), async || (vllama.generations().len() == 1).then_some(()))
            .await;
        let one_of_each = async || {
            let names: Vec<String> = vllama.processes().into_iter().map(|process| process.name).collect();
            let number = |name: &str| names.iter().filter(|other| other.starts_with(name)).count();
            (["fake-vllm", "VLLM::EngineCor", "VLLM::Worker", "fake-stray"].iter().all(|name| number(name) == 1))
                .then_some(())
        };
        eventually(&format!("no stray process after {fault}"), one_of_each).await;
        eventually(&format!("no shared memory of the dead after {fault}"), async || {
            (vllama.shared_memory().len() <= 1).then_some(())
        })
        .await;
        no_zombies(vllama, fault).await;
        let few = async || (descriptors(vllama) <= self.descriptors + DESCRIPTORS).then_some(());
        eventually(&format!("no leaked descriptor after {fault}"), few).await;
        let grown = memory(vllama).saturating_sub(self.memory);
        assert!(grown < MEMORY, "resident memory has grown by {grown} bytes after {fault}");
    }
}

/// No dead child may be seen twice.
async fn no_zombies(vllama: &Vllama, fault: &str) {
    let dead = || -> Vec<i32> {
        let children = processes::children(vllama.pid()).into_iter();
        children.filter(|child| child.state == 'Z').map(|child| child.pid).collect()
    };
    let before = dead();
    if before.is_empty() {
        return;
    }
    tokio::time::sleep(ZOMBIE_LIMIT).await;
    let still: Vec<i32> = dead().into_iter().filter(|pid| before.contains(pid)).collect();
    assert_eq!(still, [] as [i32; 0], "zombies after {fault}");
}

fn descriptors(vllama: &Vllama) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", vllama.pid())).unwrap().count()
}

/// Resident memory in bytes.
fn memory(vllama: &Vllama) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vllama.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() * 1024
}

fn table(measured: &BTreeMap<String, Measured>) {
    println!("| fault | rounds | next answer, median | slowest |\n|---|---|---|---|");
    for (fault, Measured { rounds, back }) in measured {
        let mut back = back.clone();
        back.sort_by(f64::total_cmp);
        println!("| {fault} | {rounds} | {:.2} s | {:.2} s |", back[back.len() / 2], back[back.len() - 1]);
    }
}
