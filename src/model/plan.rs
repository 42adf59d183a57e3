//! From the facts of a checkpoint and of the machine to every engine flag, each with its reason. Pure.

use std::path::PathBuf;

use super::{Capability, Installed};

/// GiB, for the engine's memory figures.
const GIB: u64 = 1 << 30;

/// What an engine holds beside weights and cache; each of its processes imports torch. In bytes.
const OVERHEAD: u64 = 3 * GIB;
/// Most sequences vLLM works on at a time by default.
const CONCURRENCY: usize = 256;

/// What the machine has, as far as a plan depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// Whether an NVIDIA driver is there.
    pub nvidia: bool,
    /// Whether the processor multiplies bfloat16 natively (AVX-512 BF16 or AMX).
    pub bfloat16: bool,
    /// Bytes of main memory a new process may use.
    pub memory_available: u64,
}

/// What the operator asked for, beyond the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Arguments for `vllm serve`, put last and verbatim.
    pub extra_arguments: Vec<String>,
    /// GiB of key/value cache on the CPU; `None` = chosen.
    pub cpu_cache_gib: Option<u64>,
}

/// Where inference runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// vLLM's CPU build.
    Cpu,
    /// vLLM's CUDA build.
    Cuda,
}

/// One argument or variable of the engine, and why it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The flag with its dashes, or the variable's name.
    pub name: &'static str,
    /// Its value; `None` for a flag that takes none.
    pub value: Option<String>,
    /// Why, for people.
    pub reason: &'static str,
}

/// All choices for one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Directory of the checkpoint.
    pub checkpoint: PathBuf,
    /// The name the engine knows the model by.
    pub served_name: String,
    /// Where inference runs.
    pub device: Device,
    /// Flags, in the order they are given.
    pub flags: Vec<Choice>,
    /// Environment variables that belong to the plan; the same at every start, for vLLM's compile cache.
    pub environment: Vec<Choice>,
    /// The operator's own arguments, last and verbatim.
    pub extra_arguments: Vec<String>,
    /// What it is expected to need on its device before anybody has measured it.
    pub memory: Memory,
    /// Most requests the engine is given at a time.
    pub concurrency: usize,
}

/// Memory an engine is expected to hold on its device (GPU memory, or main memory on the CPU), in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// Key/value cache.
    pub cache: u64,
    /// All else: libraries, activations, graphs.
    pub overhead: u64,
}

impl Memory {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.overhead)
    }
}

impl Plan {
    /// Chooses all flags for serving `model` on `hardware`.
    #[must_use]
    pub fn new(model: &Installed, hardware: &Hardware, wishes: &Wishes) -> Self {
        let device = if hardware.nvidia { Device::Cuda } else { Device::Cpu };
        let mut flags = vec![
            with("--max-model-len", "auto", "the longest context that fits the memory, found by vLLM"),
            flag("--enable-prompt-tokens-details", "tells how much of a prompt came from the cache"),
            flag("--enable-per-request-metrics", "exact prefill and decode times for Ollama's durations"),
            flag("--disable-uvicorn-access-log", "vllama logs the requests"),
            flag("--disable-fastapi-docs", "nobody reads them on a private socket"),
            with("--shutdown-timeout", "0", "vllama drains requests itself before it stops an engine"),
        ];
        if model.card.can(Capability::Embedding) {
            flags.push(with("--runner", "pooling", "the checkpoint is an embedding model"));
        }
        if device == Device::Cpu {
            let (dtype, reason) = if hardware.bfloat16 {
                ("bfloat16", "the processor multiplies bfloat16 natively")
            } else {
                ("float32", "the processor has no bfloat16 instructions")
            };
            flags.push(with("--dtype", dtype, reason));
            flags.push(flag("--enforce-eager", "compiling costs minutes on a CPU and makes nothing faster"));
        }
        Self {
            checkpoint: model.directory.clone(),
            served_name: model.manifest.name.clone(),
            device,
            flags,
            environment: environment(device, hardware, wishes),
            extra_arguments: wishes.extra_arguments.clone(),
            memory: Memory {
                weights: model.manifest.size,
                cache: if device == Device::Cpu { cpu_cache_gib(hardware, wishes) * GIB } else { GIB },
                overhead: OVERHEAD,
            },
            concurrency: CONCURRENCY,
        }
    }
}

fn cpu_cache_gib(hardware: &Hardware, wishes: &Wishes) -> u64 {
    wishes.cpu_cache_gib.unwrap_or_else(|| (hardware.memory_available / 10 / GIB).clamp(1, 4))
}

fn environment(device: Device, hardware: &Hardware, wishes: &Wishes) -> Vec<Choice> {
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
    if device == Device::Cpu {
        environment.push(with(
            "TORCHDYNAMO_DISABLE",
            "1",
            "without it the first request for logprobs compiles for 20 s",
        ));
        let chosen = cpu_cache_gib(hardware, wishes);
        environment.push(Choice {
            name: "VLLM_CPU_KVCACHE_SPACE",
            value: Some(chosen.to_string()),
            reason: "GiB of key/value cache; vLLM's own choice is most of a NUMA node",
        });
    }
    environment
}

fn flag(name: &'static str, reason: &'static str) -> Choice {
    Choice { name, value: None, reason }
}

fn with(name: &'static str, value: &str, reason: &'static str) -> Choice {
    Choice { name, value: Some(value.to_owned()), reason }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::{Card, Manifest, ModelName};

    fn model(capability: Capability) -> Installed {
        Installed {
            name: ModelName::parse("smollm2:135m").expect("a name"),
            directory: "/models/smollm2".into(),
            adapter: None,
            modified_at: SystemTime::UNIX_EPOCH,
            manifest: Manifest {
                name: "smollm2:135m".into(),
                digest: String::new(),
                size: 1,
                format: "gguf".into(),
                quantization: "Q4_1".into(),
                license: None,
                parameters: 1,
                ..Manifest::default()
            },
            card: Card { capabilities: vec![capability], ..Card::default() },
        }
    }

    fn value(plan: &Plan, name: &str) -> Option<String> {
        plan.flags.iter().chain(&plan.environment).find(|choice| choice.name == name)?.value.clone()
    }

    fn hardware() -> Hardware {
        Hardware { nvidia: false, bfloat16: true, memory_available: 24 * GIB }
    }

    #[test]
    fn a_cpu_plan_is_eager_and_uses_the_type_the_processor_is_fast_in() {
        let plan = Plan::new(&model(Capability::Completion), &hardware(), &Wishes::default());
        assert_eq!(value(&plan, "--dtype").as_deref(), Some("bfloat16"));
        assert!(plan.flags.iter().any(|choice| choice.name == "--enforce-eager"));
        assert_eq!(value(&plan, "VLLM_CPU_KVCACHE_SPACE").as_deref(), Some("2"));
        let plain = Hardware { bfloat16: false, memory_available: 3 * GIB, ..hardware() };
        let plan = Plan::new(&model(Capability::Completion), &plain, &Wishes::default());
        assert_eq!(value(&plan, "--dtype").as_deref(), Some("float32"));
        assert_eq!(value(&plan, "VLLM_CPU_KVCACHE_SPACE").as_deref(), Some("1"));
    }

    #[test]
    fn a_cuda_plan_leaves_type_and_compilation_to_vllm() {
        let plan =
            Plan::new(&model(Capability::Completion), &Hardware { nvidia: true, ..hardware() }, &Wishes::default());
        assert_eq!(plan.device, Device::Cuda);
        for name in ["--dtype", "--enforce-eager", "VLLM_CPU_KVCACHE_SPACE"] {
            assert!(!plan.flags.iter().chain(&plan.environment).any(|choice| choice.name == name), "{name}");
        }
    }

    #[test]
    fn an_embedding_model_gets_the_pooling_runner_and_the_operator_has_the_last_word() {
        let wishes = Wishes { extra_arguments: vec!["--max-model-len".into(), "512".into()], cpu_cache_gib: Some(7) };
        let plan = Plan::new(&model(Capability::Embedding), &hardware(), &wishes);
        assert_eq!(value(&plan, "--runner").as_deref(), Some("pooling"));
        assert_eq!(value(&plan, "VLLM_CPU_KVCACHE_SPACE").as_deref(), Some("7"));
        assert_eq!(plan.extra_arguments, wishes.extra_arguments);
    }
}
