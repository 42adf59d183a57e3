//! The plans for real families of models, as reviewed.
//!
//! `tests/golden/families/NAME/` holds a family's published facts: its configuration, what matters of its tokenizer and
//! chat template, and weight files that are headers only. Beside them lies one plan for each kind of machine, as
//! `vllama explain` prints it. After a change that is meant, `VLLAMA_BLESS=1 cargo test --test families` writes the plans
//! anew; read the difference as if you had to sign it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vllama::model::Card;
use vllama::model::plan::{Checkpoint, Gpu, Hardware, Plan, Wishes};

/// What NVML tells of an 80 GB card.
const H100: u64 = 81_559 << 20;

fn machines() -> [(&'static str, Hardware); 3] {
    let gpu = Gpu { name: "NVIDIA H100 80GB HBM3".into(), memory: H100, capability: Some((9, 0)) };
    let gpus =
        |count| Hardware { nvidia: true, bfloat16: true, memory_available: 512 << 30, gpus: vec![gpu.clone(); count] };
    let cpu = Hardware { bfloat16: true, memory_available: 24 << 30, ..Hardware::default() };
    [("cpu-24gib", cpu), ("gpu-1x80gb", gpus(1)), ("gpu-8x80gb", gpus(8))]
}

fn families() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families");
    let mut families: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    families.sort();
    families
}

fn name(family: &Path) -> &str {
    family.file_name().unwrap().to_str().unwrap()
}

/// The plan for a family on a machine, and its text.
fn plan(family: &Path, hardware: &Hardware) -> (Plan, String) {
    let card = Card::read(family, 0).unwrap_or_else(|error| panic!("{}: {error}", name(family)));
    let directory = Path::new("/models").join(name(family));
    let checkpoint =
        Checkpoint { directory: &directory, name: name(family), size: card.weights.bytes, card: &card, adapters: &[] };
    let plan = Plan::of(&checkpoint, hardware, &Wishes::default());
    let text = plan.explain(&checkpoint, hardware);
    (plan, text)
}

#[test]
fn every_family_gets_the_plan_that_was_reviewed() {
    let bless = std::env::var_os("VLLAMA_BLESS").is_some_and(|value| value == "1");
    let mut wrong = Vec::new();
    for family in families() {
        for (machine, hardware) in machines() {
            let golden = family.join(format!("plan-{machine}.txt"));
            let (_, text) = plan(&family, &hardware);
            if bless {
                std::fs::write(&golden, &text).unwrap();
            }
            let reviewed = std::fs::read_to_string(&golden).unwrap_or_default();
            if reviewed != text {
                let line = reviewed.lines().zip(text.lines()).position(|(one, other)| one != other);
                let at = line.unwrap_or_else(|| reviewed.lines().count().min(text.lines().count()));
                wrong.push(format!(
                    "{}:{}\n  reviewed: {}\n  now:      {}",
                    golden.display(),
                    at + 1,
                    reviewed.lines().nth(at).unwrap_or("(end)"),
                    text.lines().nth(at).unwrap_or("(end)"),
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} plans differ; VLLAMA_BLESS=1 takes them over\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_plan_takes_no_more_than_there_is_and_never_runs_code_of_a_checkpoint() {
    for family in families() {
        for (machine, hardware) in machines() {
            let (plan, _) = plan(&family, &hardware);
            let there = hardware.gpu_memory().unwrap_or(hardware.memory_available);
            let fits = plan.memory.total() <= there;
            assert!(plan.refusal.is_some() || fits, "{} on {machine}: {:?}", name(&family), plan.memory);
            assert!(plan.gpus <= hardware.gpus.len().max(1), "{} on {machine}", name(&family));
            let trusts = plan.flags.iter().any(|choice| choice.name == "--trust-remote-code");
            assert!(!trusts, "{} on {machine}", name(&family));
            for choice in plan.flags.iter().chain(&plan.environment).chain(&plan.left_out) {
                assert!(!choice.reason.is_empty(), "{} on {machine}: {}", name(&family), choice.name);
            }
        }
    }
}

#[test]
fn every_flag_stands_once() {
    for family in families() {
        for (machine, hardware) in machines() {
            let (plan, _) = plan(&family, &hardware);
            let names: Vec<_> = plan.flags.iter().map(|choice| choice.name).collect();
            let once: BTreeSet<_> = names.iter().collect();
            assert_eq!(once.len(), names.len(), "{} on {machine}: {names:?}", name(&family));
        }
    }
}
