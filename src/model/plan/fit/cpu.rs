//! Fits a model into main memory.

use super::{Fit, LEAST_TOKENS, Load, advice};
use crate::model::plan::memory::{GIB, Memory, cache_bytes, gibibytes};
use crate::model::plan::{Hardware, Refusal, Wishes};

/// What an engine on the CPU holds beside weights and cache: leader, core and worker each import torch.
const CPU_OVERHEAD: u64 = 3 * GIB;

pub(super) fn fit(load: &Load<'_>, hardware: &Hardware, wishes: &Wishes) -> Fit {
    let available = wishes.memory.unwrap_or(hardware.memory_available);
    let batch = 2048;
    let bytes = |tokens| cache_bytes(load.card, tokens, 1, load.value_size, batch);
    let needed_tokens = load.at_most(LEAST_TOKENS);
    let least = bytes(needed_tokens);
    // vLLM takes whole GiB.
    let (least_gib, own_gib) = (least.div_ceil(GIB).max(1), bytes(load.own_length()).div_ceil(GIB).max(1));
    let left_gib = available.saturating_sub(load.weights + CPU_OVERHEAD) / GIB;
    let (chosen, memory_reason) = match (wishes.cpu_cache_gib, wishes.memory) {
        (Some(gib), _) => (gib, "GiB of key/value cache, as the configuration says"),
        (None, Some(_)) => (left_gib.max(1), "GiB of key/value cache: what the memory in the configuration leaves"),
        (None, None) => {
            let default = (hardware.memory_available / 10 / GIB).clamp(1, 4);
            let wanted = if load.pooling && own_gib <= left_gib { default.max(own_gib) } else { default };
            let most = left_gib.max(least_gib);
            (wanted.clamp(least_gib, most), "GiB of key/value cache; vLLM's own choice is most of a NUMA node")
        }
    };
    let cache = if load.card.attention.encoder { 0 } else { chosen.saturating_mul(GIB) };
    let memory = Memory { weights: load.weights, cache, overhead: CPU_OVERHEAD };
    let needed = load.weights + CPU_OVERHEAD + least;
    Fit {
        memory,
        memory_reason: memory_reason.into(),
        cpu_cache_gib: chosen,
        batch,
        own_length_fits: load.card.attention.encoder || own_gib <= chosen,
        refusal: (needed > available).then(|| Refusal {
            what: format!("{} does not fit the memory of this machine", load.name),
            why: format!(
                "its weights are {}; with {} for the engine's processes and a cache for {} tokens it needs {}, and {} are there",
                gibibytes(load.weights),
                gibibytes(CPU_OVERHEAD),
                needed_tokens,
                gibibytes(needed),
                gibibytes(available),
            ),
            fix: advice(load, Some("a machine or container with more memory".into())),
        }),
        ..Fit::default()
    }
}
