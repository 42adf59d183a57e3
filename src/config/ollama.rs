//! Ollama's own variables (ollama-api §8.4): those that mean something here are among the settings; the operator is told
//! of the others, since a setting without effect is worse than none.

use std::collections::HashMap;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use tracing_subscriber::filter::LevelFilter;

use super::SETTINGS;

/// Variables that vllama reads without a setting, those of Ollama's clients, and those that ask for what is so anyway.
const SILENT: [&str; 7] = [
    "OLLAMA_DEBUG",
    "OLLAMA_NO_CLOUD",
    "OLLAMA_REMOTES",
    "OLLAMA_API_KEY",
    "OLLAMA_EDITOR",
    "OLLAMA_NOHISTORY",
    "OLLAMA_VERSION",
];

/// Variables without effect, and what to do instead.
const INSTEAD: [(&str, &str); 13] = [
    (
        "OLLAMA_NUM_PARALLEL",
        "vLLM runs as many requests at a time as fit; to limit them put --max-num-seqs into VLLAMA_ENGINE_ARGS",
    ),
    (
        "OLLAMA_FLASH_ATTENTION",
        "vLLM chooses its attention; to force one put --attention-backend into VLLAMA_ENGINE_ARGS",
    ),
    ("OLLAMA_KV_CACHE_TYPE", "put --kv-cache-dtype, e.g. fp8, into VLLAMA_ENGINE_ARGS"),
    ("OLLAMA_GPU_OVERHEAD", "VLLAMA_MEMORY_BUDGET says how much memory engines may take"),
    (
        "OLLAMA_SCHED_SPREAD",
        "models are split over GPUs when they need it; to force it put --tensor-parallel-size into VLLAMA_ENGINE_ARGS",
    ),
    ("OLLAMA_LLM_LIBRARY", "VLLAMA_ENGINE names the vllm program to run"),
    ("OLLAMA_VULKAN", "VLLAMA_ENGINE names the vllm program to run"),
    ("OLLAMA_IGPU_ENABLE", "VLLAMA_ENGINE names the vllm program to run"),
    ("OLLAMA_NOPRUNE", "files that no model needs any more are always removed"),
    ("OLLAMA_MAX_TRANSFER_STREAMS", "the downloader chooses how many files come at a time"),
    ("OLLAMA_GO_TEMPLATE", "prompts are made by the chat template of the checkpoint"),
    ("OLLAMA_DEBUG_LOG_REQUESTS", "prompts are never written down; VLLAMA_LOG=debug tells all else about requests"),
    ("OLLAMA_AUTH", "there is no account to sign in to"),
];

/// Verbs of Ollama's command line that vllama does not have, with what they ask of a server: the end of a command.
const VERBS: [(&str, &str); 10] = [
    ("run", r#"/api/generate -d '{"model":"NAME","prompt":"TEXT"}'"#),
    ("pull", r#"/api/pull -d '{"model":"NAME"}'"#),
    ("list", "/api/tags"),
    ("ls", "/api/tags"),
    ("ps", "/api/ps"),
    ("show", r#"/api/show -d '{"model":"NAME"}'"#),
    ("cp", r#"/api/copy -d '{"source":"NAME","destination":"OTHER"}'"#),
    ("rm", r#"/api/delete -X DELETE -d '{"model":"NAME"}'"#),
    ("stop", r#"/api/generate -d '{"model":"NAME","keep_alive":0}'"#),
    ("create", r#"/api/create -d '{"model":"NAME","from":"OTHER"}'"#),
];

/// Tells whoever tries a verb of Ollama's command line how to get the same here.
pub(super) fn explain_verb(error: &mut clap::Error) {
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else { return };
    let Some((verb, request)) = VERBS.iter().find(|(known, _)| known == verb) else { return };
    let tips = [
        format!(
            "'{verb}' is of Ollama's client, which works with a running vllama: OLLAMA_HOST=127.0.0.1:11434 ollama {verb}"
        ),
        format!("without that client: curl 127.0.0.1:11434{request}"),
    ];
    let tips = tips.into_iter().map(StyledStr::from).collect();
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
}

/// A sentence for each variable of Ollama's that is set and has no effect.
pub(super) fn without_effect(environment: &HashMap<String, String>) -> Vec<String> {
    let setting = |name: &str| SETTINGS.iter().any(|setting| setting.variables.contains(&name));
    let mut names: Vec<&str> = environment
        .iter()
        .filter(|(_, value)| !value.trim().is_empty())
        .map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with("OLLAMA_") && !SILENT.contains(name) && !setting(name))
        .collect();
    names.sort_unstable();
    let told = |name: &str| match INSTEAD.iter().find(|(known, _)| *known == name) {
        Some((_, instead)) => format!("{name} has no effect: {instead}"),
        None => format!("{name} has no effect: vllama does not know it; `vllama serve --help` lists what it knows"),
    };
    names.into_iter().map(told).collect()
}

/// A value as Ollama reads it: without the blanks and quotes around it.
pub(super) fn trimmed<'a>(variable: &str, value: &'a str) -> &'a str {
    let value = value.trim();
    if variable.starts_with("OLLAMA_") { value.trim_matches(['"', '\'']).trim() } else { value }
}

/// The level `OLLAMA_DEBUG` asks for: 2 is more than 1, and what is no boolean is true.
pub(super) fn log_level(debug: Option<&str>) -> LevelFilter {
    match debug.map(|value| trimmed("OLLAMA_DEBUG", value)).unwrap_or_default() {
        "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => LevelFilter::INFO,
        "2" => LevelFilter::TRACE,
        _ => LevelFilter::DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_without_effect_are_told_with_what_to_do() {
        let environment = [
            ("OLLAMA_NUM_PARALLEL", "4"),
            ("OLLAMA_HOST", "0.0.0.0"),
            ("OLLAMA_KEEP_ALIVE", "5m"),
            ("OLLAMA_NO_CLOUD", "1"),
            ("OLLAMA_VULKAN", ""),
            ("OLLAMA_NOVEL", "x"),
            ("PATH", "/bin"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let told = without_effect(&environment);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("OLLAMA_NOVEL has no effect"), "{told:?}");
        assert!(told[1].contains("--max-num-seqs"), "{told:?}");
        for (name, _) in INSTEAD {
            assert!(!SETTINGS.iter().any(|setting| setting.variables.contains(&name)), "{name} has an effect");
        }
    }

    #[test]
    fn values_are_read_as_ollama_reads_them() {
        assert_eq!(trimmed("OLLAMA_ORIGINS", " \"https://a\" "), "https://a");
        assert_eq!(trimmed("VLLAMA_ENGINE_ARGS", " --a 'b c' "), "--a 'b c'");
        for (debug, level) in
            [(None, "info"), (Some("0"), "info"), (Some("false"), "info"), (Some("yes"), "debug"), (Some("2"), "trace")]
        {
            assert_eq!(log_level(debug).to_string(), level);
        }
    }
}
