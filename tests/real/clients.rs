//! Real clients, as their users install them.
//!
//! Every file of `tests/clients` is one test here, against the shared vllama, which serves a chat model and an embedding
//! model: `test_*.py` for unittest, `*.test.mjs` for Node's own runner. Those in `tests/clients/recorded`
//! need answers that no small model gives; the fake engine replays them. Those in `tests/clients/keyed` are run by the
//! group `keys`. Those in `tests/clients/calling` are run by the
//! group `tools`, whose model calls and thinks.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Vllama;
use crate::shared::{self, Shared};
use crate::{Ground, MODEL, Runner, embeddings, models};

pub(crate) fn run(runner: &mut Runner, ground: &Ground, shared: &mut Shared) {
    let Some(python) = python() else { return };
    let recordings = directory().with_file_name("golden/clients/engine");
    let builder = Vllama::with_fake().with_embedder().with_thinker();
    let asked = builder.path().join("asked");
    let builder = builder.env("FAKE_VLLM_REQUESTS", &asked.to_string_lossy());
    let builder = builder.env("FAKE_VLLM_REPLAY_DIR", &recordings.to_string_lossy());
    if let Some(vllama) = runner.test("a vllama with recorded answers gets ready", builder.start()) {
        for file in files(&directory().join("recorded")) {
            runner.test(&format!("clients: {}", name(&file)), async { pass(&python, &file, &vllama, &asked) });
        }
    }
    runner.test("the embedding model is imported for the clients", async { embeddings::import(ground) });
    let Some(vllama) = shared.vllama(runner, ground) else { return };
    runner.test("both models are loaded, so that no client waits for one", async {
        shared::configure(vllama, "").await;
        models::embed(vllama).await;
        shared::load(vllama, MODEL).await;
    });
    for file in files(&directory()) {
        runner.test(&format!("clients: {}", name(&file)), async { pass(&python, &file, vllama, &asked) });
    }
}

/// What a model that calls and thinks is asked by the packages.
pub(crate) fn calling(runner: &mut Runner, vllama: &Vllama) {
    let Some(python) = python() else { return };
    for file in files(&directory().join("calling")) {
        runner.test(&format!("clients: {}", name(&file)), async { pass(&python, &file, vllama, Path::new("")) });
    }
}

/// The Python of the clients.
pub(crate) fn python() -> Option<PathBuf> {
    let python = std::env::var_os("VLLAMA_TEST_CLIENTS").map(PathBuf::from);
    if python.is_none() {
        println!("skipped: real clients, since VLLAMA_TEST_CLIENTS names no Python that has them; `make test` sets it");
    }
    python
}

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A file as the tests name it.
pub(crate) fn name(file: &Path) -> String {
    file.strip_prefix(directory()).unwrap_or(file).display().to_string()
}

/// The files with tests of clients, in order.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let tests = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.ends_with(".test.mjs") || (name.starts_with("test_") && name.ends_with(".py"))
    };
    let mut files: Vec<PathBuf> = directory.read_dir().unwrap().flatten().map(|entry| entry.path()).collect();
    files.retain(tests);
    files.sort();
    files
}

/// Runs one file; its runner tells what fails.
fn pass(python: &Path, file: &Path, vllama: &Vllama, asked: &Path) {
    if file.extension().is_some_and(|end| end == "mjs") && !directory().join("node_modules").exists() {
        println!("skipped: {}, since tests/clients/setup has not installed its packages", name(file));
        return;
    }
    let mut command = command(python, file, vllama);
    assert!(command.env("VLLAMA_ENGINE_ASKED", asked).status().unwrap().success());
}

/// The runner of one file.
pub(crate) fn command(python: &Path, file: &Path, vllama: &Vllama) -> Command {
    let mut command = if file.extension().is_some_and(|end| end == "py") {
        let mut command = Command::new(python);
        // Examples as they are in READMEs close no client.
        command.args(["-W", "ignore::ResourceWarning", "-m", "unittest", "-v"]);
        command
    } else {
        let mut command = Command::new(python.with_file_name("node"));
        command.args(["--test", "--test-reporter=tap"]);
        command
    };
    command.arg(file.file_name().unwrap()).current_dir(file.parent().unwrap());
    command.env("OLLAMA_HOST", vllama.address.to_string()).env("PYTHONPATH", directory());
    command
}
