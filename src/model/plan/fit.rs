//! On how many GPUs a model runs and how much of each it takes, or how much main memory; and a refusal where it cannot
//! fit (decision 0017).

use super::memory::{GIB, Memory, cache_bytes, gibibytes};
use super::{Device, Hardware, Refusal, Wishes};
use crate::model::Card;

/// Share of a GPU that a model which writes gets, in percent: an embedding model fits beside it.
const SHARE: u64 = 85;
/// The same where it fits only when it is alone: vLLM's own default.
const WHOLE_SHARE: u64 = 92;
/// What an engine holds on a GPU beside weights and cache: CUDA's context and activations, and its graphs.
const GPU_OVERHEAD: u64 = 3 * GIB;
/// The same for an embedding model, or with small batches.
const SMALL_OVERHEAD: u64 = 2 * GIB;
/// What several GPUs need to talk to each other, on each.
const COMMUNICATION: u64 = GIB / 2;
/// What an engine on the CPU holds beside weights and cache: leader, core and worker each import torch.
const CPU_OVERHEAD: u64 = 3 * GIB;
/// An engine that cannot hold this many tokens is of no use.
const LEAST_TOKENS: u64 = 4096;
/// A GPU up to this size is given small batches where the model fills it.
const SMALL_GPU: u64 = 16 * GIB + GIB / 2;
/// From this size on vLLM works on larger batches (A100 apart).
const LARGE_GPU: u64 = 70 * GIB;

/// How many GPUs to split a model between.
const SPLITS: [u64; 4] = [1, 2, 4, 8];

/// What a model is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fit {
    /// GPUs it runs on; 0 on the CPU.
    pub gpus: u64,
    /// Why that many.
    pub gpus_reason: String,
    /// Its memory, per GPU.
    pub memory: Memory,
    /// Share of each GPU, in percent; `None` on the CPU.
    pub percent: Option<u64>,
    /// Why that much, of a GPU or as cache.
    pub memory_reason: String,
    /// GiB of cache on the CPU.
    pub cpu_cache_gib: u64,
    /// Whether experts stay whole and are dealt out between the GPUs.
    pub expert_parallel: bool,
    /// Whether batches are kept small for want of memory.
    pub small_batches: bool,
    /// Most tokens in one step.
    pub batch: u64,
    /// Whether an embedding model can have its own longest text.
    pub own_length_fits: bool,
    /// Why it cannot run here.
    pub refusal: Option<Refusal>,
}

/// What is to be fitted in.
pub(super) struct Load<'a> {
    /// The model, for the refusal.
    pub name: &'a str,
    /// Its facts.
    pub card: &'a Card,
    /// Whether it makes vectors and no text.
    pub pooling: bool,
    /// Bytes of its weights as they are served.
    pub weights: u64,
    /// Bytes of one number in the cache.
    pub value_size: u64,
}

impl Load<'_> {
    /// The longest text an embedding model takes, in tokens.
    fn own_length(&self) -> u64 {
        let told = self.card.pooling.as_ref().and_then(|pooling| pooling.max_length);
        told.unwrap_or(self.card.context_length).min(self.card.context_length.max(1))
    }

    /// Tokens the cache must hold at least.
    fn least_tokens(&self) -> u64 {
        let context = if self.card.context_length > 0 { self.card.context_length } else { LEAST_TOKENS };
        LEAST_TOKENS.min(context)
    }
}

pub(super) fn fit(load: &Load<'_>, device: Device, hardware: &Hardware, wishes: &Wishes) -> Fit {
    match (device, hardware.gpu_memory()) {
        (Device::Cpu, _) => on_cpu(load, hardware, wishes),
        (Device::Cuda, Some(memory)) => on_gpus(load, memory, hardware, wishes),
        (Device::Cuda, None) => on_unknown_gpus(load, wishes),
    }
}

/// Nobody could ask the driver: one GPU, and vLLM finds out whether it suffices.
fn on_unknown_gpus(load: &Load<'_>, wishes: &Wishes) -> Fit {
    Fit {
        gpus: wishes.tensor_parallel.unwrap_or(1).max(1),
        gpus_reason: "the driver could not be asked how many there are".into(),
        memory: Memory { weights: load.weights, cache: GIB, overhead: GPU_OVERHEAD },
        percent: Some(SHARE),
        memory_reason: "the driver could not be asked how much memory there is".into(),
        batch: 2048,
        own_length_fits: true,
        ..Fit::default()
    }
}

fn on_gpus(load: &Load<'_>, gpu: u64, hardware: &Hardware, wishes: &Wishes) -> Fit {
    let large = gpu >= LARGE_GPU && !hardware.gpus.iter().any(|gpu| gpu.name.to_lowercase().contains("a100"));
    let small = gpu <= SMALL_GPU && !load.pooling && load.weights > gpu / 4;
    let batch = if large { 8192 } else { 2048 };
    let overhead = if load.pooling || small { SMALL_OVERHEAD } else { GPU_OVERHEAD };
    let mut first = Fit { batch, small_batches: small, own_length_fits: true, ..Fit::default() };
    let on = |gpus: u64| {
        let tokens = if load.pooling { load.own_length() } else { load.least_tokens() };
        Memory {
            weights: load.weights / gpus,
            cache: cache_bytes(load.card, tokens, gpus, load.value_size, batch),
            overhead: overhead + if gpus > 1 { COMMUNICATION } else { 0 },
        }
    };
    let percent_of = |bytes: u64| bytes.saturating_mul(100) / gpu;
    let present = hardware.gpus.len() as u64;
    let splits: Vec<u64> = match wishes.tensor_parallel {
        Some(wish) => vec![wish.max(1)],
        None => {
            SPLITS.into_iter().filter(|gpus| *gpus <= present && load.card.head_count.is_multiple_of(*gpus)).collect()
        }
    };
    let wished = wishes.memory.map(|bytes| percent_of(bytes).clamp(1, 99));
    let shares = match wished {
        Some(percent) => vec![percent],
        None if load.pooling => vec![WHOLE_SHARE],
        None => vec![SHARE, WHOLE_SHARE],
    };
    let found = shares.iter().find_map(|percent| {
        let suffices = |gpus: &&u64| on(**gpus).total() <= gpu / 100 * percent && can_split(load.card, **gpus);
        Some((*splits.iter().find(suffices)?, *percent))
    });
    let Some((gpus, percent)) = found else {
        let gpus = splits.last().copied().unwrap_or(1);
        first.gpus = gpus;
        first.gpus_reason = "as many as there are to split it between".into();
        first.percent = Some(shares.last().copied().unwrap_or(WHOLE_SHARE));
        first.memory = on(gpus);
        first.memory_reason = "it does not fit".into();
        first.refusal = Some(refuse_gpus(load, &first, gpu, hardware, &|gpus| on(gpus).total()));
        return first;
    };
    let least = on(gpus);
    let percent = if load.pooling && wished.is_none() {
        // Rounded up; what is left over belongs to the next model.
        (percent_of(least.total()) + 1).min(percent)
    } else {
        percent
    };
    first.gpus = gpus;
    first.gpus_reason = if wishes.tensor_parallel.is_some() {
        "as the configuration says".into()
    } else if gpus == 1 {
        "one GPU holds it".into()
    } else {
        format!("the fewest that hold it: {} of weights on each", gibibytes(least.weights))
    };
    first.percent = Some(percent);
    first.memory_reason = match (wished, load.pooling, percent) {
        (Some(_), ..) => "the memory the configuration gives it".into(),
        (None, true, _) => {
            format!("{} of weights and room to work; the rest is left to other models", gibibytes(least.weights))
        }
        (None, false, SHARE) => "the cache takes what it can get; an embedding model fits beside it".into(),
        (None, false, _) => "it fits only when it has its GPUs almost to itself".into(),
    };
    let share = gpu / 100 * percent;
    let cache = if load.pooling && least.cache == 0 { 0 } else { share.saturating_sub(least.weights + least.overhead) };
    first.memory = Memory { cache, ..least };
    first.expert_parallel = gpus > 1 && !is_even(load.card, gpus);
    first
}

/// Whether a feed-forward layer of this width can be split without cutting through weights that share a scale.
fn splits_evenly(card: &Card, width: u64, gpus: u64) -> bool {
    let group = card.quantization.as_ref().map_or(0, |quantization| quantization.group);
    group == 0 || width == 0 || (width.is_multiple_of(gpus) && (width / gpus).is_multiple_of(group))
}

/// Whether all feed-forward layers, or the experts', can be split.
fn is_even(card: &Card, gpus: u64) -> bool {
    match card.experts {
        Some(experts) if experts.feed_forward_length > 0 => splits_evenly(card, experts.feed_forward_length, gpus),
        _ => splits_evenly(card, card.feed_forward_length, gpus),
    }
}

/// Whether it can be split at all: experts can stay whole, other layers cannot.
fn can_split(card: &Card, gpus: u64) -> bool {
    gpus == 1 || is_even(card, gpus) || card.experts.is_some_and(|experts| experts.count.is_multiple_of(gpus))
}

fn refuse_gpus(load: &Load<'_>, fit: &Fit, gpu: u64, hardware: &Hardware, need: &dyn Fn(u64) -> u64) -> Refusal {
    let percent = fit.percent.unwrap_or(WHOLE_SHARE);
    let room = gpu / 100 * percent;
    let count = match fit.gpus {
        1 => "on one GPU".to_owned(),
        gpus => format!("on each of {gpus} GPUs"),
    };
    let enough = [2, 4, 8, 16, 32].into_iter().find(|gpus| {
        *gpus > fit.gpus.max(hardware.gpus.len() as u64)
            && load.card.head_count.is_multiple_of(*gpus)
            && need(*gpus) <= room
    });
    let more = enough.map(|gpus| format!("{gpus} GPUs of this size"));
    Refusal {
        what: format!("{} does not fit the GPU memory of this machine", load.name),
        why: format!(
            "its weights are {}; with a cache for {} tokens it needs {} {count}, and {percent} % of one are {}",
            gibibytes(load.weights),
            if load.pooling { load.own_length() } else { load.least_tokens() },
            gibibytes(need(fit.gpus)),
            gibibytes(room),
        ),
        fix: advice(load, more),
    }
}

fn on_cpu(load: &Load<'_>, hardware: &Hardware, wishes: &Wishes) -> Fit {
    let available = wishes.memory.unwrap_or(hardware.memory_available);
    let batch = 2048;
    let bytes = |tokens| cache_bytes(load.card, tokens, 1, load.value_size, batch);
    let least = bytes(load.least_tokens());
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
                load.least_tokens(),
                gibibytes(needed),
                gibibytes(available),
            ),
            fix: advice(load, Some("a machine or container with more memory".into())),
        }),
        ..Fit::default()
    }
}

fn advice(load: &Load<'_>, more: Option<String>) -> String {
    let packed =
        load.card.quantization.as_ref().and_then(|quantization| quantization.bits).is_some_and(|bits| bits <= 4);
    let smaller = if packed {
        "a smaller model"
    } else if load.card.quantization.is_some() {
        "a variant packed in 4 bits (AWQ or GPTQ), or a smaller model"
    } else {
        "a variant with packed weights (AWQ or GPTQ take a quarter of the memory, FP8 a half), or a smaller model"
    };
    match more {
        Some(more) => format!("use {smaller}, or {more}"),
        None => format!("use {smaller}"),
    }
}
