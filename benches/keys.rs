//! What a key costs a request: finding it, the limits on the way in, the tokens on the way out. `cargo bench --bench keys`.

#![allow(unsafe_code, reason = "the clock of one thread")]

use std::time::Duration;

use vllama::access::{Access, Entry, Gate, Limits, Now, Scope, Secret, Usage};

/// Requests of one round.
const REQUESTS: u32 = 100_000;
/// Rounds; the quickest counts, since others use the machine too.
const ROUNDS: usize = 10;

fn main() {
    let limits = r#"{"requests_per_minute":1000000000,"concurrent":1000,"tokens_per_day":1000000000000,"models":["smollm2:135m"]}"#;
    for (what, limits, others) in [
        ("no limits, alone", "{}", 0),
        ("no limits, among 1,000", "{}", 1000),
        ("all limits, among 1,000", limits, 1000),
    ] {
        let limits: Limits = serde_json::from_str(limits).expect("limits");
        let mut entries: Vec<_> =
            (0..others).map(|number| entry(&format!("key{number}"), Limits::default()).1).collect();
        let (secret, mine) = entry("mine", limits);
        entries.push(mine);
        let gate = Gate::new(&entries, &Usage::default());
        let round = || {
            let began = processor_time();
            for _ in 0..REQUESTS {
                let admitted = gate.admit(std::iter::once(secret.tell()), Access::INFER, Now::read());
                let (grant, admission) = admitted.expect("a good key within its limits");
                std::hint::black_box(grant);
                admission.expect("counted").spend(100, Now::read());
            }
            (processor_time() - began) / REQUESTS
        };
        let best = (0..ROUNDS).map(|_| round()).min().unwrap_or(Duration::ZERO);
        println!("{what:<26} {} ns a request", best.as_nanos());
    }
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is there to be written to.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "Linux has this clock");
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

fn entry(name: &str, limits: Limits) -> (Secret, Entry) {
    let secret = Secret::new().expect("random numbers");
    let entry = Entry::new(name.parse().expect("a name"), &secret, vec![Scope::Infer], limits);
    (secret, entry)
}
