//! The life of an engine over the fake vLLM, without any HTTP of vllama's own: sleeping, waking, dying, measuring.
//!
//! A program of its own without the test harness: the init must be made before any other thread and owns every child.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "engine/changes.rs"]
mod changes;
#[path = "support/init/mod.rs"]
mod support;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::Value;
use support::wait_until;
use tokio::runtime::{Handle, Runtime};
use tokio::time::timeout;
use vllama::engine::surroundings::{Surroundings, Unknown};
use vllama::engine::{Client, Engine, EngineGone, Installation, Settings, State, Status};
use vllama::init::{Init, Spawner};
use vllama::model::plan::{Device, Frontend, Memory, Plan};

const FAKE: &str = env!("CARGO_BIN_EXE_fake-vllm");

/// Longer than any check takes.
const NEVER: Duration = Duration::from_secs(3600);

fn main() {
    let init = Init::new().unwrap();
    let (spawner, stopper) = (init.spawner(), init.stopper());
    let checks = std::thread::spawn(move || {
        let runtime = Runtime::new().unwrap();
        let failed = run_checks(&Ground { spawner, handle: runtime.handle().clone() });
        stopper.stop(i32::from(failed > 0));
    });
    let code = init.run(|_| ());
    checks.join().unwrap();
    assert_eq!(code, 0, "failed checks are named above");
}

fn run_checks(ground: &Ground) -> usize {
    let checks: &[(&str, &dyn Fn())] = &[
        ("asleep it cannot be reached, awake it answers again", &|| it_sleeps_and_wakes(ground)),
        ("asleep the fake takes requests and answers none", &|| the_fake_sleeps_as_the_real_one(ground)),
        ("level 1 wakes in one step", &|| level_one_wakes_in_one_step(ground)),
        ("level 2 wakes in four steps", &|| level_two_wakes_in_four_steps(ground)),
        ("woken while it falls asleep it comes back", &|| woken_while_falling_asleep(ground)),
        ("sent to sleep while it starts it is never ready", &|| sleep_while_starting(ground)),
        ("sent to sleep while it wakes it is never ready", &|| sleep_while_waking(ground)),
        ("a second sleep changes nothing", &|| sleep_twice(ground)),
        ("sleep is nothing to an engine that is stopped", &|| sleep_while_stopped(ground)),
        ("sleep ends a row of restarts", &|| sleep_while_restarting(ground)),
        ("stop ends it asleep", &|| stop_while_asleep(ground)),
        ("stop ends it while it falls asleep and while it wakes", &|| stop_while_under_way(ground)),
        ("a start while it stops is forgotten", &|| start_while_stopping(ground)),
        ("an engine that dies while it wakes is told as a death", &|| death_while_waking(ground)),
        ("kill ends it at once wherever it is", &|| kill_at_any_time(ground)),
        ("a sleep that fails is a stop", &|| a_failed_sleep_is_a_stop(ground)),
        ("an engine without sleep mode is stopped instead", &|| without_sleep_mode(ground)),
        ("a sleep that fails is a restart where it is wanted awake", &|| a_failed_sleep_with_a_wish(ground)),
        ("a wake that fails is a restart", &|| a_failed_wake_is_a_restart(ground)),
        ("a wake that fails is a stop where nobody wants it any more", &|| a_failed_wake_without_a_wish(ground)),
        ("a death in its sleep is a stop, and wake starts it again", &|| death_asleep(ground)),
        ("a death while awake is a restart also after a sleep", &|| death_after_a_sleep(ground)),
        ("an engine that stops in the middle of an answer is ended and started again", &|| it_hangs(ground)),
        ("an engine that hangs with everything it has is found too", &|| it_is_frozen(ground)),
        ("a slow engine is no hanging one, and neither is an idle one", &|| it_is_slow(ground)),
        ("memory is measured once it is ready and remembered", &|| memory_is_measured(ground)),
    ];
    support::run_checks("engine", checks) + changes::run_checks(ground)
}

/// What all checks stand on.
struct Ground {
    spawner: Spawner,
    handle: Handle,
}

/// An engine over the fake, with its directory.
struct Subject {
    engine: Engine,
    directory: tempfile::TempDir,
    handle: Handle,
    /// All states seen, each once in a row.
    seen: Arc<Mutex<Vec<State>>>,
}

impl Ground {
    /// An engine that can sleep; `variables` are the fake's.
    fn engine(&self, variables: &[(&str, &str)]) -> Subject {
        self.engine_with(&["--enable-sleep-mode"], NEVER, NEVER, variables)
    }

    /// One whose heart is listened to closely.
    fn watched(&self, variables: &[(&str, &str)]) -> Subject {
        self.engine_with(&[], NEVER, Duration::from_millis(600), variables)
    }

    /// One whose calls are given up after a moment.
    fn impatient(&self, variables: &[(&str, &str)]) -> Subject {
        self.engine_with(&["--enable-sleep-mode"], Duration::from_secs(2), NEVER, variables)
    }

    fn engine_with(
        &self,
        arguments: &[&str],
        sleep_limit: Duration,
        heartbeat: Duration,
        variables: &[(&str, &str)],
    ) -> Subject {
        let directory = tempfile::Builder::new().prefix("engine-").tempdir().unwrap();
        let plan = Plan {
            checkpoint: directory.path().join("checkpoint"),
            served_name: "tiny".into(),
            checkpoint_name: "tiny".into(),
            device: Device::Cuda,
            gpus: 0,
            flags: Vec::new(),
            environment: Vec::new(),
            frontend: Frontend::Python,
            left_out: Vec::new(),
            extra_environment: Vec::new(),
            refusal: None,
            changes: Vec::new(),
            extra_arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            memory: Memory::default(),
            concurrency: 1,
        };
        let settings = Settings {
            directory: directory.path().join("run"),
            log: directory.path().join("vllm.log"),
            start_limit: NEVER,
            heartbeat,
            stop_limit: NEVER,
            memory_limit: Duration::ZERO,
            sleep_limit,
        };
        self.subject(directory, plan, settings, Arc::new(Unknown), variables)
    }

    fn subject(
        &self,
        directory: tempfile::TempDir,
        plan: Plan,
        settings: Settings,
        surroundings: Arc<dyn Surroundings>,
        variables: &[(&str, &str)],
    ) -> Subject {
        let requests = directory.path().join("requests").display().to_string();
        let own = [("VLLM_SERVER_DEV_MODE", "1"), ("FAKE_VLLM_REQUESTS", requests.as_str())];
        let environment = own.iter().chain(variables).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let installation = Installation {
            program: FAKE.into(),
            preloads: Vec::new(),
            cache: directory.path().join("cache"),
            environment,
        };
        let _inside = self.handle.enter();
        let engine = Engine::new(plan, installation, self.spawner.clone(), settings, surroundings);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut status, list) = (engine.status(), Arc::clone(&seen));
        self.handle.spawn(async move {
            while status.changed().await.is_ok() {
                let state = status.borrow_and_update().state;
                let mut list = list.lock().unwrap();
                if list.last() != Some(&state) {
                    list.push(state);
                }
            }
        });
        Subject { engine, directory, handle: self.handle.clone(), seen }
    }
}

impl Subject {
    fn status(&self) -> Status {
        self.engine.status().borrow().clone()
    }

    #[track_caller]
    fn until(&self, what: &str, is_so: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.engine.status();
        let found = self.handle.block_on(async {
            timeout(support::DEADLINE, status.wait_for(is_so)).await.map(|found| found.unwrap().clone())
        });
        found.unwrap_or_else(|_| panic!("waited in vain for: {what}; it is {:?}", self.status()))
    }

    #[track_caller]
    fn until_state(&self, state: State) -> Status {
        self.until(state.word(), |status| status.state == state)
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    fn ready(self) -> Self {
        self.engine.start();
        self.until_state(State::Ready);
        self
    }

    #[track_caller]
    fn asleep(self, level: u8) -> Self {
        self.engine.sleep(level);
        self.until_state(State::Asleep { level });
        self
    }

    /// Paths of the requests the fake has written down, and the bodies.
    fn requests(&self) -> Vec<(String, Value)> {
        let text = std::fs::read_to_string(self.directory.path().join("requests")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|mut line| (line["path"].as_str().unwrap().to_owned(), line["body"].take())).collect()
    }

    fn paths(&self) -> Vec<String> {
        self.requests().into_iter().map(|(path, _)| path).collect()
    }

    fn socket(&self, generation: u64) -> PathBuf {
        self.directory.path().join(format!("run/g{generation}/engine.sock"))
    }

    /// Sends a prompt past the status, as nobody should.
    fn ask(&self, client: Client) -> tokio::task::JoinHandle<Result<String, EngineGone>> {
        self.ask_for(client, "hello")
    }

    fn ask_for(&self, client: Client, prompt: &str) -> tokio::task::JoinHandle<Result<String, EngineGone>> {
        let messages = serde_json::json!([{"role": "user", "content": prompt}]);
        let body = Bytes::from(serde_json::json!({"model": "tiny", "messages": messages}).to_string());
        self.handle.spawn(async move {
            let answer = client.post("/v1/chat/completions", body, "").await?;
            let body = answer.into_body().collect().await?.to_bytes();
            Ok(String::from_utf8_lossy(&body).into_owned())
        })
    }

    #[track_caller]
    fn answers(&self) {
        let answer = self.ask(self.status().client.unwrap());
        let answer =
            self.handle.block_on(async { timeout(support::DEADLINE, answer).await.unwrap().unwrap() }).unwrap();
        assert!(answer.contains("You said: hello"), "{answer}");
    }

    fn seen(&self) -> Vec<State> {
        self.seen.lock().unwrap().clone()
    }

    #[track_caller]
    fn stopped_because(&self, reason: &str) {
        let status = self.until_state(State::Stopped);
        let message = status.failure.unwrap().message;
        assert!(message.contains(reason), "{message}");
        assert_eq!((status.generation, status.restarts, status.failures_in_a_row), (1, 0, 1));
        assert!(status.client.is_none() && status.session.is_none());
    }

    #[track_caller]
    fn restarted(&self) {
        let status = self.until("ready again", |status| status.state == State::Ready && status.generation == 2);
        assert_eq!((status.restarts, status.failures_in_a_row), (1, 0));
        assert!(status.failure.is_none());
        self.answers();
    }
}

fn it_sleeps_and_wakes(ground: &Ground) {
    let subject = ground.engine(&[("FAKE_VLLM_SLEEP_MS", "100")]).ready();
    subject.answers();
    for level in [1, 2] {
        subject.engine.sleep(level);
        assert!(subject.until_state(State::FallingAsleep).client.is_none());
        let status = subject.until_state(State::Asleep { level });
        assert!(status.client.is_none() && status.session.is_some());
        assert_eq!(status.state.word(), "asleep");
        subject.engine.wake();
        subject.until_state(State::Ready);
        subject.answers();
    }
    let status = subject.status();
    assert_eq!((status.generation, status.restarts), (1, 0));
}

fn the_fake_sleeps_as_the_real_one(ground: &Ground) {
    let subject = ground.engine(&[]).ready().asleep(1);
    let answer = subject.ask(Client::new(&subject.socket(1)));
    wait_until("the request has come", || subject.paths().iter().any(|path| path.starts_with("/v1/")));
    assert!(!answer.is_finished());
    subject.engine.wake();
    subject.until_state(State::Ready);
    let answer = subject.handle.block_on(async { timeout(support::DEADLINE, answer).await.unwrap().unwrap() }).unwrap();
    assert!(answer.contains("You said: hello"), "{answer}");
}

fn level_one_wakes_in_one_step(ground: &Ground) {
    let subject = ground.engine(&[]).ready().asleep(1);
    subject.engine.wake();
    subject.until_state(State::Ready);
    assert_eq!(subject.paths(), ["/sleep?level=1", "/wake_up"]);
}

fn level_two_wakes_in_four_steps(ground: &Ground) {
    let subject = ground.engine(&[]).ready().asleep(2);
    subject.engine.wake();
    subject.until_state(State::Ready);
    let steps =
        ["/sleep?level=2", "/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache", "/reset_prefix_cache"];
    assert_eq!(subject.paths(), steps);
    assert_eq!(subject.requests()[2].1, r#"{"method":"reload_weights"}"#);
    subject.answers();
}

fn woken_while_falling_asleep(ground: &Ground) {
    let subject = ground.engine(&[("FAKE_VLLM_SLEEP_MS", "300")]).ready();
    subject.engine.sleep(1);
    subject.until_state(State::FallingAsleep);
    subject.engine.wake();
    subject.until_state(State::Ready);
    assert_eq!(subject.paths(), ["/sleep?level=1", "/wake_up"]);
    assert!(!subject.seen().contains(&State::Asleep { level: 1 }), "{:?}", subject.seen());
    subject.answers();
}

fn sleep_while_starting(ground: &Ground) {
    let subject = ground.engine(&[("FAKE_VLLM_START", "load:200"), ("FAKE_VLLM_SLEEP_MS", "100")]);
    subject.engine.start();
    subject.until_state(State::Starting);
    let subject = subject.asleep(1);
    assert!(!subject.seen().contains(&State::Ready), "{:?}", subject.seen());
    assert!(subject.status().start_took.is_some());
    subject.engine.wake();
    subject.until_state(State::Ready);
    subject.answers();
}

fn sleep_while_waking(ground: &Ground) {
    let subject = ground.engine(&[("FAKE_VLLM_SLEEP_MS", "100")]).ready().asleep(1);
    subject.engine.wake();
    let subject = subject.asleep(2);
    let ready = subject.seen().iter().filter(|state| **state == State::Ready).count();
    assert!(ready <= 1, "{:?}", subject.seen());
    assert_eq!(subject.paths(), ["/sleep?level=1", "/wake_up", "/sleep?level=2"]);
}

fn sleep_twice(ground: &Ground) {
    let subject = ground.engine(&[("FAKE_VLLM_SLEEP_MS", "100")]).ready();
    subject.engine.sleep(1);
    subject.until_state(State::FallingAsleep);
    subject.engine.sleep(2);
    subject.until_state(State::Asleep { level: 1 });
    subject.engine.sleep(2);
    // Orders are taken one after the other, so this one shows that the last was taken.
    subject.engine.wake();
    subject.until_state(State::Ready);
    assert_eq!(subject.paths(), ["/sleep?level=1", "/wake_up"]);
}

fn sleep_while_stopped(ground: &Ground) {
    let subject = ground.engine(&[]);
    subject.engine.sleep(1);
    subject.engine.start();
    subject.until_state(State::Ready);
    subject.answers();
    assert!(!subject.paths().iter().any(|path| path.starts_with("/sleep")));
}

fn sleep_while_restarting(ground: &Ground) {
    let subject = ground.engine(&[("FAKE_VLLM_FAIL_START", "config:1:something went wrong")]);
    subject.engine.start();
    subject.until("a pause", |status| status.state == State::Restarting && status.failures_in_a_row == 2);
    subject.engine.sleep(1);
    assert_eq!(subject.until_state(State::Stopped).generation, 2);
}

fn stop_while_asleep(ground: &Ground) {
    let subject = ground.engine(&[]).ready().asleep(1);
    subject.engine.stop();
    let status = subject.until_state(State::Stopped);
    assert!(status.failure.is_none() && status.session.is_none());
    // It is not remembered that it slept.
    let subject = subject.ready();
    assert_eq!(subject.status().generation, 2);
}

fn stop_while_under_way(ground: &Ground) {
    let subject = ground.engine(&[("FAKE_VLLM_SLEEP_FAULT", "sleep-hangs")]).ready();
    subject.engine.sleep(1);
    subject.until_state(State::FallingAsleep);
    subject.engine.stop();
    assert!(subject.until_state(State::Stopped).failure.is_none());

    let subject = ground.engine(&[("FAKE_VLLM_SLEEP_FAULT", "wake-hangs")]).ready().asleep(1);
    subject.engine.wake();
    subject.until_state(State::Waking);
    subject.engine.stop();
    assert!(subject.until_state(State::Stopped).failure.is_none());
}

fn start_while_stopping(ground: &Ground) {
    let subject = ground.engine(&[("FAKE_VLLM_IGNORE_TERM", "1")]).ready();
    subject.engine.stop();
    subject.until_state(State::Stopping);
    subject.engine.start();
    subject.engine.kill();
    subject.engine.wake();
    subject.until_state(State::Stopped);
    // One that had been obeyed would have made generation 2 already.
    subject.engine.stop();
    subject.engine.start();
    assert_eq!(subject.until_state(State::Ready).generation, 2);
    subject.engine.kill();
    subject.until_state(State::Stopped);
}

fn death_while_waking(ground: &Ground) {
    let subject = ground.engine(&[("FAKE_VLLM_SLEEP_FAULT", "wake-hangs")]).ready().asleep(1);
    subject.engine.wake();
    let status = subject.until_state(State::Waking);
    assert!(status.session.unwrap().signal_leader(libc::SIGKILL));
    subject.until("its death told", |status| {
        status.failure.as_ref().is_some_and(|failure| failure.message.contains("signal 9"))
    });
    subject.restarted();
}

fn kill_at_any_time(ground: &Ground) {
    // Patience would be endless.
    let stubborn = |fault| ground.engine(&[("FAKE_VLLM_IGNORE_TERM", "1"), ("FAKE_VLLM_SLEEP_FAULT", fault)]).ready();
    let falling = stubborn("sleep-hangs");
    falling.engine.sleep(2);
    falling.until_state(State::FallingAsleep);
    let asleep = stubborn("wake-hangs").asleep(2);
    let waking = stubborn("wake-hangs").asleep(2);
    waking.engine.wake();
    waking.until_state(State::Waking);
    for subject in [&falling, &asleep, &waking] {
        subject.engine.kill();
        assert!(subject.until_state(State::Stopped).failure.is_none());
    }
    // Also when it was asked to stop before, and waits for its SIGTERM to be heard.
    let stopping = stubborn("wake-hangs").asleep(1);
    stopping.engine.stop();
    stopping.until_state(State::Stopping);
    stopping.engine.kill();
    stopping.until_state(State::Stopped);
}

fn a_failed_sleep_is_a_stop(ground: &Ground) {
    for (fault, reason) in [
        ("sleep-500", "did not fall asleep: /sleep?level=1 was answered with status 500"),
        ("sleep-ignored", "did not fall asleep: the engine says that it is still awake"),
        ("sleep-hangs", "did not fall asleep: /sleep?level=1 was not answered within 2 s"),
    ] {
        let subject = ground.impatient(&[("FAKE_VLLM_SLEEP_FAULT", fault)]).ready();
        subject.engine.sleep(1);
        subject.stopped_because(reason);
        subject.engine.start();
        subject.until_state(State::Ready);
        subject.answers();
    }
}

fn without_sleep_mode(ground: &Ground) {
    let subject = ground.engine_with(&[], NEVER, NEVER, &[]).ready();
    subject.engine.sleep(1);
    subject.stopped_because("status 404");
    let subject = ground.engine(&[("VLLM_SERVER_DEV_MODE", "0")]).ready();
    subject.engine.sleep(1);
    subject.stopped_because("status 404");
}

fn a_failed_sleep_with_a_wish(ground: &Ground) {
    let subject = ground.impatient(&[("FAKE_VLLM_SLEEP_FAULT", "sleep-hangs")]).ready();
    subject.engine.sleep(1);
    subject.until_state(State::FallingAsleep);
    subject.engine.wake();
    subject.restarted();
}

fn a_failed_wake_is_a_restart(ground: &Ground) {
    for (fault, level) in [("wake-500", 1), ("wake-hangs", 1), ("wake-500", 2), ("reload-500", 2)] {
        let subject = ground.impatient(&[("FAKE_VLLM_SLEEP_FAULT", fault)]).ready().asleep(level);
        subject.engine.wake();
        subject.restarted();
    }
}

fn a_failed_wake_without_a_wish(ground: &Ground) {
    let subject = ground.impatient(&[("FAKE_VLLM_SLEEP_FAULT", "wake-hangs")]).ready().asleep(1);
    subject.engine.wake();
    subject.until_state(State::Waking);
    subject.engine.sleep(1);
    subject.stopped_because("did not wake up: /wake_up was not answered within 2 s");
}

fn death_asleep(ground: &Ground) {
    let subject = ground.engine(&[]).ready().asleep(1);
    assert!(subject.status().session.unwrap().signal_leader(libc::SIGKILL));
    subject.stopped_because("signal 9");
    subject.engine.wake();
    assert_eq!(subject.until_state(State::Ready).generation, 2);
    subject.answers();

    // By itself, at about the time it has fallen asleep.
    let subject = ground.engine(&[("FAKE_VLLM_SLEEP_FAULT", "dies-asleep")]).ready();
    subject.engine.sleep(2);
    assert_eq!(subject.until_state(State::Stopped).generation, 1);
}

fn death_after_a_sleep(ground: &Ground) {
    let subject = ground.engine(&[]).ready().asleep(1);
    subject.engine.wake();
    let status = subject.until_state(State::Ready);
    assert!(status.session.unwrap().signal_leader(libc::SIGKILL));
    subject.restarted();
}

fn it_hangs(ground: &Ground) {
    let subject = ground.watched(&[]).ready();
    subject.answers();
    let hanging = subject.ask_for(subject.status().client.unwrap(), "FAKE:hang 2");
    let status = subject.until("a death", |status| status.failures_in_a_row == 1);
    let message = status.failure.unwrap().message;
    assert!(message.starts_with("the engine hung: no step and no token for"), "{message}");
    assert!(message.contains("while a request was running") && message.contains("--heartbeat"), "{message}");
    let outcome = subject.handle.block_on(async { timeout(support::DEADLINE, hanging).await.unwrap().unwrap() });
    // Its front may have a moment left to say so.
    assert!(outcome.map_or(true, |text| text.contains("InternalServerError")), "whoever asked learns of it");
    subject.restarted();
}

fn it_is_frozen(ground: &Ground) {
    let subject = ground.watched(&[]).ready();
    subject.answers();
    let session = subject.status().session.unwrap();
    assert!(session.signal_leader(libc::SIGSTOP));
    // Idle it may stand still for as long as it likes; a request shows that it does.
    let hanging = subject.ask(subject.status().client.unwrap());
    subject.restarted();
    assert_eq!(subject.handle.block_on(hanging).unwrap(), Err(EngineGone::HungUp));
    assert!(session.members().is_empty(), "nothing of it is left");
}

fn it_is_slow(ground: &Ground) {
    // Five tokens a second, of which a whole answer tells nothing before its end: longer than the limit.
    let subject = ground.watched(&[("FAKE_VLLM_TOKEN_RATE", "5")]).ready();
    let answer = subject.ask_for(subject.status().client.unwrap(), "FAKE:count 8");
    assert!(subject.handle.block_on(answer).unwrap().unwrap().contains('8'));
    std::thread::sleep(Duration::from_millis(900));
    let status = subject.status();
    assert_eq!((status.state, status.restarts), (State::Ready, 0));
}

fn memory_is_measured(ground: &Ground) {
    let subject = ground.engine(&[]).ready();
    let status = subject.until("a measurement", |status| status.peak_memory_bytes.is_some());
    let (measured, peak, resident) =
        (status.measured_bytes.unwrap(), status.peak_memory_bytes.unwrap(), status.memory_bytes().unwrap());
    assert!(measured > 1 << 20 && measured <= peak, "{measured} {peak}");
    // The fake's processes are one program and share its pages, which count for each of them in the other measure.
    assert!(measured < resident, "{measured} {resident}");
    subject.engine.stop();
    let status = subject.until_state(State::Stopped);
    assert_eq!((status.measured_bytes, status.peak_memory_bytes), (None, Some(peak)));
    assert!(status.start_took.is_some());
}
