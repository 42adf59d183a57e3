//! What plans are made from: this machine, and the operator's wishes for one model.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Config, ModelSettings};
use crate::gpu::{Host, Reading, Watch};
use crate::model::plan::{Gpu, Hardware, Wishes};
use crate::model::{ModelName, ParserChoice, ParserChoices};

/// A driver may take half a minute to wake up.
const DRIVER_PATIENCE: Duration = Duration::from_secs(45);

/// What this machine has, as a plan asks for it. Where there is a driver it waits for it to tell of its GPUs, so this
/// blocks.
pub(super) fn hardware(config: &Config, gpus: Option<&Watch>) -> Hardware {
    let Host { nvidia, bfloat16, memory_available, .. } = Host::read();
    let reading = gpus.filter(|_| nvidia).and_then(|watch| watch.wait(DRIVER_PATIENCE));
    let visible = config.environment.iter().find(|(name, _)| name == "CUDA_VISIBLE_DEVICES");
    let gpus = reading.map(|reading| visible_gpus(&reading, visible.map(|(_, list)| list.as_str())));
    Hardware { nvidia, bfloat16, memory_available, gpus: gpus.unwrap_or_default() }
}

/// The GPUs that engines may see: all, or those that `CUDA_VISIBLE_DEVICES` names by number or by the beginning of their
/// UUID; like CUDA, it stops at the first name that is none.
fn visible_gpus(reading: &Reading, visible: Option<&str>) -> Vec<Gpu> {
    let gpu = |gpu: &crate::gpu::Gpu| Gpu {
        name: gpu.name.clone().unwrap_or_default(),
        memory: gpu.memory_total.unwrap_or_default(),
        capability: gpu.compute_capability,
    };
    let Some(visible) = visible else { return reading.gpus.iter().map(gpu).collect() };
    let named = |name: &str| match name.parse::<usize>() {
        Ok(number) => reading.gpus.get(number),
        Err(_) if name.starts_with("GPU-") => {
            reading.gpus.iter().find(|gpu| gpu.uuid.as_ref().is_some_and(|uuid| uuid.starts_with(name)))
        }
        Err(_) => None,
    };
    visible.split(',').map(str::trim).map_while(named).map(gpu).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_see_the_gpus_that_the_variable_names() {
        let gpu = |name: &str| crate::gpu::Gpu {
            name: Some(name.to_owned()),
            uuid: Some(format!("GPU-{name}")),
            memory_total: Some(7),
            ..crate::gpu::Gpu::default()
        };
        let reading = Reading { gpus: vec![gpu("a"), gpu("b"), gpu("c")], reason: None };
        let names = |visible: Option<&str>| {
            visible_gpus(&reading, visible).into_iter().map(|gpu| gpu.name).collect::<Vec<_>>().join(" ")
        };
        for (visible, expected) in [
            (None, "a b c"),
            (Some("2,0"), "c a"),
            (Some("GPU-b"), "b"),
            (Some("1,-1,0"), "b"),
            (Some(""), ""),
            (Some("9"), ""),
        ] {
            assert_eq!(names(visible), expected, "{visible:?}");
        }
    }
}
