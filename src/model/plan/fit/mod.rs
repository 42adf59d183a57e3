//! On how many GPUs a model runs and how much of each it takes, or how much main memory; and a refusal where it cannot
//! fit (decision 0017).

mod cpu;
mod gpus;
mod split;
#[cfg(test)]
mod tests;

use super::memory::Memory;
use super::{Device, Hardware, Refusal, Wishes};
use crate::model::Card;

/// An engine that cannot hold this many tokens is of no use.
const LEAST_TOKENS: u64 = 4096;

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
        (Device::Cpu, _) => cpu::fit(load, hardware, wishes),
        (Device::Cuda, Some(memory)) => gpus::fit(load, memory, hardware, wishes),
        (Device::Cuda, None) => gpus::unknown(load, wishes),
    }
}

/// What would help where a model does not fit.
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
