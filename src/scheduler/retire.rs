//! The right to change the files under a model.

use tokio::sync::mpsc;

use super::core::EngineId;
use super::keeper::Command;

/// Nothing of a model's engine runs, and nothing starts as long as this is held. Drop it when the files have been
/// deleted or replaced.
#[derive(Debug)]
#[must_use]
pub struct Retired {
    engine: EngineId,
    /// Weak, so that a forgotten guard does not keep the scheduler's task alive. `None` where there is no task any more.
    commands: Option<mpsc::WeakUnboundedSender<Command>>,
}

impl Retired {
    pub(super) fn new(engine: EngineId, commands: mpsc::WeakUnboundedSender<Command>) -> Self {
        Self { engine, commands: Some(commands) }
    }

    /// For a scheduler that has ended: nothing runs there either.
    pub(super) fn for_ever() -> Self {
        Self { engine: EngineId::MAX, commands: None }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.as_ref().and_then(mpsc::WeakUnboundedSender::upgrade) {
            // Without a task there is nothing to restore.
            let _ = commands.send(Command::Restored(self.engine));
        }
    }
}
