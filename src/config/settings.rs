//! The one table of all settings: from it come the flags, the environment variables and the text of `--help`.

/// One setting. Its flag wins over its variables, the first variable over the next, any of them over the configuration
/// file, and that over the default.
#[derive(Debug)]
pub struct Setting {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// Environment variables, the first that is set wins.
    pub variables: &'static [&'static str],
    /// What the value is, for `--help`.
    pub value: &'static str,
    /// The default in words or as it would be written; empty = none.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

macro_rules! setting {
    ($flag:literal, [$($variable:literal),*], $value:literal, $default:literal, $help:literal) => {
        Setting { flag: $flag, variables: &[$($variable),*], value: $value, default: $default, help: $help }
    };
}

/// All settings of `vllama serve`.
pub const SETTINGS: &[Setting] = &[
    setting!(
        "config",
        ["VLLAMA_CONFIG"],
        "FILE",
        "/etc/vllama/vllama.toml, if it is there",
        "configuration file: these settings, and what holds for one model"
    ),
    setting!("host", ["OLLAMA_HOST"], "ADDRESS", "127.0.0.1:11434", "address to listen on; port 0 takes a free one"),
    setting!(
        "metrics-listen",
        ["VLLAMA_METRICS_LISTEN"],
        "ADDRESS",
        "off",
        "a second address that serves /metrics and /health alone, without keys: 127.0.0.1:11435"
    ),
    setting!(
        "otlp",
        ["VLLAMA_OTLP"],
        "ENDPOINT",
        "off",
        "a collector of traces (OTLP over HTTP): http://127.0.0.1:4318; gets a span for each request"
    ),
    setting!(
        "models-dir",
        ["VLLAMA_MODELS", "OLLAMA_MODELS"],
        "DIR",
        "<state-dir>/models",
        "where models are installed"
    ),
    setting!(
        "base-models-dir",
        ["VLLAMA_BASE_MODELS"],
        "DIR",
        "/usr/share/vllama/models",
        "models that are only read, below those of models-dir; may be missing"
    ),
    setting!("state-dir", ["VLLAMA_STATE"], "DIR", "/var/lib/vllama as root, else ~/.vllama", "logs and caches"),
    setting!(
        "run-dir",
        ["VLLAMA_RUN"],
        "DIR",
        "/run/vllama as root, else $XDG_RUNTIME_DIR/vllama",
        "sockets of engines; a short path"
    ),
    setting!("engine", ["VLLAMA_ENGINE"], "PROGRAM", "vllm, as found in PATH", "the vllm program"),
    setting!("engine-args", ["VLLAMA_ENGINE_ARGS"], "ARGS", "", "more arguments for `vllm serve`, last and verbatim"),
    setting!(
        "engine-frontend",
        ["VLLAMA_ENGINE_FRONTEND"],
        "NAME",
        "auto",
        "what answers an engine's requests: python, rust (no Anthropic messages, no responses) or auto"
    ),
    setting!("cpu-cache", ["VLLAMA_CPU_CACHE"], "GIB", "by the memory that is free", "key/value cache on the CPU"),
    setting!("gpu-helper", ["VLLAMA_GPU_HELPER"], "PROGRAM", "vllama-gpu beside vllama", "reads NVML"),
    setting!(
        "start-timeout",
        ["VLLAMA_START_TIMEOUT", "OLLAMA_LOAD_TIMEOUT"],
        "TIME",
        "10m",
        "a start that does not get on this long is given up; 0 is never"
    ),
    setting!(
        "replays",
        ["VLLAMA_REPLAYS"],
        "NUMBER",
        "1",
        "a request without an answer yet is asked again so often when its engine dies; 0 = never"
    ),
    setting!(
        "heartbeat",
        ["VLLAMA_HEARTBEAT"],
        "TIME",
        "2m",
        "an engine without a step or a token this long while requests run is started again; 0 = never"
    ),
    setting!("drain", ["VLLAMA_DRAIN"], "TIME", "30s", "running requests may finish this long at a stop"),
    setting!("stop-timeout", ["VLLAMA_STOP_TIMEOUT"], "TIME", "15s", "from SIGTERM to SIGKILL for an engine"),
    setting!("keep-alive", ["OLLAMA_KEEP_ALIVE"], "TIME", "-1 (for ever)", "how long an idle model stays loaded"),
    setting!(
        "context-length",
        ["OLLAMA_CONTEXT_LENGTH"],
        "TOKENS",
        "0 (what the engine takes)",
        "longest prompt of requests without num_ctx; the engine's own limit is max_model_len"
    ),
    setting!("max-queue", ["OLLAMA_MAX_QUEUE"], "NUMBER", "512", "most requests that wait, for all models together"),
    setting!(
        "max-loaded-models",
        ["OLLAMA_MAX_LOADED_MODELS"],
        "NUMBER",
        "0 (as many as memory allows)",
        "most models loaded at a time"
    ),
    setting!(
        "memory-budget",
        ["VLLAMA_MEMORY_BUDGET"],
        "BYTES",
        "all there is",
        "memory for engines, main memory or that of each GPU: 12GiB"
    ),
    setting!(
        "max-wait",
        ["VLLAMA_MAX_WAIT"],
        "TIME",
        "30s",
        "a request for another model waits this long before loaded ones take no new requests"
    ),
    setting!(
        "min-residence",
        ["VLLAMA_MIN_RESIDENCE"],
        "TIME",
        "10s",
        "how long a loaded model keeps its place at least"
    ),
    setting!(
        "streams-per-client",
        ["VLLAMA_STREAMS_PER_CLIENT"],
        "NUMBER",
        "0 (any number)",
        "most answers of models that one client, known by its key or its address, may have on their way at a time"
    ),
    setting!(
        "patience",
        ["VLLAMA_PATIENCE"],
        "TIME",
        "0 (as long as it takes)",
        "a request that would wait longer for its model, by what is known, is refused at once, and one that has is refused then; clients may say `Prefer: wait=SECONDS`"
    ),
    setting!(
        "stall-timeout",
        ["VLLAMA_STALL_TIMEOUT"],
        "TIME",
        "60s",
        "a client that reads nothing of its answer for this long is cut off"
    ),
    setting!("max-body", ["VLLAMA_MAX_BODY"], "MIB", "64", "largest request body"),
    setting!("max-blob", ["VLLAMA_MAX_BLOB"], "GIB", "1024", "largest uploaded file"),
    setting!("max-connections", ["VLLAMA_MAX_CONNECTIONS"], "NUMBER", "4096", "most connections at a time"),
    setting!(
        "keys",
        ["VLLAMA_KEYS"],
        "FILE",
        "",
        "ask every request for a key of this file; it is made with a first key if it is not there (see `vllama key`)"
    ),
    setting!("origins", ["OLLAMA_ORIGINS"], "LIST", "", "browser origins allowed beside the local ones, with commas"),
    setting!(
        "log",
        ["VLLAMA_LOG"],
        "FILTER",
        "info",
        "log level, or per target: info,vllm=debug; OLLAMA_DEBUG=1 is debug, 2 trace"
    ),
    setting!("log-format", ["VLLAMA_LOG_FORMAT"], "FORMAT", "text", "text or json"),
];
