//! The last log lines and the exit status → what happened, whether trying again can help, what to tell the user
//! (vllm-engine §5.7, as data).

use std::fmt;

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

/// A failure of an engine, as people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened, why, what to do.
    pub message: String,
    /// Whether trying again cannot help.
    pub permanent: bool,
}

/// A text in the log that names a failure.
struct Signature {
    /// All of these must be in one line.
    texts: &'static [&'static str],
    permanent: bool,
    message: &'static str,
}

const fn permanent(texts: &'static [&'static str], message: &'static str) -> Signature {
    Signature { texts, permanent: true, message }
}

const fn passing(texts: &'static [&'static str], message: &'static str) -> Signature {
    Signature { texts, permanent: false, message }
}

/// The table, most telling first.
const SIGNATURES: &[Signature] = &[
    permanent(
        &["Insufficient space in /dev/shm"],
        "/dev/shm is too small for the engine; give the container more with `--shm-size=2g` (Compose: `shm_size: 2g`)",
    ),
    passing(
        &["Free memory on device", "less than desired GPU memory utilization"],
        "the GPU's memory is in use by something else; free it, or lower `--gpu-memory-utilization`",
    ),
    passing(&["Error in memory profiling"], "the GPU's memory changed while the engine measured it"),
    permanent(
        &["No available memory for the cache blocks"],
        "the model does not fit the device's memory; use a smaller or quantised model, or a larger device",
    ),
    permanent(
        &["To serve at least one request with the model's max seq len"],
        "the context does not fit the device's memory; give a smaller `--max-model-len`",
    ),
    permanent(
        &["Cannot auto-fit max_model_len"],
        "the model does not fit the device's memory; use a smaller or quantised model, or a larger device",
    ),
    permanent(
        &["Not enough memory", "VLLM_CPU_KVCACHE_SPACE"],
        "the key/value cache does not fit main memory; set VLLM_CPU_KVCACHE_SPACE (GiB) lower",
    ),
    permanent(
        &["CUDA out of memory"],
        "the GPU's memory is too small for the model; use a smaller or quantised model, or several GPUs",
    ),
    permanent(
        &["Model architectures", "are not supported"],
        "this vLLM does not know the model's architecture; use a newer vllama image or another model",
    ),
    permanent(
        &["does not recognize this architecture"],
        "this vLLM does not know the model's architecture; use a newer vllama image or another model",
    ),
    permanent(
        &["trust_remote_code"],
        "the model needs code from its own repository; if you trust it, pass `--engine-args --trust-remote-code`",
    ),
    permanent(
        &["vllm-rs binary was not found"],
        "this vLLM has no frontend in Rust; fetch it with `engine/setup --frontend`, or set engine_frontend to python",
    ),
    permanent(
        &["is not registered (choose from"],
        "vLLM's Rust frontend does not know the chosen parser; choose one it lists, or set engine_frontend to python",
    ),
    permanent(
        &["not implemented in Rust frontend"],
        "vLLM's Rust frontend does not take an argument; see the log, or set engine_frontend to python",
    ),
    permanent(
        &["invalid tool call parser"],
        "vLLM does not know the chosen tool parser; leave it out or choose one it lists",
    ),
    permanent(&["no kernel image is available"], "this vLLM has no code for the GPU; use an image built for it"),
    permanent(&["CUDA driver version is insufficient"], "the NVIDIA driver is too old for this vLLM; update it"),
    permanent(
        &["Failed to infer device type"],
        "vLLM found no device; is the NVIDIA driver visible in the container (`--gpus all`)?",
    ),
    permanent(&["error: unrecognized arguments"], "vLLM refused an argument; see `--engine-args` and the log line"),
    passing(&["EngineDeadError"], "the engine core died"),
    passing(&["Process RustFrontend", "died"], "the engine's frontend died"),
    passing(&["died unexpectedly"], "a worker process died"),
    passing(&["Address already in use"], "the engine's socket was in use"),
];

/// Marks of lines in which vLLM tells its settings. They hold the words of many failures: `trust_remote_code=False`.
const SETTINGS: [&str; 4] =
    ["Initializing a V1 LLM engine", "non-default args", "Launching Rust frontend", "--args-json <JSON>"];

/// Names a failure.
///
/// `lines` are the last lines of the log, oldest first; `ready` tells whether the engine had answered before it ended.
pub fn classify<'a>(lines: impl Iterator<Item = &'a str>, ending: Ending, ready: bool) -> Failure {
    let lines: Vec<&str> = lines.filter(|line| !SETTINGS.iter().any(|mark| line.contains(mark))).collect();
    let last = last_telling_line(&lines);
    for signature in SIGNATURES {
        let found = lines.iter().rev().find(|line| signature.texts.iter().all(|text| line.contains(text)));
        if let Some(line) = found {
            let message = format!("{} ({ending}; vLLM said: {})", signature.message, shortened(line));
            // What has served before can serve again.
            return Failure { message, permanent: signature.permanent && !ready };
        }
    }
    // Python's argparse leaves with 2 for a wrong argument, at once.
    let refused = ending == Ending::Code(2) && !ready;
    let what = match (refused, ending) {
        (true, _) => "vLLM refused its arguments; check `--engine-args`",
        (false, Ending::Signal(9)) => "the engine was killed, perhaps for want of memory",
        _ => "the engine ended unexpectedly",
    };
    let said = last.map(|line| format!("; vLLM said: {}", shortened(line))).unwrap_or_default();
    Failure { message: format!("{what} ({ending}{said})"), permanent: refused }
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

    fn classified(lines: &[&str], ending: Ending, ready: bool) -> Failure {
        classify(lines.iter().copied(), ending, ready)
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
}
