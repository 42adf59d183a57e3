//! Changes of plans that have helped: remembered over restarts of vllama, so that the next start does not fail first
//! (decision 0041).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::written::{self, Written, keep_latest, now};
use crate::model::plan::{Change, Lever, Plan};

/// Most engines whose changes are remembered; the ones not seen for longest are forgotten.
const MOST: usize = 256;

/// What has helped one engine.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(super) struct Remedy {
    /// The model, for people who read the file.
    model: String,
    changes: Vec<Change>,
    /// When it was found, in seconds since 1970.
    seen: u64,
}

impl Remedy {
    /// What it changes.
    pub(super) fn levers(&self) -> impl Iterator<Item = Lever> {
        self.changes.iter().map(|change| change.lever)
    }

    /// The plan with its changes, as far as they find there what they once found.
    pub(super) fn apply(&self, plan: Plan) -> Plan {
        self.changes.iter().fold(plan, |plan, change| plan.changed(change))
    }
}

/// What has helped, by [`key`].
pub(super) type Known = BTreeMap<String, Remedy>;

/// All that is remembered.
#[derive(Debug)]
pub(super) struct Remedies {
    known: watch::Sender<Arc<Known>>,
    file: Written,
}

impl Remedies {
    /// Reads the file, which need not be there, and keeps it up to date.
    pub(super) fn open(path: PathBuf) -> Self {
        let (file, known) = Written::open(path, "how plans were changed");
        Self { known: watch::Sender::new(Arc::new(known)), file }
    }

    /// What is remembered, for those who watch it.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Known>> {
        self.known.subscribe()
    }

    /// The plan with the changes that have helped an engine with this key. A change holds only where it finds what it once
    /// found: what the operator has set otherwise since stays as it is.
    pub(super) fn apply(&self, key: &str, plan: Plan) -> Plan {
        applied(self.known.borrow().get(key), plan)
    }

    /// Notes the changes with which an engine got ready; without any, it is forgotten that there were some.
    pub(super) fn note(&mut self, key: &str, plan: &Plan) {
        let changes: Vec<Change> = plan.changes.iter().filter(|change| !change.passing).cloned().collect();
        // Asked at every change of a ready engine, and hardly ever is there anything new.
        if self.known.borrow().get(key).map_or(&[][..], |remedy| &remedy.changes) == changes {
            return;
        }
        let mut known = Known::clone(&self.known.borrow());
        if changes.is_empty() {
            known.remove(key);
        } else {
            let seen = now();
            known.insert(key.to_owned(), Remedy { model: plan.served_name.clone(), changes, seen });
        }
        keep_latest(&mut known, MOST, |remedy| remedy.seen);
        self.file.write(&known);
        self.known.send_replace(Arc::new(known));
    }
}

/// The name under which changes are remembered: what is served, on what, by which vLLM.
pub(super) fn key(engine_key: &str, hardware: &str, engine_version: &str) -> String {
    format!("{engine_key} on {hardware} with vLLM {engine_version}")
}

/// The plan as an engine would be started with: with the changes that have helped before, by the file at `path`. For
/// those who explain plans and start nothing.
#[must_use]
pub fn remembered(path: &Path, engine_key: &str, hardware: &str, engine_version: &str, plan: Plan) -> Plan {
    let known: Known = written::read(path).unwrap_or_default();
    applied(known.get(&key(engine_key, hardware, engine_version)), plan)
}

fn applied(remedy: Option<&Remedy>, plan: Plan) -> Plan {
    match remedy {
        Some(remedy) => remedy.apply(plan),
        None => plan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::{Device, Lever, sample};

    fn plan(length: &str) -> Plan {
        sample::plan(Device::Cpu, 0, &[("--max-model-len", length)])
    }

    fn length(plan: &Plan) -> Option<&str> {
        plan.flags[0].value.as_deref()
    }

    #[tokio::test]
    async fn what_helped_once_holds_until_the_operator_says_something_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("changes.json");
        let key = key("digest", "CPU", "0.32.0");
        let change = Change {
            lever: Lever::Length,
            from: "100000".into(),
            to: "auto".into(),
            failure: "context_too_long".into(),
            reason: "it did not fit".into(),
            passing: false,
        };
        let mut remedies = Remedies::open(path.clone());
        remedies.note(&key, &plan("100000").changed(&change));
        assert_eq!(length(&remedies.apply(&key, plan("100000"))), Some("auto"));
        assert_eq!(length(&remedies.apply(&key, plan("7000"))), Some("7000"), "another wish");
        assert_eq!(length(&remedies.apply("another engine", plan("100000"))), Some("100000"));
        let told = || remembered(&path, "digest", "CPU", "0.32.0", plan("100000"));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while length(&told()) != Some("auto") {
            assert!(std::time::Instant::now() < deadline, "the file is written");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(told().changes, [change]);
        // It got ready as the operator wants it now.
        remedies.note(&key, &plan("7000"));
        assert_eq!(length(&remedies.apply(&key, plan("100000"))), Some("100000"));
    }

    #[tokio::test]
    async fn what_was_for_the_moment_is_not_remembered() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut remedies = Remedies::open(directory.path().join("changes.json"));
        let change = Change {
            lever: Lever::Length,
            from: "100000".into(),
            to: "auto".into(),
            failure: "gpu_memory_busy".into(),
            reason: "somebody else was there".into(),
            passing: true,
        };
        remedies.note("key", &plan("100000").changed(&change));
        assert_eq!(length(&remedies.apply("key", plan("100000"))), Some("100000"));
    }
}
