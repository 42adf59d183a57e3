//! Locks between tasks and between processes: flock, so that a crash gives them back.
//!
//! One lock over the whole layer is held for the moment of a change (a few renames). One lock a name is held longer, by
//! whoever is about to replace or delete the model, while its requests end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The right to change what is in a layer. Blocks for moments only.
#[derive(Debug)]
pub(super) struct LayerLock {
    _file: Flock<File>,
}

impl LayerLock {
    pub(super) fn take(root: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(root.join(".lock"))?;
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        Ok(Self { _file: file })
    }
}

/// The right to change what a name stands for. Given back when dropped.
#[derive(Debug)]
pub struct NameLock {
    path: PathBuf,
    _file: Flock<File>,
}

impl NameLock {
    /// Takes the lock if nobody holds it.
    pub(super) fn try_take(path: PathBuf) -> io::Result<Option<Self>> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        let Some(file) = try_flock(file)? else { return Ok(None) };
        // Whoever held it before has removed the file, perhaps after it was opened here: then this lock locks nothing.
        Ok(is_at(&file, &path).then_some(Self { path, _file: file }))
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        // Still locked: nobody else can hold the file of this path. If it cannot be removed, the next start does.
        let _ = fs::remove_file(&self.path);
    }
}

/// Locks an open file or directory, or says that somebody else has.
pub(super) fn try_flock(file: File) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Some(file)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Whether an open file is the one that is at this path now.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let identity = |facts: fs::Metadata| (facts.dev(), facts.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}
