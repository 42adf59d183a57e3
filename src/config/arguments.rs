//! The command line → a [`Verb`].

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::{Map, Number, Value};

use super::command_line::command;
use super::key::{self, KeyOrder};
use super::resolve::config;
use super::{Config, ConfigError, ollama};
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
        /// Parameters of the model, by Ollama's names: those of [`PARAMETERS`].
        parameters: Map<String, Value>,
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

/// A model's name as somebody typed it.
pub(super) fn name(text: &str) -> Result<ModelName, ConfigError> {
    ModelName::parse(text)
        .map_err(|_| ConfigError(format!("'{text}' is no model name; a name looks like smollm2:135m")))
}

/// What `--parameter` takes (decision 0054). `top_k` is a whole number.
const PARAMETERS: [&str; 5] = ["temperature", "top_k", "top_p", "min_p", "repeat_penalty"];

fn parameter(text: &str) -> Result<(String, Value), ConfigError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let known = PARAMETERS.into_iter().find(|name| *name == key.trim());
    let number = match known {
        Some("top_k") => value.trim().parse::<i64>().ok().map(Value::from),
        // None for infinities and for what is no number, which JSON does not know.
        _ => value.trim().parse::<f64>().ok().and_then(Number::from_f64).map(Value::from),
    };
    known.map(str::to_owned).zip(number).ok_or_else(|| {
        let names = PARAMETERS.join(", ");
        ConfigError(format!("--parameter: '{text}' is no KEY=NUMBER; keys are {names}"))
    })
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
