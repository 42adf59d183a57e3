//! The run directory: one vllama at a time, and nothing in it from one that was killed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::cli::problem::Problem;
use crate::engine::generation::Generation;
use crate::model::Installed;

/// The right to use a run directory; given back when dropped, also by a crash.
pub(super) struct Lock {
    _file: Flock<File>,
}

/// Makes the directory (0700), takes its lock and removes what engines of a killed vllama left there.
pub(super) fn lock(run: &Path) -> Result<Lock, Problem> {
    let cannot_use = |error: std::io::Error| {
        let what = format!("cannot use the run directory {}", run.display());
        Problem::new(what, error, "choose a directory you may write with --run-dir")
    };
    DirBuilder::new().recursive(true).mode(0o700).create(run).map_err(cannot_use)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(run.join("vllama.lock"))
        .map_err(cannot_use)?;
    let file = exclusively(file).ok_or_else(|| {
        Problem::new(
            format!("cannot use the run directory {}", run.display()),
            "another vllama uses it",
            "stop the other one, or give this one a directory of its own with --run-dir",
        )
    })?;
    for entry in std::fs::read_dir(run).map_err(cannot_use)?.flatten().filter(|entry| entry.path().is_dir()) {
        match Generation::clear_leftovers(&entry.path()).map_err(cannot_use)? {
            0 => {}
            count => tracing::warn!(count, "ended processes that an engine of a killed vllama had left behind"),
        }
    }
    Ok(Lock { _file: file })
}

/// Locks the file. A vllama that was killed in the middle of starting a process leaves a child that holds its locks for
/// the moment until it becomes another program.
fn exclusively(mut file: File) -> Option<Flock<File>> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Some(locked),
            Err(_) if Instant::now() > deadline => return None,
            Err((unlocked, _)) => file = unlocked,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The name of an engine's directory: by what it serves, and short, since Unix sockets have short paths.
pub(super) fn engine(model: &Installed) -> String {
    let hash = Sha256::digest(model.engine_key());
    let word: String = model.name.model().chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    format!("{}-{:02x}{:02x}{:02x}{:02x}", word.to_ascii_lowercase(), hash[0], hash[1], hash[2], hash[3])
}
