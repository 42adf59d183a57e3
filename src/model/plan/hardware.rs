//! What the machine has, as far as a plan depends on it.

/// What the machine has. Read once, before any engine runs: a plan made twice must be the same plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Hardware {
    /// Whether an NVIDIA driver is there.
    pub nvidia: bool,
    /// Whether the processor multiplies bfloat16 natively (AVX-512 BF16 or AMX).
    pub bfloat16: bool,
    /// Bytes of main memory that engines may use.
    pub memory_available: u64,
    /// The GPUs engines may use; empty where there are none, or nobody could tell.
    pub gpus: Vec<Gpu>,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Gpu {
    /// What it is sold as; empty where the driver does not tell.
    pub name: String,
    /// All of its memory, in bytes.
    pub memory: u64,
    /// CUDA compute capability, e.g. (9, 0); `None` where the driver does not tell.
    pub capability: Option<(u32, u32)>,
}

impl Hardware {
    /// Memory that each GPU has at least, in bytes; `None` where that is not known.
    #[must_use]
    pub fn gpu_memory(&self) -> Option<u64> {
        self.gpus.iter().map(|gpu| gpu.memory).min().filter(|bytes| *bytes > 0)
    }

    /// Whether every GPU that told its compute capability multiplies bfloat16, which begins with 8.0.
    #[must_use]
    pub fn gpu_bfloat16(&self) -> bool {
        self.gpus.iter().filter_map(|gpu| gpu.capability).all(|capability| capability >= (8, 0))
    }

    /// In a few words, for people: `8 GPUs: NVIDIA H100 80GB HBM3, 79.6 GiB each`, or the CPU and its memory.
    #[must_use]
    pub fn describe(&self) -> String {
        let Some(first) = self.gpus.first() else {
            return if self.nvidia {
                "GPUs of a driver that could not be asked".into()
            } else {
                format!("CPU with {} of memory", super::gibibytes(self.memory_available))
            };
        };
        let name = if first.name.is_empty() { "of unknown kind" } else { &first.name };
        let memory = super::gibibytes(first.memory);
        match self.gpus.len() {
            1 => format!("GPU: {name}, {memory}"),
            count => format!("{count} GPUs: {name}, {memory} each"),
        }
    }
}
