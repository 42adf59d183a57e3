//! The model that the real engine serves in tests.

use std::path::Path;
use std::process::Command;

/// Its name, as its users know it.
pub const NAME: &str = "smollm2:135m";

/// Imports it from the GGUF file of the virtual environment `venv` into the store at `models`, unless it is there.
pub fn import(venv: &Path, models: &Path) {
    let directory = std::fs::read_dir(venv.join("share/vllama")).expect("the models of the virtual environment");
    let file =
        directory.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "gguf"));
    let status = Command::new(env!("CARGO_BIN_EXE_vllama"))
        .args(["import", "--if-missing", "--parameter", "temperature=0.2,top_p=0.9", "--engine"])
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
