//! The model that the real engine serves in tests.

use std::path::Path;
use std::process::Command;

/// Its name, as its users know it.
pub const NAME: &str = "smollm2:135m";

/// Its parameters, as the Makefile gives them.
fn parameters() -> &'static str {
    let versions = include_str!("../../../engine/versions.env");
    let parameters = versions.lines().find_map(|line| line.strip_prefix("DEFAULT_MODEL_PARAMETERS="));
    parameters.expect("the parameters of the default model")
}

/// Imports it from the GGUF file of the virtual environment `venv` into the store at `models`, unless it is there.
pub fn import(venv: &Path, models: &Path) {
    let directory = std::fs::read_dir(venv.join("share/vllama")).expect("the models of the virtual environment");
    let file =
        directory.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "gguf"));
    let status = Command::new(env!("CARGO_BIN_EXE_vllama"))
        .args(["import", "--if-missing", "--parameter", parameters(), "--engine"])
        .arg(venv.join("bin/vllm"))
        .arg("--models-dir")
        .arg(models)
        .arg(file.expect("the default model's file"))
        .arg(NAME)
        .status()
        .expect("vllama runs");
    assert!(status.success(), "the import ends with {status}");
    assert!(models.join("registry.ollama.ai/library/smollm2/135m/vllama.json").exists());
}
