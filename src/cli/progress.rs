//! How verbs tell what they do: a bar on a terminal, plain lines elsewhere, JSON events for programs, or nothing.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::config::Voice;
use crate::telemetry::logs::Pen;

/// One verb's way of telling.
pub(super) struct Progress {
    voice: Voice,
    /// Where logs are JSON, what people would be told goes into the log: a collector must find nothing else.
    json_logs: bool,
    /// Only on a terminal.
    bar: Option<ProgressBar>,
    /// The last thing said without a terminal, so that it is said once.
    last: Mutex<String>,
}

impl Progress {
    pub(super) fn new(voice: Voice, json_logs: bool) -> Self {
        let on_terminal = voice == Voice::Human && !json_logs && std::io::stderr().is_terminal();
        Self { voice, json_logs, bar: on_terminal.then(bar), last: Mutex::default() }
    }

    /// Writes log lines to standard error, never across the bar.
    pub(super) fn pen(&self) -> Pen {
        let bar = self.bar.clone();
        Arc::new(move |line| {
            // Nobody reads standard error any more: there is no better place to say so.
            let write = || _ = std::io::stderr().write_all(line);
            match &bar {
                Some(bar) => bar.suspend(write),
                None => write(),
            }
        })
    }

    /// Says what begins now.
    pub(super) fn say(&self, text: &str) {
        self.line("→", text);
    }

    /// Says what has been reached; the bar goes.
    pub(super) fn done(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.line("✓", text);
    }

    /// Says what went wrong; also when quiet.
    pub(super) fn failed(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.event(&json!({"event": "failed", "message": text}));
        // In JSON logs it stands already, told by whom it happened to.
        if self.voice != Voice::Json && !self.json_logs {
            eprintln!("✗ {text}");
        }
    }

    /// How far a part has come: on a terminal the bar moves, elsewhere each part is named once.
    pub(super) fn part(&self, phase: &str, done: u64, total: u64) {
        let percent = (done * 100).checked_div(total).unwrap_or(0);
        if let Some(bar) = &self.bar {
            bar.enable_steady_tick(Duration::from_millis(100));
            bar.set_message(phase.to_owned());
            bar.set_position(percent);
            return;
        }
        {
            // A poisoned lock still guards a whole text.
            let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if *last == phase {
                return;
            }
            phase.clone_into(&mut last);
        }
        self.event(&json!({"event": "phase", "phase": phase, "percent": percent}));
        self.line("•", phase);
    }

    /// Tells programs what happened; people are told by the other calls.
    pub(super) fn event(&self, event: &serde_json::Value) {
        if self.voice == Voice::Json {
            let mut out = std::io::stdout().lock();
            // Whoever asked for events may have left.
            let _ = writeln!(out, "{event}").and_then(|()| out.flush());
        }
    }

    fn line(&self, symbol: &str, text: &str) {
        match (self.voice, &self.bar) {
            _ if self.json_logs => tracing::info!("{text}"),
            (Voice::Human, Some(bar)) => bar.suspend(|| eprintln!("{symbol} {text}")),
            (Voice::Human, None) => eprintln!("{symbol} {text}"),
            _ => {}
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg:28} {bar:30} {percent:>3} %  {elapsed}") {
        bar.set_style(style.progress_chars("━━ "));
    }
    bar
}
