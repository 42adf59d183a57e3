//! Fuzzing among the tests: every target for a few seconds, from its corpus and from a fixed beginning of chance, so that
//! a failure comes again. `make fuzz` goes on for longer, led by what of the code was reached.
//!
//! `VLLAMA_FUZZ_SECONDS` and `VLLAMA_FUZZ_SEED` change how long and from where.

mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use targets::{TARGETS, Target, corpus};

/// Time for each target, in seconds.
const SECONDS: u64 = 2;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no target {name}"))
}

/// Feeds one input; one that breaks something is kept in a file.
fn feed(target: &Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
        std::fs::create_dir_all(&folder).expect("a folder for what was found");
        let file = folder.join(format!("{}-{:016x}", target.name, fnv(input)));
        std::fs::write(&file, input).expect("a file for what was found");
        panic!(
            "{} breaks on {:?}\nkept in {}; when it is mended, put it into tests/fuzz/corpus/{}",
            target.name,
            String::from_utf8_lossy(input),
            file.display(),
            target.name
        );
    }
}

/// Tells inputs apart in the names of their files (FNV-1a).
fn fnv(input: &[u8]) -> u64 {
    input.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn fuzz(name: &str) {
    let target = target(name);
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "{name} has nothing to begin with");
    corpus.iter().for_each(|input| feed(target, input));
    let mut random = fastrand::Rng::with_seed(number("VLLAMA_FUZZ_SEED", 1) ^ fnv(name.as_bytes()));
    let end = Instant::now() + Duration::from_secs(number("VLLAMA_FUZZ_SECONDS", SECONDS));
    let mut runs = 0;
    while Instant::now() < end {
        let input = random.choice(&corpus).expect("not empty");
        feed(target, &mutate::mutate(input, &corpus, target.words, &mut random));
        runs += 1;
    }
    println!("{name}: {} inputs to begin with, {runs} made of them", corpus.len());
}

/// One test for each target.
macro_rules! targets {
    ($($name:ident: $sentence:ident,)*) => {
        $(#[test] fn $sentence() { fuzz(stringify!($name)); })*

        #[test]
        fn every_target_is_among_the_tests() {
            let tested = [$(stringify!($name)),*];
            for target in TARGETS {
                assert!(tested.contains(&target.name), "{} has no test", target.name);
            }
            assert_eq!(tested.len(), TARGETS.len());
        }
    };
}

targets! {
    chat: any_body_of_a_chat_is_refused_or_understood,
    generate: any_body_of_a_generation_is_refused_or_understood,
    embed: any_body_of_an_embedding_is_refused_or_understood,
    create: any_body_of_a_create_is_refused_or_understood,
    options: any_options_are_refused_or_within_what_the_engine_takes,
    model_of_a_body: nothing_but_the_model_changes_in_any_body,
    template: any_template_is_refused_or_ends,
    stream: any_stream_of_an_engine_is_the_same_at_every_cut,
    passed_stream: any_stream_that_passes_is_the_same_at_every_cut,
    whole_answer: any_answer_of_an_engine_becomes_one_line_or_an_error,
    vectors: any_vectors_of_an_engine_become_numbers_or_an_error,
    model_name: any_name_is_refused_or_stays_within_the_store,
    keep_alive: any_time_is_refused_or_has_an_end,
    safetensors: any_weights_are_refused_or_counted,
    card: any_checkpoint_is_refused_or_gets_a_plan_that_fits,
}
