//! Everything goes wrong, again and again, while requests run (issue 5). After each round: the service is back, every
//! request has been answered once or refused with a reason, and nothing is left of what was before: no process, no zombie, no
//! file, no shared memory, no descriptor, no thread.
//!
//! A runner of its own, since its figures are of the whole run. `cargo test --test chaos -- PART`:
//!
//! | part | what it does | set by |
//! |---|---|---|
//! | `rounds`, and without a part | rounds with the fake engine | `VLLAMA_CHAOS_ROUNDS` (23), `VLLAMA_CHAOS_LANES` (2): vllamas at a time |
//! | `soak` | a load that never stops | `VLLAMA_SOAK_SECONDS` (60) |
//! | `real` | rounds with the real engine of `VLLAMA_TEST_VENV` | `VLLAMA_CHAOS_REAL_ROUNDS` (2), `VLLAMA_CHAOS_REAL_FROM` (0): rounds left out before them |
//!
//! `VLLAMA_CHAOS_SEED` chooses another run.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the black-box tests, which use all of it")]
mod harness;

mod faults;
mod ground;
mod load;
mod narrow;
mod orders;
mod real;
mod report;
mod rounds;
mod soak;
mod strike;
mod zombies;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let count = |name: &str, default| usize::try_from(number(name, default)).unwrap();
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let part = part.as_deref().unwrap_or("rounds");
    let seed = number("VLLAMA_CHAOS_SEED", 20_261_124);
    let venv = std::env::var_os("VLLAMA_TEST_VENV").map(PathBuf::from);
    if part == "real" && venv.is_none() {
        println!("skipped: chaos with the real engine, since VLLAMA_TEST_VENV names no virtual environment");
        return ExitCode::SUCCESS;
    }
    let narrow = narrow::isolate().inspect_err(|error| {
        println!(
            "skipped: a full disk and a full /dev/shm, since nothing can be mounted here ({error}); run it as root"
        );
    });
    let narrow = narrow.is_ok();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = std::panic::catch_unwind(|| match part {
        "rounds" => {
            let (rounds, lanes) = (count("VLLAMA_CHAOS_ROUNDS", 23), count("VLLAMA_CHAOS_LANES", 2));
            println!("chaos: {rounds} rounds from seed {seed}, {lanes} at a time");
            let report = rounds::run(&runtime, rounds, lanes, seed, narrow);
            report.print();
            report.check();
        }
        "soak" => {
            let time = Duration::from_secs(number("VLLAMA_SOAK_SECONDS", 60));
            println!("soak: {time:?} from seed {seed}");
            runtime.block_on(soak::run(time, seed, narrow));
        }
        "real" => {
            let (from, rounds) = (count("VLLAMA_CHAOS_REAL_FROM", 0), count("VLLAMA_CHAOS_REAL_ROUNDS", 2));
            println!("chaos: {rounds} rounds with the real engine from round {from} and seed {seed}");
            runtime.block_on(real::run(&venv.unwrap_or_default(), from, rounds, seed));
        }
        other => panic!("{other:?} is no part: rounds, soak or real"),
    });
    let (word, passed, failed) = if outcome.is_ok() { ("ok", 1, 0) } else { ("FAILED", 0, 1) };
    println!("test result: {word}. {passed} passed; {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
