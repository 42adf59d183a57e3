//! How engines are made from the configuration: what the scheduler is handed.

use std::sync::Arc;

use tokio::sync::watch;

use super::reload::Wanted;
use super::surroundings::Machine;
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

/// Plans and engines for this machine, as the operator wants them when they are made.
pub(super) fn factory(
    config: &Config,
    wanted: watch::Receiver<Arc<Wanted>>,
    hardware: Hardware,
    spawner: &Spawner,
    gpus: Option<gpu::Watch>,
) -> Factory {
    let machine = Arc::new(Machine { gpus: gpus.clone() });
    let devices = if hardware.nvidia {
        Devices::Gpus { watch: gpus, budget: config.memory_budget, visible: visible(config) }
    } else {
        Devices::Cpu(config.memory_budget.unwrap_or_else(preflight::main_memory))
    };
    let mut installation = preflight::installation(config);
    // What the operator sets wins over a plan; which of the GPUs left to it an engine gets is the scheduler's to say.
    installation.environment.retain(|(name, _)| !matches!(name.as_str(), VISIBLE | "CUDA_DEVICE_ORDER"));
    let (idle, planned) = (wanted.clone(), wanted.clone());
    let (run, logs) = (config.run.clone(), config.state.join("logs"));
    let spawner = spawner.clone();
    Factory {
        hardware: planning::hardware_name(&hardware),
        engine_version: planning::engine_version(config),
        keep_alive: Box::new(move |model| idle.borrow().keep_alives.of(&model.name)),
        plan: Box::new(move |name, model| {
            Plan::called(name, model, &hardware, &planning::wishes(&planned.borrow().config, &model.name))
        }),
        settings: Box::new(move |model| {
            let name = run_directory::engine(model);
            let wanted = wanted.borrow().clone();
            Settings {
                log: logs.join(&name).join("vllm.log"),
                directory: run.join(name),
                start_limit: wanted.config.start_limit,
                heartbeat: wanted
                    .config
                    .model_settings(&model.name)
                    .and_then(|settings| settings.heartbeat)
                    .map_or(wanted.config.heartbeat, |time| time.0),
                stop_limit: wanted.config.stop_limit,
                memory_limit: Settings::MEMORY_LIMIT,
                sleep_limit: Settings::SLEEP_LIMIT,
            }
        }),
        engine: Box::new(move |plan, settings| {
            Engine::new(plan, installation.clone(), spawner.clone(), settings, machine.clone())
        }),
        devices,
    }
}
