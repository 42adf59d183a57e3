//! `vllama import FILE NAME`: a GGUF file becomes an installed model.
//!
//! vLLM cannot load GGUF any more, so a script that the engine's Python runs makes a Hugging Face checkpoint of it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc;

use serde::Deserialize;

use super::problem::Problem;
use super::progress::Progress;
use crate::config::Config;
use crate::init::{Exit, Init, Spawner, Spec};
use crate::model::{ModelName, Source, Store};

/// The script; it tells its progress as JSON, one object a line.
const SCRIPT: &str = include_str!("../model/import_gguf.py");

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
    /// The GGUF file.
    pub file: &'a Path,
    /// The name it gets.
    pub name: &'a ModelName,
    /// Leave an installed model of that name alone.
    pub if_missing: bool,
    /// Sampling defaults, by their names in `generation_config.json`.
    pub parameters: &'a [(&'static str, f64)],
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
        Problem::new(what, error, "choose a directory you may write with --models-dir")
    };
    let store = Store::open(&config.models).map_err(cannot_store)?;
    if if_missing && store.find(name).is_some() {
        progress.event(&serde_json::json!({"event": "installed", "model": name.display()}));
        progress.done(&format!("{name} is installed"));
        return Ok(());
    }
    let file = std::fs::canonicalize(file).map_err(|error| {
        Problem::new(format!("cannot read {}", file.display()), error, "give the path of a GGUF file")
    })?;
    let python = config.engine.with_file_name("python");
    let staging = store.stage().map_err(cannot_store)?;
    progress.say(&format!("importing {} as {name}", file.display()));
    let spec = Spec {
        program: python.clone(),
        arguments: ["-c".into(), SCRIPT.into(), file.into_os_string(), staging.directory().into()].into(),
        environment: config.environment.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        directory: "/".into(),
        out_of_memory_score: 0,
    };
    let (on_exit, exit) = mpsc::channel();
    let child = spawner.spawn(&spec, Box::new(move |status| _ = on_exit.send(status))).map_err(|error| {
        let what = format!("cannot start the engine's Python, {}", python.display());
        Problem::new(what, error, "install vLLM, or tell where its `vllm` program is with --engine")
    })?;
    let errors = child.stderr.map(|pipe| std::thread::spawn(move || last_line(std::fs::File::from(pipe))));
    let mut outcome = None;
    for line in child.stdout.into_iter().flat_map(|pipe| BufReader::new(std::fs::File::from(pipe)).lines()) {
        match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
            Some(Event::Progress { phase, done, total }) => progress.part(&phase, done, total),
            Some(Event::Warning { message }) => progress.say(&message),
            Some(Event::Done { parameters, quantization, license }) => {
                outcome = Some(Ok(Source { format: "gguf".into(), quantization, license, parameters }));
            }
            Some(Event::Error { message }) => outcome = Some(Err(message)),
            // Libraries print what they like.
            None => {}
        }
    }
    let exit = exit.recv().unwrap_or(Exit::Code(1));
    let said = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let what = format!("cannot import {name}");
    let source = match outcome {
        Some(Ok(source)) if exit == Exit::Code(0) => source,
        Some(Err(message)) => {
            return Err(Problem::new(what, message, "the file is left as it was; nothing was installed"));
        }
        _ => {
            let why = format!("the import ended without a result ({exit:?}) {said}");
            return Err(Problem::new(what, why, "check that memory and disk suffice, then try again"));
        }
    };
    progress.say("checking and installing");
    write_parameters(staging.directory(), parameters).map_err(cannot_store)?;
    let model = store.install(staging, name, source).map_err(cannot_store)?;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let megabytes = model.manifest.size as f64 / 1e6;
    progress.event(&serde_json::json!({"event": "installed", "model": name.display(), "bytes": model.manifest.size}));
    progress.done(&format!("installed {name}, {megabytes:.0} MB"));
    Ok(())
}

/// Puts sampling defaults beside those the file brought along.
fn write_parameters(checkpoint: &Path, parameters: &[(&str, f64)]) -> std::io::Result<()> {
    if parameters.is_empty() {
        return Ok(());
    }
    let file = checkpoint.join("generation_config.json");
    let mut values: serde_json::Map<String, serde_json::Value> = match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => serde_json::Map::new(),
        Err(error) => return Err(error),
    };
    for (name, value) in parameters {
        // Whole numbers stay whole: `top_k` is one.
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        let value = if value.fract() == 0.0 && value.abs() < 1e9 { (*value as i64).into() } else { (*value).into() };
        values.insert((*name).to_owned(), value);
    }
    std::fs::write(file, serde_json::to_vec_pretty(&values)?)
}

/// The last line that says anything; the script's own errors come as events, so this is for the unforeseen.
fn last_line(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // What was read before an error counts all the same.
    let _ = pipe.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_join_what_the_checkpoint_has() {
        let checkpoint = tempfile::tempdir().expect("a directory");
        let file = checkpoint.path().join("generation_config.json");
        std::fs::write(&file, r#"{"eos_token_id": 2, "top_k": 7}"#).expect("written");
        write_parameters(checkpoint.path(), &[("temperature", 0.2), ("top_k", 40.0)]).expect("written");
        let values: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
        assert_eq!(values, serde_json::json!({"eos_token_id": 2, "top_k": 40, "temperature": 0.2}));
    }
}
