//! How engines are made from the configuration: what the scheduler is handed.

use super::{preflight, run_directory};
use crate::config::Config;
use crate::engine::{Engine, Settings};
use crate::gpu;
use crate::init::Spawner;
use crate::model::plan::{Plan, Wishes};
use crate::scheduler::{Devices, Factory};

/// The variable by which an operator leaves only some GPUs to vllama.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// The GPUs that the operator has left to engines.
fn visible(config: &Config) -> Option<Vec<String>> {
    let (_, list) = config.environment.iter().find(|(name, _)| name == VISIBLE)?;
    Some(list.split(',').map(|gpu| gpu.trim().to_owned()).filter(|gpu| !gpu.is_empty()).collect())
}

/// Plans and engines for this machine. The hardware is looked at once: a plan must not depend on what happens to be
/// loaded, or the same model would be another engine every time.
pub(super) fn factory(config: &Config, spawner: &Spawner, gpus: Option<gpu::Watch>) -> Factory {
    let hardware = preflight::hardware();
    let devices = if hardware.nvidia {
        Devices::Gpus { watch: gpus, budget: config.memory_budget, visible: visible(config) }
    } else {
        Devices::Cpu(config.memory_budget.unwrap_or_else(preflight::main_memory))
    };
    let wishes = Wishes { extra_arguments: config.engine_arguments.clone(), cpu_cache_gib: config.cpu_cache_gib };
    let mut installation = preflight::installation(config);
    // What the operator sets wins over a plan; which of the GPUs left to it an engine gets is the scheduler's to say.
    installation.environment.retain(|(name, _)| !matches!(name.as_str(), VISIBLE | "CUDA_DEVICE_ORDER"));
    let (run, logs) = (config.run.clone(), config.state.clone());
    let (start_limit, stop_limit) = (config.start_limit, config.stop_limit);
    let spawner = spawner.clone();
    Factory {
        hardware: format!("nvidia: {}, bfloat16: {}", hardware.nvidia, hardware.bfloat16),
        plan: Box::new(move |model| Plan::new(model, &hardware, &wishes)),
        engine: Box::new(move |model, plan| {
            let name = run_directory::engine(model);
            let settings = Settings {
                log: logs.join("logs").join(&name).join("vllm.log"),
                directory: run.join(name),
                start_limit,
                stop_limit,
                sleep_limit: Settings::SLEEP_LIMIT,
            };
            Engine::new(plan, installation.clone(), spawner.clone(), settings)
        }),
        devices,
    }
}
