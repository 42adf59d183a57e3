//! The task that owns the scheduler's state: turns commands and changes of engines into events for the
//! [core](super::core), and carries out what it says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout_at;

use super::book::{Book, House, Member};
use super::core::{Action, Core, EngineId, Event, Rules, Seat, Ticket};
use super::factory::Factory;
use super::figures::Figures;
use super::held::Held;
use super::lease::Lease;
use super::refusal::in_words;
use super::remedies::Remedies;
use super::retire::Retired;
use super::snapshot::DeviceSnapshot;
use super::{KeepAlive, LeaseError, Limits};
use crate::engine::Engine;
use crate::model::Installed;
use crate::model::plan::Device;

/// How often the GPUs are looked for while nothing is known of them.
const LOOK_FOR_DEVICES: Duration = Duration::from_secs(1);

/// What others ask of the task.
#[derive(Debug)]
pub(super) enum Command {
    Load {
        model: Arc<Installed>,
        /// Told when the engine is known to everybody.
        known: oneshot::Sender<()>,
    },
    Lease {
        model: Arc<Installed>,
        keep_alive: Option<KeepAlive>,
        patience: Option<Duration>,
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
    SetLimits(Limits),
    Close,
    Stop {
        at_once: bool,
        reply: oneshot::Sender<()>,
    },
}

/// What the task tells everybody.
pub(super) struct Public {
    /// All engines.
    pub members: watch::Sender<Arc<[Member]>>,
    /// What they run on.
    pub house: watch::Sender<House>,
    /// Counts the changes of all engines.
    pub changes: watch::Sender<u64>,
}

/// What is remembered over restarts of vllama.
pub(super) struct Memory {
    /// What engines needed.
    pub figures: Figures,
    /// How their plans had to be changed.
    pub remedies: Remedies,
}

/// A request for a lease that has not been answered.
struct Asked {
    engine: EngineId,
    since: Instant,
    patience: Option<Duration>,
    reply: oneshot::Sender<Result<Lease, LeaseError>>,
}

/// The scheduler's task.
pub(super) struct Keeper {
    core: Core,
    replays: u32,
    factory: Arc<Factory>,
    memory: Memory,
    commands: mpsc::WeakUnboundedSender<Command>,
    held: HashMap<EngineId, Held>,
    by_key: HashMap<String, EngineId>,
    next: EngineId,
    waiting: HashMap<Ticket, Asked>,
    stopping: Vec<oneshot::Sender<()>>,
    public: Public,
    /// What the devices are called.
    devices: Vec<String>,
    /// When to look for the GPUs next; `None` once they are known.
    look_for_devices: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        factory: Arc<Factory>,
        rules: Rules,
        replays: u32,
        memory: Memory,
        commands: mpsc::WeakUnboundedSender<Command>,
        public: Public,
    ) -> Self {
        let look_for_devices = (!factory.devices.are_known()).then(Instant::now);
        Self {
            core: Core::new(rules, factory.devices.budgets()),
            devices: factory.devices.names(),
            replays,
            factory,
            memory,
            commands,
            held: HashMap::new(),
            by_key: HashMap::new(),
            next: 0,
            waiting: HashMap::new(),
            stopping: Vec::new(),
            public,
            look_for_devices,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let soonest = [self.core.look_at(), self.look_for_devices].into_iter().flatten().min();
            let command = match soonest {
                Some(at) => timeout_at(at.into(), commands.recv()).await,
                None => Ok(commands.recv().await),
            };
            match command {
                Ok(Some(command)) => self.obey(command),
                Ok(None) => return,
                Err(_) => self.tell(Event::Time),
            }
            self.look_for_devices();
            self.publish();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Load { model, known } => {
                let engine = self.engine_of(&model);
                if self.problem(engine).is_none() {
                    self.tell(Event::Load(engine));
                }
                self.publish();
                if let Some(problem) = self.held.get(&engine).and_then(|held| held.book.borrow().problem.clone()) {
                    tracing::error!(model = %model.name, "cannot load the model: {problem}");
                }
                // Who asked may be gone.
                let _ = known.send(());
            }
            Command::Lease { model, keep_alive, patience, ticket, reply } => {
                let engine = self.engine_of(&model);
                if let Some(refusal) = self.problem(engine) {
                    // The client may be gone already.
                    let _ = reply.send(Err(refusal));
                    return;
                }
                self.waiting.insert(ticket, Asked { engine, since: Instant::now(), patience, reply });
                self.tell(Event::Request { ticket, engine, keep_alive, patience });
            }
            Command::GivenUp(ticket) => {
                if let Some(Asked { engine, .. }) = self.waiting.remove(&ticket) {
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
            Command::SetLimits(limits) => {
                self.core.set_limits(limits);
                for (engine, held) in &self.held {
                    self.core.set_keep_alive(*engine, (self.factory.keep_alive)(&held.model), Instant::now());
                }
                self.tell(Event::Time);
            }
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
        let held = Held::new(model.clone(), &self.factory, &self.memory.remedies);
        let keep_alive = (self.factory.keep_alive)(model);
        self.core.add(engine, held.needs(&self.memory.figures), keep_alive, Instant::now());
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
        if self.core.seat(engine).is_some_and(Seat::is_retired) {
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
        let now = Instant::now();
        if self.look_for_devices.is_none_or(|at| at > now) {
            return;
        }
        if self.factory.devices.are_known() {
            self.look_for_devices = None;
            self.devices = self.factory.devices.names();
            self.tell(Event::Devices(self.factory.devices.budgets()));
        } else {
            self.look_for_devices = Some(now + LOOK_FOR_DEVICES);
        }
    }

    /// Tells the core what an engine does now, and notes what it needs.
    fn engine_changed(&mut self, engine: EngineId) {
        self.public.changes.send_modify(|count| *count += 1);
        let Some(held) = self.held.get_mut(&engine) else { return };
        let place = self.core.seat(engine).map_or(&[][..], |seat| &seat.place);
        let given_up = held.given_up();
        let changed = held.follow_plan(&self.factory, &mut self.memory.remedies);
        let gave_up = held.given_up() != given_up;
        if held.measure(place, &self.factory, &mut self.memory.figures) || changed {
            let needs = held.needs(&self.memory.figures);
            self.tell(Event::Needs { engine, needs });
        }
        if gave_up {
            self.publish_members();
        }
        if let Some(report) = self.held.get_mut(&engine).and_then(Held::news) {
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
                if let Some(Asked { engine, reply, .. }) = self.waiting.remove(&ticket) {
                    let device = self.held.get(&engine).map_or(Device::Cpu, Held::device);
                    // The client may be gone already.
                    let _ = reply.send(Err(in_words(refusal, device)));
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

    /// The engine and the name it goes by, to give it an order.
    fn handle(&mut self, engine: EngineId) -> Option<(Arc<str>, &Engine)> {
        let held = self.held.get_mut(&engine)?;
        Some((held.served_name.clone(), held.order()?))
    }

    fn start(&mut self, engine: EngineId, place: &[usize]) {
        let Some(held) = self.held.get_mut(&engine) else { return };
        if held.start(engine, place, &self.factory, &self.memory.remedies, &self.commands) {
            let needs = held.needs(&self.memory.figures);
            self.core.renew(engine, needs);
            self.publish_members();
        }
    }

    fn grant(&mut self, ticket: Ticket, engine: EngineId) {
        let asked = self.waiting.remove(&ticket);
        let granted = self.held.get(&engine).and_then(|held| Some((held, held.status()?)));
        let (Some(asked), Some((held, status))) = (asked, granted) else {
            // Nobody is there to drop the lease.
            return self.tell(Event::Released(engine));
        };
        let lease = Lease {
            id: engine,
            max_model_len: status.borrow().max_model_len.unwrap_or_default(),
            engine: status.clone(),
            served_name: held.served_name.clone(),
            given_up: held.given_up(),
            replays: self.replays,
            // Who would not find the model again waits for it, as in the queue.
            patience: asked
                .patience
                .filter(|_| self.core.seat(engine).is_some_and(Seat::stays))
                .map(|patience| patience.saturating_sub(asked.since.elapsed())),
            suspects: held.suspects.clone(),
            replayed: held.replayed.clone(),
            commands: self.commands.clone(),
        };
        // A client that is gone drops the lease, which then comes back as released.
        let _ = asked.reply.send(Ok(lease));
    }

    fn publish_members(&self) {
        let mut members: Vec<_> = self.held.iter().collect();
        members.sort_by_key(|(engine, _)| **engine);
        self.public.members.send_replace(members.into_iter().map(|(_, held)| held.member()).collect());
    }

    /// Why an engine that is down can never be started, if it cannot.
    fn problem(&self, engine: EngineId) -> Option<LeaseError> {
        let (seat, held) = (self.core.seat(engine)?, self.held.get(&engine)?);
        if !seat.life.is_down() {
            return None;
        }
        let too_large = self.core.too_large(&seat.needs).map(|refusal| in_words(refusal, held.device()));
        too_large.or_else(|| held.refusal())
    }

    fn publish(&self) {
        let now = Instant::now();
        let (swaps, drains) = self.core.moves();
        let device =
            |((budget, used), name): ((Option<u64>, u64), &String)| DeviceSnapshot { name: name.clone(), budget, used };
        let devices = self.core.devices().into_iter().zip(&self.devices).map(device).collect();
        self.public.house.send_replace(House { devices, swaps, drains });
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
                    problem: self.problem(*engine),
                });
            }
        }
    }
}
