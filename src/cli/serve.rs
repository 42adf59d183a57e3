//! `vllama serve [MODEL]`: opens the port, loads the model, serves until it is told to stop.

mod descriptors;
mod doors;
mod ebb;
mod engines;
mod keep_alives;
mod keys;
mod notify;
mod preflight;
mod reload;
mod run_directory;
mod surroundings;

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{mpsc, watch};

use descriptors::Shares;
use doors::Sockets;
use keys::Keys;
use notify::Notifier;
use reload::{Reload, Wanted};

use super::doctor;
use super::journal;
use super::planning;
use super::problem::Problem;
use super::progress::Progress;
use crate::api::App;
use crate::api::ollama::change;
use crate::config::Config;
use crate::gpu;
use crate::init::{Init, Pulse, Signal, Spawner, ask_to_be_spared, keep_memory_at_hand};
use crate::model::pull::Pulls;
use crate::model::python::Python;
use crate::model::{Installed, Store};
use crate::scheduler::{self, Scheduler};
use crate::server::{self, Phase};
use crate::telemetry::Metrics;
use crate::telemetry::logs::{self, Format};
use crate::telemetry::metrics::Machine;
use crate::telemetry::traces::{Endpoint, Tracer};

/// How long connections may take to close once nobody waits for them any more.
const HURRY: Duration = Duration::from_millis(500);

/// Serves, and gives the exit code: 0 after a stop that was asked for.
pub(super) fn run(config: Config) -> i32 {
    let stream = config.service.journal;
    match start(config) {
        Ok(code) => code,
        Err(problem) => {
            journal::tell_error(&problem.to_string(), stream);
            1
        }
    }
}

/// What is ready before the runtime starts.
struct Ground {
    wanted: Wanted,
    sockets: Sockets,
    collector: Option<Endpoint>,
    store: Store,
    model: Option<Arc<Installed>>,
    progress: Arc<Progress>,
    spawner: Spawner,
    pulse: Pulse,
    keys: Option<Arc<Keys>>,
    /// Held as long as vllama runs.
    _run_lock: run_directory::Lock,
}

fn start(config: Config) -> Result<i32, Problem> {
    let begun = Instant::now();
    let init = Init::new()
        .map_err(|error| Problem::new("cannot start", error, "check the limits of this user (`ulimit -a`)"))?;
    // Before anything else is opened.
    let inherited = doors::inherited(&config)?;
    let progress = Arc::new(Progress::new(config.voice, config.json_logs));
    logs::init(log_format(&config), journal::hears(config.service.journal), config.log.clone(), progress.pen());
    match ask_to_be_spared() {
        Ok(score) => tracing::debug!(score, "the kernel spares vllama when memory runs out"),
        Err(error) => {
            tracing::debug!(%error, "the kernel spares vllama only as much as its engines' scores are higher")
        }
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // Before the store: who holds this lock knows that nothing of a killed vllama holds others.
    let run_lock = run_directory::lock(&config.run)?;
    let parsers = planning::parser_choices(&config);
    let store = Store::with_parsers(&config.models, Some(&config.base_models), parsers).map_err(|error| {
        let what = format!("cannot read the model store {}", config.models.display());
        Problem::new(what, error, "choose a directory you may write with --state-dir or --models-dir")
    })?;
    let model = preflight::model(&store, &config)?;
    let wanted = Wanted::new(config)?;
    preflight::engine(&wanted.config)?;
    let collector = collector(&wanted.config)?;
    let sockets = doors::open(&wanted.config, inherited)?;
    let keys = Keys::open(&wanted.config)?.map(Arc::new);
    if keys.is_none() {
        keys::warn_if_open(&sockets.addresses());
    }
    let (signals, receiver) = mpsc::unbounded_channel();
    let (spawner, stopper, pulse) = (init.spawner(), init.stopper(), init.pulse());
    let ground =
        Ground { wanted, sockets, collector, store, model, progress, spawner, pulse, keys, _run_lock: run_lock };
    std::thread::Builder::new()
        .name("vllama".into())
        .spawn(move || {
            // A panic here must end the program and not leave a PID 1 that serves nobody.
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(ground, receiver, begun)));
            stopper.stop(code.unwrap_or(1));
        })
        .map_err(|error| Problem::new("cannot start a thread", error, "check the limits of this user (`ulimit -u`)"))?;
    // The receiver ends with the runtime; a signal that comes then has nothing left to do.
    Ok(init.run(|signal| _ = signals.send(signal)))
}

/// Runs the asynchronous part on threads of its own and gives the exit code.
fn work(ground: Ground, signals: mpsc::UnboundedReceiver<Signal>, begun: Instant) -> i32 {
    keep_memory_at_hand();
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(cores.clamp(2, 8)).enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(serve(ground, signals, begun));
            runtime.shutdown_timeout(HURRY);
            code
        }
        Err(error) => Problem::new("cannot start", error, "check the limits of this user (`ulimit -a`)").tell(),
    }
}

async fn serve(ground: Ground, mut signals: mpsc::UnboundedReceiver<Signal>, begun: Instant) -> i32 {
    let Ground { wanted, sockets, collector, store, model, progress, spawner, pulse, keys, _run_lock } = ground;
    let config = wanted.config.clone();
    let no_model = match store.list().is_empty() {
        true => "no model is installed: get one with `ollama pull NAME`, or `vllama import FILE.gguf NAME`",
        false => "no model is loaded before somebody asks for one",
    };
    let (address, monitoring) = (sockets.address(&config), sockets.monitoring());
    let doors = match sockets.doors() {
        Ok(doors) => doors,
        Err(error) => {
            return Problem::new("cannot listen", error, "check the limits of this user (`ulimit -n`)").tell();
        }
    };
    let notifier = Notifier::new(&config.service);
    let (wanted, wanted_seen) = watch::channel(Arc::new(wanted));
    let gpus = watch_gpus(&config, spawner.clone());
    let (asked, watch) = (config.clone(), gpus.clone());
    // Waits for the driver.
    let hardware = tokio::task::spawn_blocking(move || planning::hardware(&asked, watch.as_ref())).await;
    let hardware = match hardware {
        Ok(hardware) => hardware,
        Err(error) => return Problem::new("cannot look at this machine", error, "please report this").tell(),
    };
    let settings = scheduler_settings(&config);
    let shares = Shares::of_this_process(config.max_connections);
    let scheduler = Scheduler::new(engines::factory(&config, wanted_seen, hardware, &spawner, gpus.clone()), settings);
    let python = Python::beside(&config.engine, &config.environment, spawner);
    let publish = change::publisher(store.clone(), scheduler.clone());
    let pulls = Pulls::start(store.clone(), python.clone(), config.models.join(".downloads"), publish);
    let version = doctor::engine_version(&config.engine).unwrap_or_default();
    let machine = Machine::new(gpus.clone(), &config.models, &config.state, version);
    let (tracer, export) = collector.map(Tracer::start).unzip();
    let app = Arc::new(App {
        scheduler: scheduler.clone(),
        store,
        python,
        pulls: pulls.clone(),
        default_model: model.as_ref().map(|model| model.name.clone()),
        gpus: Box::new(move || serde_json::to_value(&gpus.as_ref()?.latest()?.gpus).ok()),
        stopping: AtomicBool::new(false),
        context_length: config.context_length,
        started: begun,
        metrics: Arc::new(Metrics::new(machine)),
        tracer,
    });
    if let Some(model) = &model {
        scheduler.load(model).await;
    }
    let (phase, phase_seen) = watch::channel(Phase::Serving);
    let (server_wanted, server_seen) = watch::channel(Arc::new(server_settings(&config, keys.as_deref(), shares)));
    let (_monitored, always) = watch::channel(Phase::Serving);
    if let Some(door) = doors.monitoring {
        // To the very end: how a drain goes is worth watching too.
        tokio::spawn(server::serve_monitoring(door, app.clone(), server_seen.clone(), always));
    }
    let server = tokio::spawn(server::serve(doors.clients, app.clone(), server_seen, phase_seen));
    notifier.say("READY=1");
    tokio::spawn(notifier.clone().keep_telling(scheduler.clone(), config.service.watchdog, pulse));
    if let Some(keys) = &keys {
        tokio::spawn(keys.clone().watch());
    }
    let (counted, leased) = (app.metrics.clone(), scheduler.clone());
    tokio::spawn(ebb::watch(move || {
        let requests = leased.snapshot().requests();
        ebb::Crowd { most: counted.take_most_connections() + requests, now: counted.connections() + requests }
    }));
    let reload = Arc::new(Reload {
        started: config,
        shares,
        wanted,
        server: server_wanted,
        scheduler: scheduler.clone(),
        keys: keys.clone(),
    });
    let metrics = monitoring.map(|address| address.to_string());
    progress.event(&json!({"event": "listening", "address": address.to_string(), "metrics": metrics}));
    progress.say(&format!("vllama {} listens on http://{address}", env!("CARGO_PKG_VERSION")));
    if let Some(address) = metrics {
        progress.say(&format!("metrics are on http://{address}/metrics"));
    }
    if model.is_none() {
        progress.say(no_model);
    }
    tokio::spawn(tell_engines(scheduler.clone(), progress.clone(), format!("http://{address}")));

    let patient = wait_for_stop(&mut signals, &scheduler, &reload, &notifier).await;
    notifier.say("STOPPING=1");
    progress.event(&json!({"event": "stopping"}));
    let drain = if patient { reload.wanted.borrow().config.drain } else { Duration::ZERO };
    progress.say(&format!(
        "stopping: running requests have {} s to finish (a second signal ends them at once)",
        drain.as_secs()
    ));
    app.stopping.store(true, Ordering::Relaxed);
    phase.send_replace(Phase::Draining);
    // Nobody waits for gigabytes; what has come is there when vllama is back.
    pulls.close().await;
    stop(&scheduler, server, drain, &mut signals).await;
    if let Some(keys) = keys {
        // A panic in it has been logged.
        let _ = tokio::task::spawn_blocking(move || keys.note()).await;
    }
    if let Some(export) = export {
        export.finish().await;
    }
    progress.event(&json!({"event": "stopped"}));
    progress.done("stopped");
    0
}

/// The collector of traces, where one is wanted.
fn collector(config: &Config) -> Result<Option<Endpoint>, Problem> {
    let read = |text: &String| {
        Endpoint::parse(text).map_err(|error| {
            let fix = "set VLLAMA_OTLP or --otlp to an address such as http://127.0.0.1:4318";
            Problem::new(format!("cannot send traces to '{text}'"), error, fix)
        })
    };
    config.otlp.as_ref().map(read).transpose()
}

fn log_format(config: &Config) -> Format {
    if config.json_logs {
        Format::Json
    } else {
        Format::Human { colour: config.colour && std::io::stderr().is_terminal() }
    }
}

fn watch_gpus(config: &Config, spawner: Spawner) -> Option<gpu::Watch> {
    let environment = config.environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let watch = gpu::Watch::start(spawner, planning::gpu_helper(config), environment, gpu::Pace::default());
    watch.inspect_err(|error| tracing::warn!(%error, "the GPUs are not watched")).ok()
}

fn scheduler_settings(config: &Config) -> scheduler::Settings {
    let scheduler::Limits { max_queue, max_loaded, max_wait, min_residence } = limits(config);
    scheduler::Settings {
        max_queue,
        max_loaded,
        max_wait,
        min_residence,
        replays: config.replays,
        sleeping_memory: preflight::sleeping_memory(),
        measured: config.state.join("measured.json"),
        changes: planning::changes_file(config),
    }
}

fn limits(config: &Config) -> scheduler::Limits {
    scheduler::Limits {
        max_queue: config.max_queue,
        max_loaded: config.max_loaded,
        max_wait: config.max_wait,
        min_residence: config.min_residence,
    }
}

fn server_settings(config: &Config, keys: Option<&Keys>, shares: Shares) -> server::Settings {
    server::Settings {
        gate: keys.map(|keys| keys.gate.clone()),
        stall_timeout: config.stall_limit,
        body_limit: config.body_limit,
        upload_limit: config.blob_limit,
        max_connections: shares.connections,
        lobby: shares.lobby,
        max_requests: shares.requests,
        streams_per_client: config.streams_per_client,
        patience: config.patience,
        origins: server::Origins::new(&config.origins),
        hostname: nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()),
        ..server::Settings::default()
    }
}

/// Obeys signals until one of them means to stop; true when what runs may finish.
async fn wait_for_stop(
    signals: &mut mpsc::UnboundedReceiver<Signal>,
    scheduler: &Scheduler,
    reload: &Arc<Reload>,
    notifier: &Notifier,
) -> bool {
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::Terminate | Signal::Interrupt => return true,
            Signal::Quit => return false,
            Signal::HangUp => {
                notifier.say("RELOADING=1");
                let reload = reload.clone();
                // A panic in it has been logged, and nothing has changed.
                let _ = tokio::task::spawn_blocking(move || reload.reload()).await;
                notifier.say("READY=1");
            }
            Signal::User1 => {
                tracing::info!(state = ?scheduler.snapshot(), "state, as asked for by a signal");
            }
            Signal::User2 => logs::toggle_debug(),
        }
    }
    // The main thread is gone, and with it the program.
    false
}

/// Gate shut, requests drained for at most this long, engine stopped; a second signal takes the patience away.
async fn stop(
    scheduler: &Scheduler,
    mut server: tokio::task::JoinHandle<()>,
    drain: Duration,
    signals: &mut mpsc::UnboundedReceiver<Signal>,
) {
    scheduler.close();
    let at_once = tokio::select! {
        _ = &mut server => false,
        () = tokio::time::sleep(drain) => {
            tracing::warn!("requests still run after the drain time; ending them");
            false
        }
        signal = signals.recv() => signal.is_some(),
    };
    // The engine goes first: what still streams ends with an error line, and then its connection closes.
    let end = async {
        scheduler.stop(at_once).await;
        if !server.is_finished() {
            let _ = tokio::time::timeout(HURRY, &mut server).await;
        }
    };
    tokio::select! {
        () = end => {}
        Some(_) = signals.recv() => scheduler.stop(true).await,
    }
}

/// Tells people what the engines do, from their starts to their ends.
async fn tell_engines(scheduler: Scheduler, progress: Arc<Progress>, address: String) {
    let mut changes = scheduler.changes();
    let mut before = HashMap::new();
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
        for engine in scheduler.snapshot().engines {
            if engine.state == "starting" {
                progress.part(engine.phase, engine.percent.into(), 100);
            }
            let now = (engine.state, engine.generation);
            if before.insert(engine.key, now) == Some(now) {
                continue;
            }
            let model = engine.model.display();
            match (engine.state, &engine.failure) {
                ("ready", _) => {
                    let seconds = engine.start_took.unwrap_or_default().as_secs_f32();
                    let generation = engine.generation;
                    progress.event(
                        &json!({"event": "ready", "model": model, "seconds": seconds, "generation": generation}),
                    );
                    progress.done(&format!("{model} is ready after {seconds:.0} s: {address}"));
                }
                ("restarting" | "failed" | "stopped", Some(failure)) => {
                    progress.failed(&format!("{model}: {failure}"));
                }
                _ => {}
            }
        }
    }
}
