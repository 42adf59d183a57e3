//! `vllm serve MODEL --flag value …`, read as vLLM reads it: a flag it does not know is refused.

use std::path::PathBuf;

/// The flags of vLLM 0.32 that a supervisor may want; a flag outside this table is refused as vLLM refuses it.
const KNOWN: &[&str] = &[
    "--api-server-count",
    "--async-scheduling",
    "--block-size",
    "--chat-template",
    "--compilation-config",
    "--config-format",
    "--convert",
    "--cpu-offload-gb",
    "--data-parallel-size",
    "--default-chat-template-kwargs",
    "--disable-custom-all-reduce",
    "--disable-fastapi-docs",
    "--disable-log-requests",
    "--disable-log-stats",
    "--disable-uvicorn-access-log",
    "--distributed-executor-backend",
    "--dtype",
    "--enable-auto-tool-choice",
    "--enable-force-include-usage",
    "--enable-log-requests",
    "--enable-lora",
    "--enable-per-request-metrics",
    "--enable-prefix-caching",
    "--enable-prompt-tokens-details",
    "--enable-request-id-headers",
    "--enable-sleep-mode",
    "--enforce-eager",
    "--generation-config",
    "--gpu-memory-utilization",
    "--kv-cache-dtype",
    "--kv-cache-memory-bytes",
    "--kv-offloading-backend",
    "--kv-offloading-size",
    "--limit-mm-per-prompt",
    "--load-format",
    "--logging-config",
    "--lora-modules",
    "--max-log-len",
    "--max-logprobs",
    "--max-lora-rank",
    "--max-loras",
    "--max-model-len",
    "--max-num-batched-tokens",
    "--max-num-queued-reqs",
    "--max-num-queued-tokens",
    "--max-num-seqs",
    "--mm-processor-cache-gb",
    "--model",
    "--no-enable-log-requests",
    "--no-enable-prefix-caching",
    "--override-generation-config",
    "--performance-mode",
    "--pipeline-parallel-size",
    "--port",
    "--quantization",
    "--reasoning-parser",
    "--runner",
    "--safetensors-load-strategy",
    "--scheduling-policy",
    "--seed",
    "--served-model-name",
    "--shutdown-timeout",
    "--speculative-config",
    "--sse-keep-alive-interval",
    "--stream-interval",
    "--tensor-parallel-size",
    "--tokenizer",
    "--tokenizer-mode",
    "--tool-call-parser",
    "--trust-remote-code",
    "--uds",
    "--uvicorn-log-level",
];

/// The command line, as far as the fake acts on it.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// The checkpoint's directory, or whatever was given as the model.
    pub model: String,
    /// The Unix socket to serve on.
    pub socket: PathBuf,
    /// Names the model answers to; the first one is used in answers.
    pub served_names: Vec<String>,
    /// Names of the adapters it serves beside.
    pub adapters: Vec<String>,
    /// A number given for the longest sequence.
    pub max_model_len: Option<u64>,
    /// Seconds that running requests may take to finish after SIGTERM.
    pub shutdown_timeout: u64,
    /// Put a `metrics` object in answers.
    pub request_metrics: bool,
    /// Put `prompt_tokens_details` in the usage.
    pub prompt_token_details: bool,
    /// Whether it embeds instead of generating.
    pub pooling: bool,
    /// Whether tools can be used at all.
    pub tools: bool,
    /// Whether thoughts are told apart from the answer.
    pub reasoning: bool,
    /// Whether it can sleep.
    pub sleep_mode: bool,
    /// The flags as they were given, for the log.
    pub given: Vec<(String, Vec<String>)>,
}

impl Arguments {
    /// Whether requests may ask for this name.
    pub fn serves(&self, name: &str) -> bool {
        self.served_names.iter().chain(&self.adapters).any(|known| known == name)
    }

    /// Whether its checkpoint reads images.
    pub fn reads_images(&self) -> bool {
        let config = std::fs::read(std::path::Path::new(&self.model).join("config.json")).unwrap_or_default();
        serde_json::from_slice(&config).is_ok_and(|config: serde_json::Value| config["vision_config"].is_object())
    }

    /// Reads the arguments after the program's name.
    pub fn parse(arguments: impl Iterator<Item = String>, reject: Option<&str>) -> Result<Self, String> {
        let mut arguments = arguments.peekable();
        if arguments.next_if_eq("serve").is_none() {
            return Err("argument subparser: the fake knows `serve` only".to_owned());
        }
        let mut positional = Vec::new();
        let mut given: Vec<(String, Vec<String>)> = Vec::new();
        for argument in arguments {
            if let Some((flag, value)) = argument.strip_prefix("--").and_then(|flag| flag.split_once('=')) {
                given.push((format!("--{flag}"), vec![value.to_owned()]));
            } else if argument.starts_with("--") {
                given.push((argument, Vec::new()));
            } else if let Some((_, values)) = given.last_mut() {
                values.push(argument);
            } else {
                positional.push(argument);
            }
        }
        // `--logging-config.formatter json` sets one field of a structured flag.
        let known = |flag: &str| KNOWN.contains(&flag.split('.').next().unwrap_or(flag)) && reject != Some(flag);
        if let Some((flag, values)) = given.iter().find(|(flag, _)| !known(flag)) {
            return Err(format!("unrecognized arguments: {flag} {}", values.join(" ")).trim_end().to_owned());
        }
        let all = |flag: &str| given.iter().rev().find(|(name, _)| name == flag).map(|(_, values)| values.clone());
        let one = |flag: &str| all(flag).and_then(|values| values.into_iter().next());
        let number = |flag: &str| one(flag).and_then(|value| value.parse().ok());
        let adapter = |module: String| {
            Some(serde_json::from_str::<serde_json::Value>(&module).ok()?["name"].as_str()?.to_owned())
        };
        let model =
            positional.into_iter().next().or_else(|| one("--model")).unwrap_or_else(|| "Qwen/Qwen3-0.6B".into());
        Ok(Self {
            socket: one("--uds").ok_or("argument --uds: the fake serves on a Unix socket only")?.into(),
            served_names: all("--served-model-name").unwrap_or_else(|| vec![model.clone()]),
            adapters: all("--lora-modules").unwrap_or_default().into_iter().filter_map(adapter).collect(),
            model,
            max_model_len: number("--max-model-len"),
            shutdown_timeout: number("--shutdown-timeout").unwrap_or(0),
            request_metrics: all("--enable-per-request-metrics").is_some(),
            prompt_token_details: all("--enable-prompt-tokens-details").is_some(),
            pooling: one("--runner").as_deref() == Some("pooling"),
            tools: all("--enable-auto-tool-choice").is_some(),
            reasoning: one("--reasoning-parser").is_some(),
            sleep_mode: all("--enable-sleep-mode").is_some(),
            given,
        })
    }
}
