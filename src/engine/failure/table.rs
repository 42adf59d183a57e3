//! All failures there are, as data: how they are known by, what people read, and whether trying again can help
//! (vllm-engine §5.7).

use super::When;

/// A kind of failure. Its [identifier](Kind::name) is stable: metrics and remembered plans use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "what each one is stands in the table below")]
pub enum Kind {
    SharedMemoryFull,
    GpuMemoryBusy,
    GpuMemoryMoved,
    NoRoomForCache,
    ContextTooLong,
    ContextBeyondModel,
    ModelTooLarge,
    CacheTooLarge,
    GpuOutOfMemory,
    OutOfMemory,
    UnsupportedModel,
    GatedModel,
    CustomCode,
    FrontendMissing,
    FrontendRefusal,
    ToolParser,
    ReasoningParser,
    GpuTooOld,
    DriverTooOld,
    NoDevice,
    GpuCommunication,
    GpuError,
    GpuLost,
    ArgumentRefused,
    DiskFull,
    CoreDied,
    FrontendDied,
    WorkerDied,
    SocketInUse,
    StartHung,
    Wedged,
    SleepFailed,
    NotInstalled,
    RunDirectory,
    Killed,
    Ended,
}

/// What is said of a kind.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Whether an engine that has not served yet is not started again.
    pub(super) permanent: bool,
    /// What happened, why, what to do.
    pub(super) message: &'static str,
}

const fn row(name: &'static str, permanent: bool, message: &'static str) -> Row {
    Row { name, permanent, message }
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 36] = [
        Self::SharedMemoryFull,
        Self::GpuMemoryBusy,
        Self::GpuMemoryMoved,
        Self::NoRoomForCache,
        Self::ContextTooLong,
        Self::ContextBeyondModel,
        Self::ModelTooLarge,
        Self::CacheTooLarge,
        Self::GpuOutOfMemory,
        Self::OutOfMemory,
        Self::UnsupportedModel,
        Self::GatedModel,
        Self::CustomCode,
        Self::FrontendMissing,
        Self::FrontendRefusal,
        Self::ToolParser,
        Self::ReasoningParser,
        Self::GpuTooOld,
        Self::DriverTooOld,
        Self::NoDevice,
        Self::GpuCommunication,
        Self::GpuError,
        Self::GpuLost,
        Self::ArgumentRefused,
        Self::DiskFull,
        Self::CoreDied,
        Self::FrontendDied,
        Self::WorkerDied,
        Self::SocketInUse,
        Self::StartHung,
        Self::Wedged,
        Self::SleepFailed,
        Self::NotInstalled,
        Self::RunDirectory,
        Self::Killed,
        Self::Ended,
    ];

    /// Its identifier, e.g. `out_of_memory`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    pub(super) fn row(self) -> Row {
        const NO_FIT: &str =
            "the model does not fit the device's memory; use a smaller or quantised model, or a larger device";
        match self {
            Self::SharedMemoryFull => row(
                "shared_memory_full",
                true,
                "/dev/shm is full or too small for the engine; give the container more with `--shm-size=2g` (Compose: `shm_size: 2g`)",
            ),
            Self::GpuMemoryBusy => row(
                "gpu_memory_busy",
                false,
                "the GPU's memory is in use by something else; free it, or lower `--gpu-memory-utilization`",
            ),
            Self::GpuMemoryMoved => {
                row("gpu_memory_moved", false, "the GPU's memory changed while the engine measured it")
            }
            Self::NoRoomForCache => row("no_room_for_cache", true, NO_FIT),
            Self::ContextTooLong => row(
                "context_too_long",
                true,
                "the context does not fit the device's memory; give a smaller `--max-model-len`",
            ),
            Self::ContextBeyondModel => row(
                "context_beyond_model",
                true,
                "the context is longer than the model takes; give a smaller `--max-model-len`",
            ),
            Self::ModelTooLarge => row(
                "model_too_large",
                true,
                "the GPU's memory is too small for the model; use a smaller or quantised model, or several GPUs",
            ),
            Self::CacheTooLarge => row(
                "cache_too_large",
                true,
                "the key/value cache does not fit main memory; give it fewer GiB with `--cpu-cache`",
            ),
            Self::GpuOutOfMemory => row(
                "gpu_out_of_memory",
                false,
                "the GPU's memory ran out in the middle of the work; leave more of it free with a lower `--gpu-memory-utilization`",
            ),
            Self::OutOfMemory => row(
                "out_of_memory",
                false,
                "the kernel killed a process of the engine because main memory had run out; give the container or service more, or use a smaller model",
            ),
            Self::UnsupportedModel => row(
                "unsupported_model",
                true,
                "this vLLM does not know the model's architecture; use a newer vllama image or another model",
            ),
            Self::GatedModel => row(
                "gated_model",
                true,
                "the model needs files from a repository that asks for permission; accept its licence there and set HF_TOKEN",
            ),
            Self::CustomCode => row(
                "custom_code",
                true,
                "the model needs code from its own repository; if you trust it, pass `--engine-args --trust-remote-code`",
            ),
            Self::FrontendMissing => row(
                "frontend_missing",
                true,
                "this vLLM has no frontend in Rust; fetch it with `engine/setup --frontend`, or set engine_frontend to python",
            ),
            Self::FrontendRefusal => row(
                "frontend_refusal",
                true,
                "vLLM's Rust frontend does not take an argument; see the log, or set engine_frontend to python",
            ),
            Self::ToolParser => row(
                "tool_parser",
                true,
                "vLLM cannot use the chosen tool parser with this model; choose another one with tool_parser, or `none`",
            ),
            Self::ReasoningParser => row(
                "reasoning_parser",
                true,
                "vLLM cannot use the chosen reasoning parser with this model; choose another one with reasoning_parser, or `none`",
            ),
            Self::GpuTooOld => row("gpu_too_old", true, "this vLLM has no code for the GPU; use an image built for it"),
            Self::DriverTooOld => row("driver_too_old", true, "the NVIDIA driver is too old for this vLLM; update it"),
            Self::NoDevice => row(
                "no_device",
                true,
                "vLLM found no device; is the NVIDIA driver visible in the container (`--gpus all`)?",
            ),
            Self::GpuCommunication => row(
                "gpu_communication",
                false,
                "the GPUs could not talk to each other (NCCL); see vllm.log, and `nvidia-smi topo -m` for how they are connected",
            ),
            Self::GpuError => row(
                "gpu_error",
                false,
                "the GPU failed; if it happens again look for Xid errors in the kernel's log (`dmesg`) and have the machine checked",
            ),
            Self::GpuLost => row(
                "gpu_lost",
                false,
                "the driver has lost the GPU; look for Xid errors in the kernel's log (`dmesg`), and reset the GPU or restart the machine",
            ),
            Self::ArgumentRefused => row("argument_refused", true, "vLLM refused its arguments; check `--engine-args`"),
            Self::DiskFull => row(
                "disk_full",
                false,
                "the disk is full; make room where vllama keeps its state and its run directory",
            ),
            Self::CoreDied => row("core_died", false, "the engine core died"),
            Self::FrontendDied => row("frontend_died", false, "the engine's frontend died"),
            Self::WorkerDied => row("worker_died", false, "a worker process died"),
            Self::SocketInUse => row("socket_in_use", false, "the engine's socket was in use"),
            Self::StartHung => row("start_hung", false, "the engine hung while it started"),
            Self::Wedged => row("wedged", false, "the engine hung"),
            Self::SleepFailed => row("sleep_failed", false, "the engine did not sleep or wake"),
            Self::NotInstalled => row("not_installed", true, "the engine cannot be started"),
            Self::RunDirectory => row("run_directory", true, "the engine's run directory cannot be made"),
            Self::Killed => row("killed", false, "the engine was killed, perhaps for want of memory"),
            Self::Ended => row("ended", false, "the engine ended unexpectedly"),
        }
    }
}

/// A text in the log that names a failure.
pub(super) struct Signature {
    /// All of these must be in one line.
    pub(super) texts: &'static [&'static str],
    /// In which part of a life; any when empty.
    pub(super) when: &'static [When],
    pub(super) kind: Kind,
}

const fn any(texts: &'static [&'static str], kind: Kind) -> Signature {
    Signature { texts, when: &[], kind }
}

const fn only(when: &'static [When], texts: &'static [&'static str], kind: Kind) -> Signature {
    Signature { texts, when, kind }
}

/// Memory ran out before there was anything to work with.
const LOADING: &[When] = &[When::Loading];

/// The table, most telling first.
pub(super) const SIGNATURES: &[Signature] = &[
    any(&["Insufficient space in /dev/shm"], Kind::SharedMemoryFull),
    any(&["No space left on device", "/dev/shm"], Kind::SharedMemoryFull),
    any(&["No space left on device"], Kind::DiskFull),
    any(&["Free memory on device", "less than desired GPU memory utilization"], Kind::GpuMemoryBusy),
    any(&["Error in memory profiling"], Kind::GpuMemoryMoved),
    any(&["No available memory for the cache blocks"], Kind::NoRoomForCache),
    any(&["To serve at least one request with the model's max seq len"], Kind::ContextTooLong),
    any(&["is greater than the derived max_model_len"], Kind::ContextBeyondModel),
    any(&["Cannot auto-fit max_model_len"], Kind::NoRoomForCache),
    any(&["is less than requested memory for kv"], Kind::CacheTooLarge),
    any(&["is less than desired CPU memory utilization"], Kind::CacheTooLarge),
    any(&["Not enough memory", "VLLM_CPU_KVCACHE_SPACE"], Kind::CacheTooLarge),
    any(&["CUDA error: an illegal memory access"], Kind::GpuError),
    any(&["uncorrectable ECC"], Kind::GpuError),
    any(&["CUDA error: unspecified launch failure"], Kind::GpuError),
    any(&["GPU is lost"], Kind::GpuLost),
    any(&["has fallen off the bus"], Kind::GpuLost),
    only(LOADING, &["CUDA out of memory"], Kind::ModelTooLarge),
    only(LOADING, &["torch.OutOfMemoryError"], Kind::ModelTooLarge),
    any(&["CUDA out of memory"], Kind::GpuOutOfMemory),
    any(&["torch.OutOfMemoryError"], Kind::GpuOutOfMemory),
    any(&["Model architectures", "are not supported"], Kind::UnsupportedModel),
    any(&["does not recognize this architecture"], Kind::UnsupportedModel),
    any(&["GatedRepoError"], Kind::GatedModel),
    any(&["Cannot access gated repo"], Kind::GatedModel),
    any(&["401 Client Error"], Kind::GatedModel),
    any(&["trust_remote_code"], Kind::CustomCode),
    any(&["vllm-rs binary was not found"], Kind::FrontendMissing),
    any(&["not implemented in Rust frontend"], Kind::FrontendRefusal),
    any(&["invalid tool call parser"], Kind::ToolParser),
    any(&["invalid reasoning parser"], Kind::ReasoningParser),
    any(&["easoning parser", "is not registered (choose from"], Kind::ReasoningParser),
    any(&["is not registered (choose from"], Kind::ToolParser),
    any(&["easoning", "could not locate"], Kind::ReasoningParser),
    any(&["arser", "could not locate"], Kind::ToolParser),
    any(&["tool extractor could not locate"], Kind::ToolParser),
    any(&["no kernel image is available"], Kind::GpuTooOld),
    any(&["CUDA driver version is insufficient"], Kind::DriverTooOld),
    any(&["Failed to infer device type"], Kind::NoDevice),
    any(&["NCCL error"], Kind::GpuCommunication),
    any(&["error: unrecognized arguments"], Kind::ArgumentRefused),
    any(&["EngineDeadError"], Kind::CoreDied),
    any(&["Process RustFrontend", "died"], Kind::FrontendDied),
    any(&["died unexpectedly"], Kind::WorkerDied),
    any(&["Address already in use"], Kind::SocketInUse),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_failure_has_a_name_of_its_own_that_a_label_can_be() {
        let names: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        let is_plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert_eq!(names.iter().filter(|name| !is_plain(name)).count(), 0, "{names:?}");
    }

    #[test]
    fn every_text_stands_before_those_it_contains() {
        // A row that can never be reached would be dead.
        for (at, later) in SIGNATURES.iter().enumerate() {
            let hidden = SIGNATURES[..at].iter().find(|earlier| {
                earlier.when.is_empty()
                    && earlier.texts.iter().all(|text| later.texts.iter().any(|longer| longer.contains(text)))
            });
            assert!(hidden.is_none(), "{:?} is never reached: {:?}", later.texts, hidden.map(|row| row.texts));
        }
    }
}
