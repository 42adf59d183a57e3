//! vllama from outside, with the real vLLM and a real model under it.
//!
//! A runner of its own: an engine takes half a minute to start on two cores, so the tests share a vllama and run in order;
//! those that kill something come last. `VLLAMA_TEST_VENV` names the virtual environment of the engine, `VLLAMA_TEST_CLIENTS` a
//! Python that has the client packages; without the first everything is skipped. `cargo test --test real -- deaths` runs one
//! group.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests of the fake engine, which use all of it")]
mod harness;

mod answers;
mod changes;
mod clients;
mod deaths;
mod embeddings;
mod keys;
mod kinds;
mod leftovers;
mod load;
mod models;
mod monitoring;
mod plans;
mod prompts;
mod shared;
mod tools;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::{Vllama, default_model};
use shared::Shared;

/// The default model, as its users know it.
const MODEL: &str = default_model::NAME;

/// Longest wait for an answer that a load comes before.
const LOAD: Duration = Duration::from_secs(400);

/// What the tests stand on.
struct Ground {
    venv: PathBuf,
    models: PathBuf,
    state: PathBuf,
}

impl Ground {
    async fn start_listening(&self) -> Vllama {
        Vllama::with_real(&self.venv, &self.models, &self.state).start_listening().await
    }
}

/// Tests of one subject, most of them with the vllama that all groups share.
type Group = fn(&mut Runner, &Ground, &mut Shared);

/// Counts and tells.
#[derive(Default)]
struct Runner {
    passed: u32,
    failed: Vec<String>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Runner {
    /// Runs one test; a panic is its failure.
    fn test<T>(&mut self, name: &str, test: impl Future<Output = T>) -> Option<T> {
        let began = Instant::now();
        let runtime = self.runtime.get_or_insert_with(|| tokio::runtime::Runtime::new().unwrap());
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(test)));
        let seconds = began.elapsed().as_secs_f32();
        if outcome.is_ok() {
            println!("test {name} ... ok ({seconds:.1} s)");
            self.passed += 1;
        } else {
            println!("test {name} ... FAILED ({seconds:.1} s)");
            self.failed.push(name.to_owned());
        }
        outcome.ok()
    }
}

fn main() -> ExitCode {
    let Some(venv) = std::env::var_os("VLLAMA_TEST_VENV").map(PathBuf::from) else {
        println!("skipped: the real engine, since VLLAMA_TEST_VENV names no virtual environment; `make test` sets it");
        return ExitCode::SUCCESS;
    };
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let ground = Ground { venv, models: place.join("models"), state: place.join("state") };
    leftovers::remember();
    let (mut runner, mut shared) = (Runner::default(), Shared::default());
    runner.test("the default model is imported from GGUF once", async {
        default_model::import(&ground.venv, &ground.models);
    });
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let groups: [(&str, Group); 10] = [
        ("plans", plans::run),
        ("kinds", kinds::run),
        ("answers", answers::run),
        ("prompts", prompts::run),
        ("embeddings", embeddings::run),
        ("models", models::run),
        ("clients", clients::run),
        ("tools", tools::run),
        ("deaths", deaths::run),
        ("keys", keys::run),
    ];
    for (name, run) in groups {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run(&mut runner, &ground, &mut shared);
        }
    }
    shared.end(&mut runner);
    let Runner { passed, failed, .. } = runner;
    for name in &failed {
        println!("failed: {name}");
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {} failed", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
