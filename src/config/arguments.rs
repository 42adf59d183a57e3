//! The command line → a [`Verb`].

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;

use super::command_line::command;
use super::file::{self, File};
use super::key::{self, KeyOrder};
use super::values::Values;
use super::{Config, ConfigError, Service, Voice, host, ollama};
use crate::model::ModelName;

/// What vllama was asked to do.
#[derive(Debug)]
pub enum Verb {
    /// Serve a model.
    Serve(Box<Config>),
    /// Install a model from a GGUF file.
    Import {
        /// The GGUF file, or the checkpoint's directory.
        file: PathBuf,
        /// The name it gets.
        name: ModelName,
        /// Leave it alone when a model of that name is installed.
        if_missing: bool,
        /// Sampling defaults of the model: a key of [`PARAMETERS`] and its value.
        parameters: Vec<(&'static str, f64)>,
        /// Where to install it, and how to talk.
        config: Box<Config>,
    },
    /// Tell how a model would be served, and why so.
    Explain {
        /// Name of an installed model, or directory of a checkpoint.
        model: String,
        /// Store and settings, and how to talk.
        config: Box<Config>,
    },
    /// Tell whether an engine could run here, and what to do where it could not.
    Doctor(Box<Config>),
    /// Tell how the server of this machine is.
    Health {
        /// Whether its default model can answer, rather than whether it lives.
        ready: bool,
        /// Where it listens, and how to talk.
        config: Box<Config>,
    },
    /// Add, list or revoke keys.
    Key(KeyOrder),
    /// Run one command below an init.
    Init(Vec<OsString>),
    /// Tell the version.
    Version,
    /// Print this text and leave with this code: help, or a mistake on the command line.
    Print {
        /// The text.
        text: String,
        /// 0 for help, 2 for a mistake.
        code: u8,
    },
}

/// Reads the command line (with the program's name) and the environment.
///
/// # Errors
/// [`ConfigError`] when a value cannot be used.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Verb, ConfigError> {
    let text = |value: OsString| value.into_string().ok();
    let environment: HashMap<String, String> =
        environment.into_iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(mut error) => {
            ollama::explain_verb(&mut error);
            let code = if error.use_stderr() { 2 } else { 0 };
            return Ok(Verb::Print { text: error.render().to_string(), code });
        }
    };
    match matches.subcommand() {
        Some(("serve", matches)) => Ok(Verb::Serve(Box::new(config(matches, environment)?))),
        Some(("import", matches)) => {
            let file = matches.get_one::<PathBuf>("file").cloned().unwrap_or_default();
            let name = name(matches.get_one::<String>("name").map_or("", String::as_str))?;
            let if_missing = matches.get_flag("if-missing");
            let parameters = matches.get_many::<String>("parameter").into_iter().flatten();
            let parameters = parameters.map(|text| parameter(text)).collect::<Result<_, _>>()?;
            Ok(Verb::Import { file, name, if_missing, parameters, config: Box::new(config(matches, environment)?) })
        }
        Some(("explain", matches)) => {
            let model = matches.get_one::<String>("what").cloned().unwrap_or_default();
            Ok(Verb::Explain { model, config: Box::new(config(matches, environment)?) })
        }
        Some(("key", matches)) => Ok(Verb::Key(key::read(matches, &environment)?)),
        Some(("doctor", matches)) => Ok(Verb::Doctor(Box::new(config(matches, environment)?))),
        Some(("health", matches)) => {
            let ready = matches.get_flag("ready");
            Ok(Verb::Health { ready, config: Box::new(config(matches, environment)?) })
        }
        Some(("init", matches)) => {
            Ok(Verb::Init(matches.get_many::<OsString>("command").into_iter().flatten().cloned().collect()))
        }
        _ => Ok(Verb::Version),
    }
}

fn config(matches: &ArgMatches, mut environment: HashMap<String, String>) -> Result<Config, ConfigError> {
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
        log: values.log(level)?,
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

fn name(text: &str) -> Result<ModelName, ConfigError> {
    ModelName::parse(text)
        .map_err(|_| ConfigError(format!("'{text}' is no model name; a name looks like smollm2:135m")))
}

/// What `--parameter` takes: Ollama's name, and the name in a checkpoint's `generation_config.json`.
const PARAMETERS: [(&str, &str); 5] = [
    ("temperature", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("repeat_penalty", "repetition_penalty"),
];

fn parameter(text: &str) -> Result<(&'static str, f64), ConfigError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let known = PARAMETERS.iter().find(|(name, _)| *name == key.trim());
    match (known, value.trim().parse::<f64>()) {
        (Some((_, name)), Ok(value)) if value.is_finite() => Ok((name, value)),
        _ => {
            let names = PARAMETERS.map(|(name, _)| name).join(", ");
            Err(ConfigError(format!("--parameter: '{text}' is no KEY=NUMBER; keys are {names}")))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::super::SETTINGS;
    use super::*;

    fn parsed(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Verb, ConfigError> {
        let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        parse(std::iter::once("vllama").chain(arguments.iter().copied()).map(OsString::from), environment)
    }

    fn served(arguments: &[&str], environment: &[(&str, &str)]) -> Config {
        let arguments: Vec<_> = std::iter::once("serve").chain(arguments.iter().copied()).collect();
        match parsed(&arguments, environment) {
            Ok(Verb::Serve(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_win_over_variables_and_variables_over_defaults() {
        let variables =
            [("OLLAMA_HOST", "0.0.0.0"), ("VLLAMA_MODELS", "/a"), ("OLLAMA_MODELS", "/b"), ("VLLAMA_DRAIN", "5")];
        let config = served(&["--host", "127.0.0.1:1", "SmolLM2:135m"], &variables);
        assert_eq!(config.listen.to_string(), "127.0.0.1:1");
        assert_eq!(config.models, Path::new("/a"));
        assert_eq!((config.drain, config.stop_limit), (Duration::from_secs(5), Duration::from_secs(15)));
        assert_eq!(config.model.map(|name| name.display()).as_deref(), Some("SmolLM2:135m"));
        assert_eq!(served(&[], &[("OLLAMA_MODELS", "/b")]).models, Path::new("/b"));
    }

    #[test]
    fn a_start_may_be_waited_for_without_end() {
        for (value, seconds) in [("\"5m\"", 300), ("0", u64::from(u32::MAX)), ("-1s", u64::from(u32::MAX))] {
            let config = served(&[], &[("OLLAMA_LOAD_TIMEOUT", value)]);
            assert_eq!(config.start_limit, Duration::from_secs(seconds), "{value}");
        }
        assert_eq!(served(&[], &[("OLLAMA_NUM_PARALLEL", "4")]).warnings.len(), 1);
    }

    #[test]
    fn amounts_of_memory_have_units() {
        for (text, bytes) in [("12GiB", 12 << 30), ("500MB", 500_000_000), ("1024", 1024)] {
            assert_eq!(served(&[], &[("VLLAMA_MEMORY_BUDGET", text)]).memory_budget, Some(bytes), "{text}");
        }
        assert_eq!(served(&[], &[]).memory_budget, None);
    }

    #[test]
    fn the_file_stands_below_variables_and_above_defaults() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("vllama.toml");
        let text = "host = \"127.0.0.1:5\"\ndrain = \"7s\"\nmax_queue = 3\n[models.a]\nmax_model_len = 512";
        std::fs::write(&file, text).expect("written");
        let path = file.to_str().expect("a path");
        let config =
            served(&["--config", path, "--max-queue", "9"], &[("VLLAMA_DRAIN", "5"), ("VLLAMA_CONFIG", "/nowhere")]);
        assert_eq!((config.listen.port(), config.drain, config.max_queue), (5, Duration::from_secs(5), 9));
        let name = ModelName::parse("A:latest").expect("a name");
        let length = config.model_settings(&name).and_then(|model| model.max_model_len);
        assert_eq!(length.map(std::num::NonZero::get), Some(512));
        assert_eq!(served(&[], &[("VLLAMA_CONFIG", path)]).drain, Duration::from_secs(7));
        std::fs::write(&file, "\ndrain = \"soon\"").expect("written");
        let error = parsed(&["serve"], &[("VLLAMA_CONFIG", path)]).expect_err("no time").0;
        assert!(error.contains("vllama.toml:2: drain: 'soon' is no time"), "{error}");
    }

    #[test]
    fn arguments_for_vllm_come_from_the_variable_and_from_behind_the_dashes() {
        let variables = [("VLLAMA_ENGINE_ARGS", "--seed 7 --speculative-config '{\"method\": \"ngram\"}'")];
        let config = served(&["a", "--", "--max-model-len", "512"], &variables);
        let expected = ["--seed", "7", "--speculative-config", "{\"method\": \"ngram\"}", "--max-model-len", "512"];
        assert_eq!(config.engine_arguments, expected);
        assert!(parsed(&["serve"], &[("VLLAMA_ENGINE_ARGS", "'open")]).is_err());
    }

    #[test]
    fn values_that_cannot_be_used_say_where_they_stand_and_what_to_give() {
        for (variable, value, expected) in [
            ("VLLAMA_DRAIN", "soon", "VLLAMA_DRAIN: 'soon' is no time"),
            ("OLLAMA_MAX_QUEUE", "-1", "OLLAMA_MAX_QUEUE: '-1' is no whole number"),
            ("VLLAMA_MEMORY_BUDGET", "much", "VLLAMA_MEMORY_BUDGET: 'much' is no amount of memory"),
            ("VLLAMA_LOG_FORMAT", "xml", "'xml' is neither text nor json"),
            ("VLLAMA_ENGINE_FRONTEND", "go", "VLLAMA_ENGINE_FRONTEND: 'go' is none of python, rust and auto"),
            ("OLLAMA_HOST", "nowhere", "'nowhere' is no IP address"),
        ] {
            let error = parsed(&["serve"], &[(variable, value)]).expect_err(variable).0;
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn help_names_every_setting_with_its_variables() {
        let Ok(Verb::Print { text, code: 0 }) = parsed(&["serve", "--help"], &[]) else { panic!("no help") };
        for setting in SETTINGS {
            assert!(text.contains(setting.flag), "{}", setting.flag);
            assert!(setting.variables.iter().all(|variable| text.contains(variable)), "{}", setting.flag);
        }
    }

    #[test]
    fn a_mistake_on_the_command_line_is_exit_code_2() {
        assert!(matches!(parsed(&["serve", "--prot", "1"], &[]), Ok(Verb::Print { code: 2, .. })));
        assert!(matches!(parsed(&[], &[]), Ok(Verb::Print { code: 2, .. })));
        assert!(parsed(&["serve", "a b"], &[]).is_err());
    }

    #[test]
    fn parameters_of_an_import_get_the_names_that_checkpoints_use() {
        let import = ["import", "a.gguf", "a", "--parameter", "temperature=0.2,repeat_penalty=1.1"];
        let Ok(Verb::Import { parameters, .. }) = parsed(&import, &[]) else { panic!("no import") };
        assert_eq!(parameters, [("temperature", 0.2), ("repetition_penalty", 1.1)]);
        for wrong in ["temperature", "temperature=hot", "heat=1", "top_p=inf"] {
            assert!(parsed(&["import", "a.gguf", "a", "--parameter", wrong], &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_follows_init_is_the_command_untouched() {
        let Ok(Verb::Init(command)) = parsed(&["init", "--", "sh", "-c", "exit 3"], &[]) else { panic!("no init") };
        assert_eq!(command, ["sh", "-c", "exit 3"]);
    }
}
