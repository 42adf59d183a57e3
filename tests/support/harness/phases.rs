//! Holding the fake engine up: what a test wants to look at lasts as long as the test likes.

use std::fs;
use std::path::PathBuf;

use super::eventually;

/// The directory of the fake's orders: a phase is held up as long as a file there says so. The phases are `import`, `load`,
/// `stopping`, and `fault`: the moment before a fault that a prompt has asked for.
pub struct Phases(pub PathBuf);

impl Phases {
    /// Whoever comes to this phase goes no further.
    pub fn hold(&self, phase: &str) {
        let _ = fs::remove_file(self.0.join(format!("at-{phase}")));
        fs::write(self.0.join(format!("hold-{phase}")), "").expect("a file of the test's own");
    }

    /// Waits until somebody is held up in this phase.
    pub async fn reached(&self, phase: &str) {
        let file = self.0.join(format!("at-{phase}"));
        eventually(&format!("an engine is held up in {phase}"), async || file.exists().then_some(())).await;
    }

    /// Lets go on whoever is held up.
    pub fn release(&self, phase: &str) {
        let _ = fs::remove_file(self.0.join(format!("hold-{phase}")));
    }
}
