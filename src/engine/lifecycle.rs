//! The life of one engine. One task owns all of it; others send it orders and watch its [`Status`].
//!
//! ```text
//!           start             answers on its socket          sleep                  asleep
//!  Stopped ───────> Starting ──────────────────────> Ready ───────> FallingAsleep ────────> Asleep
//!                      ↑                               ↑    awake                    wake      │
//!                      │ back-off                      └──────────── Waking <──────────────────┘
//!                      │
//!                      └─ Restarting <─┐ wanted awake
//!  any but Stopped and Failed:         │
//!    exit nobody asked for ──> Stopping┼──> Stopped, wanted asleep
//!                                      └──> Failed, starting again cannot help
//!    stop, kill ─────────────> Stopping ──> Stopped
//! ```
//!
//! Orders may cross; the last one holds:
//!
//! | order | while | what becomes of it |
//! |---|---|---|
//! | sleep | Starting, Waking | it falls asleep as soon as it is up, without being Ready in between |
//! | sleep | FallingAsleep, Asleep | it keeps the level it has or is about to have; for another one, wake it first |
//! | sleep | Restarting | Stopped: nobody wants it awake |
//! | sleep | Stopped, Failed, Stopping | nothing |
//! | start, wake | FallingAsleep | it falls asleep and is woken at once |
//! | start, wake | Asleep | it is woken |
//! | start, wake | Stopped, Failed | it is started; the two orders are one |
//! | start, wake | Stopping | nothing; who still wants it orders again when it is Stopped |
//! | stop | any | Stopped, by SIGTERM where it has been up; a call that sends it to sleep or wakes it is broken off |
//! | kill | any | Stopped, by SIGKILL |
//!
//! A failure that another plan avoids changes the plan (`remedy`), and the next start is made with that.
//!
//! A ready engine that gives no sign of life while it has requests is killed as well, and counts as dead.
//! What does not fall asleep or wake within its time, or says that it cannot, is killed. A death, of that kind or any
//! other, is made good by a new start where somebody wants it awake; an engine that nobody wants awake becomes Stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::backoff::Backoff;
use super::command::Installation;
use super::failure::{Failure, Kind};
use super::log::Log;
use super::remedy::remedy;
use super::room::Room;
use super::run::End;
use super::sleeping::Rest;
use super::status::{State, Status};
use super::surroundings::{RecentKills, Surroundings};
use crate::init::Spawner;
use crate::model::plan::Plan;

/// Where an engine lives and how patient vllama is with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directory for the generations' directories.
    pub directory: PathBuf,
    /// File for the engine's log.
    pub log: PathBuf,
    /// A start that says nothing new for this long is given up.
    pub start_limit: Duration,
    /// A ready engine that gives no sign of life for this long while it has requests is wedged; zero = never.
    pub heartbeat: Duration,
    /// Time from SIGTERM to SIGKILL.
    pub stop_limit: Duration,
    /// Longest wait before a start until its GPUs have the memory it takes.
    pub memory_limit: Duration,
    /// Longest time one of the calls may take that send it to sleep or wake it; loading its weights again has
    /// `start_limit`.
    pub sleep_limit: Duration,
}

impl Settings {
    /// A patient `sleep_limit`: tens of gigabytes go over the bus in seconds, unless the main memory for them must be found.
    pub const SLEEP_LIMIT: Duration = Duration::from_secs(60);
    /// A patient `memory_limit`: what takes longer is held by a process that hangs in the driver, or by somebody else
    /// (vllm-engine §1.6).
    pub const MEMORY_LIMIT: Duration = Duration::from_secs(30);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Start it, or wake it.
    Start,
    /// Sleep, at this level of vLLM's.
    Sleep(u8),
    Stop,
    /// Stop, without patience.
    Kill,
}

/// Handle on one engine; cheap to clone. The engine's task ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Engine {
    orders: mpsc::UnboundedSender<Order>,
    status: watch::Receiver<Status>,
}

impl Engine {
    /// Makes an engine for `plan`; nothing runs before [`Engine::start`].
    #[must_use]
    pub fn new(
        plan: Plan,
        installation: Installation,
        spawner: Spawner,
        settings: Settings,
        surroundings: Arc<dyn Surroundings>,
    ) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        let plan = Arc::new(plan);
        let (sender, status) = watch::channel(Status { plan: Some(plan.clone()), ..Status::default() });
        let log = Log::open(&settings.log);
        let supervisor = Supervisor {
            plan,
            installation,
            spawner,
            settings,
            surroundings,
            orders: receiver,
            status: sender,
            log,
            wanted: Rest::Awake,
            kills: RecentKills::default(),
        };
        tokio::spawn(supervisor.run());
        Self { orders, status }
    }

    /// Wants the engine up and awake. Does nothing while it is.
    pub fn start(&self) {
        self.order(Order::Start);
    }

    /// Wants the engine asleep at vLLM's `level`: 1 keeps the weights in main memory, 2 nowhere (any other number counts as
    /// the nearer of the two). Aborts the requests that run, so let them end first. Needs an engine that was started
    /// with `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1`; one that cannot sleep is stopped.
    pub fn sleep(&self, level: u8) {
        self.order(Order::Sleep(level.clamp(1, 2)));
    }

    /// Wants the engine awake. The same wish as [`Engine::start`], so that one that died in its sleep comes back too; one
    /// that does not wake is started again.
    pub fn wake(&self) {
        self.order(Order::Start);
    }

    /// Wants the engine down, by SIGTERM first. A start that is under way is broken off.
    pub fn stop(&self) {
        self.order(Order::Stop);
    }

    /// Wants the engine down at once.
    pub fn kill(&self) {
        self.order(Order::Kill);
    }

    /// Its status, to read now or to wait for changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    fn order(&self, order: Order) {
        // The task ends only with the last handle, or with the whole runtime.
        let _ = self.orders.send(order);
    }
}

/// What the engine's task owns.
pub(super) struct Supervisor {
    pub(super) plan: Arc<Plan>,
    pub(super) installation: Installation,
    pub(super) spawner: Spawner,
    pub(super) settings: Settings,
    pub(super) surroundings: Arc<dyn Surroundings>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) status: watch::Sender<Status>,
    pub(super) log: Log,
    /// What was ordered last, as long as it was not to stop.
    pub(super) wanted: Rest,
    /// What the kernel has killed lately.
    pub(super) kills: RecentKills,
}

impl Supervisor {
    async fn run(mut self) {
        while let Some(order) = self.orders.recv().await {
            if order == Order::Start {
                self.keep_running().await;
            }
        }
    }

    /// Starts generation after generation until somebody asks to stop, nobody wants it awake, or starting cannot help.
    async fn keep_running(&mut self) {
        self.wanted = Rest::Awake;
        let mut backoff = Backoff::default();
        loop {
            let (failure, ready_for) = match self.run_generation().await {
                (End::Died(failure), ready_for) => (failure, ready_for),
                (End::Asked, _) => {
                    // Ordered while it stopped, as everybody could see.
                    while self.orders.try_recv().is_ok() {}
                    return self.change(|status| {
                        status.state = State::Stopped;
                        status.failures_in_a_row = 0;
                        status.failure = None;
                    });
                }
            };
            let model = self.plan.served_name.clone();
            if self.wanted != Rest::Awake {
                tracing::warn!(model, failure = failure.kind.name(), "{}; nobody wants it awake", failure.message);
                return self.give_up(if failure.permanent { State::Failed } else { State::Stopped }, failure);
            }
            let kind = failure.kind;
            let start_took = self.status.borrow().start_took.unwrap_or_default();
            let mut pause = backoff.pause(ready_for, start_took);
            if let Some(failure) = self.change_plan(failure).await {
                if failure.permanent {
                    tracing::error!(model, failure = kind.name(), "{}; not starting it again", failure.message);
                    return self.give_up(State::Failed, failure);
                }
                let seconds = pause.as_secs();
                tracing::warn!(model, failure = kind.name(), "{}; starting it again in {seconds} s", failure.message);
                self.change(|status| {
                    status.state = State::Restarting;
                    status.failures_in_a_row += 1;
                    status.failure = Some(failure);
                    status.paused_until = Some(Instant::now() + pause);
                });
            } else {
                // Another plan deserves a try of its own, and there are few of them.
                (backoff, pause) = (Backoff::default(), Duration::ZERO);
            }
            let asked_to_stop = self.paused_until_asked_to_stop(pause).await;
            self.change(|status| status.paused_until = None);
            if asked_to_stop {
                return self.change(|status| status.state = State::Stopped);
            }
            self.change(|status| {
                status.restarts += 1;
                *status.restarts_by_failure.entry(kind).or_default() += 1;
            });
        }
    }

    fn give_up(&self, state: State, failure: Failure) {
        self.change(|status| {
            status.state = state;
            status.failures_in_a_row += 1;
            status.failure = Some(failure);
        });
    }

    /// Changes the plan so that it does not fail the same way again. Gives the failure back where no change would help;
    /// then it is told more of, if there is more to tell.
    async fn change_plan(&mut self, mut failure: Failure) -> Option<Failure> {
        let room = match failure.kind {
            Kind::GpuMemoryBusy => self.room_after_sweep().await.unwrap_or_default(),
            _ => Room::default(),
        };
        if let Some(shortage) = room.shortage {
            failure.message = format!("{}; {shortage}", failure.message);
        }
        // What vllama's own environment says wins over a plan.
        let theirs = |name| self.installation.environment.iter().any(|(variable, _)| variable == name);
        let change = remedy(&failure, &self.plan, room.free_percent)
            .filter(|change| !change.lever.variable().is_some_and(theirs));
        let Some(change) = change else { return Some(failure) };
        tracing::warn!(
            model = self.plan.served_name,
            failure = failure.kind.name(),
            change = change.describe(),
            "{}; starting it with another plan: {}",
            failure.message,
            change.describe()
        );
        let plan = Arc::new(Plan::clone(&self.plan).changed(&change));
        self.plan = plan.clone();
        self.change(|status| {
            status.state = State::Restarting;
            status.failure = Some(failure);
            status.plan = Some(plan);
        });
        None
    }

    /// Waits; true when an order to stop came in the meantime.
    async fn paused_until_asked_to_stop(&mut self, pause: Duration) -> bool {
        let pause = sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                // First what was ordered while the dead were swept up.
                biased;
                order = self.orders.recv() => if order != Some(Order::Start) { return true },
                () = &mut pause => return false,
            }
        }
    }

    pub(super) fn log_line(&mut self, line: &str) {
        self.log.line(line);
        tracing::debug!(target: "vllm", "{line}");
    }

    pub(super) fn change(&self, edit: impl FnOnce(&mut Status)) {
        self.status.send_modify(edit);
    }
}
