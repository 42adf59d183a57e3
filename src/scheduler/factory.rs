//! How engines come into being: what the scheduler is handed by whoever knows the configuration.

use std::fmt;

use super::core::Needs;
use super::figures::Figure;
use crate::engine::Engine;
use crate::gpu;
use crate::model::Installed;
use crate::model::plan::{Device, Plan};

/// A start that nobody has timed takes this long, until somebody has.
const USUAL_START: std::time::Duration = std::time::Duration::from_secs(60);

/// Plans the engine of a model.
type MakePlan = dyn Fn(&Installed) -> Plan + Send + Sync;
/// Makes the engine of a model by its plan.
type MakeEngine = dyn Fn(&Installed, Plan) -> Engine + Send + Sync;

/// Makes plans and engines, and knows what there is to run them on.
pub struct Factory {
    /// All choices for the engine of a model. Pure and quick: it is asked at every start.
    pub plan: Box<MakePlan>,
    /// An engine for a plan, not started.
    pub engine: Box<MakeEngine>,
    /// What engines run on.
    pub devices: Devices,
    /// What tells this hardware from other hardware: measured figures are remembered for it.
    pub hardware: String,
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
    },
}

impl Devices {
    /// The budget of each device in bytes; one unknown device while nothing is known.
    pub(super) fn budgets(&self) -> Vec<Option<u64>> {
        match self {
            Self::Cpu(budget) => vec![Some(*budget)],
            Self::Gpus { watch, budget } => {
                let reading = watch.as_ref().and_then(gpu::Watch::latest);
                let totals: Option<Vec<u64>> =
                    reading.and_then(|reading| reading.gpus.iter().map(|gpu| gpu.memory_total).collect());
                match totals.filter(|totals| !totals.is_empty()) {
                    Some(totals) => totals.into_iter().map(|total| Some(budget.map_or(total, |most| most))).collect(),
                    None => vec![*budget],
                }
            }
        }
    }

    /// Whether their number is known, so that engines can be told which to use.
    pub(super) fn are_known(&self) -> bool {
        match self {
            Self::Cpu(_) => true,
            Self::Gpus { watch, .. } => {
                watch.as_ref().and_then(gpu::Watch::latest).is_some_and(|reading| !reading.gpus.is_empty())
            }
        }
    }

    /// Bytes taken by anybody on these GPUs now; `None` where nobody knows.
    pub(super) fn used(&self, place: &[usize]) -> Option<u64> {
        let Self::Gpus { watch: Some(watch), .. } = self else { return None };
        let reading = watch.latest()?;
        place.iter().map(|device| reading.gpus.get(*device)?.memory_used).sum()
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
