//! The life of one engine: `Stopped → Starting → Ready → Stopping → Stopped`, and `Restarting` or `Failed` when it dies.
//!
//! One task owns all of it. Others send it orders and watch its [`Status`].
//!
//! ```text
//!            start                 answers on its socket              stop
//!  Stopped ─────────> Starting ───────────────────────────> Ready ─────────> Stopping ──> Stopped
//!                      ↑    │ exit nobody asked for           │
//!               back-off    └───────────> Restarting <────────┘
//!                      └──────────────────────┘ └── cannot help ──> Failed
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use super::client::Client;
use super::command::{self, Command, Installation};
use super::failure::{self, Ending, Failure};
use super::generation::Generation;
use super::log::Log;
use super::output;
use super::startup::Startup;
use super::status::{State, Status};
use crate::init::{Exit, Session, Spawner, Spec};
use crate::model::plan::Plan;

/// Longest wait between two starts.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// An engine that was ready this long starts with a clean slate.
const HEALTHY: Duration = Duration::from_secs(600);
/// Engines are killed before vllama when memory runs out.
const OUT_OF_MEMORY_SCORE: u16 = 500;
/// How often a starting engine is asked whether it is ready.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// How long Python's resource tracker may take to remove what it knows of, once it is alone.
const TRACKER_LIMIT: Duration = Duration::from_secs(2);
/// How long killed processes may take to go; one in the kernel's hands (state D) takes longest.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// Where an engine lives and how patient vllama is with it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory for the generations' directories.
    pub directory: PathBuf,
    /// File for the engine's log.
    pub log: PathBuf,
    /// A start without any output for this long is given up.
    pub start_limit: Duration,
    /// Time from SIGTERM to SIGKILL.
    pub stop_limit: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Start,
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
    pub fn new(plan: Plan, installation: Installation, spawner: Spawner, settings: Settings) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        let (sender, status) = watch::channel(Status::default());
        let log = Log::open(&settings.log);
        let supervisor = Supervisor { plan, installation, spawner, settings, orders: receiver, status: sender, log };
        tokio::spawn(supervisor.run());
        Self { orders, status }
    }

    /// Wants the engine up. Does nothing while it is.
    pub fn start(&self) {
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

/// How a generation ended.
enum End {
    Asked,
    Died(Failure),
}

/// A generation's processes, as the supervisor holds them.
struct Leader {
    session: Session,
    exit: oneshot::Receiver<Exit>,
    lines: mpsc::Receiver<String>,
}

/// Why the supervisor stopped watching a generation.
enum Outcome {
    Exited(Exit),
    Ordered(Order),
    Hung,
}

struct Supervisor {
    plan: Plan,
    installation: Installation,
    spawner: Spawner,
    settings: Settings,
    orders: mpsc::UnboundedReceiver<Order>,
    status: watch::Sender<Status>,
    log: Log,
}

impl Supervisor {
    async fn run(mut self) {
        while let Some(order) = self.orders.recv().await {
            if order == Order::Start {
                self.keep_running().await;
            }
        }
    }

    /// Starts generation after generation until somebody asks to stop or starting cannot help.
    async fn keep_running(&mut self) {
        let mut delay = Duration::ZERO;
        loop {
            let ready_for = match self.run_generation().await {
                (End::Asked, _) => {
                    return self.change(|status| {
                        status.state = State::Stopped;
                        status.failures_in_a_row = 0;
                        status.failure = None;
                    });
                }
                (End::Died(failure), _) if failure.permanent => {
                    tracing::error!(model = self.plan.served_name, "{}; not starting it again", failure.message);
                    return self.change(|status| {
                        status.state = State::Failed;
                        status.failures_in_a_row += 1;
                        status.failure = Some(failure);
                    });
                }
                (End::Died(failure), ready_for) => {
                    if ready_for.is_some_and(|duration| duration >= HEALTHY) {
                        delay = Duration::ZERO;
                    }
                    tracing::warn!(
                        model = self.plan.served_name,
                        "{}; starting it again in {} s",
                        failure.message,
                        delay.as_secs()
                    );
                    self.change(|status| {
                        status.state = State::Restarting;
                        status.failures_in_a_row += 1;
                        status.failure = Some(failure);
                    });
                    ready_for
                }
            };
            if self.paused_until_asked_to_stop(delay).await {
                return self.change(|status| status.state = State::Stopped);
            }
            self.change(|status| status.restarts += 1);
            // What has just served is started again at once; what dies at every start is tried ever more slowly.
            let first = ready_for.is_some() && delay.is_zero();
            delay =
                if first { Duration::from_secs(1) } else { (delay * 2).clamp(Duration::from_secs(1), LONGEST_DELAY) };
        }
    }

    /// Waits; true when an order to stop came in the meantime.
    async fn paused_until_asked_to_stop(&mut self, delay: Duration) -> bool {
        let pause = sleep(delay);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return false,
                order = self.orders.recv() => if order != Some(Order::Start) { return true },
            }
        }
    }

    /// One start, from the directory to the last sweep; also tells how long it was ready, if it was.
    async fn run_generation(&mut self) -> (End, Option<Duration>) {
        let number = self.status.borrow().generation + 1;
        self.log.begin();
        let died = |message: String, permanent| (End::Died(Failure { message, permanent }), None);
        let mut generation = match Generation::create(&self.settings.directory, number) {
            Ok(generation) => generation,
            Err(error) => {
                return died(format!("cannot make the engine's run directory: {error}"), is_lasting(&error));
            }
        };
        let command = command::command(&self.plan, &self.installation, generation.directory());
        let mut leader = match self.spawn(command) {
            Ok(leader) => leader,
            Err(error) => {
                self.swept(generation);
                let program = self.installation.program.display();
                let text =
                    format!("cannot start {program}: {error}; is vLLM installed? set VLLAMA_ENGINE to its program");
                return died(text, is_lasting(&error));
            }
        };
        tracing::debug!(
            model = self.plan.served_name,
            generation = number,
            pid = leader.session.pid(),
            "starting the engine"
        );
        self.change(|status| {
            status.state = State::Starting;
            status.generation = number;
            status.startup = Some(Startup::new(Instant::now()));
            status.session = Some(leader.session.clone());
        });

        let (outcome, ready_at) = self.watch(&mut leader, &mut generation).await;
        let ready_for = ready_at.map(|instant: Instant| instant.elapsed());
        self.change(|status| {
            status.state = State::Stopping;
            status.client = None;
        });
        let end = match outcome {
            Outcome::Ordered(order) => {
                // An engine that starts has nothing to drain, and vLLM loses a SIGTERM that comes while it loads.
                if ready_at.is_some() {
                    self.stop_leader(&mut leader, &mut generation, order).await;
                }
                End::Asked
            }
            Outcome::Exited(exit) => {
                self.end_stragglers(&leader.session, &mut generation).await;
                self.drain_lines(&mut leader).await;
                End::Died(failure::classify(self.log.lines(), ending(exit), ready_at.is_some()))
            }
            Outcome::Hung => {
                let phase = self.status.borrow().startup.as_ref().map_or("", |startup| startup.phase().label());
                let limit = self.settings.start_limit.as_secs();
                let message = format!(
                    "the engine said nothing for {limit} s while {phase}; see vllm.log, or allow more with --start-timeout"
                );
                End::Died(Failure { message, permanent: false })
            }
        };
        self.end_stragglers(&leader.session, &mut generation).await;
        self.swept(generation);
        self.change(|status| {
            status.startup = None;
            status.session = None;
        });
        (end, ready_for)
    }

    fn spawn(&self, command: Command) -> std::io::Result<Leader> {
        let (on_exit, exit) = oneshot::channel();
        let spec = Spec {
            program: command.program,
            arguments: command.arguments.into_iter().map(Into::into).collect(),
            environment: command.environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            directory: "/".into(),
            out_of_memory_score: OUT_OF_MEMORY_SCORE,
        };
        // The receiver is gone only when the runtime is, and then nobody asks any more.
        let child = self.spawner.spawn(&spec, Box::new(move |status| _ = on_exit.send(status)))?;
        let session = child.handle();
        let (sender, lines) = mpsc::channel(256);
        for pipe in [child.stdout, child.stderr].into_iter().flatten() {
            output::read_lines(pipe, sender.clone())?;
        }
        Ok(Leader { session, exit, lines })
    }

    /// Watches a generation until it exits, somebody orders something, or its start hangs.
    async fn watch(&mut self, leader: &mut Leader, generation: &mut Generation) -> (Outcome, Option<Instant>) {
        let begun = Instant::now();
        let client = Client::new(&command::socket(generation.directory()));
        let probe = until_ready(client.clone());
        tokio::pin!(probe);
        let mut startup = Startup::new(begun);
        let mut ready_at = None;
        let mut give_up_at = begun + self.settings.start_limit;
        loop {
            tokio::select! {
                exit = &mut leader.exit => {
                    // An error means that the reaper is gone, which ends the program anyway.
                    return (Outcome::Exited(exit.unwrap_or(Exit::Code(0))), ready_at);
                }
                order = self.orders.recv() => match order {
                    Some(Order::Start) => {}
                    Some(order) => return (Outcome::Ordered(order), ready_at),
                    None => return (Outcome::Ordered(Order::Stop), ready_at),
                },
                Some(line) = leader.lines.recv() => {
                    let now = Instant::now();
                    self.log_line(&line);
                    give_up_at = now + self.settings.start_limit;
                    if ready_at.is_none() && startup.line(&line, now) {
                        generation.note_segments(&leader.session.members());
                        self.change(|status| status.startup = Some(startup.clone()));
                    }
                },
                max_model_len = &mut probe, if ready_at.is_none() => {
                    ready_at = Some(Instant::now());
                    generation.note_segments(&leader.session.members());
                    let took = begun.elapsed();
                    self.change(|status| {
                        status.state = State::Ready;
                        status.startup = None;
                        status.failures_in_a_row = 0;
                        status.failure = None;
                        status.client = Some(client.clone());
                        status.max_model_len = max_model_len;
                        status.start_took = Some(took);
                    });
                    tracing::debug!(model = self.plan.served_name, seconds = took.as_secs_f32(), "the engine is ready");
                },
                () = sleep_until(give_up_at.into()), if ready_at.is_none() => return (Outcome::Hung, None),
            }
        }
    }

    /// SIGTERM to the leader alone (its workers would break off what it still does), then patience.
    async fn stop_leader(&mut self, leader: &mut Leader, generation: &mut Generation, order: Order) {
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
    async fn end_stragglers(&mut self, session: &Session, generation: &mut Generation) {
        let members = session.members();
        if members.is_empty() {
            return;
        }
        generation.note_segments(&members);
        session.kill_except(is_resource_tracker);
        if !gone_within(session, TRACKER_LIMIT).await {
            session.kill_all();
            if !gone_within(session, KILL_LIMIT).await {
                tracing::error!(
                    model = self.plan.served_name,
                    pids = ?session.members(),
                    "processes of the engine survive SIGKILL; they hold its memory until the kernel lets go of them"
                );
            }
        }
    }

    async fn drain_lines(&mut self, leader: &mut Leader) {
        let rest = async {
            while let Some(line) = leader.lines.recv().await {
                self.log_line(&line);
            }
        };
        // All writers are dead, so the pipes end at once.
        let _ = timeout(Duration::from_secs(1), rest).await;
    }

    fn swept(&self, generation: Generation) {
        if let Err(error) = generation.sweep() {
            tracing::warn!(model = self.plan.served_name, %error, "cannot remove the engine's run directory");
        }
    }

    fn log_line(&mut self, line: &str) {
        self.log.line(line);
        tracing::debug!(target: "vllm", "{line}");
    }

    fn change(&self, edit: impl FnOnce(&mut Status)) {
        self.status.send_modify(edit);
    }
}

/// Asks until the engine answers; gives the longest sequence it takes, in tokens.
async fn until_ready(client: Client) -> Option<u64> {
    loop {
        sleep(PROBE_EVERY).await;
        if !client.get("/health").await.is_ok_and(|(status, _)| status.is_success()) {
            continue;
        }
        if let Ok((status, body)) = client.get("/v1/models").await
            && status.is_success()
        {
            let models: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            return models["data"][0]["max_model_len"].as_u64();
        }
    }
}

/// Polls /proc: a process that left its session or was re-parented sends nobody a signal.
async fn gone_within(session: &Session, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while !session.members().is_empty() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
}

fn is_resource_tracker(command_line: &str) -> bool {
    command_line.contains("multiprocessing.resource_tracker")
}

/// Whether the same attempt will fail the same way.
fn is_lasting(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidInput, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | InvalidInput)
}

fn ending(exit: Exit) -> Ending {
    match exit {
        Exit::Code(code) => Ending::Code(code),
        Exit::Signal(signal) => Ending::Signal(signal),
    }
}
