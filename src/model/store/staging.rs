//! Directories in which something is built. Each is locked by its builder, so that what a killed builder left behind can
//! be told from what is being built.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::lock::{is_at, try_flock};

/// A directory something is built in; removed with all it holds unless the store took it.
#[derive(Debug)]
pub struct Staging {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Staging {
    /// Makes an empty one in `area`.
    pub(super) fn new(area: &Path) -> io::Result<Self> {
        fs::create_dir_all(area)?;
        loop {
            let directory = area.join(uuid::Uuid::new_v4().to_string());
            fs::create_dir(&directory)?;
            // A sweep that comes between these two lines takes it for a leftover: then there has to be another.
            let locked = match File::open(&directory) {
                Ok(file) => try_flock(file)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if let Some(lock) = locked.filter(|lock| is_at(lock, &directory)) {
                return Ok(Self { directory, _lock: lock });
            }
        }
    }

    /// Where to put the files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What the store took is not here any more, which is fine.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Removes what killed builders left in `area`, and says how many there were.
pub(super) fn sweep(area: &Path) -> usize {
    let Ok(entries) = fs::read_dir(area) else { return 0 };
    let mut swept = 0;
    for path in entries.flatten().map(|entry| entry.path()) {
        if !path.is_dir() {
            let _ = fs::remove_file(&path);
            continue;
        }
        let Ok(Ok(Some(lock))) = File::open(&path).map(try_flock) else { continue };
        if !is_at(&lock, &path) {
            continue;
        }
        // Under another name first: a script that has outlived its vllama finds nothing to write to any more.
        let aside = area.join(uuid::Uuid::new_v4().to_string());
        if fs::rename(&path, &aside).is_ok() {
            swept += 1;
            if let Err(error) = fs::remove_dir_all(&aside) {
                tracing::warn!(directory = %aside.display(), %error, "a leftover could not be removed");
            }
        }
    }
    swept
}
