//! What plans are made from: this machine, and the operator's wishes for one model.

use std::path::PathBuf;
use std::time::Duration;

use super::doctor;
use crate::config::{Config, ModelSettings};
use crate::gpu::{Host, Reading, Watch};
use crate::model::plan::{Gpu, Hardware, Wishes};
use crate::model::{ModelName, ParserChoice, ParserChoices};

/// A driver may take half a minute to wake up.
const DRIVER_PATIENCE: Duration = Duration::from_secs(45);

/// What this machine has and the operator leaves to engines, as a plan asks for it. Where there is a driver it waits for it to tell of its GPUs, so this
/// blocks.
pub(super) fn hardware(config: &Config, gpus: Option<&Watch>) -> Hardware {
    let Host { nvidia, bfloat16, memory_available, .. } = Host::read();
    let reading = gpus.filter(|_| nvidia).and_then(|watch| watch.wait(DRIVER_PATIENCE));
    let visible = config.environment.iter().find(|(name, _)| name == "CUDA_VISIBLE_DEVICES");
    let gpus = reading.map(|reading| visible_gpus(&reading, visible.map(|(_, list)| list.as_str())));
    let hardware = Hardware { nvidia, bfloat16, memory_available, gpus: gpus.unwrap_or_default() };
    within_budget(hardware, config.memory_budget)
}

/// The hardware with no more memory than the operator leaves to engines.
fn within_budget(mut hardware: Hardware, budget: Option<u64>) -> Hardware {
    if let Some(budget) = budget {
        hardware.memory_available = if hardware.nvidia { hardware.memory_available } else { budget };
        hardware.gpus.iter_mut().for_each(|gpu| gpu.memory = gpu.memory.min(budget));
    }
    hardware
}

/// The GPUs that engines may see: all, or those that `CUDA_VISIBLE_DEVICES` names.
fn visible_gpus(reading: &Reading, visible: Option<&str>) -> Vec<Gpu> {
    let gpu = |gpu: &crate::gpu::Gpu| Gpu {
        name: gpu.name.clone().unwrap_or_default(),
        memory: gpu.memory_total.unwrap_or_default(),
        capability: gpu.compute_capability,
    };
    reading.visible(visible).into_iter().map(|(_, found)| gpu(found)).collect()
}

/// What tells this hardware from other hardware, in what is remembered of engines.
pub(super) fn hardware_name(hardware: &Hardware) -> String {
    match hardware.gpus.is_empty() {
        true => format!("CPU, bfloat16: {}", hardware.bfloat16),
        false => hardware.describe(),
    }
}

/// The version of the engine, in what is remembered of engines.
pub(super) fn engine_version(config: &Config) -> String {
    doctor::engine_version(&config.engine).unwrap_or_else(|| "unknown".to_owned())
}

/// The file in which it is remembered how plans had to be changed.
pub(super) fn changes_file(config: &Config) -> PathBuf {
    config.state.join("plan_changes.json")
}

/// The program that reads NVML: as told, or beside this one.
pub(super) fn gpu_helper(config: &Config) -> PathBuf {
    let beside = || std::env::current_exe().unwrap_or_default().with_file_name("vllama-gpu");
    config.gpu_helper.clone().unwrap_or_else(beside)
}

/// What the operator asked for, for all models.
pub(super) fn wishes_for_all(config: &Config) -> Wishes {
    Wishes {
        extra_arguments: config.engine_arguments.clone(),
        cpu_cache_gib: config.cpu_cache_gib,
        frontend: config.engine_frontend,
        // Keys have priorities, which may change while an engine runs.
        priorities: config.keys.is_some(),
        ..Wishes::default()
    }
}

/// What the operator asked for, for one model.
pub(super) fn wishes(config: &Config, model: &ModelName) -> Wishes {
    let everywhere = wishes_for_all(config);
    let Some(settings) = config.model_settings(model).cloned() else { return everywhere };
    let ModelSettings {
        engine_arguments,
        environment,
        memory,
        tensor_parallel,
        concurrency,
        max_model_len,
        keep_alive: _,
        heartbeat: _,
        tool_parser,
        reasoning_parser,
        engine_frontend,
        trust_remote_code,
    } = settings;
    Wishes {
        extra_arguments: everywhere.extra_arguments.into_iter().chain(engine_arguments).collect(),
        extra_environment: environment.into_iter().collect(),
        memory: memory.map(|size| size.0),
        tensor_parallel: tensor_parallel.map(Into::into),
        concurrency: concurrency.map(Into::into),
        max_model_len: max_model_len.map(Into::into),
        tool_parser,
        reasoning_parser,
        frontend: engine_frontend.unwrap_or(everywhere.frontend),
        trust_remote_code,
        ..everywhere
    }
}

/// Whose tool calls and thoughts the engine reads, where the operator has said so.
pub(super) fn parser_choices(config: &Config) -> ParserChoices {
    let read = |parser: &Option<String>| parser.as_deref().map(|parser| parser != "none");
    let choice = |settings: &ModelSettings| ParserChoice {
        tools: read(&settings.tool_parser),
        thoughts: read(&settings.reasoning_parser),
    };
    ParserChoices(config.settings_by_model.iter().map(|(name, settings)| (name.clone(), choice(settings))).collect())
}
