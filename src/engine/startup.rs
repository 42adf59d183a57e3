//! Engine log lines → phase and progress of a start (vllm-engine §2.1).
//!
//! The texts are no interface of vLLM, so they only move a bar: readiness comes from the socket alone, and a line that
//! is not known changes nothing.

use std::time::{Duration, Instant};

/// What an engine does while it starts, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Python imports torch and vLLM; says nothing.
    Importing,
    /// Reads arguments and the checkpoint's configuration.
    Configuring,
    /// The engine core and its workers start.
    Spawning,
    /// Weights go to the device.
    Loading,
    /// torch.compile.
    Compiling,
    /// Measures memory and makes the key/value cache.
    Profiling,
    /// Captures CUDA graphs.
    Capturing,
    /// The HTTP server comes up.
    Finishing,
}

/// One phase: what people read, the share of the bar (percent) and how long it usually takes.
struct Shape {
    label: &'static str,
    share: f32,
    usual: Duration,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::Importing,
        Self::Configuring,
        Self::Spawning,
        Self::Loading,
        Self::Compiling,
        Self::Profiling,
        Self::Capturing,
        Self::Finishing,
    ];

    fn shape(self) -> Shape {
        let (label, share, seconds) = match self {
            Self::Importing => ("importing vLLM", 15.0, 10),
            Self::Configuring => ("reading the configuration", 15.0, 12),
            Self::Spawning => ("starting the engine core", 30.0, 25),
            Self::Loading => ("loading weights", 15.0, 5),
            Self::Compiling => ("compiling", 5.0, 60),
            Self::Profiling => ("making the key/value cache", 12.0, 10),
            Self::Capturing => ("capturing CUDA graphs", 4.0, 20),
            Self::Finishing => ("opening the server", 4.0, 4),
        };
        Shape { label, share, usual: Duration::from_secs(seconds) }
    }

    /// What people read, e.g. `loading weights`.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.shape().label
    }
}

/// Progress of one start.
#[derive(Clone, Debug)]
pub struct Startup {
    phase: Phase,
    entered: Instant,
    /// The phases that are over, and how long they took.
    over: Vec<(Phase, Duration)>,
    /// Share of the phase that a progress bar in the log has told, 0–1.
    told: f32,
}

/// Substrings that mark the beginning of a phase; a line is matched against them in this order.
const MARKS: &[(&str, Phase)] = &[
    ("Starting vLLM server on", Phase::Finishing),
    ("Supported tasks:", Phase::Finishing),
    ("init engine (profile", Phase::Finishing),
    ("Capturing CUDA graphs", Phase::Capturing),
    ("KV cache size:", Phase::Profiling),
    ("Available KV cache memory", Phase::Profiling),
    ("Initial profiling/warmup run took", Phase::Profiling),
    ("Model loading took", Phase::Profiling),
    ("Warming up model", Phase::Profiling),
    ("Using cache directory", Phase::Compiling),
    ("Compiling a graph", Phase::Compiling),
    ("Dynamo bytecode transform time", Phase::Compiling),
    ("Loading safetensors checkpoint shards", Phase::Loading),
    ("Prefetching checkpoint files", Phase::Loading),
    ("Starting to load model", Phase::Loading),
    ("Initializing a V1 LLM engine", Phase::Spawning),
    ("Using max model len", Phase::Spawning),
    ("Resolved architecture:", Phase::Configuring),
    ("non-default args", Phase::Configuring),
];

/// What an engine says again and again while it waits for a process of its own that hangs: no progress.
const WAITS: &[&[&str]] =
    &[&["No available shared memory broadcast block found"], &["Waiting for", "core engine proc(s) to"]];

impl Startup {
    /// Whether this line says only that the engine still waits.
    #[must_use]
    pub fn only_waits(line: &str) -> bool {
        WAITS.iter().any(|texts| texts.iter().all(|text| line.contains(text)))
    }

    /// A start that begins now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { phase: Phase::Importing, entered: now, over: Vec::new(), told: 0.0 }
    }

    /// Takes in one line of the engine's log and tells whether it meant progress. Phases only move forward.
    pub fn line(&mut self, line: &str, now: Instant) -> bool {
        let Some((_, phase)) = MARKS.iter().find(|(mark, _)| line.contains(mark)) else { return false };
        let entered = *phase > self.phase;
        if entered {
            let mut over = std::mem::take(&mut self.over);
            over.push((self.phase, now.saturating_duration_since(self.entered)));
            *self = Self { phase: *phase, entered: now, over, told: 0.0 };
        }
        let told = percent_in(line).filter(|_| *phase == self.phase).map_or(0.0, |percent| percent / 100.0);
        let moved = told > self.told;
        self.told = self.told.max(told);
        entered || moved
    }

    /// What the engine does now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How long each phase took of a start that has come to its end at `now`; those that the log did not tell of are absent.
    #[must_use]
    pub fn phases(&self, now: Instant) -> Vec<(&'static str, Duration)> {
        let last = (self.phase, now.saturating_duration_since(self.entered));
        self.over.iter().chain([&last]).map(|(phase, took)| (phase.label(), *took)).collect()
    }

    /// How long the start has taken so far at `now`.
    #[must_use]
    pub fn elapsed(&self, now: Instant) -> Duration {
        self.phases(now).iter().map(|(_, took)| *took).sum()
    }

    /// Progress of the whole start at `now`, 0–99. Between the lines it moves with the time a phase usually takes, ever
    /// slower, and never beyond the phase.
    #[must_use]
    pub fn percent(&self, now: Instant) -> u8 {
        let shape = self.phase.shape();
        let before: f32 = Phase::ALL.iter().filter(|phase| **phase < self.phase).map(|phase| phase.shape().share).sum();
        let elapsed = now.saturating_duration_since(self.entered).as_secs_f32();
        let guessed = 1.0 - (-1.5 * elapsed / shape.usual.as_secs_f32()).exp();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0–99")]
        let percent = (before + shape.share * guessed.max(self.told)).clamp(0.0, 99.0) as u8;
        percent
    }
}

/// The number before the first `%` of a progress bar's line.
fn percent_in(line: &str) -> Option<f32> {
    let (before, _) = line.split_once('%')?;
    let start = before.rfind(|character: char| !character.is_ascii_digit() && character != '.').map_or(0, |at| at + 1);
    before[start..].parse().ok().filter(|percent| (0.0..=100.0).contains(percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_start_move_the_bar_forward_only() {
        let begin = Instant::now();
        let mut startup = Startup::new(begin);
        let mut last = 0;
        for (second, line, phase) in [
            (20, "(APIServer pid=1) INFO [utils.py:1] non-default args: {}", Phase::Configuring),
            (24, "(APIServer pid=1) INFO [model.py:1] Using max model len 8192", Phase::Spawning),
            (40, "(EngineCore pid=2) INFO [core.py:1] Initializing a V1 LLM engine (v0.32.0)", Phase::Spawning),
            (60, "(Worker pid=3) INFO [x.py:1] Starting to load model /models/a", Phase::Loading),
            (61, "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00]", Phase::Loading),
            (62, "a line nobody knows", Phase::Loading),
            (63, "(EngineCore pid=2) INFO GPU KV cache size: 46,592 tokens", Phase::Profiling),
            (64, "(Worker pid=3) INFO [x.py:1] Starting to load model /models/a", Phase::Profiling),
            (66, "(APIServer pid=1) INFO Starting vLLM server on unix", Phase::Finishing),
        ] {
            let now = begin + Duration::from_secs(second);
            startup.line(line, now);
            assert_eq!(startup.phase(), phase, "{line}");
            let percent = startup.percent(now);
            assert!(percent >= last && percent <= 99, "{percent} after {last}: {line}");
            last = percent;
        }
        assert!(last >= 95);
        let phases = startup.phases(begin + Duration::from_secs(70));
        let [(first, importing), .., (finishing, end)] = phases.as_slice() else {
            panic!("several phases: {phases:?}")
        };
        assert_eq!(
            (*first, importing.as_secs(), *finishing, end.as_secs()),
            ("importing vLLM", 20, "opening the server", 4)
        );
        assert_eq!(startup.elapsed(begin + Duration::from_secs(70)), Duration::from_secs(70));
    }

    #[test]
    fn a_silent_phase_still_moves_but_never_ends_by_itself() {
        let begin = Instant::now();
        let startup = Startup::new(begin);
        let after = |seconds| startup.percent(begin + Duration::from_secs(seconds));
        assert!(after(5) > after(0) && after(3600) <= 15);
    }
}
