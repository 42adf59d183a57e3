//! The one table of all of vllama's own metrics: the page, `docs/metrics.md` and the tests are made from it. What engines
//! say of themselves (`vllm:…`) is vLLM's to name.

use prometheus_client::metrics::MetricType;

/// One family of metrics.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name, as a query has it: counters end in `_total`.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// What the values of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often values fell below each of some bounds.
    Histogram,
}

impl Kind {
    /// The kind in the words of the format.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Gauge => Self::Gauge,
            Kind::Histogram => Self::Histogram,
        }
    }
}

impl Family {
    /// The name without what the format adds to it.
    #[must_use]
    pub fn bare_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }
}

macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Family =
                Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*
        /// All of them, in the order of the page.
        pub const TABLE: &[Family] = &[$($constant),*];
    };
}

families! {
    BUILD_INFO: Gauge "vllama_build_info" ["version", "engine_version"]
        "Always 1. The versions of vllama and of the installed vLLM.";
    READY: Gauge "vllama_ready" []
        "1 when the default model can answer, as /health/ready says, otherwise 0.";

    REQUESTS: Counter "vllama_requests_total" ["route", "model", "status"]
        "Requests that have ended, by the status of their answer. 499: the client left before the end.";
    REQUEST_DURATION: Histogram "vllama_request_duration_seconds" ["route", "model"]
        "Time from a request's head to the end of its answer.";
    FIRST_TOKEN: Histogram "vllama_time_to_first_token_seconds" ["model"]
        "Time from a request's head to the first token of its streamed answer, waiting included.";
    TOKEN_GAP: Histogram "vllama_inter_token_latency_seconds" ["model"]
        "Mean time between two tokens of a streamed answer; one observation for each stream.";
    QUEUE_WAIT: Histogram "vllama_queue_wait_seconds" ["model"]
        "Time a request waited until it had its place in an engine, loads and swaps included.";
    QUEUE_LENGTH: Gauge "vllama_queue_length" ["model"]
        "Requests that wait for a place in the model's engine.";
    QUEUE_OLDEST: Gauge "vllama_queue_oldest_seconds" ["model"]
        "How long the oldest of them has waited; 0 when none waits.";
    LEASES: Gauge "vllama_leases" ["model"]
        "Requests that the model's engine works on.";
    PROMPT_TOKENS: Counter "vllama_prompt_tokens_total" ["model"]
        "Tokens of prompts, of requests that told them before they ended.";
    GENERATED_TOKENS: Counter "vllama_generated_tokens_total" ["model"]
        "Tokens of answers, of requests that told them before they ended.";
    REPLAYS: Counter "vllama_requests_replayed_total" ["model"]
        "Times a request was asked again because its engine died before it answered.";

    ENGINE_STATE: Gauge "vllama_engine_state" ["engine", "state"]
        "1 for the state the engine is in, otherwise 0. Falling asleep counts as stopping, waking as starting.";
    ENGINE_STARTS: Counter "vllama_engine_starts_total" ["engine"]
        "Starts of the engine, restarts included.";
    ENGINE_RESTARTS: Counter "vllama_engine_restarts_total" ["engine", "failure"]
        "Starts after a death that nobody asked for, by what it died of.";
    ENGINE_WEDGES: Counter "vllama_engine_wedges_total" ["engine"]
        "Times the engine was ended because it did nothing though it had requests.";
    ENGINE_START: Gauge "vllama_engine_start_seconds" ["engine"]
        "Time the last start took.";
    ENGINE_PHASE: Gauge "vllama_engine_start_phase_seconds" ["engine", "phase"]
        "Time of each part of the last start; parts that vLLM does not tell of are absent.";
    ENGINE_MEMORY: Gauge "vllama_engine_memory_bytes" ["engine"]
        "Main memory that the engine's processes hold, each shared page counted once.";
    ENGINE_SCRAPE: Gauge "vllama_engine_scrape_ok" ["engine"]
        "1 when the ready engine has told its own metrics in time, otherwise 0.";
    SWAPS: Counter "vllama_swaps_total" []
        "Times a loaded model was unloaded, or sent to sleep, to make room for another one.";
    DRAINS: Counter "vllama_drains_total" []
        "Times a model in use took no new requests, so that its running ones would end and make room for another one.";
    MEMORY_BUDGET: Gauge "vllama_memory_budget_bytes" ["device"]
        "Memory that engines may take on a device: cpu, or the number of a GPU among those left to vllama.";
    MEMORY_USED: Gauge "vllama_memory_used_bytes" ["device"]
        "Memory of that budget that loaded models are charged for.";

    GPU_MEMORY_USED: Gauge "vllama_gpu_memory_used_bytes" ["gpu"]
        "Memory of the GPU that is taken by anybody.";
    GPU_MEMORY_TOTAL: Gauge "vllama_gpu_memory_total_bytes" ["gpu"]
        "All memory of the GPU.";
    GPU_UTILIZATION: Gauge "vllama_gpu_utilization_ratio" ["gpu"]
        "Share of the last moment in which the GPU computed, 0 to 1.";
    GPU_TEMPERATURE: Gauge "vllama_gpu_temperature_celsius" ["gpu"]
        "Temperature of the chip.";
    GPU_POWER: Gauge "vllama_gpu_power_watts" ["gpu"]
        "Power that the GPU draws.";
    GPU_ECC_ERRORS: Counter "vllama_gpu_ecc_errors_total" ["gpu"]
        "Memory errors that could not be corrected, since the driver was loaded.";

    STORE: Gauge "vllama_store_bytes" []
        "Size of the installed models; what several names share counts once.";
    DISK_FREE: Gauge "vllama_disk_free_bytes" ["volume"]
        "Space left to vllama in the file system of the models, and of the state (logs and caches).";
    DISK_SIZE: Gauge "vllama_disk_size_bytes" ["volume"]
        "Size of that file system.";

    CONNECTIONS: Gauge "vllama_connections" []
        "Open connections of clients.";
    CONNECTIONS_REFUSED: Counter "vllama_connections_refused_total" []
        "Connections that could not be taken.";
    KEY_REQUESTS: Counter "vllama_key_requests_total" ["key", "status"]
        "Requests that have ended, by the key they were made with.";
    KEY_TOKENS: Counter "vllama_key_tokens_total" ["key", "direction"]
        "Tokens of prompts and of answers, by the key of their request.";
    KEY_REFUSALS: Counter "vllama_key_refusals_total" ["key", "reason"]
        "Requests that were refused because of their key, or for want of one.";

    RESIDENT_MEMORY: Gauge "process_resident_memory_bytes" []
        "Main memory of vllama itself, without its engines.";
    OPEN_DESCRIPTORS: Gauge "process_open_fds" []
        "Open file descriptors of vllama.";
    MOST_DESCRIPTORS: Gauge "process_max_fds" []
        "File descriptors that vllama may have open.";
    STARTED: Gauge "process_start_time_seconds" []
        "When vllama was started, in seconds since 1970.";
    PROCESSOR_TIME: Counter "process_cpu_seconds_total" []
        "Processor time of vllama itself, without its engines.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_say_what_they_are() {
        let names: BTreeSet<_> = TABLE.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for Family { name, kind, help, .. } in TABLE {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(name.starts_with("vllama_") || name.starts_with("process_"), "{name}");
            assert!(help.ends_with('.') && !help.contains('\n') && !help.contains('\\'), "{name}: {help}");
        }
    }
}
