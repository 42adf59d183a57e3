//! `vllama import PATH NAME`: a GGUF file or the directory of a Hugging Face checkpoint becomes an installed model.
//!
//! vLLM cannot load GGUF any more, so a script that the engine's Python runs makes a checkpoint of it. A directory is
//! checked and copied.

use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::problem::Problem;
use super::progress::Progress;
use crate::config::Config;
use crate::init::{Exit, Init, Spawner};
use crate::model::directory::Directory;
use crate::model::python::{IMPORT_GGUF, Python};
use crate::model::source::SourceError;
use crate::model::store::{Checkpoint, Draft};
use crate::model::{ModelName, Overlay, Source, Staging, Store};

/// What the script says.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Progress { phase: String, done: u64, total: u64 },
    Warning { message: String },
    Done { parameters: u64, quantization: String, license: Option<String> },
    Error { message: String },
}

/// What is to be imported, and how.
pub(super) struct Order<'a> {
    /// The GGUF file, or the checkpoint's directory.
    pub file: &'a Path,
    /// The name it gets.
    pub name: &'a ModelName,
    /// Leave an installed model of that name alone.
    pub if_missing: bool,
    /// Parameters of the model, by Ollama's names.
    pub parameters: &'a Map<String, Value>,
    /// Store, engine and voice.
    pub config: &'a Config,
}

/// Installs a model and gives the exit code.
pub(super) fn run(order: Order<'_>) -> i32 {
    let init = match Init::new() {
        Ok(init) => init,
        Err(error) => return Problem::new("cannot start", error, "check the limits of this user (`ulimit -a`)").tell(),
    };
    let (spawner, stopper) = (init.spawner(), init.stopper());
    let interrupt = stopper.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let code = match import(&order, &spawner) {
                Ok(()) => 0,
                Err(problem) => problem.tell(),
            };
            stopper.stop(code);
        });
        // The script dies of its closed pipe when this process is gone.
        init.run(|_signal| {
            interrupt.stop(1);
            std::process::exit(1);
        })
    })
}

fn import(order: &Order<'_>, spawner: &Spawner) -> Result<(), Problem> {
    let Order { file, name, if_missing, parameters, config } = *order;
    let progress = Progress::new(config.voice, config.json_logs);
    let cannot_store = |error| {
        let what = format!("cannot write the model store {}", config.models.display());
        Problem::new(what, error, "choose a directory you may write with --state-dir or --models-dir")
    };
    let store = Store::with_base(&config.models, Some(&config.base_models)).map_err(cannot_store)?;
    if if_missing && store.find(name).is_some() {
        progress.event(&serde_json::json!({"event": "installed", "model": name.display()}));
        progress.done(&format!("{name} is installed"));
        return Ok(());
    }
    let file = std::fs::canonicalize(file).map_err(|error| {
        let fix = "give the path of a GGUF file or of a checkpoint's directory";
        Problem::new(format!("cannot read {}", file.display()), error, fix)
    })?;
    let staging = store.stage().map_err(cannot_store)?;
    progress.say(&format!("importing {} as {name}", file.display()));
    let source = if file.is_dir() {
        copy(&file, &staging, &progress).map_err(|error| {
            let advice = error.advice();
            Problem::new(format!("cannot import {}", file.display()), error, format!("{advice}; nothing was installed"))
        })?
    } else {
        convert(order, &file, &staging, spawner, &progress)?
    };
    progress.say("checking and installing");
    // Beside the checkpoint and not in it, so that the same file is the same checkpoint whatever goes with it.
    let overlay = Overlay { parameters: parameters.clone(), ..Overlay::default() };
    let draft = Draft { checkpoint: Checkpoint::Built(staging, source), overlay, adapter: None };
    let model = store.prepare(draft).and_then(|prepared| store.publish(prepared, name)).map_err(cannot_store)?;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let megabytes = model.manifest.size as f64 / 1e6;
    progress.event(&serde_json::json!({"event": "installed", "model": name.display(), "bytes": model.manifest.size}));
    progress.done(&format!("installed {name}, {megabytes:.0} MB"));
    Ok(())
}

/// Copies a checkpoint's directory.
fn copy(directory: &Path, staging: &Staging, progress: &Progress) -> Result<Source, SourceError> {
    let directory = Directory::read(directory)?;
    directory.copy_to(staging.directory(), |done, total| progress.part("copying", done, total))?;
    Ok(directory.source)
}

/// Makes a checkpoint of a GGUF file.
fn convert(
    order: &Order<'_>,
    file: &Path,
    staging: &Staging,
    spawner: &Spawner,
    progress: &Progress,
) -> Result<Source, Problem> {
    let Order { name, config, .. } = *order;
    if !is_gguf(file) {
        let what = format!("cannot import {}", file.display());
        let fix = "give the path of a GGUF file or of a checkpoint's directory";
        return Err(Problem::new(what, "it is no GGUF file: such a file begins with GGUF", fix));
    }
    let python = Python::beside(&config.engine, &config.environment, spawner.clone());
    let arguments = [file.into(), staging.directory().into()];
    let mut running = python.run(IMPORT_GGUF, arguments, []).map_err(|error| {
        let what = format!("cannot start the engine's Python, {}", python.program().display());
        Problem::new(what, error, "install vLLM, or tell where its `vllm` program is with --engine")
    })?;
    let mut outcome = None;
    while let Some(event) = running.blocking_next() {
        match event {
            Event::Progress { phase, done, total } => progress.part(&phase, done, total),
            Event::Warning { message } => progress.say(&message),
            Event::Done { parameters, quantization, license } => {
                outcome = Some(Ok(Source { format: "gguf".into(), quantization, license, parameters }));
            }
            Event::Error { message } => outcome = Some(Err(message)),
        }
    }
    let (exit, said) = running.blocking_ended();
    let what = format!("cannot import {name}");
    match outcome {
        Some(Ok(source)) if exit == Exit::Code(0) => Ok(source),
        Some(Err(message)) => Err(Problem::new(what, message, "the file is left as it was; nothing was installed")),
        _ => {
            let why = format!("the import ended without a result ({exit:?}) {said}");
            let fix = if said.contains("ModuleNotFoundError") {
                let python = python.program().display();
                format!("{python} is not the Python of an engine: tell where vLLM's `vllm` program is with --engine")
            } else {
                "check that memory and disk suffice, then try again".to_owned()
            };
            Err(Problem::new(what, why, fix))
        }
    }
}

/// Whether a file begins as a GGUF file does; one that cannot be read is left to whoever reads all of it.
fn is_gguf(file: &Path) -> bool {
    let mut magic = [0; 4];
    let read = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) => magic == *b"GGUF",
        Err(error) => error.kind() != std::io::ErrorKind::UnexpectedEof,
    }
}
