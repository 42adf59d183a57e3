//! The last log lines, the exit status and what the kernel says → what happened, whether trying again can help, what to
//! tell the user. Pure; the table is data (vllm-engine §5.7).

mod table;

use std::fmt;

use table::SIGNATURES;

pub use table::Kind;

/// How the engine's leader ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this code.
    Code(i32),
    /// A signal killed it.
    Signal(i32),
    /// Its core was dead and vllama did not wait for it to leave.
    Hollow,
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit status {code}"),
            Self::Signal(signal) => write!(formatter, "killed by signal {signal}"),
            Self::Hollow => formatter.write_str("ended by vllama"),
        }
    }
}

/// How far an engine had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Its weights were not there yet.
    Loading,
    /// It had its weights and made ready to work.
    WarmingUp,
    /// It had answered.
    Serving,
}

/// A failure of an engine, as people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which one of those that have names.
    pub kind: Kind,
    /// What happened, why, what to do.
    pub message: String,
    /// Whether trying again cannot help.
    pub permanent: bool,
}

impl Failure {
    /// A failure that nobody had to look for in a log.
    pub(super) fn known(kind: Kind, message: String) -> Self {
        Self { kind, message, permanent: false }
    }
}

/// What is known of an engine's death beside its log.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// How its leader ended.
    pub ending: Ending,
    /// How far it had come.
    pub when: When,
    /// Processes that the kernel has killed for want of memory while it lived.
    pub memory_kills: Kills,
    /// Whether the driver does not know one of its GPUs any more.
    pub gpu_lost: bool,
    /// Whether next to nothing was free in `/dev/shm` when it died.
    pub shared_memory_full: bool,
}

/// Processes that the kernel has killed for want of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kills {
    /// In vllama's own control group.
    pub group: u64,
    /// On the whole machine.
    pub machine: u64,
}

impl Kills {
    /// Those since an earlier count.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { group: self.group.saturating_sub(before.group), machine: self.machine.saturating_sub(before.machine) }
    }
}

/// Marks of lines in which vLLM tells its settings. They hold the words of many failures: `trust_remote_code=False`.
const SETTINGS: [&str; 4] =
    ["Initializing a V1 LLM engine", "non-default args", "Launching Rust frontend", "--args-json <JSON>"];

/// Names a failure.
///
/// `lines` are the last lines of the log, oldest first.
pub fn classify<'a>(lines: impl Iterator<Item = &'a str>, evidence: Evidence) -> Failure {
    let lines: Vec<&str> = lines.filter(|line| !SETTINGS.iter().any(|mark| line.contains(mark))).collect();
    let Evidence { ending, when, memory_kills, gpu_lost, shared_memory_full } = evidence;
    let (mut kind, said) = by_log(&lines, when).unwrap_or_else(|| {
        let kind = match ending {
            // Python's argparse leaves with 2 for a wrong argument, at once.
            Ending::Code(2) if when != When::Serving => Kind::ArgumentRefused,
            Ending::Signal(9) => Kind::Killed,
            _ => Kind::Ended,
        };
        (kind, last_telling_line(&lines))
    });
    // A full /dev/shm says the same as a full disk, and not always where.
    let mut became_full = said.is_some_and(|line| line.contains(NO_SPACE));
    if kind == Kind::DiskFull && shared_memory_full && !said.is_some_and(names_a_path) {
        kind = Kind::SharedMemoryFull;
    }
    let mut evidence = String::new();
    if is_death_without_cause(kind) {
        if gpu_lost {
            kind = Kind::GpuLost;
        } else if shared_memory_full && died_of_a_bus_error(&lines, ending) {
            kind = Kind::SharedMemoryFull;
            became_full = true;
        } else if memory_kills.group > 0 {
            kind = Kind::OutOfMemory;
            evidence = format!("; memory.events counts {} more of them", memory_kills.group);
        } else if memory_kills.machine > 0 && kind != Kind::Ended {
            // Others run on this machine, too: only what looks like such a death is laid at its door.
            kind = Kind::OutOfMemory;
            evidence = format!("; the kernel counts {} more of them on this machine", memory_kills.machine);
        }
    }
    let said = said.map(|line| format!("; vLLM said: {}", shortened(line))).unwrap_or_default();
    Failure {
        kind,
        message: format!("{} ({ending}{evidence}{said})", kind.row().message),
        // What has served before can serve again, and what became full may be emptied.
        permanent: kind.row().permanent && when != When::Serving && !became_full,
    }
}

/// The failure that a line of the log names, and the line.
fn by_log<'a>(lines: &[&'a str], when: When) -> Option<(Kind, Option<&'a str>)> {
    SIGNATURES.iter().filter(|signature| signature.when.is_empty() || signature.when.contains(&when)).find_map(
        |signature| {
            let line = lines.iter().rev().find(|line| signature.texts.iter().all(|text| line.contains(text)))?;
            Some((signature.kind, Some(*line)))
        },
    )
}

/// What Python says when a file system is full.
const NO_SPACE: &str = "No space left on device";

/// Whether the line of an error with no room left says where: Python ends it with the path in quotes.
fn names_a_path(line: &str) -> bool {
    line.contains("'/")
}

/// Whether a process died when it wrote to memory that was promised and is not there: in shared memory, a full file system.
fn died_of_a_bus_error(lines: &[&str], ending: Ending) -> bool {
    let told = |line: &&str| line.contains("Bus error") || line.contains("exit code -7") || line.contains("SIGBUS");
    ending == Ending::Signal(libc::SIGBUS) || lines.iter().any(told)
}

/// Whether a failure tells only that something is dead.
fn is_death_without_cause(kind: Kind) -> bool {
    matches!(kind, Kind::CoreDied | Kind::FrontendDied | Kind::WorkerDied | Kind::Killed | Kind::Ended)
}

/// Whether a line of the log says that the engine's core is dead. Only a hint: whoever can write into the log can write
/// this too.
pub fn is_core_dead(line: &str) -> bool {
    line.contains("EngineDeadError") || line.contains("died unexpectedly")
}

/// The last line that looks like an error, or else the last line that says anything.
fn last_telling_line<'a>(lines: &[&'a str]) -> Option<&'a str> {
    let telling = |line: &&&str| line.contains("Error") || line.contains("error:") || line.contains("ERROR");
    let said = |line: &&&str| !line.trim().is_empty();
    lines.iter().rev().find(telling).or_else(|| lines.iter().rev().find(said)).copied()
}

/// The line without vLLM's prefix `(Process pid=1) LEVEL time [file:line]`, at most 300 characters.
fn shortened(line: &str) -> String {
    let text = match (line.starts_with('('), line.find("] ")) {
        (true, Some(end)) => &line[end + 2..],
        _ => line,
    };
    text.trim().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[&str], ending: Ending, when: When, memory_kills: Kills) -> Failure {
        let evidence = Evidence { ending, when, memory_kills, gpu_lost: false, shared_memory_full: false };
        classify(lines.iter().copied(), evidence)
    }

    fn classified(lines: &[&str], ending: Ending, ready: bool) -> Failure {
        judged(lines, ending, if ready { When::Serving } else { When::Loading }, Kills::default())
    }

    #[test]
    fn a_known_line_names_the_failure_and_what_to_do() {
        let line =
            "(EngineCore pid=7) ERROR 11-23 10:00:00 [core.py:1] ValueError: No available memory for the cache blocks.";
        let failure = classified(&["noise", line, "more noise"], Ending::Code(1), false);
        assert!(failure.permanent);
        assert!(failure.message.contains("smaller or quantised model"), "{}", failure.message);
        assert!(failure.message.contains("vLLM said: ValueError: No available"), "{}", failure.message);
    }

    #[test]
    fn a_wrong_argument_is_permanent_and_the_line_is_shown() {
        let failure = classified(
            &["usage: vllm serve", "vllm: error: argument --dtype: invalid choice: 'x'"],
            Ending::Code(2),
            false,
        );
        assert!(failure.permanent && failure.message.contains("invalid choice"), "{}", failure.message);
    }

    #[test]
    fn what_the_rust_frontend_does_not_take_is_permanent_though_its_leader_leaves_with_1() {
        let missing =
            "FileNotFoundError: VLLM_RUST_FRONTEND_PATH=auto but the vllm-rs binary was not found at /v/vllm-rs.";
        let failure = classified(&[missing], Ending::Code(1), false);
        assert!(failure.permanent && failure.message.contains("engine/setup --frontend"), "{}", failure.message);
        let lines = [
            "error: invalid value '{}' for '--args-json <JSON>': ",
            "The following arguments are not implemented in Rust frontend yet:",
            "- max_num_queued_reqs",
            "RuntimeError: Process RustFrontend (PID: 7) died with exit code 2",
        ];
        let failure = classified(&lines, Ending::Code(1), false);
        assert!(failure.permanent && failure.message.contains("engine_frontend"), "{}", failure.message);
    }

    #[test]
    fn settings_are_no_failures_whatever_they_are_called() {
        let lines = [
            "(EngineCore pid=2) INFO [core.py:1] Initializing a V1 LLM engine (v0.32.0) with config: trust_remote_code=False",
            "(MainProcess pid=1) ERROR [utils.py:599] RuntimeError: Process RustFrontend (PID: 3) died with exit code -9",
        ];
        let failure = classified(&lines, Ending::Code(1), true);
        assert!(!failure.permanent && failure.message.starts_with("the engine's frontend died"), "{}", failure.message);
        assert!(failure.message.contains("exit code -9"), "{}", failure.message);
    }

    #[test]
    fn exit_status_0_is_a_crash_like_any_other() {
        let failure = classified(&["EngineDeadError: EngineCore encountered an issue"], Ending::Code(0), true);
        assert!(!failure.permanent && failure.message.contains("engine core died"), "{}", failure.message);
    }

    #[test]
    fn what_served_before_is_tried_again() {
        assert!(!classified(&["torch: CUDA out of memory"], Ending::Code(1), true).permanent);
        assert!(!classified(&[], Ending::Signal(9), true).permanent);
        assert!(classified(&[], Ending::Signal(9), true).message.contains("killed by signal 9"));
    }

    #[test]
    fn memory_that_runs_out_has_three_names() {
        let line = ["(EngineCore pid=7) ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"];
        let of = |when| {
            let failure = judged(&line, Ending::Code(1), when, Kills::default());
            (failure.kind, failure.permanent)
        };
        assert_eq!(of(When::Loading), (Kind::ModelTooLarge, true));
        assert_eq!(of(When::WarmingUp), (Kind::GpuOutOfMemory, false));
        assert_eq!(of(When::Serving), (Kind::GpuOutOfMemory, false));
        let killed = judged(&[], Ending::Signal(9), When::Serving, Kills { group: 1, machine: 1 });
        assert_eq!(killed.kind, Kind::OutOfMemory);
        assert!(killed.message.contains("memory.events counts 1 more"), "{}", killed.message);
    }

    #[test]
    fn a_full_dev_shm_is_told_from_a_full_disk() {
        use Kind::{CoreDied, DiskFull, SharedMemoryFull, WorkerDied};
        let full = "(EngineCore pid=7) ERROR OSError: [Errno 28] No space left on device";
        let there = |path: &str| format!("{full}: '{path}'");
        let bus = "ERROR Worker proc VllmWorker-0 died unexpectedly with exit code -7, shutting down executor.";
        for (line, shared_memory_full, expected) in [
            (full, false, DiskFull),
            (full, true, SharedMemoryFull),
            (&there("/dev/shm/psm_1"), false, SharedMemoryFull),
            (&there("/var/lib/vllama/cache/x"), true, DiskFull),
            (bus, true, SharedMemoryFull),
            (bus, false, WorkerDied),
            ("EngineDeadError", true, CoreDied),
        ] {
            let evidence = Evidence {
                ending: Ending::Code(1),
                when: When::Loading,
                memory_kills: Kills::default(),
                gpu_lost: false,
                shared_memory_full,
            };
            let failure = classify([line].into_iter(), evidence);
            assert_eq!((failure.kind, failure.permanent), (expected, false), "{line} {shared_memory_full}");
        }
        let small = ["RuntimeError: Insufficient space in /dev/shm"];
        let failure = judged(&small, Ending::Code(1), When::Loading, Kills::default());
        assert_eq!((failure.kind, failure.permanent), (SharedMemoryFull, true), "it would fail again");
    }

    #[test]
    fn the_kernels_count_explains_deaths_and_nothing_else() {
        let kills = Kills { group: 0, machine: 2 };
        let worker = ["(EngineCore pid=7) ERROR Worker proc VllmWorker-0 died unexpectedly, shutting down executor."];
        assert_eq!(judged(&worker, Ending::Code(0), When::Serving, kills).kind, Kind::OutOfMemory);
        assert_eq!(judged(&worker, Ending::Code(0), When::Serving, Kills::default()).kind, Kind::WorkerDied);
        let refused = ["vllm: error: unrecognized arguments: --nonsense"];
        assert_eq!(judged(&refused, Ending::Code(2), When::Loading, kills).kind, Kind::ArgumentRefused);
    }

    #[test]
    fn a_gpu_that_is_lost_explains_a_death() {
        let lines = ["EngineDeadError: EngineCore encountered an issue"];
        let evidence = Evidence {
            ending: Ending::Code(0),
            when: When::Serving,
            memory_kills: Kills::default(),
            gpu_lost: true,
            shared_memory_full: false,
        };
        let failure = classify(lines.into_iter(), evidence);
        assert_eq!((failure.kind, failure.permanent), (Kind::GpuLost, false));
    }

    #[test]
    fn parsers_that_do_not_suit_the_model_are_told_apart() {
        for (line, kind) in [
            ("KeyError: 'invalid tool call parser: x (chose from { hermes })'", Kind::ToolParser),
            ("KeyError: 'invalid reasoning parser: x (chose from { qwen3 })'", Kind::ReasoningParser),
            (
                "RuntimeError: Qwen3ReasoningParser reasoning parser could not locate think start/end tokens",
                Kind::ReasoningParser,
            ),
            ("RuntimeError: Llama3JsonToolParser could not locate the bot token in the tokenizer!", Kind::ToolParser),
            ("RuntimeError: HYV4 tool extractor could not locate tool call tokens", Kind::ToolParser),
            ("RuntimeError: HYV4 reasoning extractor could not locate think tokens", Kind::ReasoningParser),
        ] {
            assert_eq!(classified(&[line], Ending::Code(1), false).kind, kind, "{line}");
        }
    }
}
