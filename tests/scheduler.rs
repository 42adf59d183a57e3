//! The scheduler over engines of the fake vLLM that believe to be on GPUs: placing, sleeping, measuring, retiring.
//!
//! A program of its own without the test harness: the init must be made before any other thread and owns every child.
//! The GPUs are a script that says what `vllama-gpu` would.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/harness/model.rs"]
#[allow(dead_code, reason = "shared with the black-box tests")]
mod model;
#[path = "support/init/mod.rs"]
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use support::wait_until;
use tokio::runtime::{Handle, Runtime};
use tokio::time::timeout;
use vllama::engine::surroundings::Unknown;
use vllama::engine::{Engine, Installation, Settings};
use vllama::gpu::{Pace, Watch};
use vllama::init::{Init, Spawner};
use vllama::model::plan::{Choice, Device, Frontend, Memory, Plan};
use vllama::model::{Installed, ModelName, Store};
use vllama::scheduler::{self, Devices, EngineSnapshot, Factory, KeepAlive, LeaseError, Scheduler};

const GIB: u64 = 1 << 30;

/// Longer than any check takes.
const NEVER: Duration = Duration::from_secs(3600);

fn main() {
    let init = Init::new().unwrap();
    let (spawner, stopper) = (init.spawner(), init.stopper());
    let checks = std::thread::spawn(move || {
        let runtime = Runtime::new().unwrap();
        let ground = Ground { spawner, handle: runtime.handle().clone() };
        let checks: &[(&str, &dyn Fn())] = &[
            ("engines go to the GPUs with most room", &|| engines_are_placed(&ground)),
            ("only the GPUs that the operator left are used", &|| the_operators_gpus(&ground)),
            ("an idle engine sleeps to make room and wakes on request", &|| sleep_makes_room(&ground)),
            ("a wake that fails is a restart", &|| a_failed_wake(&ground)),
            ("what sleeps is stopped when it is still in the way", &|| what_sleeps_is_stopped(&ground)),
            ("a retired model gives no lease until the guard is dropped", &|| retiring(&ground)),
            ("a dropped wait leaves nothing behind", &|| dropped_waits(&ground)),
        ];
        let failed = support::run_checks("scheduler", checks);
        stopper.stop(i32::from(failed > 0));
    });
    let code = init.run(|_| ());
    checks.join().unwrap();
    assert_eq!(code, 0, "failed checks are named above");
}

/// What all checks stand on.
struct Ground {
    spawner: Spawner,
    handle: Handle,
}

/// A scheduler with its models and its directory.
struct Subject {
    scheduler: Scheduler,
    models: Vec<Arc<Installed>>,
    handle: Handle,
    _directory: tempfile::TempDir,
}

impl Ground {
    /// Models of these sizes in GiB on GPUs of 80 GiB; `variables` are the fake's.
    fn scheduler(&self, sizes: &[u64], gpus: usize, visible: Option<&str>, variables: &[(&str, &str)]) -> Subject {
        let directory = tempfile::Builder::new().prefix("scheduler-").tempdir().unwrap();
        let store = directory.path().join("models");
        let names: Vec<_> = (0..sizes.len()).map(|number| format!("m{number}")).collect();
        names.iter().zip(sizes).for_each(|(name, size)| model::install_sized(&store, name, "latest", size * GIB));
        let store = Store::open(&store).unwrap();
        let models = names.iter().map(|name| store.find(&ModelName::parse(name).unwrap()).unwrap()).collect();
        let watch = self.gpus(directory.path(), gpus);
        let visible = visible.map(|list| list.split(',').map(str::to_owned).collect());
        let factory =
            self.factory(directory.path(), variables, Devices::Gpus { watch: Some(watch), budget: None, visible });
        let settings = scheduler::Settings {
            max_queue: 512,
            max_loaded: 0,
            max_wait: Duration::from_secs(30),
            min_residence: Duration::ZERO,
            replays: 1,
            sleeping_memory: 1000 * GIB,
            measured: directory.path().join("measured.json"),
            changes: directory.path().join("plan_changes.json"),
        };
        let _inside = self.handle.enter();
        let scheduler = Scheduler::new(factory, settings);
        Subject { scheduler, models, handle: self.handle.clone(), _directory: directory }
    }

    fn gpus(&self, directory: &Path, number: usize) -> Watch {
        let gpu = |index: usize| format!(r#"{{"uuid":"GPU-{index}","memory_total":{},"memory_used":0}}"#, 80 * GIB);
        let gpus: Vec<_> = (0..number).map(gpu).collect();
        let script = format!("#!/bin/sh\necho '{{\"gpus\":[{}]}}'\nexec sleep 1000\n", gpus.join(","));
        let path = directory.join("helper");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let environment = vec![("PATH".into(), std::env::var_os("PATH").unwrap())];
        let watch = Watch::start(
            self.spawner.clone(),
            path,
            environment,
            Pace { fresh: NEVER, silence: NEVER, ..Pace::default() },
        );
        let watch = watch.unwrap();
        wait_until("the GPUs are known", || watch.latest().is_some());
        watch
    }

    fn factory(&self, directory: &Path, variables: &[(&str, &str)], devices: Devices) -> Factory {
        let environment: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (directory, place) = (directory.to_owned(), directory.to_owned());
        let spawner = self.spawner.clone();
        Factory {
            plan: Box::new(|name, model| Plan {
                checkpoint: model.directory.clone(),
                served_name: name.to_owned(),
                checkpoint_name: name.to_owned(),
                device: Device::Cuda,
                gpus: 1,
                flags: vec![Choice { name: "--enable-sleep-mode", value: None, more: Vec::new(), reason: "".into() }],
                environment: vec![Choice {
                    name: "VLLM_SERVER_DEV_MODE",
                    value: Some("1".into()),
                    more: Vec::new(),
                    reason: "".into(),
                }],
                frontend: Frontend::Python,
                left_out: Vec::new(),
                extra_arguments: Vec::new(),
                extra_environment: Vec::new(),
                memory: Memory { weights: model.manifest.size, cache: 0, overhead: 0 },
                concurrency: 2,
                refusal: None,
                changes: Vec::new(),
            }),
            settings: Box::new(move |model| Settings {
                log: place.join(format!("{}.log", model.name.model())),
                directory: place.join(model.name.model()),
                start_limit: NEVER,
                stop_limit: Duration::from_secs(5),
                memory_limit: Duration::ZERO,
                sleep_limit: Duration::from_secs(5),
                heartbeat: Duration::ZERO,
            }),
            engine: Box::new(move |plan, settings| {
                let installation = Installation {
                    program: env!("CARGO_BIN_EXE_fake-vllm").into(),
                    preloads: Vec::new(),
                    cache: directory.join("cache"),
                    environment: environment.clone(),
                };
                Engine::new(plan, installation, spawner.clone(), settings, Arc::new(Unknown))
            }),
            keep_alive: Box::new(|_| KeepAlive::Forever),
            devices,
            hardware: String::new(),
            engine_version: String::new(),
        }
    }
}

impl Subject {
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(async { timeout(support::DEADLINE, future).await.expect("an answer in time") })
    }

    fn lease(&self, model: usize) -> Result<scheduler::Lease, LeaseError> {
        self.wait(self.scheduler.lease(&self.models[model], None))
    }

    /// Uses a model once.
    fn use_model(&self, model: usize) {
        let lease = self.lease(model).unwrap();
        let body =
            format!(r#"{{"model":"{}","messages":[{{"role":"user","content":"FAKE:count 2"}}]}}"#, lease.served_name());
        let answer = self.wait(lease.post("/v1/chat/completions", Bytes::from(body), "id")).unwrap();
        assert_eq!(answer.status(), 200, "model {model}");
    }

    fn engine(&self, model: usize) -> EngineSnapshot {
        let snapshot = self.scheduler.snapshot();
        snapshot.engines.into_iter().find(|engine| engine.model == self.models[model].name).unwrap()
    }

    /// The value of a variable in the environment of a model's engine.
    fn variable(&self, model: usize, name: &str) -> Option<String> {
        let wanted = format!("{name}=");
        let own = format!("/{}/g", self.models[model].name.model());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let environments = processes.filter_map(|entry| std::fs::read(entry.path().join("environ")).ok());
        let texts = environments.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let directory = self._directory.path().to_string_lossy().into_owned();
        let mut ours = texts.filter(|text| text.contains(&format!("{directory}{own}")));
        ours.find_map(|text| Some(text.split('\0').find_map(|word| word.strip_prefix(&wanted))?.to_owned()))
    }

    fn states(&self) -> Vec<&'static str> {
        (0..self.models.len()).map(|model| self.engine(model).state).collect()
    }

    fn end(self) {
        self.wait(self.scheduler.stop(true));
        assert!(self.states().iter().all(|state| *state == "stopped"), "{:?}", self.states());
    }
}

fn engines_are_placed(ground: &Ground) {
    let subject = ground.scheduler(&[50, 50, 20], 2, None, &[]);
    (0..3).for_each(|model| subject.use_model(model));
    let places: Vec<_> = (0..3).map(|model| subject.variable(model, "CUDA_VISIBLE_DEVICES").unwrap()).collect();
    assert_ne!(places[0], places[1], "each large one has a GPU of its own");
    assert!(places.iter().all(|place| ["0", "1"].contains(&place.as_str())), "{places:?}");
    assert_eq!(subject.states(), ["ready"; 3]);
    assert_eq!(subject.engine(0).gpu_bytes, Some(50 * GIB));
    subject.end();
}

fn the_operators_gpus(ground: &Ground) {
    let subject = ground.scheduler(&[50, 50], 4, Some("GPU-2,3"), &[]);
    (0..2).for_each(|model| subject.use_model(model));
    let mut places: Vec<_> = (0..2).map(|model| subject.variable(model, "CUDA_VISIBLE_DEVICES").unwrap()).collect();
    places.sort();
    assert_eq!(places, ["2", "3"]);
    subject.end();
}

fn sleep_makes_room(ground: &Ground) {
    let subject = ground.scheduler(&[50, 50], 1, None, &[]);
    subject.use_model(0);
    subject.use_model(1);
    assert_eq!(subject.states(), ["asleep", "ready"]);
    assert_eq!(subject.engine(0).gpu_bytes, Some(2 * GIB), "what it still holds");
    subject.use_model(0);
    assert_eq!(subject.states(), ["ready", "asleep"]);
    assert_eq!((subject.engine(0).generation, subject.engine(1).generation), (1, 1), "neither was started again");
    subject.end();
}

fn a_failed_wake(ground: &Ground) {
    let subject = ground.scheduler(&[50, 50], 1, None, &[("FAKE_VLLM_SLEEP_FAULT", "wake-500")]);
    subject.use_model(0);
    subject.use_model(1);
    subject.use_model(0);
    assert_eq!(subject.states(), ["ready", "asleep"]);
    assert_eq!(subject.engine(0).generation, 2, "it was started again");
    subject.end();
}

fn what_sleeps_is_stopped(ground: &Ground) {
    let subject = ground.scheduler(&[50, 79], 1, None, &[]);
    subject.use_model(0);
    subject.use_model(1);
    assert_eq!(subject.states(), ["stopped", "ready"]);
    subject.end();
}

fn retiring(ground: &Ground) {
    let subject = ground.scheduler(&[50], 1, None, &[]);
    let lease = subject.lease(0).unwrap();
    let (scheduler, model) = (subject.scheduler.clone(), subject.models[0].clone());
    let retired = subject.handle.spawn(async move { scheduler.retire(&model).await });
    wait_until("new leases are refused", || {
        let asked = subject.scheduler.lease(&subject.models[0], None);
        subject
            .handle
            .block_on(async { timeout(Duration::from_millis(50), asked).await })
            .is_ok_and(|lease| lease.is_err())
    });
    assert!(!retired.is_finished(), "it waits for the open lease");
    drop(lease);
    let guard = subject.wait(retired).unwrap();
    assert_eq!(subject.states(), ["stopped"]);
    assert_eq!(subject.lease(0).err(), Some(LeaseError::Retiring));
    drop(guard);
    subject.use_model(0);
    subject.end();
}

fn dropped_waits(ground: &Ground) {
    let subject = ground.scheduler(&[50], 1, None, &[]);
    let leases: Vec<_> = (0..2).map(|_| subject.lease(0).unwrap()).collect();
    let mut waits: Vec<_> = (0..20).map(|_| Box::pin(subject.scheduler.lease(&subject.models[0], None))).collect();
    for wait in &mut waits {
        let asked = subject.handle.block_on(async { timeout(Duration::from_millis(1), wait).await });
        assert!(asked.is_err(), "both places are taken");
    }
    wait_until("all wait", || subject.engine(0).waiting == 20);
    drop(leases);
    // Two of them have been granted in the meantime, and never looked.
    drop(waits);
    wait_until("nothing is left of them", || {
        let engine = subject.engine(0);
        (engine.waiting, engine.leases) == (0, 0)
    });
    subject.use_model(0);
    subject.end();
}
