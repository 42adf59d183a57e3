//! From exec to serving, and from SIGTERM to the end: phases, log lines, exit statuses as vLLM's.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::UnixSocket;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::arguments::Arguments;
use crate::engine::Engine;
use crate::frontend;
use crate::orders;
use crate::processes::{self, Role};
use crate::server;
use crate::settings::Settings;

/// What vLLM writes where the time would stand; tests compare text.
const TIME: &str = "11-23 12:00:00";

/// How long vLLM's watchdog takes to leave after its core has died.
const LEAVE_AFTER_CORE: Duration = Duration::from_millis(150);

/// The part of a start that can be slow or fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Python imports; silent, no signal handler yet.
    Import,
    /// Arguments and the model's configuration.
    Config,
    /// Weights.
    Load,
    /// Profiling, KV cache, warm-up.
    Profile,
    /// The HTTP server.
    Serving,
}

impl Phase {
    /// The phase of that name.
    pub fn named(name: &str) -> Self {
        match name {
            "import" => Self::Import,
            "config" => Self::Config,
            "load" => Self::Load,
            "profile" => Self::Profile,
            "serving" => Self::Serving,
            _ => panic!("{name:?} is no phase: import, config, load, profile or serving"),
        }
    }
}

/// What the signal thread must know.
#[derive(Debug, Default)]
struct Life {
    serving: AtomicBool,
    core: AtomicI32,
}

/// The leader's whole life.
pub fn serve(arguments: Arguments, settings: Settings) -> ExitCode {
    let life = Arc::<Life>::default();
    if let Some(directory) = &settings.orders {
        let life = Arc::clone(&life);
        orders::listen(directory, None, move |status| leave(life.core.load(Ordering::SeqCst), status));
    }
    let fails = this_start_fails(&settings, &arguments);
    if settings.ignore_term {
        processes::block(&[Signal::SIGTERM, Signal::SIGINT]);
    }
    std::thread::sleep(settings.phase(Phase::Import));
    orders::pass_blocking(settings.orders.as_deref(), "import");
    orders::hang_if_told();
    if let Some(lines) = frontend::refusal(&arguments).filter(|_| settings.rust_frontend) {
        eprintln!("{lines}");
        return ExitCode::FAILURE;
    }
    let start = Start { fails, settings: &settings, life };
    start.fail_in(Phase::Import);

    let signals = processes::block(&[Signal::SIGTERM, Signal::SIGINT]);
    let (stop, stopped) = watch::channel(false);
    let (life, ignore) = (Arc::clone(&start.life), settings.ignore_term);
    std::thread::spawn(move || {
        loop {
            let _ = signals.wait();
            if ignore || orders::IGNORES_TERM.load(Ordering::SeqCst) {
                continue;
            }
            if !life.serving.load(Ordering::SeqCst) {
                // vLLM's handler raises KeyboardInterrupt while the engine is being built.
                leave(life.core.load(Ordering::SeqCst), 130);
            }
            stop.send_replace(true);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(start.run(&arguments, stopped))
}

/// One start.
struct Start<'settings> {
    fails: bool,
    settings: &'settings Settings,
    life: Arc<Life>,
}

impl Start<'_> {
    async fn run(&self, arguments: &Arguments, mut stopped: watch::Receiver<bool>) -> ExitCode {
        if self.settings.orders.is_some() {
            // There is one thread for all, so with this task everything hangs.
            tokio::spawn(async {
                loop {
                    orders::hang_if_told();
                    sleep(orders::LOOK).await;
                }
            });
        }
        self.configure(arguments);
        sleep(self.settings.phase(Phase::Config)).await;
        self.fail_in(Phase::Config);

        let socket = UnixSocket::new_stream().expect("a socket");
        if let Err(error) = socket.bind(&arguments.socket) {
            eprintln!("OSError: [Errno 98] {error}: '{}'", arguments.socket.display());
            return ExitCode::FAILURE;
        }
        let engine = self.build(arguments);
        self.load(arguments).await;
        self.held_up(engine.core).await;
        if self.settings.never_ready {
            self.wait_for_ever().await;
        }
        sleep(self.settings.phase(Phase::Profile)).await;
        self.profile(&engine);
        sleep(self.settings.phase(Phase::Serving)).await;
        self.fail_in(Phase::Serving);

        let listener = socket.listen(2048).expect("a listening socket");
        api(0, "INFO", "api_server.py:1346", "Supported tasks: ['generate']");
        api(0, "INFO", "launcher.py:47", &format!("Starting vLLM server on unix:{}", arguments.socket.display()));
        println!("(APIServer pid={0}) INFO:     Started server process [{0}]", std::process::id());
        println!("(APIServer pid={}) INFO:     Waiting for application startup.", std::process::id());
        println!("(APIServer pid={}) INFO:     Application startup complete.", std::process::id());
        self.life.serving.store(true, Ordering::SeqCst);

        tokio::spawn(server::accept(listener, Arc::clone(&engine)));
        let mut core_dead = engine.core_dead.subscribe();
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => shut_down(&engine).await,
            _ = core_dead.wait_for(|dead| *dead) => {
                api(0, "ERROR", "async_llm.py:704", "AsyncLLM output_handler failed.");
                let cause = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. \
                             See stack trace (above) for the root cause.";
                api(0, "ERROR", "async_llm.py:704", cause);
                sleep(LEAVE_AFTER_CORE).await;
            }
        }
        leave(engine.core, 0)
    }

    /// Waits where it is held up while the weights load, and as long as its core does nothing.
    async fn held_up(&self, core: i32) {
        let directory = self.settings.orders.as_deref();
        orders::pass(directory, "load").await;
        while directory.is_some_and(|directory| orders::core_stands_still(directory, core)) {
            sleep(orders::LOOK).await;
        }
    }

    fn configure(&self, arguments: &Arguments) {
        api(0, "INFO", "utils.py:299", "vLLM API server version 0.32.0");
        let given: Vec<String> = arguments
            .given
            .iter()
            .map(|(flag, values)| format!("'{}': {values:?}", flag.trim_start_matches('-').replace('-', "_")))
            .collect();
        api(0, "INFO", "utils.py:233", &format!("non-default args: {{{}}}", given.join(", ")));
        if self.settings.garbage {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(b"\xff\xfe\x00\x1b[31m\xc3\x28 not text \x80\x80\n\r\r\n\n{\"half\":\n");
        }
        if self.settings.long_line > 0 {
            println!("{}", "x".repeat(self.settings.long_line));
        }
        api(0, "INFO", "model.py:560", "Resolved architecture: LlamaForCausalLM");
        api(0, "INFO", "model.py:1680", &format!("Using max model len {}", self.max_model_len(arguments)));
    }

    /// Starts the processes below the leader.
    fn build(&self, arguments: &Arguments) -> Arc<Engine> {
        let tracker = processes::start(Role::Tracker);
        // Lives until the leader's end of the pipe closes, which is when the leader ends.
        std::mem::forget(tracker);
        if self.settings.leave_files {
            let segment = processes::segment(std::process::id());
            // Open until it is mapped, as Python's shared memory is.
            let made = std::fs::File::create(&segment).and_then(|mut file| file.write_all(&[0; 4096]).map(|()| file));
            if let Err(error) = &made {
                eprintln!("OSError: {error}: '{}'", segment.display());
                let _ = std::fs::remove_file(&segment);
                leave(0, 1);
            }
            processes::map(&segment);
        }
        let mut core = processes::start(Role::Core);
        let pid = i32::try_from(core.id()).unwrap_or_default();
        self.life.core.store(pid, Ordering::SeqCst);
        let engine = Engine::new(arguments.clone(), self.settings.clone(), self.max_model_len(arguments), pid);
        let watched = Arc::clone(&engine);
        std::thread::spawn(move || {
            let _ = core.wait();
            watched.core_dead.send_replace(true);
        });
        for _ in 0..self.settings.strays {
            let _ = processes::start(Role::StrayParent).wait();
        }
        if self.settings.zombies > 0 {
            let _ = processes::start(Role::OrphanParent).wait();
        }
        if self.settings.leave_files {
            let directory = std::env::temp_dir().join("pymp-fake");
            std::fs::create_dir_all(&directory).expect("TMPDIR can be written");
            std::fs::write(directory.join("listener"), b"left behind").expect("TMPDIR can be written");
        }
        let model = &arguments.model;
        log(
            "EngineCore",
            pid,
            "INFO",
            "core.py:97",
            &format!("Initializing a V1 LLM engine (v0.32.0) with config: model='{model}'"),
        );
        engine
    }

    async fn load(&self, arguments: &Arguments) {
        let worker = self.life.core.load(Ordering::SeqCst);
        log(
            "Worker",
            worker,
            "INFO",
            "gpu_model_runner.py:4510",
            &format!("Starting to load model {}...", arguments.model),
        );
        let shards = 4;
        eprint!("\rLoading safetensors checkpoint shards:   0% Completed | 0/{shards} [00:00<?, ?it/s]\n");
        for shard in 1..=shards {
            sleep(self.settings.phase(Phase::Load) / shards).await;
            let percent = shard * 100 / shards;
            eprint!(
                "\rLoading safetensors checkpoint shards: {percent:3}% Completed | {shard}/{shards} [00:00<00:00,  9.87it/s]\n"
            );
        }
        self.fail_in(Phase::Load);
        log("Worker", worker, "INFO", "default_loader.py:391", "Loading weights took 0.10 seconds");
        log(
            "Worker",
            worker,
            "INFO",
            "gpu_model_runner.py:4610",
            "Model loading took 0.25 GiB memory and 0.31 seconds",
        );
    }

    /// What vLLM does when one of its processes hangs.
    async fn wait_for_ever(&self) {
        let Some(pause) = self.settings.waits else { return std::future::pending().await };
        loop {
            sleep(pause).await;
            let text = "No available shared memory broadcast block found in 60 seconds. This typically happens when some \
                        processes are hanging or doing some time-consuming work";
            log("EngineCore", self.life.core.load(Ordering::SeqCst), "INFO", "shm_broadcast.py:733", text);
        }
    }

    fn profile(&self, engine: &Engine) {
        self.fail_in(Phase::Profile);
        let (worker, length) = (engine.core, engine.max_model_len);
        log("Worker", worker, "INFO", "gpu_worker.py:440", "Available KV cache memory: 2.00 GiB");
        let size =
            format!("CPU KV cache size: 46,592 tokens, Maximum concurrency for {length} tokens per request: 5.69x");
        log("EngineCore", worker, "INFO", "kv_cache_utils.py:1319", &size);
        eprint!("\rCapturing CUDA graphs (decode, FULL):   0%|          | 0/2 [00:00<?, ?it/s]");
        eprint!("\rCapturing CUDA graphs (decode, FULL): 100%|##########| 2/2 [00:00<00:00, 99.0it/s]\n");
        let done = "init engine (profile, create kv cache, warmup model) took 0.05 s (compilation: 0.00 s)";
        log("EngineCore", worker, "INFO", "core.py:283", done);
    }

    /// Ends the program when this phase is the one to fail in.
    fn fail_in(&self, phase: Phase) {
        if let Some((fails_in, code, line)) = &self.settings.fail_start
            && self.fails
            && *fails_in == phase
        {
            let core = self.life.core.load(Ordering::SeqCst);
            if core == 0 {
                eprintln!("{line}");
            } else {
                log("EngineCore", core, "ERROR", "core.py:1136", line);
                api(
                    0,
                    "ERROR",
                    "core.py:1136",
                    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}",
                );
            }
            leave(core, i32::from(*code));
        }
    }

    fn max_model_len(&self, arguments: &Arguments) -> u64 {
        let of_checkpoint = || {
            let path = std::path::Path::new(&arguments.model).join("config.json");
            let config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
            config["max_position_embeddings"].as_u64()
        };
        self.settings.max_model_len.or(arguments.max_model_len).or_else(of_checkpoint).unwrap_or(8192)
    }
}

/// Counts this start and says whether it is one that fails.
fn this_start_fails(settings: &Settings, arguments: &Arguments) -> bool {
    let starts = settings.count_file.as_ref().map_or(1, |path| {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.expect("FAKE_VLLM_COUNT_FILE: a file to write to");
        writeln!(file, "{}", std::process::id()).expect("FAKE_VLLM_COUNT_FILE: a file to write to");
        std::fs::read_to_string(path).unwrap_or_default().lines().count()
    });
    let is_so = |(name, value): &(String, Option<String>)| {
        let flag = arguments.given.iter().rev().find(|(flag, _)| flag == name).map(|(_, values)| values.join(" "));
        let found = flag.or_else(|| std::env::var(name).ok());
        found.is_some_and(|found| value.as_ref().is_none_or(|value| *value == found))
    };
    settings.fail_start.is_some()
        && settings.fail_starts.is_none_or(|failing| starts <= failing)
        && settings.fail_with.as_ref().is_none_or(is_so)
}

/// What SIGTERM does while serving: running requests may finish within `--shutdown-timeout`, late ones are aborted.
async fn shut_down(engine: &Engine) {
    api(0, "INFO", "launcher.py:180", "[shutdown] API server: shutdown triggered");
    engine.stopping.store(true, Ordering::SeqCst);
    orders::pass(engine.settings.orders.as_deref(), "stopping").await;
    wait_for_idle(engine, Duration::from_secs(engine.arguments.shutdown_timeout)).await;
    processes::signal(engine.core, Signal::SIGKILL);
    wait_for_idle(engine, Duration::from_secs(1)).await;
    println!("(APIServer pid={}) INFO:     Application shutdown complete.", std::process::id());
}

async fn wait_for_idle(engine: &Engine, limit: Duration) {
    let deadline = Instant::now() + limit;
    while engine.running.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        sleep_until(Instant::now() + Duration::from_millis(5)).await;
    }
}

/// Takes the core along and ends the program.
pub fn leave(core: i32, code: i32) -> ! {
    if core > 0 {
        processes::signal(core, Signal::SIGKILL);
    }
    let _ = std::io::stdout().flush();
    std::process::exit(code)
}

/// The core runs out of its GPU's memory and dies.
pub fn out_of_memory(core: i32) {
    let text =
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80 GiB";
    log("EngineCore", core, "ERROR", "core.py:1136", text);
    let _ = std::io::stdout().flush();
    processes::signal(core, Signal::SIGKILL);
}

/// A line of the API server.
fn api(pid: i32, level: &str, place: &str, text: &str) {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    log("APIServer", if pid == 0 { own } else { pid }, level, place, text);
}

/// A line as vLLM's logger writes it.
fn log(process: &str, pid: i32, level: &str, place: &str, text: &str) {
    println!("({process} pid={pid}) {level} {TIME} [{place}] {text}");
}
