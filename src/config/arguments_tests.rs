//! Tests of the command line, the environment and the file together.

use std::path::Path;
use std::time::Duration;

use super::super::{Config, SETTINGS};
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
fn parameters_of_an_import_are_numbers_by_ollamas_names() {
    let import = ["import", "a.gguf", "a", "--parameter", "temperature=0.2, top_k = 40,repeat_penalty=1.1"];
    let Ok(Verb::Import { parameters, .. }) = parsed(&import, &[]) else { panic!("no import") };
    let text = serde_json::to_string(&parameters).expect("JSON");
    assert_eq!(text, r#"{"temperature":0.2,"top_k":40,"repeat_penalty":1.1}"#);
    for wrong in ["temperature", "temperature=hot", "heat=1", "top_p=inf"] {
        assert!(parsed(&["import", "a.gguf", "a", "--parameter", wrong], &[]).is_err(), "{wrong}");
    }
}

#[test]
fn what_follows_init_is_the_command_untouched() {
    let Ok(Verb::Init(command)) = parsed(&["init", "--", "sh", "-c", "exit 3"], &[]) else { panic!("no init") };
    assert_eq!(command, ["sh", "-c", "exit 3"]);
}
