//! Small file systems of this program's own, so that they can be filled: a `/dev/shm`, and one for each state directory. They
//! are mounted in a mount namespace that nobody else sees, and are gone with this program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// `/dev/shm` is not much larger than vllama wants it to be before it starts an engine.
const SHARED_MEMORY: &str = "size=448m";
/// A state directory holds logs.
const STATE: &str = "size=8m";

/// Gives this program a mount namespace with a small `/dev/shm`. To be called before there is a second thread.
pub fn isolate() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), MsFlags::empty(), Some(SHARED_MEMORY))
}

/// A small file system.
pub struct Narrow {
    directory: TempDir,
}

impl Narrow {
    /// Mounts one.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("vllama-narrow-").tempdir().unwrap();
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(STATE)).unwrap();
        Self { directory }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        // Whatever still writes there may do so; nobody reads it.
        let _ = umount2(self.directory.path(), MntFlags::MNT_DETACH);
    }
}

/// A file that leaves no room beside it, until it is dropped.
pub struct Full {
    path: PathBuf,
    file: File,
    filled: i64,
}

impl Full {
    /// Fills the file system of this directory.
    pub fn fill(directory: &Path) -> Self {
        let path = directory.join("full");
        let file = File::create(&path).unwrap();
        let mut full = Self { path, file, filled: 0 };
        full.fill_up();
        full
    }

    /// Takes the room that others have left since.
    pub fn fill_up(&mut self) {
        // What does not fit is refused as a whole.
        for block in [1 << 20, 1 << 12] {
            while fallocate(&self.file, FallocateFlags::empty(), self.filled, block).is_ok() {
                self.filled += block;
            }
        }
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
