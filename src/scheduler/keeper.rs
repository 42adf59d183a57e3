//! The task that owns the scheduler's state: turns commands and changes of engines into events for the
//! [core](super::core), and carries out what it says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout_at;

use super::book::{Book, Member};
use super::core::{Action, Core, EngineId, Event, Refusal, Report, Rules, Stage, Ticket};
use super::factory::{Factory, needs};
use super::figures::{self, Figures};
use super::lease::Lease;
use super::retire::Retired;
use super::{KeepAlive, LeaseError};
use crate::engine::{Engine, State, Status};
use crate::model::Installed;
use crate::model::plan::{Device, Plan};

/// After so many failed starts in a row requests are told why instead of waiting on; the starts go on.
const PATIENCE: u32 = 3;
/// How often the GPUs are looked for while nothing is known of them.
const LOOK_FOR_DEVICES: Duration = Duration::from_secs(1);

/// What others ask of the task.
#[derive(Debug)]
pub(super) enum Command {
    Load(Arc<Installed>),
    Lease {
        model: Arc<Installed>,
        keep_alive: Option<KeepAlive>,
        ticket: Ticket,
        reply: oneshot::Sender<Result<Lease, LeaseError>>,
    },
    /// Somebody has stopped waiting for a lease.
    GivenUp(Ticket),
    Released(EngineId),
    Unload(Arc<Installed>),
    Retire {
        model: Arc<Installed>,
        reply: oneshot::Sender<Retired>,
    },
    /// What a model was retired for has been done.
    Restored(EngineId),
    /// The status of an engine has changed.
    Changed(EngineId),
    Close,
    Stop {
        at_once: bool,
        reply: oneshot::Sender<()>,
    },
}

/// An engine that the core knows by its number.
struct Held {
    /// The model under the name it was last asked by.
    model: Arc<Installed>,
    key: String,
    plan: Plan,
    served_name: Arc<str>,
    /// Made at its first start.
    engine: Option<(Engine, watch::Receiver<Status>)>,
    book: watch::Sender<Book>,
    /// The name its figures are remembered by.
    figures: String,
    /// Memory that others held on its GPUs when it was started, in bytes.
    used_before: Option<u64>,
    /// The last report that the core has had.
    reported: Option<Report>,
    /// The generation whose start has been timed.
    timed: u64,
    retiring: Vec<oneshot::Sender<Retired>>,
    /// [`Retired`] that somebody holds.
    guards: usize,
}

pub(super) struct Keeper {
    core: Core,
    factory: Factory,
    figures: Figures,
    commands: mpsc::WeakUnboundedSender<Command>,
    held: HashMap<EngineId, Held>,
    by_key: HashMap<String, EngineId>,
    next: EngineId,
    waiting: HashMap<Ticket, (EngineId, oneshot::Sender<Result<Lease, LeaseError>>)>,
    stopping: Vec<oneshot::Sender<()>>,
    members: watch::Sender<Arc<[Member]>>,
    /// Counts the changes of all engines.
    changes: watch::Sender<u64>,
    devices_known: bool,
}

impl Keeper {
    pub(super) fn new(
        factory: Factory,
        rules: Rules,
        figures: Figures,
        commands: mpsc::WeakUnboundedSender<Command>,
        members: watch::Sender<Arc<[Member]>>,
        changes: watch::Sender<u64>,
    ) -> Self {
        let devices_known = factory.devices.are_known();
        Self {
            core: Core::new(rules, factory.devices.budgets()),
            factory,
            figures,
            commands,
            held: HashMap::new(),
            by_key: HashMap::new(),
            next: 0,
            waiting: HashMap::new(),
            stopping: Vec::new(),
            members,
            changes,
            devices_known,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let look = self.core.look_at();
            let devices = (!self.devices_known).then(|| Instant::now() + LOOK_FOR_DEVICES);
            let soonest = [look, devices].into_iter().flatten().min();
            let command = match soonest {
                Some(at) => timeout_at(at.into(), commands.recv()).await,
                None => Ok(commands.recv().await),
            };
            match command {
                Ok(Some(command)) => self.obey(command),
                Ok(None) => return,
                Err(_) => {
                    self.look_for_devices();
                    self.tell(Event::Time);
                }
            }
            self.publish();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Load(model) => {
                let engine = self.engine_of(&model);
                self.tell(Event::Load(engine));
            }
            Command::Lease { model, keep_alive, ticket, reply } => {
                let engine = self.engine_of(&model);
                self.waiting.insert(ticket, (engine, reply));
                self.tell(Event::Request { ticket, engine, keep_alive });
            }
            Command::GivenUp(ticket) => {
                if let Some((engine, _)) = self.waiting.remove(&ticket) {
                    self.tell(Event::GivenUp { ticket, engine });
                }
            }
            Command::Released(engine) => self.tell(Event::Released(engine)),
            Command::Unload(model) => {
                if let Some(engine) = self.by_key.get(&model.engine_key()) {
                    self.tell(Event::Unload(*engine));
                }
            }
            Command::Retire { model, reply } => self.retire(&model, reply),
            Command::Restored(engine) => self.restore(engine),
            Command::Changed(engine) => self.engine_changed(engine),
            Command::Close => self.tell(Event::Close),
            Command::Stop { at_once, reply } => {
                self.stopping.push(reply);
                self.tell(Event::Stop { at_once });
            }
        }
        if !self.stopping.is_empty() && self.core.is_down() {
            for reply in std::mem::take(&mut self.stopping) {
                // Who asked may have lost patience.
                let _ = reply.send(());
            }
        }
    }

    /// The engine that serves a model, made known when it is not yet. It goes by the name that was asked for last.
    fn engine_of(&mut self, model: &Arc<Installed>) -> EngineId {
        let key = model.engine_key();
        if let Some(engine) = self.by_key.get(&key).copied() {
            if let Some(held) = self.held.get_mut(&engine)
                && !Arc::ptr_eq(&held.model, model)
            {
                held.model = model.clone();
                self.publish_members();
            }
            return engine;
        }
        let engine = self.next;
        self.next += 1;
        let plan = (self.factory.plan)(model);
        let figures = figures::key(&key, &self.factory.hardware, &plan);
        let held = Held {
            model: model.clone(),
            key: key.clone(),
            served_name: plan.served_name.as_str().into(),
            engine: None,
            book: watch::Sender::new(Book::default()),
            used_before: None,
            reported: None,
            timed: 0,
            retiring: Vec::new(),
            guards: 0,
            figures,
            plan,
        };
        self.core.add(engine, needs(&held.plan, self.figures.get(&held.figures)), Instant::now());
        self.held.insert(engine, held);
        self.by_key.insert(key, engine);
        self.publish_members();
        engine
    }

    fn retire(&mut self, model: &Arc<Installed>, reply: oneshot::Sender<Retired>) {
        let engine = self.engine_of(model);
        if let Some(held) = self.held.get_mut(&engine) {
            held.retiring.push(reply);
        }
        if self.core.seat(engine).is_some_and(super::core::Seat::is_retired) {
            self.retired(engine);
        } else {
            self.tell(Event::Retire(engine));
        }
    }

    /// Tells those who wait for it that nothing of the engine is left.
    fn retired(&mut self, engine: EngineId) {
        let Some(held) = self.held.get_mut(&engine) else { return };
        for reply in std::mem::take(&mut held.retiring) {
            held.guards += 1;
            // Comes back as `Restored` when nobody is there to take it.
            let _ = reply.send(Retired::new(engine, self.commands.clone()));
        }
    }

    fn restore(&mut self, engine: EngineId) {
        let Some(held) = self.held.get_mut(&engine) else { return };
        held.guards = held.guards.saturating_sub(1);
        if held.guards > 0 || !held.retiring.is_empty() {
            return;
        }
        let key = held.key.clone();
        self.tell(Event::Restored(engine));
        if self.core.remove(engine) {
            self.held.remove(&engine);
            self.by_key.remove(&key);
            self.publish_members();
        }
    }

    fn look_for_devices(&mut self) {
        if !self.devices_known && self.factory.devices.are_known() {
            self.devices_known = true;
            self.tell(Event::Devices(self.factory.devices.budgets()));
        }
    }

    /// Tells the core what an engine does now, and notes what it needs.
    fn engine_changed(&mut self, engine: EngineId) {
        self.changes.send_modify(|count| *count += 1);
        let Some(held) = self.held.get_mut(&engine) else { return };
        let Some((_, status)) = &mut held.engine else { return };
        let (report, measured) = {
            let status = status.borrow_and_update();
            let ready = (status.state == State::Ready).then(|| (status.generation, status.start_took));
            (report(&status), ready.map(|ready| (ready, status.peak_memory_bytes)))
        };
        if let Some(((generation, took), peak)) = measured {
            let took = (held.timed != generation).then_some(took).flatten();
            let bytes = match held.plan.device {
                Device::Cpu => peak,
                // Starts on a GPU are one at a time: what came on top meanwhile is this engine's.
                Device::Cuda => took.and_then(|_| {
                    let place = &self.core.seat(engine)?.place;
                    let used = self.factory.devices.used(place)?.checked_sub(held.used_before?)?;
                    Some(used / place.len().max(1) as u64)
                }),
            };
            held.timed = generation;
            if self.figures.note(&held.figures, bytes, took) {
                let needs = needs(&held.plan, self.figures.get(&held.figures));
                self.tell(Event::Needs { engine, needs });
            }
        }
        let Some(held) = self.held.get_mut(&engine) else { return };
        if let Some(report) = report
            && held.reported.as_ref() != Some(&report)
        {
            held.reported = Some(report.clone());
            self.tell(Event::Report { engine, report });
        }
    }

    fn tell(&mut self, event: Event) {
        for action in self.core.handle(event, Instant::now()) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Grant(ticket, engine) => self.grant(ticket, engine),
            Action::Refuse(ticket, refusal) => {
                if let Some((engine, reply)) = self.waiting.remove(&ticket) {
                    let device = self.held.get(&engine).map_or(Device::Cpu, |held| held.plan.device);
                    // The client may be gone already.
                    let _ = reply.send(Err(error(refusal, device)));
                }
            }
            Action::Start(engine, place) => self.start(engine, &place),
            Action::Stop(engine) => {
                if let Some((model, handle)) = self.handle(engine) {
                    tracing::info!(%model, "unloading the model");
                    handle.stop();
                }
            }
            Action::Kill(engine) => {
                if let Some((_, handle)) = self.handle(engine) {
                    handle.kill();
                }
            }
            Action::Sleep(engine, level) => {
                if let Some((model, handle)) = self.handle(engine) {
                    tracing::info!(%model, level, "the model sleeps to make room");
                    handle.sleep(level);
                }
            }
            Action::Wake(engine) => {
                if let Some((model, handle)) = self.handle(engine) {
                    tracing::info!(%model, "waking the model");
                    handle.wake();
                }
            }
            Action::Retired(engine) => self.retired(engine),
        }
    }

    /// The engine, to be given an order. What it says from now on is news, even if it is what it said before.
    fn handle(&mut self, engine: EngineId) -> Option<(Arc<str>, &Engine)> {
        let held = self.held.get_mut(&engine)?;
        held.reported = None;
        held.engine.as_ref().map(|(handle, _)| (held.served_name.clone(), handle))
    }

    /// Starts an engine. It is made anew when its plan is another one than at its last start.
    fn start(&mut self, engine: EngineId, place: &[usize]) {
        let Some(held) = self.held.get_mut(&engine) else { return };
        // What the engine is called must not depend on the alias that was used last, or it would be another engine.
        let mut plan = Plan { served_name: held.plan.served_name.clone(), ..(self.factory.plan)(&held.model) };
        if plan.device == Device::Cuda && !place.is_empty() {
            plan = plan.on_gpus(place);
        }
        if held.engine.is_none() || plan != held.plan {
            let handle = (self.factory.engine)(&held.model, plan.clone());
            let status = handle.status();
            tokio::spawn(tell_changes(engine, status.clone(), self.commands.clone()));
            held.engine = Some((handle, status));
            held.plan = plan;
            held.timed = 0;
            self.core.renew(engine);
        }
        held.reported = None;
        held.used_before = self.factory.devices.used(place);
        if let Some((handle, _)) = &held.engine {
            tracing::debug!(model = %held.served_name, ?place, "loading the model");
            handle.start();
        }
        self.publish_members();
    }

    fn grant(&mut self, ticket: Ticket, engine: EngineId) {
        let reply = self.waiting.remove(&ticket).map(|(_, reply)| reply);
        let granted = self.held.get(&engine).and_then(|held| Some((held, held.engine.as_ref()?)));
        let (Some(reply), Some((held, (_, status)))) = (reply, granted) else {
            // Nobody is there to drop the lease.
            return self.tell(Event::Released(engine));
        };
        let lease = Lease {
            id: engine,
            max_model_len: status.borrow().max_model_len.unwrap_or_default(),
            engine: status.clone(),
            served_name: held.served_name.clone(),
            commands: self.commands.clone(),
        };
        // A client that is gone drops the lease, which then comes back as released.
        let _ = reply.send(Ok(lease));
    }

    fn publish_members(&self) {
        let mut members: Vec<_> = self.held.iter().collect();
        members.sort_by_key(|(engine, _)| **engine);
        let member = |(_, held): (&EngineId, &Held)| Member {
            model: held.model.clone(),
            key: held.key.as_str().into(),
            on_gpu: held.plan.device == Device::Cuda,
            status: held.engine.as_ref().map(|(_, status)| status.clone()),
            book: held.book.subscribe(),
        };
        self.members.send_replace(members.into_iter().map(member).collect());
    }

    fn publish(&self) {
        let now = Instant::now();
        for (engine, held) in &self.held {
            if let Some(seat) = self.core.seat(*engine) {
                held.book.send_replace(Book {
                    leases: seat.leases,
                    waiting: seat.waits(),
                    oldest: seat.oldest(),
                    keep_alive: seat.keep_alive,
                    expires: seat.expires,
                    closed: self.core.is_closed(),
                    estimate: self.core.estimate(*engine, now),
                    device_bytes: seat.held_bytes(),
                    problem: self
                        .core
                        .too_large(&seat.needs)
                        .filter(|_| seat.life.is_down())
                        .map(|refusal| error(refusal, held.plan.device)),
                });
            }
        }
    }
}

/// Says when the status of an engine has changed, as long as there is one and somebody listens.
async fn tell_changes(
    engine: EngineId,
    mut status: watch::Receiver<Status>,
    commands: mpsc::WeakUnboundedSender<Command>,
) {
    while status.changed().await.is_ok() {
        let Some(commands) = commands.upgrade() else { return };
        // The keeper is gone only when the runtime is.
        let _ = commands.send(Command::Changed(engine));
    }
}

/// What the core wants to know of a status; `None` for what passes by itself.
fn report(status: &Status) -> Option<Report> {
    let stage = match status.state {
        State::Stopped => Stage::Down,
        State::Starting => Stage::Starting,
        State::Ready => Stage::Ready,
        State::Restarting => Stage::Restarting,
        State::Failed => Stage::Failed,
        State::Asleep { level } => Stage::Asleep(level),
        State::Stopping | State::FallingAsleep | State::Waking => return None,
    };
    Some(Report { stage, generation: status.generation, failure: hopeless(status) })
}

/// Why waiting for this engine is no use, if it is none.
pub(super) fn hopeless(status: &Status) -> Option<String> {
    let failure = status.failure.as_ref()?;
    match status.state {
        State::Failed => Some(failure.message.clone()),
        State::Starting | State::Restarting if status.failures_in_a_row >= PATIENCE => {
            Some(format!("{}; {} starts have failed, vllama keeps trying", failure.message, status.failures_in_a_row))
        }
        _ => None,
    }
}

/// A refusal in words.
fn error(refusal: Refusal, device: Device) -> LeaseError {
    match refusal {
        Refusal::ShuttingDown => LeaseError::ShuttingDown,
        Refusal::Retiring => LeaseError::Retiring,
        Refusal::Broken(text) => LeaseError::Permanent(text),
        Refusal::QueueFull { retry_after } => LeaseError::QueueFull { retry_after },
        Refusal::TooLarge { needs, devices, budget } => {
            LeaseError::Permanent(too_large(needs, devices, budget, device))
        }
    }
}

/// Begins with Ollama's own sentence for this case; clients show it.
fn too_large(needs: u64, devices: usize, budget: u64, device: Device) -> String {
    let (kind, each) = match (device, devices) {
        (Device::Cpu, _) => ("system memory", String::new()),
        (Device::Cuda, 1) => ("GPU memory", String::new()),
        (Device::Cuda, many) => ("GPU memory", format!(" on each of {many} GPUs")),
    };
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let gibibytes = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    format!(
        "model requires more {kind} ({}{each}) than is available ({}); use a smaller model or one with smaller weights, \
         or give engines more with --memory-budget (VLLAMA_MEMORY_BUDGET)",
        gibibytes(needs),
        gibibytes(budget)
    )
}
