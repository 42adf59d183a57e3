//! How engines come into being: what the scheduler is handed by whoever knows the configuration.

use std::fmt;

use super::KeepAlive;
use super::core::Needs;
use super::figures::Figure;
use crate::engine::{Engine, Settings};
use crate::gpu;
use crate::model::Installed;
use crate::model::plan::{Device, Plan};

/// A start that nobody has timed takes this long, until somebody has.
const USUAL_START: std::time::Duration = std::time::Duration::from_secs(60);

/// Plans the engine of a model, which requests call by this name.
type MakePlan = dyn Fn(&str, &Installed) -> Plan + Send + Sync;
/// Tells where the engine of a model lives and how patient vllama is with it.
type Settle = dyn Fn(&Installed) -> Settings + Send + Sync;
/// Makes an engine.
type MakeEngine = dyn Fn(Plan, Settings) -> Engine + Send + Sync;

/// Makes plans and engines, and knows what there is to run them on.
pub struct Factory {
    /// All choices for the engine of a model, and the name requests call it by. Pure and quick: it is asked at every start.
    pub plan: Box<MakePlan>,
    /// What is asked at every start too, for the operator may have changed it.
    pub settings: Box<Settle>,
    /// An engine for a plan, not started.
    pub engine: Box<MakeEngine>,
    /// The keep-alive of a model whose requests name none.
    pub keep_alive: Box<dyn Fn(&Installed) -> KeepAlive + Send + Sync>,
    /// What engines run on.
    pub devices: Devices,
    /// What tells this hardware from other hardware: measured figures are remembered for it.
    pub hardware: String,
    /// The version of vLLM: what helped one version another one may not need.
    pub engine_version: String,
}

impl fmt::Debug for Factory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Factory").field("hardware", &self.hardware).finish_non_exhaustive()
    }
}

/// What engines run on.
pub enum Devices {
    /// The processor, with this budget of main memory in bytes.
    Cpu(u64),
    /// GPUs.
    Gpus {
        /// Tells what they have.
        watch: Option<gpu::Watch>,
        /// Bytes engines may take on each GPU; `None` = all that it has.
        budget: Option<u64>,
        /// The GPUs that the operator has left to engines, by number or UUID; `None` = all.
        visible: Option<Vec<String>>,
    },
}

impl Devices {
    /// The budget of each device in bytes; one unknown device while nothing is known.
    pub(super) fn budgets(&self) -> Vec<Option<u64>> {
        match self {
            Self::Cpu(budget) => vec![Some(*budget)],
            Self::Gpus { budget, .. } => {
                let gpus = self.gpus();
                let totals: Option<Vec<u64>> = gpus.iter().map(|(_, gpu)| gpu.memory_total).collect();
                match totals.filter(|totals| !totals.is_empty()) {
                    Some(totals) => totals.into_iter().map(|total| Some(budget.unwrap_or(total))).collect(),
                    None => vec![*budget],
                }
            }
        }
    }

    /// What each is called, in the order of their budgets.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Cpu(_) => vec!["cpu".to_owned()],
            Self::Gpus { .. } => match self.gpus() {
                gpus if gpus.is_empty() => vec!["gpu".to_owned()],
                gpus => gpus.into_iter().map(|(number, _)| number).collect(),
            },
        }
    }

    /// Whether their number is known, so that engines can be told which to use.
    pub(super) fn are_known(&self) -> bool {
        match self {
            Self::Cpu(_) => true,
            Self::Gpus { .. } => !self.gpus().is_empty(),
        }
    }

    /// Bytes taken by anybody on these GPUs now; `None` where nobody knows.
    pub(super) fn used(&self, place: &[usize]) -> Option<u64> {
        let gpus = self.gpus();
        place.iter().map(|device| gpus.get(*device)?.1.memory_used).sum()
    }

    /// How these GPUs are named to the driver; `None` on the CPU.
    pub(super) fn visible(&self, place: &[usize]) -> Option<Vec<String>> {
        let Self::Gpus { visible, .. } = self else { return None };
        let gpus = self.gpus();
        if place.is_empty() || gpus.is_empty() {
            // Nobody knows which are free, but the operator may have said which are ours.
            return visible.clone();
        }
        place.iter().map(|device| gpus.get(*device).map(|(name, _)| name.clone())).collect()
    }

    /// The GPUs that engines may use, and how each is named to the driver; none while nothing is known.
    fn gpus(&self) -> Vec<(String, gpu::Gpu)> {
        let Self::Gpus { watch: Some(watch), visible, .. } = self else { return Vec::new() };
        let Some(reading) = watch.latest() else { return Vec::new() };
        let numbered = || reading.gpus.iter().enumerate().map(|(number, gpu)| (number.to_string(), gpu.clone()));
        let Some(visible) = visible else { return numbered().collect() };
        let is_named = |(number, gpu): &(String, gpu::Gpu), name: &str| {
            number == name || gpu.uuid.as_deref().is_some_and(|uuid| uuid.starts_with(name))
        };
        // As CUDA does, stop at the first name that is none.
        visible.iter().map_while(|name| numbered().find(|gpu| is_named(gpu, name))).collect()
    }
}

/// What an engine with this plan needs: estimated, or as it was measured.
///
/// The measured figure replaces the estimate of everything but weights and cache: a cache is filled over days, so what
/// was seen of it so far says little.
pub(super) fn needs(plan: &Plan, figure: Option<Figure>) -> Needs {
    let promised = plan.memory.weights.saturating_add(plan.memory.cache);
    let sleeps = plan.device == Device::Cuda && plan.flags.iter().any(|flag| flag.name == "--enable-sleep-mode");
    Needs {
        bytes: figure
            .filter(|figure| figure.bytes > 0)
            .map_or(plan.memory.total(), |figure| figure.bytes.max(promised)),
        devices: plan.gpus.max(1),
        concurrency: plan.concurrency.max(1),
        sleeps: sleeps.then(|| plan.memory.weights.saturating_mul(plan.gpus.max(1) as u64)),
        start: figure.map_or(USUAL_START, Figure::start),
    }
}
