//! How engines are made from the configuration: what the scheduler is handed.

use super::keep_alives::KeepAlives;
use super::{preflight, run_directory};
use crate::cli::planning;
use crate::config::Config;
use crate::engine::{Engine, Settings};
use crate::gpu;
use crate::init::Spawner;
use crate::model::plan::{Hardware, Plan};
use crate::scheduler::{Devices, Factory};

/// The variable by which an operator leaves only some GPUs to vllama.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// The GPUs that the operator has left to engines.
fn visible(config: &Config) -> Option<Vec<String>> {
    let (_, list) = config.environment.iter().find(|(name, _)| name == VISIBLE)?;
    Some(list.split(',').map(|gpu| gpu.trim().to_owned()).filter(|gpu| !gpu.is_empty()).collect())
}

/// Plans and engines for this machine.
pub(super) fn factory(
    config: &Config,
    hardware: Hardware,
    keep_alives: KeepAlives,
    spawner: &Spawner,
    gpus: Option<gpu::Watch>,
) -> Factory {
    let hardware = within_budget(hardware, config.memory_budget);
    let devices = if hardware.nvidia {
        Devices::Gpus { watch: gpus, budget: config.memory_budget, visible: visible(config) }
    } else {
        Devices::Cpu(config.memory_budget.unwrap_or_else(preflight::main_memory))
    };
    let mut installation = preflight::installation(config);
    // What the operator sets wins over a plan; which of the GPUs left to it an engine gets is the scheduler's to say.
    installation.environment.retain(|(name, _)| !matches!(name.as_str(), VISIBLE | "CUDA_DEVICE_ORDER"));
    let asked = config.clone();
    let (run, logs) = (config.run.clone(), config.state.join("logs"));
    let (start_limit, stop_limit, heartbeat) = (config.start_limit, config.stop_limit, config.heartbeat);
    let asked_for_engines = config.clone();
    let spawner = spawner.clone();
    Factory {
        hardware: match hardware.gpus.is_empty() {
            true => format!("CPU, bfloat16: {}", hardware.bfloat16),
            false => hardware.describe(),
        },
        keep_alive: Box::new(move |model| keep_alives.of(&model.name)),
        plan: Box::new(move |model| Plan::new(model, &hardware, &planning::wishes(&asked, &model.name))),
        engine: Box::new(move |model, plan| {
            let name = run_directory::engine(model);
            let settings = Settings {
                log: logs.join(&name).join("vllm.log"),
                directory: run.join(name),
                start_limit,
                heartbeat: asked_for_engines
                    .model_settings(&model.name)
                    .and_then(|settings| settings.heartbeat)
                    .map_or(heartbeat, |time| time.0),
                stop_limit,
                sleep_limit: Settings::SLEEP_LIMIT,
            };
            Engine::new(plan, installation.clone(), spawner.clone(), settings)
        }),
        devices,
    }
}

/// The hardware with no more memory than the operator leaves to engines.
fn within_budget(mut hardware: Hardware, budget: Option<u64>) -> Hardware {
    if let Some(budget) = budget {
        hardware.memory_available = if hardware.nvidia { hardware.memory_available } else { budget };
        hardware.gpus.iter_mut().for_each(|gpu| gpu.memory = gpu.memory.min(budget));
    }
    hardware
}
