//! The flags and variables themselves, in the order they are given.

use std::borrow::Cow;

use super::adapter::room;
use super::fit::Fit;
use super::frontend::SWITCH;
use super::{Checkpoint, Choice, Device, Frontend, Hardware, Wishes};
use crate::model::card::Format;
use crate::model::parsers::{self, Verdict};
use crate::model::{Capability, Card};

/// The numbers an engine computes in.
pub(super) struct Numbers {
    /// `--dtype`, where it is not left to vLLM, and why.
    flag: Option<(&'static str, &'static str)>,
    /// Bytes of one.
    pub size: u64,
}

/// Embedding models up to this many weights keep full precision on the CPU, where they are quick enough.
const SMALL_EMBEDDER: u64 = 1_000_000_000;

/// Families that vLLM refuses to compute in float16: their numbers grow too large for it.
const NO_FLOAT16: [&str; 3] = ["gemma2", "gemma3", "glm4"];

/// Families of which vLLM 0.32 can use the draft layers (multi-token prediction).
const SPECULATES: [&str; 15] = [
    "deepseek_v3",
    "deepseek_v32",
    "deepseek_v4",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "ernie4_5_moe",
    "nemotron_h",
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_moe",
    "mimo",
    "exaone_moe",
    "kimi_k3",
    "bailing_hybrid",
];

/// Chat template of a base model whose tokenizer knows ChatML's marks.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
                      '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Chat template of any other base model: what was said, with an empty line between, as Ollama's `{{ .Prompt }}` has it.
const PLAIN: &str =
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}";

pub(super) fn numbers(card: &Card, device: Device, hardware: &Hardware) -> Numbers {
    let flag = match device {
        Device::Cpu if card.is_pooling() && card.dtype == "float32" && card.parameters <= SMALL_EMBEDDER => Some((
            "float32",
            "the vectors keep the precision of the checkpoint; a small embedding model is quick enough",
        )),
        Device::Cpu if hardware.bfloat16 => Some(("bfloat16", "the processor multiplies bfloat16 natively")),
        Device::Cpu => Some(("float32", "the processor has no bfloat16 instructions")),
        Device::Cuda if hardware.gpu_bfloat16() => None,
        Device::Cuda if NO_FLOAT16.iter().any(|family| card.family.starts_with(family)) => {
            Some(("float32", "this GPU has no bfloat16, and the model's numbers are too large for float16"))
        }
        Device::Cuda => Some(("float16", "this GPU (compute capability below 8.0) has no bfloat16")),
    };
    let size = if matches!(flag, Some(("float32", _))) { 4 } else { 2 };
    Numbers { flag, size }
}

/// Whether the checkpoint's draft layers are used.
pub(super) fn speculates(card: &Card, device: Device) -> bool {
    device == Device::Cuda && card.weights.draft_bytes > 0 && SPECULATES.contains(&card.family.as_str())
}

/// All that flags are chosen from.
pub(super) struct Case<'a> {
    pub checkpoint: &'a Checkpoint<'a>,
    pub device: Device,
    pub numbers: &'a Numbers,
    pub fit: &'a Fit,
    pub wishes: &'a Wishes,
    pub concurrency: usize,
    pub speculates: bool,
    pub frontend: Frontend,
}

/// What was chosen, and what was left out.
#[derive(Default)]
pub(super) struct Chosen {
    pub flags: Vec<Choice>,
    pub left_out: Vec<Choice>,
}

impl Chosen {
    fn flag(&mut self, name: &'static str, reason: impl Into<Cow<'static, str>>) {
        self.flags.push(Choice { name, value: None, more: Vec::new(), reason: reason.into() });
    }

    fn with(&mut self, name: &'static str, value: impl ToString, reason: impl Into<Cow<'static, str>>) {
        self.flags.push(Choice { name, value: Some(value.to_string()), more: Vec::new(), reason: reason.into() });
    }

    fn without(&mut self, name: &'static str, reason: impl Into<Cow<'static, str>>) {
        self.left_out.push(Choice { name, value: None, more: Vec::new(), reason: reason.into() });
    }
}

pub(super) fn choose(case: &Case<'_>) -> Chosen {
    let mut chosen = Chosen::default();
    let embeds = case.checkpoint.card.is_pooling();
    length(case, embeds, &mut chosen);
    chosen.flag("--enable-prompt-tokens-details", "tells how much of a prompt came from the cache");
    frontend(case.frontend, &mut chosen);
    chosen.with("--shutdown-timeout", 0, "vllama drains requests itself before it stops an engine");
    if embeds {
        runner(case.checkpoint.card, &mut chosen);
    }
    device(case, &mut chosen);
    if case.wishes.concurrency.is_some() {
        chosen.with("--max-num-seqs", case.concurrency, "the concurrency the configuration asks for");
    } else if case.fit.small_batches {
        chosen.with(
            "--max-num-seqs",
            case.concurrency,
            "a small GPU: fewer requests at a time leave room for the cache",
        );
    }
    if case.wishes.priorities {
        chosen.with("--scheduling-policy", "priority", "keys have priorities; equal ones go in the order they came");
    }
    if case.checkpoint.card.format == Format::Mistral {
        for flag in ["--tokenizer-mode", "--config-format", "--load-format"] {
            chosen.with(flag, "mistral", "the checkpoint comes in Mistral's own files");
        }
    }
    if !embeds && !case.checkpoint.card.only_writes_down() {
        conversation(case, &mut chosen);
    }
    senses(case.checkpoint.card, &mut chosen);
    adapters(case, &mut chosen);
    trust(case, &mut chosen);
    chosen
}

/// What only the frontend in Python takes; the other one does not start with the first and the last, and logs no requests.
fn frontend(frontend: Frontend, chosen: &mut Chosen) {
    match frontend {
        Frontend::Python => {
            chosen.flag("--enable-per-request-metrics", "exact prefill and decode times for Ollama's durations");
            chosen.flag("--disable-uvicorn-access-log", "vllama logs the requests");
            chosen.flag("--disable-fastapi-docs", "nobody reads them on a private socket");
        }
        Frontend::Rust => chosen.without(
            "--enable-per-request-metrics",
            "the Rust frontend does not tell times; Ollama's durations are as vllama sees them",
        ),
    }
}

fn length(case: &Case<'_>, embeds: bool, chosen: &mut Chosen) {
    let name = "--max-model-len";
    let card = case.checkpoint.card;
    match case.wishes.max_model_len {
        Some(tokens) => chosen.with(name, tokens, "as the configuration says"),
        None if embeds && case.fit.own_length_fits => {
            let tokens = card.pooling.as_ref().and_then(|pooling| pooling.max_length).unwrap_or(card.context_length);
            chosen.without(name, format!("an embedding model has a length of its own, here {tokens} tokens"));
        }
        None => chosen.with(name, "auto", "the longest context that fits the memory, found by vLLM"),
    }
}

fn runner(card: &Card, chosen: &mut Chosen) {
    let what = if card.can(Capability::Embedding) { "an embedding model" } else { "a model that judges texts" };
    chosen.with("--runner", "pooling", format!("the checkpoint is {what}"));
    if ["ForCausalLM", "ForConditionalGeneration", "LMHeadModel"]
        .iter()
        .any(|ending| card.architecture.ends_with(ending))
    {
        chosen.with("--convert", "embed", "its architecture is one that writes text");
    }
}

fn device(case: &Case<'_>, chosen: &mut Chosen) {
    if let Some((dtype, reason)) = case.numbers.flag {
        chosen.with("--dtype", dtype, reason);
    }
    if case.device == Device::Cpu {
        chosen.flag("--enforce-eager", "compiling costs minutes on a CPU and makes nothing faster");
        return;
    }
    let fit = case.fit;
    if fit.gpus > 1 {
        chosen.with("--tensor-parallel-size", fit.gpus, fit.gpus_reason.clone());
    }
    if fit.expert_parallel {
        chosen.flag(
            "--enable-expert-parallel",
            "experts stay whole: split between so many GPUs they would cut through weights that share a scale",
        );
    }
    if let Some(percent) = fit.percent {
        chosen.with("--gpu-memory-utilization", format!("0.{percent:02}"), fit.memory_reason.clone());
    }
    if fit.small_batches {
        chosen.with("--max-num-batched-tokens", 2048, "a small GPU: smaller steps leave room for the cache");
    }
    chosen.flag("--enable-sleep-mode", "an idle model can leave the GPU and be back in seconds");
}

/// How the model talks: templates, tools, thoughts, guesses.
fn conversation(case: &Case<'_>, chosen: &mut Chosen) {
    let card = case.checkpoint.card;
    if card.chat_template.is_none() && card.format == Format::HuggingFace {
        let has = |token: &str| card.tokens.as_ref().is_some_and(|tokens| tokens.contains(token));
        if has("<|im_start|>") && has("<|im_end|>") {
            chosen.with(
                "--chat-template",
                CHATML,
                "a base model without a template, whose tokenizer knows ChatML's marks",
            );
        } else {
            chosen.with("--chat-template", PLAIN, "a base model without a template: it continues what was said");
        }
    }
    let tool = wished(case.wishes.tool_parser.as_deref(), parsers::tool(card));
    match tool {
        Parser::Some { parser, reason } => {
            chosen.flag("--enable-auto-tool-choice", "the model decides when to call a tool");
            chosen.with("--tool-call-parser", parser, reason);
        }
        Parser::None { .. } if case.frontend == Frontend::Rust => {
            chosen.with("--tool-call-parser", "none", "left alone, the Rust frontend chooses one by the model's name");
        }
        Parser::None { reason } => chosen.without("--tool-call-parser", reason),
    }
    match wished(case.wishes.reasoning_parser.as_deref(), parsers::reasoning(card)) {
        Parser::Some { parser, reason } => chosen.with("--reasoning-parser", parser, reason),
        Parser::None { reason } => chosen.without("--reasoning-parser", reason),
    }
    if case.speculates {
        let value = r#"{"method":"mtp","num_speculative_tokens":1}"#;
        chosen.with(
            "--speculative-config",
            value,
            "the checkpoint carries layers that guess the token after the next one",
        );
    } else if card.weights.draft_bytes > 0 {
        let reason = if case.device == Device::Cpu {
            "the checkpoint carries draft layers, but on a CPU a guess costs what it saves".to_owned()
        } else {
            format!("the checkpoint carries draft layers, but vLLM has no use for those of the family {}", card.family)
        };
        chosen.without("--speculative-config", reason);
    }
}

/// What a model that sees or hears needs.
fn senses(card: &Card, chosen: &mut Chosen) {
    if card.can(Capability::Vision) || card.can(Capability::Audio) {
        chosen.with(
            "--mm-processor-cache-gb",
            0,
            "vLLM's cache of prepared images takes up to 8 GiB, and one that was refused breaks the next request with it",
        );
    }
}

/// A parser as decided or as wished.
pub(super) enum Parser {
    Some { parser: String, reason: Cow<'static, str> },
    None { reason: Cow<'static, str> },
}

/// What the configuration says, else what was found out.
pub(super) fn wished(wish: Option<&str>, verdict: Verdict) -> Parser {
    let theirs = Cow::Borrowed("as the configuration says");
    match (wish, verdict) {
        (Some("none"), _) => Parser::None { reason: theirs },
        (Some(parser), _) => Parser::Some { parser: parser.to_owned(), reason: theirs },
        (None, Verdict::Chosen { parser, reason }) => Parser::Some { parser: parser.to_owned(), reason },
        (None, Verdict::None { reason }) => Parser::None { reason },
    }
}

fn adapters(case: &Case<'_>, chosen: &mut Chosen) {
    let adapters = case.checkpoint.adapters;
    let Some(widest) = adapters.iter().map(|adapter| adapter.rank).max() else { return };
    chosen.flag("--enable-lora", "the model is served with an adapter");
    // One flag for all: of two, vLLM's command line keeps the last.
    let mut modules =
        adapters.iter().map(|adapter| serde_json::json!({"name": adapter.name, "path": adapter.directory}).to_string());
    chosen.flags.push(Choice {
        name: "--lora-modules",
        value: modules.next(),
        more: modules.collect(),
        reason: "each adapter under a name of its own".into(),
    });
    if adapters.len() > 1 {
        chosen.with("--max-loras", adapters.len(), "all adapters may be asked for at the same time");
    }
    // An adapter's rank was checked when it was read.
    chosen.with("--max-lora-rank", room(widest).unwrap_or(512), format!("the widest adapter has rank {widest}"));
}

fn trust(case: &Case<'_>, chosen: &mut Chosen) {
    if case.wishes.trust_remote_code {
        chosen.flag("--trust-remote-code", "the configuration trusts the Python code that comes with the checkpoint");
    } else if case.checkpoint.card.custom_code {
        let reason = format!(
            "the checkpoint brings Python code, which never runs unasked; if vLLM cannot do without it and you trust it, \
             set trust_remote_code = true under [models.\"{}\"] in the configuration file",
            case.checkpoint.name
        );
        chosen.without("--trust-remote-code", reason);
    }
}

pub(super) fn environment(device: Device, fit: &Fit, frontend: Frontend) -> Vec<Choice> {
    let with = |name, value: &str, reason: &'static str| Choice {
        name,
        value: Some(value.to_owned()),
        more: Vec::new(),
        reason: reason.into(),
    };
    let mut environment = vec![
        with("HF_HUB_OFFLINE", "1", "the checkpoint is a local directory"),
        with("TRANSFORMERS_OFFLINE", "1", "the checkpoint is a local directory"),
        with("VLLM_NO_USAGE_STATS", "1", "nothing is sent anywhere"),
        with("DO_NOT_TRACK", "1", "nothing is sent anywhere"),
        with("VLLM_ENABLE_STARTUP_PLAN", "1", "a later start skips the memory profiling"),
        with("VLLM_MAX_STOP_STRINGS", "64", "Ollama has no limit of four"),
        with("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "3600", "connections on the private socket are kept"),
        with("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0", "media comes from the request alone"),
        with("NO_COLOR", "1", "the log is read by vllama"),
        with("SPT_NOENV", "1", "process titles leave the environment alone, by which stray processes are found"),
        with("PYTHONUNBUFFERED", "1", "the log is read as it is written"),
    ];
    if frontend == Frontend::Rust {
        environment.push(with(SWITCH, "1", "the configuration asks for the Rust frontend"));
    }
    match device {
        Device::Cpu => {
            let reason = "without it the first request for logprobs compiles for 20 s";
            environment.push(with("TORCHDYNAMO_DISABLE", "1", reason));
            environment.push(Choice {
                name: "VLLM_CPU_KVCACHE_SPACE",
                value: Some(fit.cpu_cache_gib.to_string()),
                more: Vec::new(),
                reason: fit.memory_reason.clone().into(),
            });
        }
        Device::Cuda => {
            environment.push(with(
                "CUDA_DEVICE_ORDER",
                "PCI_BUS_ID",
                "a GPU has the same number for all who count them",
            ));
            environment.push(with(
                "VLLM_SERVER_DEV_MODE",
                "1",
                "opens the routes for sleeping, on the private socket alone",
            ));
        }
    }
    environment
}
