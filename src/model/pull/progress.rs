//! How far a pull is: what its owner publishes, and what a listener makes of it.

use std::sync::Arc;

use super::Outcome;

/// A step of a pull, in Ollama's order (ollama-api §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Asking the hub what there is.
    Manifest,
    /// A file got further.
    Layer {
        /// SHA-256 of the file, 64 hex characters.
        digest: &'a str,
        /// Its size in bytes.
        total: u64,
        /// Bytes of it that are here.
        completed: u64,
    },
    /// All is here and is being hashed.
    Verifying,
    /// The model gets its name.
    Writing,
}

/// How far a pull is, for everybody who listens.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub phase: Phase,
    pub layers: Vec<Layer>,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Until everything is here. A pull that nobody listens to any more is given up as long as it is in this phase.
    #[default]
    Fetching,
    Verifying,
    Writing,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub digest: Arc<str>,
    pub total: u64,
    pub completed: u64,
}

/// What one listener has been told.
#[derive(Default)]
pub(super) struct Told {
    phase: Option<Phase>,
    /// `completed` of each layer.
    layers: Vec<u64>,
}

impl Told {
    /// Tells what is new; a listener that comes late gets the past in short.
    pub(super) fn tell(&mut self, progress: &Progress, mut tell: impl FnMut(Step<'_>)) {
        if self.phase.is_none() {
            tell(Step::Manifest);
        }
        for (index, Layer { digest, total, completed }) in progress.layers.iter().enumerate() {
            let told = self.layers.get(index);
            if told == Some(completed) {
                continue;
            }
            tell(Step::Layer { digest, total: *total, completed: *completed });
            match self.layers.get_mut(index) {
                Some(told) => *told = *completed,
                None => self.layers.push(*completed),
            }
        }
        for (phase, step) in [(Phase::Verifying, Step::Verifying), (Phase::Writing, Step::Writing)] {
            if progress.phase >= phase && self.phase.is_none_or(|told| told < phase) {
                tell(step);
            }
        }
        self.phase = Some(progress.phase);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(told: &mut Told, progress: &Progress) -> Vec<String> {
        let mut steps = Vec::new();
        told.tell(progress, |step| {
            steps.push(match step {
                Step::Layer { digest, total, completed } => format!("{digest} {completed}/{total}"),
                step => format!("{step:?}"),
            });
        });
        steps
    }

    #[test]
    fn each_step_is_told_once_and_layers_as_they_grow() {
        let mut listener = Told::default();
        let mut progress = Progress::default();
        assert_eq!(told(&mut listener, &progress), ["Manifest"]);
        assert!(told(&mut listener, &progress).is_empty());
        progress.layers.push(Layer { digest: "a".into(), total: 9, completed: 0 });
        assert_eq!(told(&mut listener, &progress), ["a 0/9"]);
        progress.layers[0].completed = 9;
        progress.layers.push(Layer { digest: "b".into(), total: 2, completed: 1 });
        assert_eq!(told(&mut listener, &progress), ["a 9/9", "b 1/2"]);
        progress.phase = Phase::Writing;
        assert_eq!(told(&mut listener, &progress), ["Verifying", "Writing"]);
        assert!(told(&mut listener, &progress).is_empty());
    }

    #[test]
    fn a_late_listener_gets_the_past_in_short() {
        let layers = vec![Layer { digest: "a".into(), total: 9, completed: 5 }];
        let progress = Progress { phase: Phase::Verifying, layers, outcome: None };
        assert_eq!(told(&mut Told::default(), &progress), ["Manifest", "a 5/9", "Verifying"]);
    }
}
