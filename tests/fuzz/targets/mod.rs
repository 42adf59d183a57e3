//! What is fuzzed: everything that reads bytes of strangers, be they clients, engines or makers of checkpoints.
//!
//! Each target is a function of bytes that panics where an invariant does not hold. `tests/fuzz/main.rs` runs them for
//! seconds among the tests, `fuzz/` for as long as one likes, led by what of the code was reached.

mod answers;
mod checkpoints;
mod names;
mod requests;
mod seeds;

/// One entry for bytes of strangers.
pub struct Target {
    /// Its name; also that of its folder below `tests/fuzz/corpus`.
    pub name: &'static str,
    /// Reads the bytes. Panics where something does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words its reader knows.
    pub words: &'static [&'static str],
}

/// All of them.
pub static TARGETS: &[Target] = &[
    requests::CHAT,
    requests::GENERATE,
    requests::EMBED,
    requests::CREATE,
    requests::OPTIONS,
    requests::MODEL_OF_A_BODY,
    requests::TEMPLATE,
    answers::STREAM,
    answers::PASSED_STREAM,
    answers::WHOLE,
    answers::VECTORS,
    names::MODEL_NAME,
    names::KEEP_ALIVE,
    checkpoints::SAFETENSORS,
    checkpoints::CARD,
];

/// The seeds of a target: what it names itself, and what lies in its folder, which is where finds go.
pub fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut corpus = (target.seeds)();
    corpus.extend(seeds::folder(&format!("tests/fuzz/corpus/{}", target.name)));
    corpus
}
