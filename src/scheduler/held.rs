//! An engine as the keeper holds it: made, started, watched and measured here; what it may do is decided in the
//! [core](super::core).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::LeaseError;
use super::book::{Book, Member, Totals};
use super::core::{EngineId, Needs, Report, Stage};
use super::factory::{Factory, needs};
use super::figures::{self, Figures};
use super::keeper::Command;
use super::remedies::{self, Remedies};
use super::retire::Retired;
use super::suspects::Suspects;
use crate::engine::{Engine, Settings, State, Status};
use crate::model::plan::{Device, Plan};
use crate::model::{Installed, ParserChoice};

/// After so many failed starts in a row requests are told why instead of waiting on; the starts go on.
const PATIENCE: u32 = 3;

/// An engine that the core knows by its number.
pub(super) struct Held {
    /// The model under the name it was last asked by.
    pub model: Arc<Installed>,
    /// What it serves.
    pub key: String,
    /// The name the engine itself is told.
    pub served_name: Arc<str>,
    /// What the scheduler tells of it.
    pub book: watch::Sender<Book>,
    /// Those who wait until nothing of it is left.
    pub retiring: Vec<oneshot::Sender<Retired>>,
    /// [`Retired`] that somebody holds.
    pub guards: usize,
    /// What its requests have done to it.
    pub suspects: Arc<Suspects>,
    /// Requests that were asked again because it had died.
    pub replayed: Arc<AtomicU64>,
    /// What has happened to the engines that were made for it before this one.
    before: Totals,
    plan: Plan,
    /// Made at its first start, and made anew where plan or settings have changed.
    engine: Option<(Engine, watch::Receiver<Status>)>,
    /// Those it was made with.
    settings: Option<Settings>,
    /// The name its figures are remembered by.
    figures: String,
    /// The name changes of its plan are remembered by.
    remedy: String,
    /// Memory that was taken on its GPUs when it was started, in bytes.
    used_before: Option<u64>,
    /// The last report that the core has had.
    reported: Option<Report>,
    /// The generation whose start has been timed.
    timed: u64,
}

impl Held {
    pub(super) fn new(model: Arc<Installed>, factory: &Factory, remedies: &Remedies) -> Self {
        let key = model.engine_key();
        let remedy = remedies::key(&key, &factory.hardware, &factory.engine_version);
        let plan = remedies.apply(&remedy, (factory.plan)(&model.manifest.name, &model));
        Self {
            remedy,
            figures: figures::key(&key, &factory.hardware, &plan),
            served_name: plan.served_name.as_str().into(),
            model,
            key,
            plan,
            book: watch::Sender::new(Book::default()),
            retiring: Vec::new(),
            guards: 0,
            suspects: Arc::default(),
            replayed: Arc::default(),
            before: Totals::default(),
            engine: None,
            settings: None,
            used_before: None,
            reported: None,
            timed: 0,
        }
    }

    /// Why it cannot run here, if the plan says so.
    pub(super) fn refusal(&self) -> Option<LeaseError> {
        let refusal = self.plan.refusal.as_ref()?;
        Some(LeaseError::Permanent(format!("{}: {}; {}", refusal.what, refusal.why, refusal.fix)))
    }

    /// Where it runs.
    pub(super) fn device(&self) -> Device {
        self.plan.device
    }

    /// What changes have taken from its plan.
    pub(super) fn given_up(&self) -> ParserChoice {
        self.plan.given_up()
    }

    /// What it needs, as far as that is known.
    pub(super) fn needs(&self, figures: &Figures) -> Needs {
        needs(&self.plan, figures.get(&self.figures))
    }

    /// What others see of it.
    pub(super) fn member(&self) -> Member {
        Member {
            model: self.model.clone(),
            key: self.key.as_str().into(),
            on_gpu: self.plan.device == Device::Cuda,
            status: self.status().cloned(),
            given_up: self.given_up(),
            before: self.before.clone(),
            replayed: self.replayed.clone(),
            book: self.book.subscribe(),
        }
    }

    /// What the engine says; `None` before its first start.
    pub(super) fn status(&self) -> Option<&watch::Receiver<Status>> {
        self.engine.as_ref().map(|(_, status)| status)
    }

    /// The engine, to be given an order. What it says from now on is news, even if it is what it said before.
    pub(super) fn order(&mut self) -> Option<&Engine> {
        self.reported = None;
        self.engine.as_ref().map(|(engine, _)| engine)
    }

    /// Starts it on these devices; none = wherever it likes. It is made anew when its plan is another one than at its
    /// last start: true in that case.
    pub(super) fn start(
        &mut self,
        id: EngineId,
        place: &[usize],
        factory: &Factory,
        remedies: &Remedies,
        commands: &mpsc::WeakUnboundedSender<Command>,
    ) -> bool {
        // What the engine is called must not depend on the alias that was used last: requests know it by its first name.
        let mut plan = remedies.apply(&self.remedy, (factory.plan)(&self.served_name, &self.model));
        if let Some(visible) = factory.devices.visible(place) {
            plan = plan.on_gpus(&visible);
        }
        let settings = (factory.settings)(&self.model);
        let is_new = plan != self.plan || self.settings.as_ref() != Some(&settings);
        if is_new {
            let engine = (factory.engine)(plan.clone(), settings.clone());
            let status = engine.status();
            tokio::spawn(tell_changes(id, status.clone(), commands.clone()));
            if let Some((_, last)) = self.engine.replace((engine, status)) {
                self.before = Totals::of(&last.borrow()).and(&self.before);
            }
            self.figures = figures::key(&self.key, &factory.hardware, &plan);
            self.plan = plan;
            self.settings = Some(settings);
            self.timed = 0;
        }
        self.used_before = factory.devices.used(place);
        tracing::debug!(model = %self.served_name, ?place, "loading the model");
        if let Some(engine) = self.order() {
            engine.start();
        }
        is_new
    }

    /// Takes over the plan that the engine has made of its own after a failure, and remembers what has helped; whether the
    /// plan is another one than before.
    pub(super) fn follow_plan(&mut self, factory: &Factory, remedies: &mut Remedies) -> bool {
        let Some((_, status)) = &self.engine else { return false };
        let status = status.borrow();
        let Some(plan) = &status.plan else { return false };
        let is_new = **plan != self.plan;
        if is_new {
            self.plan = Plan::clone(plan);
            self.figures = figures::key(&self.key, &factory.hardware, &self.plan);
        }
        if status.state == State::Ready {
            remedies.note(&self.remedy, plan);
        }
        is_new
    }

    /// What the core does not know yet of the engine's state.
    pub(super) fn news(&mut self) -> Option<Report> {
        let (_, status) = self.engine.as_mut()?;
        let report = report(&status.borrow_and_update())?;
        (self.reported.as_ref() != Some(&report)).then(|| self.reported.insert(report).clone())
    }

    /// Notes how long its start took and what it holds, on these devices; true when that says something new.
    pub(super) fn measure(&mut self, place: &[usize], factory: &Factory, figures: &mut Figures) -> bool {
        let Some((_, status)) = &self.engine else { return false };
        let (generation, took, peak) = {
            let status = status.borrow();
            if status.state != State::Ready {
                return false;
            }
            (status.generation, status.start_took, status.peak_memory_bytes)
        };
        let took: Option<Duration> = took.filter(|_| self.timed != generation);
        self.timed = generation;
        let bytes = match self.plan.device {
            Device::Cpu => peak,
            // Starts on a GPU are one at a time: what came on top meanwhile is this engine's.
            Device::Cuda => took.and_then(|_| {
                let added = factory.devices.used(place)?.checked_sub(self.used_before?)?;
                Some(added / place.len().max(1) as u64)
            }),
        };
        figures.note(&self.figures, bytes, took)
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
    let Status { generation, paused_until, .. } = *status;
    Some(Report { stage, generation, paused_until, failure: hopeless(status) })
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
