//! What earlier starts of engines needed: measured, and remembered over restarts of vllama in one small file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::written::{Written, keep_latest, now};
use crate::model::plan::{Choice, Plan};

/// Most engines that are remembered; the ones not seen for longest are forgotten.
const MOST: usize = 256;

/// What one engine needed.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub(super) struct Figure {
    /// The most bytes it held on each of its devices; 0 = not measured.
    pub bytes: u64,
    /// Seconds its last start took.
    pub start_seconds: f64,
    /// When it was seen last, in seconds since 1970.
    seen: u64,
}

impl Figure {
    /// How long its last start took.
    pub(super) fn start(self) -> Duration {
        // A file may hold anything.
        Duration::try_from_secs_f64(self.start_seconds).unwrap_or_default()
    }
}

/// All that is remembered. Written by a task of its own, which ends with this.
#[derive(Debug)]
pub(super) struct Figures {
    known: BTreeMap<String, Figure>,
    file: Written,
}

impl Figures {
    /// Reads the file, which need not be there, and keeps it up to date.
    pub(super) fn open(path: PathBuf) -> Self {
        let (file, known) = Written::open(path, "what earlier starts needed");
        Self { known, file }
    }

    /// What is known of an engine.
    pub(super) fn get(&self, key: &str) -> Option<Figure> {
        self.known.get(key).copied()
    }

    /// Notes what an engine held and how long its start took; true when that says something new.
    pub(super) fn note(&mut self, key: &str, bytes: Option<u64>, start: Option<Duration>) -> bool {
        let seen = now();
        let before = self.get(key);
        let start_seconds = start.map(|start| start.as_secs_f64()).or(before.map(|before| before.start_seconds));
        let bytes = bytes.unwrap_or_default().max(before.map_or(0, |before| before.bytes));
        let figure = Figure { bytes, start_seconds: start_seconds.unwrap_or_default(), seen };
        let is_news = before.is_none_or(|before| {
            // Memory that creeps up by a little is no news, or the file would be written every few seconds.
            figure.bytes > before.bytes + before.bytes / 50 || figure.start_seconds != before.start_seconds
        });
        if !is_news {
            return false;
        }
        self.known.insert(key.to_owned(), figure);
        keep_latest(&mut self.known, MOST, |figure| figure.seen);
        self.file.write(&self.known);
        true
    }
}

/// The name under which the figures of an engine are remembered: what it serves, on what, with which flags.
pub(super) fn key(engine_key: &str, hardware: &str, plan: &Plan) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(engine_key);
    add(hardware);
    add(&format!("{:?}", plan.device));
    // Which of the GPUs it was on does not matter.
    let is_place = |choice: &&Choice| matches!(choice.name, "CUDA_VISIBLE_DEVICES" | "CUDA_DEVICE_ORDER");
    let environment = plan.environment.iter().filter(|choice| !is_place(choice));
    for Choice { name, value, more, .. } in plan.flags.iter().chain(environment) {
        add(name);
        value.iter().chain(more).for_each(|value| add(value));
    }
    for (name, value) in &plan.extra_environment {
        add(name);
        add(value);
    }
    plan.extra_arguments.iter().for_each(|argument| add(argument));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::written::read;
    use super::*;

    #[tokio::test]
    async fn figures_survive_a_restart_and_only_news_is_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state/measured.json");
        let mut figures = Figures::open(path.clone());
        assert!(figures.note("a", Some(1000), Some(Duration::from_secs(3))));
        assert!(!figures.note("a", Some(1010), None), "one percent more is no news");
        assert!(figures.note("a", Some(2000), None));
        assert_eq!(figures.get("a").map(|figure| (figure.bytes, figure.start())), Some((2000, Duration::from_secs(3))));
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while read(&path).ok().and_then(|known: BTreeMap<String, Figure>| known.get("a").map(|figure| figure.bytes))
            != Some(2000)
        {
            assert!(std::time::Instant::now() < deadline, "the file is written");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(Figures::open(path).get("a").map(|figure| figure.bytes), Some(2000));
    }

    #[tokio::test]
    async fn a_torn_file_is_as_good_as_none_and_the_number_of_engines_is_bounded() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("measured.json");
        std::fs::write(&path, "{\"a\":").expect("written");
        let mut figures = Figures::open(path);
        assert_eq!(figures.get("a"), None);
        for number in 0..MOST + 10 {
            figures.note(&number.to_string(), Some(1), None);
        }
        assert_eq!(figures.known.len(), MOST);
    }
}
