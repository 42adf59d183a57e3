//! What was given in three places → one [`Config`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use tracing_subscriber::filter::Targets;

use super::arguments::name;
use super::file::{self, File};
use super::values::Values;
use super::{Config, ConfigError, Service, Voice, host, ollama};

/// Puts the configuration together: flags over the environment over the file over defaults.
pub(super) fn config(matches: &ArgMatches, mut environment: HashMap<String, String>) -> Result<Config, ConfigError> {
    let service = Service::take(&mut environment, std::process::id());
    let no_file = File::default();
    let named = Values { matches, environment: &environment, file: &no_file }.path(file::FLAG);
    let file = File::read(named)?;
    let values = Values { matches, environment: &environment, file: &file };
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let root = nix::unistd::geteuid().is_root();
    let home = PathBuf::from(variable("HOME").map_or("/", String::as_str));
    let state = values
        .path("state-dir")
        .unwrap_or_else(|| if root { PathBuf::from("/var/lib/vllama") } else { home.join(".vllama") });
    let run = values.path("run-dir").unwrap_or_else(|| match variable("XDG_RUNTIME_DIR") {
        _ if root => PathBuf::from("/run/vllama"),
        Some(runtime) => Path::new(runtime).join("vllama"),
        None => state.join("run"),
    });
    let json_logs = match values.find("log-format") {
        None => false,
        Some((value, place)) => match value.as_str() {
            "text" => false,
            "json" => true,
            other => return Err(ConfigError(format!("{place}: '{other}' is neither text nor json"))),
        },
    };
    let level = ollama::log_level(variable("OLLAMA_DEBUG").map(String::as_str));
    let quiet = matches.get_flag("quiet");
    Ok(Config {
        model: matches.try_get_one::<String>("model").ok().flatten().map(|text| name(text)).transpose()?,
        listen: host::parse(&values.text("host").unwrap_or_default(), host::CLIENTS)?,
        metrics_listen: values.text("metrics-listen").map(|text| host::parse(&text, host::MONITORING)).transpose()?,
        otlp: values.text("otlp"),
        models: values.path("models-dir").unwrap_or_else(|| state.join("models")),
        base_models: values.path("base-models-dir").unwrap_or_else(|| "/usr/share/vllama/models".into()),
        engine: values.path("engine").unwrap_or_else(|| found_in_path(variable("PATH"), "vllm")),
        engine_arguments: values.words("engine-args")?.into_iter().chain(trailing(matches)).collect(),
        engine_frontend: values.frontend()?,
        cpu_cache_gib: values.number("cpu-cache")?,
        gpu_helper: values.path("gpu-helper"),
        start_limit: values.patience("start-timeout", Duration::from_secs(600))?,
        replays: values.number("replays")?.map_or(1, |number| u32::try_from(number).unwrap_or(u32::MAX)),
        heartbeat: values.time("heartbeat", Duration::from_secs(120))?,
        drain: values.time("drain", Duration::from_secs(30))?,
        stop_limit: values.time("stop-timeout", Duration::from_secs(15))?,
        keep_alive: values.text("keep-alive"),
        context_length: values.number("context-length")?.filter(|length| *length > 0),
        max_queue: size(values.number("max-queue")?.unwrap_or(512)),
        max_loaded: size(values.number("max-loaded-models")?.unwrap_or(0)),
        memory_budget: values.bytes("memory-budget")?,
        max_wait: values.time("max-wait", Duration::from_secs(30))?,
        min_residence: values.time("min-residence", Duration::from_secs(10))?,
        streams_per_client: size(values.number("streams-per-client")?.unwrap_or(0)),
        patience: Some(values.time("patience", Duration::ZERO)?).filter(|patience| !patience.is_zero()),
        stall_limit: values.time("stall-timeout", Duration::from_secs(60))?,
        body_limit: size(values.number("max-body")?.unwrap_or(64)).saturating_mul(1 << 20),
        blob_limit: values.number("max-blob")?.unwrap_or(1024).saturating_mul(1 << 30),
        max_connections: size(values.number("max-connections")?.unwrap_or(4096)),
        keys: values.path("keys"),
        origins: values
            .text("origins")
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|origin| !origin.is_empty())
            .map(str::to_owned)
            .collect(),
        json_logs,
        colour: variable("NO_COLOR").is_none(),
        log: values.log_filter()?.unwrap_or_else(|| Targets::new().with_default(level)),
        voice: match (matches.get_flag("json"), quiet) {
            (true, _) => Voice::Json,
            (false, true) => Voice::Quiet,
            (false, false) => Voice::Human,
        },
        state,
        run,
        warnings: ollama::without_effect(&environment),
        settings_by_model: file.models,
        service,
        environment: environment.into_iter().collect(),
    })
}

/// What stands after `--`.
fn trailing(matches: &ArgMatches) -> impl Iterator<Item = String> {
    // `import` has no such arguments.
    matches.try_get_many::<String>("vllm").ok().flatten().into_iter().flatten().cloned()
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The program's full path, or its bare name when PATH does not have it.
fn found_in_path(path: Option<&String>, program: &str) -> PathBuf {
    let directories = path.map_or("", String::as_str).split(':').filter(|directory| !directory.is_empty());
    directories
        .map(|directory| Path::new(directory).join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| program.into())
}
