//! What becomes of an engine that fails: named, started again with another plan, and not before the GPU has room.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vllama::engine::failure::{Kills, Kind};
use vllama::engine::surroundings::{GpuMemory, Holder, Surroundings, Unknown};
use vllama::engine::{Settings, State};
use vllama::model::plan::{Choice, Device, Frontend, Memory, Plan};

use super::{Ground, NEVER, Subject, support, wait_until};

const GIB: u64 = 1 << 30;

pub(crate) fn run_checks(ground: &Ground) -> usize {
    let checks: &[(&str, &dyn Fn())] = &[
        ("a start waits until the GPU's memory is back", &|| it_waits_for_memory(ground)),
        ("memory that does not come back is left to vLLM to judge", &|| it_waits_no_longer_than_it_may(ground)),
        ("a stop ends the wait for memory", &|| a_stop_ends_the_wait(ground)),
        ("memory that ran out at work is answered by a smaller share", &|| a_smaller_share(ground)),
        ("a GPU that somebody else uses is shared with him", &|| what_is_free(ground)),
        ("a context that does not fit is made to fit", &|| a_context_that_fits(ground)),
        ("parsers that do not suit the model are given up, one after the other", &|| without_parsers(ground)),
        ("GPUs that cannot talk to each other go through main memory", &|| without_peers(ground)),
        ("when no change is left the failure is for good", &|| no_change_left(ground)),
        ("a kill for want of memory is told from any other", &|| killed_for_memory(ground)),
        ("a start that only waits is given up", &|| it_only_waits(ground)),
    ];
    support::run_checks("engine", checks)
}

/// A machine with one GPU of 80 GiB.
#[derive(Default)]
struct Machine {
    free: Mutex<u64>,
    kills: Mutex<u64>,
    /// Times it was asked for its GPU.
    asked: AtomicUsize,
}

impl Machine {
    fn with_free(gibibytes: u64) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(gibibytes), ..Self::default() })
    }

    fn set_free(&self, gibibytes: u64) {
        *self.free.lock().unwrap() = gibibytes;
    }
}

impl Surroundings for Machine {
    fn shared_memory_is_full(&self) -> bool {
        false
    }

    fn memory_kills(&self) -> Kills {
        Kills { group: *self.kills.lock().unwrap(), machine: 0 }
    }

    fn gpus(&self, visible: Option<&str>) -> Option<(Instant, Vec<GpuMemory>)> {
        assert_eq!(visible, Some("0"), "the GPU of the plan is asked for");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let free = *self.free.lock().unwrap();
        let holders = vec![Holder { pid: 4711, name: "greedy".into(), bytes: Some((80 - free) * GIB) }];
        let gpu = GpuMemory { number: 0, bytes: Some((80 * GIB, free * GIB)), lost: false, holders };
        Some((Instant::now(), vec![gpu]))
    }
}

fn choice(name: &'static str, value: &str) -> Choice {
    Choice { name, value: Some(value.to_owned()), more: Vec::new(), reason: "chosen".into() }
}

/// A plan that has everything that can be changed.
fn plan(gpus: usize) -> Plan {
    Plan {
        checkpoint: "/models/tiny".into(),
        served_name: "tiny".into(),
        checkpoint_name: "tiny".into(),
        device: Device::Cuda,
        gpus,
        frontend: Frontend::Python,
        flags: vec![
            choice("--max-model-len", "9999"),
            choice("--gpu-memory-utilization", "0.85"),
            Choice { value: None, ..choice("--enable-auto-tool-choice", "") },
            choice("--tool-call-parser", "hermes"),
            choice("--reasoning-parser", "qwen3"),
        ],
        environment: vec![choice("CUDA_VISIBLE_DEVICES", "0")],
        left_out: Vec::new(),
        extra_arguments: Vec::new(),
        extra_environment: Vec::new(),
        memory: Memory { weights: 16 * GIB, cache: 49 * GIB, overhead: 3 * GIB },
        concurrency: 8,
        refusal: None,
        changes: Vec::new(),
    }
}

fn settings(directory: &tempfile::TempDir) -> Settings {
    Settings {
        directory: directory.path().join("run"),
        log: directory.path().join("vllm.log"),
        start_limit: NEVER,
        heartbeat: NEVER,
        stop_limit: NEVER,
        memory_limit: NEVER,
        sleep_limit: NEVER,
    }
}

impl Ground {
    fn on_machine(&self, machine: Arc<dyn Surroundings>, variables: &[(&str, &str)]) -> Subject {
        self.planned(plan(1), machine, variables)
    }

    fn planned(&self, plan: Plan, machine: Arc<dyn Surroundings>, variables: &[(&str, &str)]) -> Subject {
        let directory = tempfile::Builder::new().prefix("engine-").tempdir().unwrap();
        let settings = settings(&directory);
        self.subject(directory, plan, settings, machine, variables)
    }

    /// An engine whose starts fail with this line as long as they have this flag.
    fn failing(&self, plan: Plan, with: &str, line: &str) -> Subject {
        let failure = format!("profile:1:{line}");
        self.planned(plan, Arc::new(Unknown), &[("FAKE_VLLM_FAIL_START", &failure), ("FAKE_VLLM_FAIL_WITH", with)])
    }
}

impl Subject {
    /// The changes of its plan: `from→to`.
    fn changes(&self) -> Vec<String> {
        let plan = self.status().plan.unwrap();
        plan.changes.iter().map(|change| format!("{}→{}", change.from, change.to)).collect()
    }

    fn command_line(&self) -> String {
        let pid = self.status().session.unwrap().pid();
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().replace('\0', " ")
    }
}

fn it_waits_for_memory(ground: &Ground) {
    let machine = Machine::with_free(60);
    let subject = ground.on_machine(machine.clone(), &[]);
    subject.engine.start();
    subject.until_state(State::Starting);
    // 68 GiB are what it takes; as long as they are not there nothing runs.
    wait_until("it has looked three times", || machine.asked.load(Ordering::Relaxed) >= 3);
    assert!(subject.status().session.is_none());
    machine.set_free(69);
    subject.until_state(State::Ready);
    subject.answers();
}

fn it_waits_no_longer_than_it_may(ground: &Ground) {
    let directory = tempfile::Builder::new().prefix("engine-").tempdir().unwrap();
    let settings = Settings { memory_limit: Duration::from_millis(300), ..settings(&directory) };
    let subject = ground.subject(directory, plan(1), settings, Machine::with_free(60), &[]);
    let begun = Instant::now();
    subject.engine.start();
    subject.until_state(State::Ready);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

fn a_stop_ends_the_wait(ground: &Ground) {
    let subject = ground.on_machine(Machine::with_free(1), &[]);
    subject.engine.start();
    subject.until_state(State::Starting);
    subject.engine.stop();
    let status = subject.until_state(State::Stopped);
    assert!(status.failure.is_none() && status.startup.is_none());
    assert!(!subject.directory.path().join("run").exists(), "nothing is left of the start that was not made");
}

fn a_smaller_share(ground: &Ground) {
    let subject = ground.on_machine(Machine::with_free(79), &[]).ready();
    let answer = subject.ask_for(subject.status().client.unwrap(), "FAKE:out-of-memory 0");
    let status = subject.until("ready again", |status| status.state == State::Ready && status.generation == 2);
    let _ = subject.handle.block_on(answer);
    assert_eq!(status.restarts_by_failure.into_iter().collect::<Vec<_>>(), [(Kind::GpuOutOfMemory, 1)]);
    assert_eq!(subject.changes(), ["0.85→0.80"]);
    assert!(subject.command_line().contains("--gpu-memory-utilization 0.80"), "{}", subject.command_line());
    assert_eq!(status.plan.unwrap().memory.cache, 45 * GIB, "what it is charged for goes with it");
    subject.answers();
}

fn what_is_free(ground: &Ground) {
    let line = "ValueError: Free memory on device cuda:0 (40.0/80.0 GiB) on startup is less than desired GPU memory \
                utilization (0.85, 68.0 GiB).";
    let variables = [
        ("FAKE_VLLM_FAIL_START", &*format!("load:1:{line}")),
        ("FAKE_VLLM_FAIL_WITH", "--gpu-memory-utilization=0.85"),
        // Long enough to be seen on its way.
        ("FAKE_VLLM_START", "import:300"),
    ];
    let directory = tempfile::Builder::new().prefix("engine-").tempdir().unwrap();
    let settings = Settings { memory_limit: Duration::ZERO, ..settings(&directory) };
    let subject = ground.subject(directory, plan(1), settings, Machine::with_free(40), &variables);
    subject.engine.start();
    let failure = subject.until("the failure is told", |status| status.failure.is_some()).failure.unwrap();
    assert!(failure.message.contains("held by greedy (pid 4711, 40.0 GiB)"), "{}", failure.message);
    subject.until_state(State::Ready);
    assert_eq!(subject.changes(), ["0.85→0.48"]);
    assert!(subject.status().plan.unwrap().changes[0].passing, "the next start may find more");
    let log = std::fs::read_to_string(subject.directory.path().join("vllm.log")).unwrap();
    assert!(log.contains("Free memory on device"), "{log}");
}

fn a_context_that_fits(ground: &Ground) {
    let line =
        "ValueError: To serve at least one request with the model's max seq len (9999), (4.3 GiB KV cache is needed";
    let subject = ground.failing(plan(1), "--max-model-len=9999", line).ready();
    assert_eq!(subject.changes(), ["9999→auto"]);
    let status = subject.status();
    // It was never ready in between, and the failure that was answered is not one in a row.
    assert_eq!((status.generation, status.restarts, status.failures_in_a_row), (2, 1, 0));
    assert!(subject.command_line().contains("--max-model-len auto"));
}

fn without_parsers(ground: &Ground) {
    let line = "RuntimeError: Hermes2ProToolParser could not locate the tool call tokens in the tokenizer!";
    let subject = ground.failing(plan(1), "--tool-call-parser", line).ready();
    assert_eq!(subject.changes(), ["hermes→none"]);
    let line = "KeyError: 'invalid reasoning parser: qwen3 (chose from { deepseek_r1 })'";
    let subject = ground.failing(plan(1), "--reasoning-parser=qwen3", line).ready();
    assert_eq!(subject.changes(), ["qwen3→none"]);
    assert!(!subject.command_line().contains("--reasoning-parser"));
}

fn without_peers(ground: &Ground) {
    let line = "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)";
    let directory = tempfile::Builder::new().prefix("engine-").tempdir().unwrap();
    let count = directory.path().join("starts").display().to_string();
    let variables = [
        ("FAKE_VLLM_FAIL_START", &*format!("profile:1:{line}")),
        ("FAKE_VLLM_FAIL_STARTS", "1"),
        ("FAKE_VLLM_COUNT_FILE", &*count),
    ];
    let settings = settings(&directory);
    let subject = ground.subject(directory, plan(2), settings, Arc::new(Unknown), &variables).ready();
    assert_eq!(subject.changes(), ["on→off"]);
    assert!(subject.command_line().contains("--disable-custom-all-reduce"));
}

fn no_change_left(ground: &Ground) {
    let line =
        "ValueError: To serve at least one request with the model's max seq len (9999), (4.3 GiB KV cache is needed";
    // It fails whatever the length.
    let subject = ground.failing(plan(1), "--max-model-len", line);
    subject.engine.start();
    let status = subject.until_state(State::Failed);
    assert_eq!((status.generation, subject.changes()), (2, vec!["9999→auto".to_owned()]));
    let failure = status.failure.unwrap();
    assert_eq!(failure.kind, Kind::ContextTooLong);
    assert!(failure.message.contains("--max-model-len"), "{}", failure.message);
}

fn killed_for_memory(ground: &Ground) {
    let machine = Machine::with_free(79);
    let subject = ground.on_machine(machine.clone(), &[]).ready();
    *machine.kills.lock().unwrap() += 1;
    subject.status().session.unwrap().signal_leader(9);
    let status = subject.until("ready again", |status| status.state == State::Ready && status.generation == 2);
    assert_eq!(status.restarts_by_failure.into_iter().collect::<Vec<_>>(), [(Kind::OutOfMemory, 1)]);
    subject.status().session.unwrap().signal_leader(9);
    let status = subject.until("ready again", |status| status.state == State::Ready && status.generation == 3);
    let restarts: Vec<_> = status.restarts_by_failure.into_iter().collect();
    assert_eq!(restarts, [(Kind::OutOfMemory, 1), (Kind::Killed, 1)], "the first kill explains no second one");
    assert_eq!(subject.changes(), [] as [String; 0]);
}

fn it_only_waits(ground: &Ground) {
    let directory = tempfile::Builder::new().prefix("engine-").tempdir().unwrap();
    let settings = Settings { start_limit: Duration::from_millis(700), ..settings(&directory) };
    let variables = [("FAKE_VLLM_NEVER_READY", "1"), ("FAKE_VLLM_WAITS", "50")];
    let subject = ground.subject(directory, plan(1), settings, Arc::new(Unknown), &variables);
    subject.engine.start();
    let status = subject.until("it is given up", |status| status.failure.is_some());
    let failure = status.failure.unwrap();
    assert_eq!(failure.kind, Kind::StartHung);
    assert!(failure.message.contains("did not get on for 0 s while "), "{}", failure.message);
    subject.engine.kill();
    wait_until("it is down", || subject.status().state == State::Stopped);
}
