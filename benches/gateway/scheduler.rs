//! What the scheduler itself costs a request: a lease on a loaded model, taken and given back, without any HTTP.
//!
//! A program of its own, since whoever owns the engines owns every child.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use vllama::engine::surroundings::Unknown;
use vllama::engine::{Engine, Installation, Settings};
use vllama::init::{Init, Spawner};
use vllama::model::plan::{Hardware, Plan, Wishes};
use vllama::model::{Installed, ModelName, Store};
use vllama::scheduler::{self, Devices, Factory, KeepAlive, Scheduler};

use crate::model;

/// The argument that makes this program the one with the scheduler.
pub const ROLE: &str = "--scheduler";

/// Round trips that are measured, after as many that are not.
const ROUNDS: usize = 50_000;

/// Tasks that ask at a time.
const TASKS: usize = 64;

/// Installed models that have an engine up.
const MODELS: usize = 4;

/// Runs it and passes its lines of the table on.
pub fn measure() {
    let directory = tempfile::Builder::new().prefix("vllama-bench-").tempdir().expect("a temporary directory");
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).arg(ROLE).arg(directory.path()).status().expect("the program starts");
    assert!(status.success(), "{status}");
}

/// What that program does.
pub fn run(directory: PathBuf) {
    let init = Init::new().expect("an init");
    let (spawner, stopper) = (init.spawner(), init.stopper());
    let work = std::thread::spawn(move || {
        Runtime::new().expect("a runtime").block_on(round_trips(&directory, spawner));
        stopper.stop(0);
    });
    init.run(|_| ());
    work.join().expect("all was measured");
}

async fn round_trips(directory: &Path, spawner: Spawner) {
    let models = directory.join("models");
    let names: Vec<String> = (0..MODELS).map(|number| format!("m{number}")).collect();
    names.iter().for_each(|name| model::install(&models, name, "latest"));
    let store = Store::open(&models).expect("a store");
    let scheduler = Scheduler::new(factory(directory, spawner), settings(directory));
    let find = |name: &String| store.find(&ModelName::parse(name).expect("a name")).expect("an installed model");
    let models: Vec<_> = names.iter().map(find).collect();
    for model in &models {
        drop(scheduler.lease(model, None).await.expect("a lease"));
    }
    leases(&scheduler, &models[0], ROUNDS).await;
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let begun = Instant::now();
        drop(scheduler.lease(&models[round % MODELS], None).await.expect("a lease"));
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let row = |measure: &str, value: f64| println!("| {measure} | | | {value:.1} | |");
    row("lease and release, one at a time, median (µs)", times[ROUNDS / 2]);
    row("lease and release, one at a time, p99 (µs)", times[ROUNDS * 99 / 100]);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| {
            let (scheduler, model) = (scheduler.clone(), models[number % MODELS].clone());
            tokio::spawn(async move { leases(&scheduler, &model, ROUNDS / TASKS).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("leases");
    }
    let each = begun.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64;
    row(&format!("lease and release, {TASKS} tasks at a time, time each (µs)"), each);
    scheduler.stop(true).await;
}

async fn leases(scheduler: &Scheduler, model: &Arc<Installed>, number: usize) {
    for _ in 0..number {
        drop(scheduler.lease(model, None).await.expect("a lease"));
    }
}

fn settings(directory: &Path) -> scheduler::Settings {
    scheduler::Settings {
        max_queue: 512,
        max_loaded: 0,
        max_wait: Duration::from_secs(30),
        min_residence: Duration::from_secs(10),
        replays: 1,
        sleeping_memory: 0,
        measured: directory.join("measured.json"),
        changes: directory.join("plan_changes.json"),
    }
}

fn factory(directory: &Path, spawner: Spawner) -> Factory {
    let hardware = Hardware { nvidia: false, bfloat16: true, memory_available: 64 << 30, gpus: Vec::new() };
    let (directory, place) = (directory.to_owned(), directory.to_owned());
    Factory {
        plan: Box::new(move |name, model| Plan::called(name, model, &hardware, &Wishes::default())),
        settings: Box::new(move |model| {
            let place = place.join(model.name.model());
            let limit = Duration::from_secs(60);
            Settings {
                log: place.join("vllm.log"),
                directory: place,
                start_limit: limit,
                heartbeat: Duration::ZERO,
                stop_limit: limit,
                memory_limit: Duration::ZERO,
                sleep_limit: limit,
            }
        }),
        engine: Box::new(move |plan, settings| {
            let installation = Installation {
                program: env!("CARGO_BIN_EXE_fake-vllm").into(),
                preloads: Vec::new(),
                cache: directory.join("cache"),
                environment: Vec::new(),
            };
            Engine::new(plan, installation, spawner.clone(), settings, Arc::new(Unknown))
        }),
        keep_alive: Box::new(|_| KeepAlive::Forever),
        devices: Devices::Cpu(1 << 40),
        hardware: String::new(),
        engine_version: String::new(),
    }
}
