//! Tiny checkpoints of the kinds that no small published model has: they see, hear, think, fill gaps or judge.

use std::path::Path;
use std::process::Command;

/// Makes one in `directory`, which must not be there, with the Python at `python`; the script beside this tells the kinds.
pub fn make(python: &Path, kind: &str, directory: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/kinds.py");
    let status = Command::new(python).arg(script).arg(kind).arg(directory).status().expect("the engine's Python");
    assert!(status.success(), "the checkpoint {kind} is not made: {status}");
}
