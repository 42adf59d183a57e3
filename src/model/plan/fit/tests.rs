//! Rules of fitting, one by one.

use super::split::{can_split, heads_split, is_even};
use super::*;
use crate::model::card::{Attention, Experts, Pooling, Quantization};
use crate::model::plan::Gpu;
use crate::model::plan::memory::GIB;

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
    card.quantization =
        Some(Quantization { method: "awq".into(), bits: Some(4), group: 128, ..Quantization::default() });
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
    for (wish, why) in [(16, "there are only 8"), (8, "28 heads")] {
        let wishes = Wishes { tensor_parallel: Some(wish), ..Wishes::default() };
        let refusal = fitted(&card(), 15 * GIB, &gpus(8, 80), &wishes).refusal.expect("impossible");
        assert!(refusal.why.contains(why) && refusal.fix.contains("tensor_parallel"), "{refusal:?}");
    }
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
