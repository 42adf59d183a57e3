//! `vllama explain MODEL`: how a model would be served here, and why so. Looks at files and hardware; needs no server.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::planning;
use super::problem::Problem;
use crate::config::{Config, Voice};
use crate::gpu::{Host, Pace, Watch};
use crate::init::{Init, Spawner};
use crate::model::plan::{Adapter, Checkpoint, Hardware, Plan};
use crate::model::{Card, ModelName, Store};
use crate::scheduler::remembered;

/// Explains, and gives the exit code.
pub(super) fn run(model: &str, config: &Config) -> i32 {
    let init = match Init::new() {
        Ok(init) => init,
        Err(error) => return Problem::new("cannot start", error, "check the limits of this user (`ulimit -a`)").tell(),
    };
    let (spawner, stopper) = (init.spawner(), init.stopper());
    let interrupt = stopper.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let code = match explain(model, config, spawner) {
                Ok(text) => {
                    // A closed pipe, as in `vllama explain … | head`, is no failure.
                    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
                    0
                }
                Err(problem) => problem.tell(),
            };
            stopper.stop(code);
        });
        init.run(|_signal| {
            interrupt.stop(1);
            std::process::exit(1);
        })
    })
}

/// What is explained.
struct Subject {
    name: String,
    directory: PathBuf,
    size: u64,
    card: Card,
    adapter: Option<Adapter>,
    wishes_for: Option<ModelName>,
    /// The key of its engine, when it is installed.
    engine_key: Option<String>,
}

fn explain(model: &str, config: &Config, spawner: Spawner) -> Result<String, Problem> {
    let subject =
        if model.contains('/') && Path::new(model).is_dir() { directory(model)? } else { installed(model, config)? };
    let environment = config.environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let gpus =
        Host::read().nvidia.then(|| Watch::start(spawner, planning::gpu_helper(config), environment, Pace::default()));
    let hardware = planning::hardware(config, gpus.and_then(Result::ok).as_ref());
    let wishes = match &subject.wishes_for {
        Some(name) => planning::wishes(config, name),
        None => planning::wishes_for_all(config),
    };
    let checkpoint = Checkpoint {
        directory: &subject.directory,
        name: &subject.name,
        size: subject.size,
        card: &subject.card,
        adapters: subject.adapter.as_slice(),
    };
    let mut plan = Plan::of(&checkpoint, &hardware, &wishes);
    if let Some(key) = &subject.engine_key {
        let (file, hardware) = (planning::changes_file(config), planning::hardware_name(&hardware));
        plan = remembered(&file, key, &hardware, &planning::engine_version(config), plan);
    }
    Ok(match config.voice {
        Voice::Json => object(&plan, &subject, &hardware),
        Voice::Human | Voice::Quiet => plan.explain(&checkpoint, &hardware),
    })
}

fn directory(text: &str) -> Result<Subject, Problem> {
    let directory = std::path::absolute(text).unwrap_or_else(|_| text.into());
    let card = Card::read(&directory, 0).map_err(|error| {
        let fix = "give the directory of a Hugging Face checkpoint: config.json, the tokenizer's files, safetensors";
        Problem::new(format!("cannot read the checkpoint {}", directory.display()), error, fix)
    })?;
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let size = card.weights.bytes;
    Ok(Subject {
        wishes_for: ModelName::parse(&name).ok(),
        name,
        directory,
        size,
        card,
        adapter: None,
        engine_key: None,
    })
}

fn installed(text: &str, config: &Config) -> Result<Subject, Problem> {
    let name = ModelName::parse(text).map_err(|error| {
        Problem::new(
            format!("cannot explain '{text}'"),
            error,
            "name an installed model, or give a directory with a / in it",
        )
    })?;
    let store = Store::with_base(&config.models, Some(&config.base_models)).map_err(|error| {
        let what = format!("cannot read the model store {}", config.models.display());
        Problem::new(what, error, "name the right directory with --models-dir or VLLAMA_MODELS")
    })?;
    let model = store.find(&name).ok_or_else(|| {
        let why = format!("it is not installed in {}", config.models.display());
        Problem::new(
            format!("cannot explain '{name}'"),
            why,
            "install it, or give the directory of a checkpoint, with a / in it",
        )
    })?;
    Ok(Subject {
        name: model.manifest.name.clone(),
        directory: model.directory.clone(),
        size: model.manifest.size,
        card: model.card.clone(),
        adapter: model.adapter.clone(),
        wishes_for: Some(name),
        engine_key: Some(model.engine_key()),
    })
}

/// The plan for programs: one line.
fn object(plan: &Plan, subject: &Subject, hardware: &Hardware) -> String {
    let Card { architecture, family, parameters, context_length, quantization, capabilities, weights, .. } =
        &subject.card;
    let card = json!({
        "architecture": architecture,
        "family": family,
        "parameters": parameters,
        "context_length": context_length,
        "quantization": quantization.as_ref().map(|quantization| &quantization.method),
        "weight_bytes": weights.bytes,
        "capabilities": capabilities,
    });
    let mut object = json!({"model": subject.name, "hardware": hardware, "card": card, "command": plan.command()});
    // A plan always becomes an object.
    if let (Ok(serde_json::Value::Object(plan)), Some(object)) = (serde_json::to_value(plan), object.as_object_mut()) {
        object.extend(plan);
    }
    object["memory"]["total"] = plan.memory.total().into();
    object.to_string()
}
