//! One generation, from the start of its program to the last sweep.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{interval_at, sleep, sleep_until, timeout};

use super::client::Client;
use super::command::{self, Command};
use super::failure::{self, Ending, Evidence, Failure, Kind, When};
use super::generation::Generation;
use super::heartbeat::{self, Wedged};
use super::lifecycle::{Order, Supervisor};
use super::measure::keep_measuring;
use super::output;
use super::sleeping::{self, Limits, Refused, Rest, Way};
use super::startup::{Phase, Startup};
use super::status::State;
use super::surroundings::RecentKills;
use crate::init::{Exit, Session, Spec};

/// Engines are killed before vllama when memory runs out.
const OUT_OF_MEMORY_SCORE: u16 = 500;
/// How often a starting engine is asked whether it is ready.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// How long vLLM takes to leave when its core has died, at most.
const DEATH_LIMIT: Duration = Duration::from_secs(1);

/// How a generation ended.
pub(super) enum End {
    Asked,
    Died(Failure),
}

/// A generation's processes, as the supervisor holds them.
pub(super) struct Leader {
    pub(super) session: Session,
    pub(super) exit: oneshot::Receiver<Exit>,
    pub(super) lines: mpsc::Receiver<String>,
}

/// Why the supervisor stopped watching a generation.
enum Outcome {
    /// Nobody asked for that.
    Died(Ending),
    Ordered(Order),
    Hung,
    /// It does nothing though it has requests.
    Wedged(Wedged),
    /// It did not fall asleep or wake, for this reason.
    Refused(String),
}

/// What happens to a generation that is watched.
enum Event {
    Over(Outcome),
    /// It is wanted awake or asleep.
    Wish,
    Line(String),
}

impl Supervisor {
    /// One start, from the directory to the last sweep; also tells how long it was ready, if it was.
    pub(super) async fn run_generation(&mut self) -> (End, Option<Duration>) {
        let number = self.status.borrow().generation + 1;
        self.log.begin();
        let died = |kind, message: String, permanent| (End::Died(Failure { kind, message, permanent }), None);
        let mut generation = match Generation::create(&self.settings.directory, number) {
            Ok(generation) => generation,
            Err(error) => {
                let message = format!("cannot make the engine's run directory: {error}");
                return died(Kind::RunDirectory, message, is_lasting(&error));
            }
        };
        self.change(|status| {
            status.state = State::Starting;
            status.generation = number;
            status.startup = Some(Startup::new(Instant::now()));
        });
        if self.wait_for_room().await.is_err() {
            self.swept(generation);
            self.change(|status| status.startup = None);
            return (End::Asked, None);
        }
        self.kills = RecentKills::from(self.surroundings.memory_kills());
        let command = command::command(&self.plan, &self.installation, generation.directory());
        let mut leader = match self.spawn(command) {
            Ok(leader) => leader,
            Err(error) => {
                self.swept(generation);
                self.change(|status| status.startup = None);
                let program = self.installation.program.display();
                let text =
                    format!("cannot start {program}: {error}; is vLLM installed? set VLLAMA_ENGINE to its program");
                return died(Kind::NotInstalled, text, is_lasting(&error));
            }
        };
        tracing::debug!(
            model = self.plan.served_name,
            generation = number,
            pid = leader.session.pid(),
            "starting the engine"
        );
        self.change(|status| status.session = Some(leader.session.clone()));

        let client = Client::new(&command::socket(generation.directory()));
        let (outcome, ready_at) = match self.watch_start(&mut leader, &mut generation, &client).await {
            Ok(ready_at) => (self.watch_life(&mut leader, &client).await, Some(ready_at)),
            Err(outcome) => (outcome, None),
        };
        let ready_for = ready_at.map(|instant: Instant| instant.elapsed());
        self.change(|status| {
            status.state = State::Stopping;
            status.client = None;
        });
        // An engine that starts has nothing to drain, and vLLM loses a SIGTERM that comes while it loads.
        if let Outcome::Ordered(order) = &outcome
            && ready_at.is_some()
        {
            self.stop_leader(&mut leader, &mut generation, *order).await;
        }
        // Before what it holds there is removed.
        let shared_memory_full = self.surroundings.shared_memory_is_full();
        self.end_stragglers(&leader.session, &mut generation).await;
        let end = match outcome {
            Outcome::Ordered(_) => End::Asked,
            Outcome::Died(ending) => {
                self.drain_lines(&mut leader).await;
                let evidence = Evidence {
                    ending,
                    when: self.came_to(ready_at.is_some()),
                    memory_kills: self.kills.until(self.surroundings.memory_kills()),
                    gpu_lost: self.has_lost_a_gpu(),
                    shared_memory_full,
                };
                End::Died(failure::classify(self.log.lines(), evidence))
            }
            Outcome::Hung => {
                let phase = self.status.borrow().startup.as_ref().map_or("", |startup| startup.phase().label());
                let limit = self.settings.start_limit.as_secs();
                let message = format!(
                    "the engine did not get on for {limit} s while {phase}; see vllm.log, or allow more with --start-timeout"
                );
                End::Died(Failure::known(Kind::StartHung, message))
            }
            Outcome::Wedged(Wedged { silence, requests }) => {
                let what = if requests == 1 { "a request was" } else { &format!("{requests} requests were") };
                let seconds = silence.as_secs();
                self.change(|status| status.wedges += 1);
                let message = format!(
                    "the engine hung: no step and no token for {seconds} s while {what} running; see vllm.log, or allow \
                     more with --heartbeat"
                );
                End::Died(Failure::known(Kind::Wedged, message))
            }
            Outcome::Refused(message) => End::Died(Failure::known(Kind::SleepFailed, message)),
        };
        self.swept(generation);
        self.change(|status| {
            status.startup = None;
            status.session = None;
            status.measured_bytes = None;
        });
        (end, ready_for)
    }

    /// How far the generation that has just ended had come.
    fn came_to(&self, was_ready: bool) -> When {
        let phase = self.status.borrow().startup.as_ref().map(Startup::phase);
        match phase {
            _ if was_ready => When::Serving,
            Some(phase) if phase >= Phase::Compiling => When::WarmingUp,
            _ => When::Loading,
        }
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

    /// Watches a start until the engine answers; tells when that was, or why it never will.
    async fn watch_start(
        &mut self,
        leader: &mut Leader,
        generation: &mut Generation,
        client: &Client,
    ) -> Result<Instant, Outcome> {
        let begun = Instant::now();
        let probe = until_ready(client.clone());
        tokio::pin!(probe);
        let mut startup = Startup::new(begun);
        let mut give_up_at = begun + self.settings.start_limit;
        loop {
            tokio::select! {
                event = self.event(leader) => match event {
                    Event::Over(outcome) => return Err(outcome),
                    Event::Wish => {}
                    Event::Line(line) => {
                        let now = Instant::now();
                        self.log_line(&line);
                        if !Startup::only_waits(&line) {
                            give_up_at = now + self.settings.start_limit;
                        }
                        if startup.line(&line, now) {
                            generation.note_segments(&leader.session.members());
                            self.change(|status| status.startup = Some(startup.clone()));
                        }
                    }
                },
                max_model_len = &mut probe => {
                    generation.note_segments(&leader.session.members());
                    let took = begun.elapsed();
                    self.change(|status| {
                        status.start_phases = startup.phases(begun + took);
                        status.startup = None;
                        status.max_model_len = max_model_len;
                        status.start_took = Some(took);
                        status.peak_memory_bytes = None;
                    });
                    tracing::debug!(model = self.plan.served_name, seconds = took.as_secs_f32(), "the engine is ready");
                    return Ok(Instant::now());
                },
                () = sleep_until(give_up_at.into()) => return Err(Outcome::Hung),
            }
        }
    }

    /// Watches an engine that is up, awake or asleep as it is wanted, until its end.
    async fn watch_life(&mut self, leader: &mut Leader, client: &Client) -> Outcome {
        let limits = Limits { call: self.settings.sleep_limit, reload: self.settings.start_limit };
        let measuring = keep_measuring(leader.session.clone(), self.status.clone());
        tokio::pin!(measuring);
        let mut at = Rest::Awake;
        loop {
            let way = sleeping::next(at, self.wanted);
            self.show(at, way, client);
            let journey = async {
                match way {
                    Some(way) => sleeping::go(client.clone(), way, limits).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(journey);
            // On its way and asleep it has no requests but those that send it there, which have limits of their own.
            let limit = if at == Rest::Awake && way.is_none() { self.settings.heartbeat } else { Duration::ZERO };
            let heartbeat = heartbeat::watch(client.clone(), limit);
            tokio::pin!(heartbeat);
            let mut count_kills = interval_at((Instant::now() + RecentKills::EVERY).into(), RecentKills::EVERY);
            at = loop {
                tokio::select! {
                    event = self.event(leader) => match event {
                        Event::Over(outcome) => return outcome,
                        Event::Wish if way.is_none() && sleeping::next(at, self.wanted).is_some() => break at,
                        // A journey is made to its end: vLLM cannot turn back either.
                        Event::Wish => {}
                        Event::Line(line) => {
                            self.log_line(&line);
                            // Its front would take seconds to leave, and refuse every request meanwhile.
                            if failure::is_core_dead(&line) && is_hollow(client).await {
                                return Outcome::Died(Ending::Hollow);
                            }
                        }
                    },
                    arrived = &mut journey => match arrived {
                        Ok(rest) => break rest,
                        Err(refused) => {
                            // A death shows in the engine's answers first.
                            if !matches!(refused, Refused::Late { .. })
                                && let Ok(exit) = timeout(DEATH_LIMIT, &mut leader.exit).await
                            {
                                return Outcome::Died(ending(exit));
                            }
                            let what = if matches!(way, Some(Way::Wake(_))) { "wake up" } else { "fall asleep" };
                            return Outcome::Refused(format!("the engine did not {what}: {refused}; see vllm.log"));
                        }
                    },
                    _ = count_kills.tick() => self.kills.count(self.surroundings.memory_kills()),
                    wedged = &mut heartbeat => return Outcome::Wedged(wedged),
                    never = &mut measuring => match never {},
                }
            };
        }
    }

    /// Tells where the engine is, or which way it goes.
    fn show(&self, at: Rest, way: Option<Way>, client: &Client) {
        let state = match (at, way) {
            (_, Some(Way::FallAsleep(_))) => State::FallingAsleep,
            (_, Some(Way::Wake(_))) => State::Waking,
            (Rest::Asleep(level), None) => State::Asleep { level },
            (Rest::Awake, None) => State::Ready,
        };
        tracing::debug!(model = self.plan.served_name, state = state.word(), "the engine has another state");
        self.change(|status| {
            status.state = state;
            status.client = (state == State::Ready).then(|| client.clone());
            if state == State::Ready {
                status.failures_in_a_row = 0;
                status.failure = None;
            }
        });
    }

    /// What happens next to a generation. Nothing is lost when the future is dropped.
    async fn event(&mut self, leader: &mut Leader) -> Event {
        tokio::select! {
            exit = &mut leader.exit => Event::Over(Outcome::Died(ending(exit))),
            order = self.orders.recv() => match order {
                Some(Order::Start) => {
                    self.wanted = Rest::Awake;
                    Event::Wish
                }
                Some(Order::Sleep(level)) => {
                    self.wanted = Rest::Asleep(level);
                    Event::Wish
                }
                Some(order) => Event::Over(Outcome::Ordered(order)),
                None => Event::Over(Outcome::Ordered(Order::Stop)),
            },
            Some(line) = leader.lines.recv() => Event::Line(line),
        }
    }

    fn swept(&self, generation: Generation) {
        if let Err(error) = generation.sweep() {
            tracing::warn!(model = self.plan.served_name, %error, "cannot remove the engine's run directory");
        }
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

/// Whether the engine's front says that there is nothing behind it.
async fn is_hollow(client: &Client) -> bool {
    let health = timeout(DEATH_LIMIT, client.get("/health")).await;
    // One that has hung up is about to end by itself.
    matches!(health, Ok(Ok((status, _))) if status.is_server_error())
}

/// Whether the same attempt will fail the same way.
fn is_lasting(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidInput, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | InvalidInput)
}

/// How a leader ended. An error means that the reaper is gone, which ends the program anyway.
fn ending(exit: Result<Exit, oneshot::error::RecvError>) -> Ending {
    match exit.unwrap_or(Exit::Code(0)) {
        Exit::Code(code) => Ending::Code(code),
        Exit::Signal(signal) => Ending::Signal(signal),
    }
}
