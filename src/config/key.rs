//! `vllama key add|list|revoke`: its command line.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::file::{self, File};
use super::values::Values;
use super::{ConfigError, SETTINGS};
use crate::access::{KeyName, Limits, Scope};

/// What is to be done with a key file.
#[derive(Debug)]
pub struct KeyOrder {
    /// The key file.
    pub file: PathBuf,
    /// What is to be done.
    pub action: KeyAction,
    /// Whether the answer is JSON.
    pub json: bool,
}

/// One thing that can be done with a key file.
#[derive(Debug)]
pub enum KeyAction {
    /// Add a key.
    Add {
        /// Its name.
        name: KeyName,
        /// What it is for.
        scopes: Vec<Scope>,
        /// What it may cost.
        limits: Limits,
    },
    /// Tell what keys there are.
    List,
    /// Take a key's rights away.
    Revoke {
        /// Its name.
        name: KeyName,
    },
}

const NAME: &str = "a name for lists, logs and metrics: letters, digits and .-_@";

pub(super) fn command() -> Command {
    let name = || Arg::new("name").value_name("NAME").required(true).help(NAME);
    let value = |flag: &'static str, what: &'static str, help: &'static str| {
        Arg::new(flag).long(flag).value_name(what).help(help).allow_hyphen_values(true)
    };
    let add = with_file(Command::new("add").about("Make a key and tell it, once"))
        .after_help(
            "The key goes to standard output; the file keeps only its digest.\n\
             Example: vllama key add bob --requests-per-minute 60 --model qwen2.5:7b",
        )
        .arg(name())
        .arg(
            value("scope", "SCOPE", "what it is for: infer, manage, metrics [default: infer]")
                .action(ArgAction::Append)
                .value_delimiter(','),
        )
        .arg(value("requests-per-minute", "NUMBER", "most requests to models a minute"))
        .arg(value("concurrent", "NUMBER", "most requests to models at a time"))
        .arg(value("tokens-per-day", "NUMBER", "most tokens of prompts and answers from midnight to midnight UTC"))
        .arg(
            value("model", "NAME", "a model it may use; all others it may not [default: all]")
                .action(ArgAction::Append)
                .value_delimiter(','),
        )
        .arg(value("priority", "NUMBER", "an engine takes requests with lower numbers first [default: 0]"));
    let list = with_file(Command::new("list").about("Tell what keys there are"));
    let revoke =
        with_file(Command::new("revoke").about("Take a key's rights away; a running server notices within a second"))
            .arg(name());
    Command::new("key")
        .about("Add, list or revoke keys of a server that asks for them")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([add, list, revoke])
}

/// What every one of them takes.
fn with_file(command: Command) -> Command {
    let settings = SETTINGS.iter().filter(|setting| [file::FLAG, "keys"].contains(&setting.flag));
    let arguments = settings.map(|setting| {
        let help = if setting.flag == "keys" { "the key file" } else { setting.help };
        let help = format!("{help} [env: {}]", setting.variables.join(", "));
        Arg::new(setting.flag).long(setting.flag).value_name(setting.value).help(help)
    });
    command
        .args(arguments)
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("answer with one JSON object"))
}

pub(super) fn read(matches: &ArgMatches, environment: &HashMap<String, String>) -> Result<KeyOrder, ConfigError> {
    // clap asks for one of them.
    let Some((verb, matches)) = matches.subcommand() else {
        return Err(ConfigError("say what to do: vllama key add, list or revoke".to_owned()));
    };
    let no_file = File::default();
    let named = Values { matches, environment, file: &no_file }.path(file::FLAG);
    let config = File::read(named)?;
    let file = Values { matches, environment, file: &config }.path("keys").ok_or_else(|| {
        ConfigError("which key file? name it with --keys FILE or VLLAMA_KEYS, as for `vllama serve`".to_owned())
    })?;
    let json = matches.get_flag("json");
    let name = || one(matches, "name", |text| text.parse::<KeyName>().map_err(|error| error.to_string()));
    let action = match verb {
        "list" => KeyAction::List,
        "revoke" => KeyAction::Revoke { name: name()?.ok_or_else(|| ConfigError(NAME.to_owned()))? },
        _ => KeyAction::Add {
            name: name()?.ok_or_else(|| ConfigError(NAME.to_owned()))?,
            scopes: match many(matches, "scope", |text| text.parse().map_err(|error| format!("--scope: {error}")))? {
                Some(mut scopes) => {
                    scopes.sort_unstable();
                    scopes.dedup();
                    scopes
                }
                None => vec![Scope::Infer],
            },
            limits: Limits {
                requests_per_minute: number(matches, "requests-per-minute")?,
                concurrent: number(matches, "concurrent")?,
                tokens_per_day: number(matches, "tokens-per-day")?,
                models: many(matches, "model", |text| {
                    text.to_owned().try_into().map_err(|error| format!("--model: {error}"))
                })?,
                priority: number(matches, "priority")?.unwrap_or(0),
            },
        },
    };
    Ok(KeyOrder { file, action, json })
}

fn one<T>(
    matches: &ArgMatches,
    flag: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    matches.get_one::<String>(flag).map(|text| read(text)).transpose().map_err(ConfigError)
}

fn many<T>(
    matches: &ArgMatches,
    flag: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Vec<T>>, ConfigError> {
    let values = matches.get_many::<String>(flag);
    values.map(|texts| texts.map(|text| read(text)).collect()).transpose().map_err(ConfigError)
}

fn number<T: FromStr>(matches: &ArgMatches, flag: &str) -> Result<Option<T>, ConfigError> {
    let least = if flag == "priority" { "a whole number such as -1 or 10" } else { "a whole number above 0" };
    one(matches, flag, |text| text.parse().map_err(|_| format!("--{flag}: '{text}' cannot be used; give {least}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Verb, parse};

    fn order(arguments: &[&str]) -> Result<KeyOrder, String> {
        let arguments = ["vllama", "key"].iter().chain(arguments).map(std::ffi::OsString::from);
        match parse(arguments, [("VLLAMA_KEYS".into(), "/keys.json".into())]) {
            Ok(Verb::Key(order)) => Ok(order),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.0),
        }
    }

    #[test]
    fn a_key_is_for_inference_unless_something_else_is_said() {
        let KeyOrder { file, action, json } = order(&["add", "bob"]).expect("an order");
        assert_eq!((file.to_str(), json), (Some("/keys.json"), false));
        let KeyAction::Add { name, scopes, limits } = action else { panic!("no addition") };
        assert_eq!((name.as_str(), scopes, limits), ("bob", vec![Scope::Infer], Limits::default()));
        let order = order(&[
            "add",
            "bob",
            "--keys",
            "/other.json",
            "--scope",
            "metrics,infer",
            "--scope",
            "infer",
            "--priority",
            "-3",
            "--requests-per-minute",
            "60",
            "--concurrent",
            "2",
            "--tokens-per-day",
            "1000",
            "--model",
            "a,b:1",
            "--json",
        ]);
        let KeyOrder { file, action, json } = order.expect("an order");
        assert_eq!((file.to_str(), json), (Some("/other.json"), true));
        let KeyAction::Add { scopes, limits, .. } = action else { panic!("no addition") };
        assert_eq!(scopes, [Scope::Infer, Scope::Metrics]);
        let expected = r#"{"requests_per_minute":60,"concurrent":2,"tokens_per_day":1000,"models":["a:latest","b:1"],"priority":-3}"#;
        assert_eq!(serde_json::to_string(&limits).ok().as_deref(), Some(expected));
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        for (arguments, expected) in [
            (&["add", "a b"][..], "'a b' is no name for a key"),
            (&["add", "a", "--scope", "all"], "--scope: 'all' is no scope; there are infer, manage and metrics"),
            (&["add", "a", "--concurrent", "0"], "--concurrent: '0' cannot be used; give a whole number above 0"),
            (&["add", "a", "--priority", "high"], "--priority: 'high' cannot be used"),
            (&["add", "a", "--model", "a b"], "--model: 'a b' is no model name"),
            (&["add"], "code: 2"),
            (&["lend", "a"], "code: 2"),
        ] {
            let error = order(arguments).expect_err("wrong input");
            assert!(error.contains(expected), "{error}");
        }
        assert!(
            matches!(parse(["vllama", "key", "list"].map(Into::into), []), Err(error) if error.0.contains("--keys FILE"))
        );
    }
}
