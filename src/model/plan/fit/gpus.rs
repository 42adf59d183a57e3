//! Fits a model onto GPUs.

use super::split::{can_split, heads_split, is_even};
use super::{Fit, Load, advice};
use crate::model::plan::memory::{GIB, Memory, cache_bytes, gibibytes};
use crate::model::plan::{Hardware, Refusal, Wishes};

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
/// A GPU up to this size is given small batches where the model fills it.
const SMALL_GPU: u64 = 16 * GIB + GIB / 2;
/// From this size on vLLM works on larger batches (A100 apart).
const LARGE_GPU: u64 = 70 * GIB;
/// How many GPUs to split a model between.
const SPLITS: [u64; 4] = [1, 2, 4, 8];
/// With this many one can work; for them a model is split further where there are GPUs.
const GOOD_TOKENS: u64 = 32_768;

/// Nobody could ask the driver: one GPU, and vLLM finds out whether it suffices.
pub(super) fn unknown(load: &Load<'_>, wishes: &Wishes) -> Fit {
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

/// A model on GPUs of one size.
struct Case<'a> {
    load: &'a Load<'a>,
    /// Memory of each GPU, in bytes.
    gpu: u64,
    /// How many there are.
    present: u64,
    /// Most tokens in one step.
    batch: u64,
    /// What is held beside weights and cache by an engine on one GPU.
    overhead: u64,
}

impl Case<'_> {
    /// What it needs of each of so many GPUs for a cache of so many tokens.
    fn memory(&self, gpus: u64, tokens: u64) -> Memory {
        Memory {
            weights: self.load.weights / gpus,
            cache: cache_bytes(self.load.card, tokens, gpus, self.load.value_size, self.batch),
            overhead: self.overhead + if gpus > 1 { COMMUNICATION } else { 0 },
        }
    }

    /// The least it needs of each of so many GPUs.
    fn least(&self, gpus: u64) -> Memory {
        self.memory(gpus, self.load.least_tokens())
    }

    /// So many percent of a GPU, in bytes.
    fn share(&self, percent: u64) -> u64 {
        self.gpu / 100 * percent
    }

    /// Bytes in percent of a GPU, rounded down.
    fn percent(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(100) / self.gpu
    }
}

pub(super) fn fit(load: &Load<'_>, gpu: u64, hardware: &Hardware, wishes: &Wishes) -> Fit {
    let large = gpu >= LARGE_GPU && !hardware.gpus.iter().any(|gpu| gpu.name.to_lowercase().contains("a100"));
    let small = gpu <= SMALL_GPU && !load.pooling && load.weights > gpu / 4;
    let case = Case {
        load,
        gpu,
        present: hardware.gpus.len() as u64,
        batch: if large { 8192 } else { 2048 },
        overhead: if load.pooling || small { SMALL_OVERHEAD } else { GPU_OVERHEAD },
    };
    let fit = Fit { batch: case.batch, small_batches: small, own_length_fits: true, ..Fit::default() };
    let splits: Vec<u64> = match wishes.tensor_parallel {
        Some(wish) => vec![wish.max(1)],
        None => SPLITS.into_iter().filter(|gpus| *gpus <= case.present && heads_split(load.card, *gpus)).collect(),
    };
    let wished = wishes.memory.map(|bytes| case.percent(bytes).clamp(1, 99));
    // Tried in this order: room to work in beside another model, at least some room, the GPU to itself.
    let (good, least) = (load.at_most(GOOD_TOKENS), load.least_tokens());
    let tries = match wished {
        Some(percent) => vec![(percent, good), (percent, least)],
        None if load.pooling => vec![(WHOLE_SHARE, least)],
        None => vec![(SHARE, good), (SHARE, least), (WHOLE_SHARE, least)],
    };
    let found = tries.iter().find_map(|(percent, tokens)| {
        let suffices =
            |gpus: &&u64| case.memory(**gpus, *tokens).total() <= case.share(*percent) && can_split(load.card, **gpus);
        Some((*splits.iter().find(suffices)?, *percent))
    });
    let impossible = wishes.tensor_parallel.and_then(|wish| impossible(&case, wish));
    match (impossible, found) {
        (Some(refusal), _) => refused(&case, fit, wishes.tensor_parallel.unwrap_or(1), wished, refusal),
        (None, Some((gpus, percent))) => granted(&case, fit, gpus, percent, wishes),
        (None, None) => {
            let gpus = splits.last().copied().unwrap_or(1);
            let refusal = too_large(&case, gpus, wished.unwrap_or(WHOLE_SHARE));
            refused(&case, fit, gpus, wished, refusal)
        }
    }
}

fn granted(case: &Case<'_>, fit: Fit, gpus: u64, percent: u64, wishes: &Wishes) -> Fit {
    let (load, least) = (case.load, case.least(gpus));
    let weights = gibibytes(least.weights);
    let percent = if load.pooling && wishes.memory.is_none() {
        // Rounded up; what is left over belongs to the next model.
        (case.percent(least.total()) + 1).min(percent)
    } else {
        percent
    };
    let gpus_reason = match gpus {
        _ if wishes.tensor_parallel.is_some() => "as the configuration says".into(),
        1 => "one GPU holds it".into(),
        _ => format!("the fewest that hold it and a good context: {weights} of weights on each"),
    };
    let memory_reason = match (wishes.memory, load.pooling, percent) {
        (Some(_), ..) => "the memory the configuration gives it".into(),
        (None, true, _) => format!("{weights} of weights and room to work; the rest is left to other models"),
        (None, false, SHARE) => "the cache takes what it can get; an embedding model fits beside it".into(),
        (None, false, _) => "it fits only when it has its GPUs almost to itself".into(),
    };
    let room = case.share(percent).saturating_sub(least.weights + least.overhead);
    let cache = if load.pooling && least.cache == 0 { 0 } else { room };
    Fit {
        gpus,
        gpus_reason,
        percent: Some(percent),
        memory_reason,
        memory: Memory { cache, ..least },
        expert_parallel: gpus > 1 && !is_even(load.card, gpus),
        ..fit
    }
}

fn refused(case: &Case<'_>, fit: Fit, gpus: u64, wished: Option<u64>, refusal: Refusal) -> Fit {
    Fit {
        gpus,
        gpus_reason: "as many as there are to split it between".into(),
        percent: Some(wished.unwrap_or(WHOLE_SHARE)),
        memory_reason: "it does not fit".into(),
        memory: case.least(gpus),
        refusal: Some(refusal),
        ..fit
    }
}

/// Why a model cannot be split as the configuration wants it.
fn impossible(case: &Case<'_>, wish: u64) -> Option<Refusal> {
    let why = if wish > case.present {
        format!("there are only {}", case.present)
    } else if !heads_split(case.load.card, wish) {
        let (heads, kv) = (case.load.card.head_count, case.load.card.head_count_kv);
        format!("its {heads} heads ({kv} of them for keys and values) cannot be dealt out so")
    } else if !can_split(case.load.card, wish) {
        "that would cut through weights that share a scale".to_owned()
    } else {
        return None;
    };
    Some(Refusal {
        what: format!("{} cannot be split between {wish} GPUs", case.load.name),
        why,
        fix: format!(
            "change tensor_parallel under [models.\"{}\"] in the configuration file, or leave it out",
            case.load.name
        ),
    })
}

fn too_large(case: &Case<'_>, gpus: u64, percent: u64) -> Refusal {
    let (load, room) = (case.load, case.share(percent));
    let count = if gpus == 1 { "on one GPU".to_owned() } else { format!("on each of {gpus} GPUs") };
    let enough = [2, 4, 8, 16, 32].into_iter().find(|more| {
        *more > gpus.max(case.present) && heads_split(load.card, *more) && case.least(*more).total() <= room
    });
    Refusal {
        what: format!("{} does not fit the GPU memory of this machine", load.name),
        why: format!(
            "its weights are {}; with a cache for {} tokens it needs {} {count}, and {percent} % of one are {}",
            gibibytes(load.weights),
            load.least_tokens(),
            gibibytes(case.least(gpus).total()),
            gibibytes(room),
        ),
        fix: advice(load, enough.map(|gpus| format!("{gpus} GPUs of this size"))),
    }
}
