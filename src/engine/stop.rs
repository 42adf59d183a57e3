//! The end of a generation: first the leader by SIGTERM, then whatever of it still lives.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::generation::Generation;
use super::lifecycle::{Order, Supervisor};
use super::run::Leader;
use crate::init::{Frozen, Session};

/// How long Python's resource tracker may take to remove what it knows of, once it is alone.
const TRACKER_LIMIT: Duration = Duration::from_secs(2);
/// How long killed processes may take to go; one in the kernel's hands (state D) takes longest.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks at dying processes.
const LOOK: Duration = Duration::from_millis(5);

impl Supervisor {
    /// SIGTERM to the leader alone (its workers would break off what it still does), then patience.
    pub(super) async fn stop_leader(&mut self, leader: &mut Leader, generation: &mut Generation, order: Order) {
        generation.note_segments(&leader.session.members());
        if order == Order::Kill || !leader.session.signal_leader(libc::SIGTERM) {
            return;
        }
        let patience = sleep(self.settings.stop_limit);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                _ = &mut leader.exit => return,
                Some(line) = leader.lines.recv() => self.log_line(&line),
                order = self.orders.recv() => if order == Some(Order::Kill) { return },
                () = &mut patience => {
                    tracing::warn!(model = self.plan.served_name, "the engine ignored SIGTERM for {} s; killing it",
                        self.settings.stop_limit.as_secs());
                    return;
                }
            }
        }
    }

    /// Kills whatever of the generation still lives. Python's resource tracker goes last: it removes the shared memory
    /// of the others as soon as they are gone.
    pub(super) async fn end_stragglers(&mut self, session: &Session, generation: &mut Generation) {
        // One that starts makes segments all the time.
        let frozen = session.freeze_except(is_resource_tracker);
        generation.note_segments(&frozen.pids());
        frozen.kill();
        if gone_within(session, &frozen, TRACKER_LIMIT).await {
            return;
        }
        session.kill_all();
        if !gone_within(session, &Frozen::default(), KILL_LIMIT).await {
            tracing::error!(
                model = self.plan.served_name,
                pids = ?session.members(),
                "processes of the engine survive SIGKILL; they hold its memory until the kernel lets go of them"
            );
        }
    }

    /// Logs what the engine said last.
    pub(super) async fn drain_lines(&mut self, leader: &mut Leader) {
        let rest = async {
            while let Some(line) = leader.lines.recv().await {
                self.log_line(&line);
            }
        };
        // All writers are dead, so the pipes end at once.
        let _ = timeout(Duration::from_secs(1), rest).await;
    }
}

/// Polls /proc: a process that left its session or was re-parented sends nobody a signal. As long as one lives that is known,
/// nobody else is looked for.
async fn gone_within(session: &Session, known: &Frozen, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while !known.are_gone() || !session.members().is_empty() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

fn is_resource_tracker(command_line: &str) -> bool {
    command_line.contains("multiprocessing.resource_tracker")
}
