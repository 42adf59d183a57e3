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
/// With this many one can work; for them a model is split further where there are GPUs.
const GOOD_TOKENS: u64 = 32_768;
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

    /// These tokens, or as many as the model takes.
    fn at_most(&self, tokens: u64) -> u64 {
        if self.card.context_length > 0 { tokens.min(self.card.context_length) } else { tokens }
    }

    /// Tokens the cache must hold at least.
    fn least_tokens(&self) -> u64 {
        if self.pooling { self.own_length() } else { self.at_most(LEAST_TOKENS) }
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
    let with = |gpus: u64, tokens: u64| Memory {
        weights: load.weights / gpus,
        cache: cache_bytes(load.card, tokens, gpus, load.value_size, batch),
        overhead: overhead + if gpus > 1 { COMMUNICATION } else { 0 },
    };
    let on = |gpus| with(gpus, load.least_tokens());
    let percent_of = |bytes: u64| bytes.saturating_mul(100) / gpu;
    let present = hardware.gpus.len() as u64;
    let splits: Vec<u64> = match wishes.tensor_parallel {
        Some(wish) => vec![wish.max(1)],
        None => SPLITS.into_iter().filter(|gpus| *gpus <= present && heads_split(load.card, *gpus)).collect(),
    };
    let wished = wishes.memory.map(|bytes| percent_of(bytes).clamp(1, 99));
    // Tried in this order: room to work in beside another model, at least some room, the GPU to itself.
    let (good, least) = (load.at_most(GOOD_TOKENS), load.least_tokens());
    let tries = match wished {
        Some(percent) => vec![(percent, good), (percent, least)],
        None if load.pooling => vec![(WHOLE_SHARE, least)],
        None => vec![(SHARE, good), (SHARE, least), (WHOLE_SHARE, least)],
    };
    let found = tries.iter().find_map(|(percent, tokens)| {
        let suffices =
            |gpus: &&u64| with(**gpus, *tokens).total() <= gpu / 100 * percent && can_split(load.card, **gpus);
        Some((*splits.iter().find(suffices)?, *percent))
    });
    let Some((gpus, percent)) = found else {
        let gpus = splits.last().copied().unwrap_or(1);
        first.gpus = gpus;
        first.gpus_reason = "as many as there are to split it between".into();
        first.percent = Some(wished.unwrap_or(WHOLE_SHARE));
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
        format!("the fewest that hold it and a good context: {} of weights on each", gibibytes(least.weights))
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

/// Whether the heads can be dealt out: each GPU gets as many, and as many key/value heads or a copy of one.
fn heads_split(card: &Card, gpus: u64) -> bool {
    let (fewer, more) = (gpus.min(card.head_count_kv), gpus.max(card.head_count_kv));
    card.head_count.is_multiple_of(gpus)
        && (card.attention.latent_length > 0 || fewer == 0 || more.is_multiple_of(fewer))
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
        *gpus > fit.gpus.max(hardware.gpus.len() as u64) && heads_split(load.card, *gpus) && need(*gpus) <= room
    });
    let more = enough.map(|gpus| format!("{gpus} GPUs of this size"));
    Refusal {
        what: format!("{} does not fit the GPU memory of this machine", load.name),
        why: format!(
            "its weights are {}; with a cache for {} tokens it needs {} {count}, and {percent} % of one are {}",
            gibibytes(load.weights),
            load.least_tokens(),
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

#[cfg(test)]
mod tests {
    use super::super::Gpu;
    use super::*;
    use crate::model::card::{Attention, Experts, Pooling, Quantization};

    /// Qwen2.5-7B's shape: 56 KiB of cache a token, 28 heads.
    fn card() -> Card {
        Card {
            context_length: 32_768,
            head_count: 28,
            head_count_kv: 4,
            feed_forward_length: 18_944,
            attention: Attention { head_length: 128, full_layers: 28, ..Attention::default() },
            ..Card::default()
        }
    }

    fn gpus(count: usize, gib: u64) -> Hardware {
        let gpu = Gpu { name: "NVIDIA L4".into(), memory: gib * GIB, capability: Some((8, 9)) };
        Hardware { nvidia: true, gpus: vec![gpu; count], ..Hardware::default() }
    }

    fn fitted(card: &Card, weights: u64, hardware: &Hardware, wishes: &Wishes) -> Fit {
        let load = Load { name: "m", card, pooling: card.pooling.is_some(), weights, value_size: 2 };
        let device = if hardware.nvidia { Device::Cuda } else { Device::Cpu };
        fit(&load, device, hardware, wishes)
    }

    fn on(weights_gib: u64, hardware: &Hardware) -> Fit {
        fitted(&card(), weights_gib * GIB, hardware, &Wishes::default())
    }

    #[test]
    fn the_fewest_gpus_that_hold_a_model_and_a_good_context_are_taken() {
        for (weights, count, gib, gpus_taken, percent) in [
            (15, 1, 24, 1, 85),
            // 15 GiB fit on one, but no context worth having.
            (16, 2, 24, 2, 85),
            (16, 1, 24, 1, 85),
            (18, 1, 24, 1, 92),
            (60, 8, 24, 4, 85),
        ] {
            let fit = on(weights, &gpus(count, gib));
            assert_eq!((fit.gpus, fit.percent), (gpus_taken, Some(percent)), "{weights} GiB on {count} × {gib}");
            assert_eq!(fit.refusal, None);
            assert!(fit.memory.total() <= gib * GIB / 100 * percent);
        }
    }

    #[test]
    fn heads_decide_between_how_many_gpus_a_model_can_be_split() {
        // 28 heads cannot be split between 8.
        let refusal = on(150, &gpus(8, 24)).refusal.expect("too large");
        assert!(refusal.why.contains("on each of 4 GPUs"), "{}", refusal.why);
        // Phi-4: 40 heads could, its 10 key/value heads cannot.
        let phi = Card { head_count: 40, head_count_kv: 10, ..card() };
        assert!(heads_split(&phi, 2) && !heads_split(&phi, 4));
        let few = Card { head_count: 32, head_count_kv: 2, ..card() };
        assert!(heads_split(&few, 8), "a key/value head can be there twice");
    }

    #[test]
    fn layers_are_not_cut_through_weights_that_share_a_scale_but_experts_can_stay_whole() {
        let mut card = card();
        card.quantization = Some(Quantization { method: "awq".into(), bits: Some(4), group: 128 });
        card.head_count = 64;
        // 18,944 / 128 = 148 groups: between 2 and 4 GPUs, not between 8.
        assert!(can_split(&card, 4) && !can_split(&card, 8));
        card.experts = Some(Experts { count: 128, feed_forward_length: 1536 });
        assert!(is_even(&card, 4) && !is_even(&card, 8) && can_split(&card, 8));
        let fit = fitted(&card, 100 * GIB, &gpus(8, 24), &Wishes::default());
        assert!(fit.gpus == 8 && fit.expert_parallel);
    }

    #[test]
    fn an_embedding_model_takes_what_it_needs_and_leaves_the_rest() {
        let encoder = Card {
            context_length: 512,
            head_count: 12,
            attention: Attention { encoder: true, ..Attention::default() },
            pooling: Some(Pooling::default()),
            ..Card::default()
        };
        let fit = fitted(&encoder, GIB, &gpus(1, 80), &Wishes::default());
        assert_eq!((fit.percent, fit.memory.total(), fit.memory.cache), (Some(4), 3 * GIB, 0));
        let decoder = Card { pooling: Some(Pooling::default()), ..card() };
        let fit = fitted(&decoder, GIB, &gpus(1, 80), &Wishes::default());
        // One text of its own length: 32,768 · 56 KiB = 1.75 GiB.
        assert_eq!(fit.percent, Some(6));
        assert!(fit.memory.cache >= 1_750 * GIB / 1000);
        assert_eq!(fit.refusal, None);
    }

    #[test]
    fn the_configuration_decides_how_much_memory_and_how_many_gpus() {
        let wishes = Wishes { memory: Some(40 * GIB), tensor_parallel: Some(2), ..Wishes::default() };
        let fit = fitted(&card(), 15 * GIB, &gpus(8, 80), &wishes);
        assert_eq!((fit.gpus, fit.percent), (2, Some(50)));
        let too_little = Wishes { memory: Some(8 * GIB), ..Wishes::default() };
        assert!(fitted(&card(), 15 * GIB, &gpus(1, 80), &too_little).refusal.is_some());
    }

    #[test]
    fn a_refusal_says_how_much_is_missing_and_what_would_help() {
        let refusal = on(60, &gpus(1, 24)).refusal.expect("too large");
        assert!(refusal.why.contains("60.0 GiB") && refusal.why.contains("92 % of one are 22.1 GiB"), "{refusal:?}");
        assert!(refusal.fix.contains("AWQ") && refusal.fix.contains("4 GPUs of this size"), "{refusal:?}");
        let cpu = Hardware { memory_available: 8 * GIB, ..Hardware::default() };
        let refusal = on(15, &cpu).refusal.expect("too large");
        assert!(refusal.why.contains("8.0 GiB are there"), "{refusal:?}");
    }

    #[test]
    fn a_small_gpu_that_a_model_fills_gets_small_batches() {
        assert!(on(8, &gpus(1, 16)).small_batches);
        assert!(!on(1, &gpus(1, 16)).small_batches && !on(8, &gpus(1, 24)).small_batches);
    }

    #[test]
    fn the_cache_on_the_cpu_is_a_tenth_of_the_memory_within_bounds() {
        let cpu = |gib: u64| Hardware { memory_available: gib * GIB, ..Hardware::default() };
        let gib = |weights, memory, wishes: &Wishes| fitted(&card(), weights * GIB, &cpu(memory), wishes).cpu_cache_gib;
        let none = Wishes::default();
        assert_eq!((gib(1, 12, &none), gib(1, 24, &none), gib(1, 200, &none)), (1, 2, 4));
        // Less where the weights leave less.
        assert_eq!(gib(20, 25, &none), 2);
        assert_eq!(gib(20, 24, &none), 1);
        assert_eq!(gib(1, 24, &Wishes { cpu_cache_gib: Some(9), ..Wishes::default() }), 9);
        assert_eq!(gib(1, 24, &Wishes { memory: Some(10 * GIB), ..Wishes::default() }), 6);
    }

    #[test]
    fn where_the_driver_is_silent_one_gpu_is_tried() {
        let fit = on(15, &Hardware { nvidia: true, ..Hardware::default() });
        assert_eq!((fit.gpus, fit.percent, fit.refusal), (1, Some(85), None));
    }
}
