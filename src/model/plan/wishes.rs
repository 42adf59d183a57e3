//! What the operator asked for, beyond the defaults.

use super::FrontendWish;

/// What the operator asked for, beyond the defaults; for one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Arguments for `vllm serve`, put last and verbatim.
    pub extra_arguments: Vec<String>,
    /// Variables for the engine, which win over all others.
    pub extra_environment: Vec<(String, String)>,
    /// GiB of key/value cache on the CPU; `None` = chosen.
    pub cpu_cache_gib: Option<u64>,
    /// Bytes the engine may take of each of its GPUs, or of main memory; `None` = chosen.
    pub memory: Option<u64>,
    /// Number of GPUs to split the model between; `None` = chosen.
    pub tensor_parallel: Option<u64>,
    /// Most requests at a time; `None` = as many as vLLM takes by itself.
    pub concurrency: Option<usize>,
    /// Longest sequence in tokens; `None` = what fits.
    pub max_model_len: Option<u64>,
    /// vLLM's parser for tool calls, or `none`; `None` = chosen.
    pub tool_parser: Option<String>,
    /// vLLM's parser for thoughts, or `none`; `None` = chosen.
    pub reasoning_parser: Option<String>,
    /// Which program answers the engine's requests.
    pub frontend: FrontendWish,
    /// Whether requests say which of them go first.
    pub priorities: bool,
    /// Whether Python code that comes with the checkpoint may run.
    pub trust_remote_code: bool,
}
