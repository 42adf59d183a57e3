//! The `FAKE_VLLM_*` environment, read once.

use std::path::PathBuf;
use std::time::Duration;

use crate::fault::{Fault, Planned};
use crate::processes::Role;
use crate::sleep::SleepFault;
use crate::startup::Phase;

/// Everything the environment says; the table is in `main.rs`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What this process is in the tree; `None` for the leader.
    pub role: Option<Role>,
    /// Who has started this process, if that was one of the tree: its parent may be gone before it asks.
    pub parent: Option<u32>,
    /// Duration of each phase of the start.
    pub start: Vec<(Phase, Duration)>,
    /// Never reach the serving phase.
    pub never_ready: bool,
    /// Phase, exit code and last line of a failing start.
    pub fail_start: Option<(Phase, u8, String)>,
    /// How many starts fail.
    pub fail_starts: Option<usize>,
    /// Starts fail only with this flag or variable, and this value where one is told.
    pub fail_with: Option<(String, Option<String>)>,
    /// Time between two lines that say that it still waits, once it never gets ready.
    pub waits: Option<Duration>,
    /// Where starts are counted.
    pub count_file: Option<PathBuf>,
    /// A flag to refuse.
    pub reject: Option<String>,
    /// Print bytes that are no text.
    pub garbage: bool,
    /// Print a line of this many bytes.
    pub long_line: usize,
    /// Time from one token to the next; zero = none.
    pub token_time: Duration,
    /// Time before the first token.
    pub first_token: Duration,
    /// Whether streamed tokens tell when they were sent.
    pub stamp: bool,
    /// What goes wrong in every answer.
    pub fault: Option<Planned>,
    /// A recorded event stream and the size of its pieces.
    pub replay: Option<(PathBuf, usize)>,
    /// Where recorded event streams lie.
    pub replay_directory: PathBuf,
    /// No process of the tree cares about SIGTERM.
    pub ignore_term: bool,
    /// Number of orphaned dead children.
    pub zombies: usize,
    /// Number of descendants outside the session.
    pub strays: usize,
    /// Leave files behind.
    pub leave_files: bool,
    /// The tracker removes the shared memory, if it lives long enough.
    pub tracked: bool,
    /// Longest sequence in tokens.
    pub max_model_len: Option<u64>,
    /// Most stop strings one request may have; vLLM's own variable.
    pub max_stop_strings: usize,
    /// vLLM's own variable: routes for development are served.
    pub development: bool,
    /// vLLM's own variable: HTTP is answered by the Rust frontend.
    pub rust_frontend: bool,
    /// Time it takes to fall asleep.
    pub sleep_time: Duration,
    /// What goes wrong with sleeping and waking.
    pub sleep_fault: Option<SleepFault>,
    /// Where orders come from.
    pub orders: Option<PathBuf>,
    /// Where requests are written down.
    pub requests: Option<PathBuf>,
    /// `/metrics` is never answered.
    pub metrics_hang: bool,
    /// What `/metrics` tells instead of its own figures.
    pub metrics: Option<PathBuf>,
}

impl Settings {
    /// Reads the environment; a value that cannot be read is a mistake in a test and ends the program.
    pub fn from_environment() -> Self {
        let rate: f64 = number("FAKE_VLLM_TOKEN_RATE").unwrap_or(0.0);
        Self {
            role: text("FAKE_VLLM_ROLE").map(|name| Role::named(&name)),
            parent: number("FAKE_VLLM_PARENT"),
            start: text("FAKE_VLLM_START").map_or_else(Vec::new, |list| phases(&list)),
            never_ready: switch("FAKE_VLLM_NEVER_READY"),
            fail_start: text("FAKE_VLLM_FAIL_START").map(|failure| fail_start(&failure)),
            fail_starts: number("FAKE_VLLM_FAIL_STARTS"),
            fail_with: text("FAKE_VLLM_FAIL_WITH").map(|with| match with.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (with, None),
            }),
            waits: number("FAKE_VLLM_WAITS").map(Duration::from_millis),
            count_file: text("FAKE_VLLM_COUNT_FILE").map(PathBuf::from),
            reject: text("FAKE_VLLM_REJECT"),
            garbage: switch("FAKE_VLLM_GARBAGE"),
            long_line: number("FAKE_VLLM_LONG_LINE").unwrap_or(0),
            token_time: if rate > 0.0 { Duration::from_secs_f64(1.0 / rate) } else { Duration::ZERO },
            stamp: std::env::var_os("FAKE_VLLM_STAMP").is_some(),
            first_token: Duration::from_millis(number("FAKE_VLLM_FIRST_TOKEN_MS").unwrap_or(0)),
            fault: text("FAKE_VLLM_FAULT").map(|fault| planned(&fault)),
            replay: text("FAKE_VLLM_REPLAY").map(|replay| replayed(&replay)),
            replay_directory: text("FAKE_VLLM_REPLAY_DIR").map(PathBuf::from).unwrap_or_default(),
            ignore_term: switch("FAKE_VLLM_IGNORE_TERM"),
            zombies: number("FAKE_VLLM_ZOMBIES").unwrap_or(0),
            strays: number("FAKE_VLLM_STRAYS").unwrap_or(0),
            leave_files: switch("FAKE_VLLM_LEAVE_FILES"),
            tracked: text("FAKE_VLLM_LEAVE_FILES").is_some_and(|value| value == "tracked"),
            max_model_len: number("FAKE_VLLM_MAX_MODEL_LEN"),
            max_stop_strings: number("VLLM_MAX_STOP_STRINGS").unwrap_or(4),
            development: switch("VLLM_SERVER_DEV_MODE"),
            rust_frontend: switch("VLLM_USE_RUST_FRONTEND"),
            sleep_time: Duration::from_millis(number("FAKE_VLLM_SLEEP_MS").unwrap_or(0)),
            sleep_fault: text("FAKE_VLLM_SLEEP_FAULT")
                .map(|name| SleepFault::named(&name).expect("FAKE_VLLM_SLEEP_FAULT: a known fault")),
            orders: text("FAKE_VLLM_ORDERS").map(PathBuf::from),
            requests: text("FAKE_VLLM_REQUESTS").map(PathBuf::from),
            metrics_hang: text("FAKE_VLLM_METRICS").is_some_and(|value| value == "hang"),
            metrics: text("FAKE_VLLM_METRICS").filter(|value| value != "hang").map(PathBuf::from),
        }
    }

    /// How long this phase of the start takes.
    pub fn phase(&self, phase: Phase) -> Duration {
        self.start.iter().find(|(named, _)| *named == phase).map_or(Duration::ZERO, |(_, time)| *time)
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn switch(name: &str) -> bool {
    text(name).is_some_and(|value| value != "0")
}

fn number<N: std::str::FromStr>(name: &str) -> Option<N> {
    text(name).map(|value| value.parse().unwrap_or_else(|_| panic!("{name}: {value:?} is no number")))
}

fn phases(list: &str) -> Vec<(Phase, Duration)> {
    list.split(',')
        .map(|entry| {
            let (phase, milliseconds) = entry.split_once(':').expect("FAKE_VLLM_START: phase:milliseconds");
            let milliseconds = milliseconds.parse().expect("FAKE_VLLM_START: milliseconds are a number");
            (Phase::named(phase), Duration::from_millis(milliseconds))
        })
        .collect()
}

fn fail_start(failure: &str) -> (Phase, u8, String) {
    let mut parts = failure.splitn(3, ':');
    let mut part = || parts.next().expect("FAKE_VLLM_FAIL_START: phase:code:line");
    (Phase::named(part()), part().parse().expect("FAKE_VLLM_FAIL_START: an exit code"), part().to_owned())
}

fn planned(fault: &str) -> Planned {
    let (after, name) = fault.split_once(':').expect("FAKE_VLLM_FAULT: tokens:fault");
    let after = after.parse().expect("FAKE_VLLM_FAULT: a number of tokens");
    Planned { after, fault: Fault::named(name).expect("FAKE_VLLM_FAULT: a known fault") }
}

fn replayed(replay: &str) -> (PathBuf, usize) {
    let (file, piece) = replay.rsplit_once(':').expect("FAKE_VLLM_REPLAY: file:bytes");
    (file.into(), piece.parse().expect("FAKE_VLLM_REPLAY: a number of bytes"))
}
