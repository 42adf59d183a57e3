//! One fuzz target under libFuzzer, chosen by `VLLAMA_FUZZ_TARGET`. `fuzz/run` builds and calls this.

#![no_main]

#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;
#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_mutator, fuzz_target, fuzzer_mutate};
use targets::{TARGETS, Target, corpus};

struct Chosen {
    target: &'static Target,
    corpus: Vec<Vec<u8>>,
}

static CHOSEN: LazyLock<Chosen> = LazyLock::new(|| {
    let name = std::env::var("VLLAMA_FUZZ_TARGET").unwrap_or_default();
    let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("VLLAMA_FUZZ_TARGET is one of {}", known.join(", ")));
    Chosen { target, corpus: corpus(target) }
});

/// Writes what a target begins with to where libFuzzer looks for it.
fn begin() {
    let Some(folder) = std::env::var_os("VLLAMA_FUZZ_SEEDS") else { return };
    for (number, input) in CHOSEN.corpus.iter().enumerate() {
        std::fs::write(Path::new(&folder).join(format!("seed-{number:04}")), input).expect("a seed is written");
    }
}

fuzz_target!(init: begin(), |data: &[u8]| -> Corpus {
    (CHOSEN.target.run)(data);
    Corpus::Keep
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    // Half of the inputs are changed by libFuzzer's own rules, half by those that know JSON and the target's words.
    if seed % 2 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut random = fastrand::Rng::with_seed(seed.into());
    let input = mutate::mutate(&data[..size], &CHOSEN.corpus, CHOSEN.target.words, &mut random);
    let length = input.len().min(max_size);
    data[..length].copy_from_slice(&input[..length]);
    length
});
