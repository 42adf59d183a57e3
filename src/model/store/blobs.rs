//! Uploaded files, by their digest (ollama-api §4.8). They come before the create that names them.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::durable;
use super::layer::Layer;
use super::staging::Staging;
use crate::model::digest::{Hasher, Sha256Digest};

/// Uploads at a time; each has a thread. More wait with their bytes unread.
const UPLOADS: usize = 8;
/// How long a file is kept that nobody has named or sent again.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The uploaded files of a store.
#[derive(Clone, Debug)]
pub struct Blobs {
    directory: PathBuf,
    staging: PathBuf,
    uploads: Arc<Semaphore>,
}

/// A file on its way in: written where nobody looks, and hashed as it comes.
#[derive(Debug)]
pub struct Upload {
    staging: Staging,
    file: File,
    hasher: Hasher,
    _place: OwnedSemaphorePermit,
}

impl Blobs {
    pub(super) fn new(layer: &Layer) -> Self {
        Self { directory: layer.blobs(), staging: layer.staging(), uploads: Arc::new(Semaphore::new(UPLOADS)) }
    }

    /// Where the file with this digest is, if it is there.
    #[must_use]
    pub fn find(&self, digest: &Sha256Digest) -> Option<PathBuf> {
        let path = self.path(digest);
        path.is_file().then_some(path)
    }

    /// Gives the file with this digest a second name, so that it stays whatever becomes of the first. Without second
    /// names in the file system it is copied.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none, or what the system says.
    pub fn link(&self, digest: &Sha256Digest, target: &Path) -> io::Result<()> {
        let path = self.path(digest);
        match fs::hard_link(&path, target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Err(_) => _ = fs::copy(&path, target)?,
            Ok(()) => {}
        }
        // It is in use, so it begins to age anew; that it cannot be told does no harm.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(())
    }

    /// Bytes that are free where uploads go.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn free(&self) -> io::Result<u64> {
        fs::create_dir_all(&self.staging)?;
        let status = nix::sys::statvfs::statvfs(&self.staging)?;
        Ok(status.blocks_available() * status.fragment_size())
    }

    /// Begins an upload as soon as there is a place for it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn upload(&self) -> io::Result<Upload> {
        // Nobody closes the semaphore.
        let place = self.uploads.clone().acquire_owned().await.map_err(io::Error::other)?;
        let staging = Staging::new(&self.staging)?;
        let file = File::create(staging.directory().join("blob"))?;
        Ok(Upload { staging, file, hasher: Hasher::default(), _place: place })
    }

    /// Takes an upload in if its bytes have this digest, else gives the digest they have.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep(&self, upload: Upload, wanted: &Sha256Digest) -> io::Result<Result<(), Sha256Digest>> {
        let Upload { staging, file, hasher, _place } = upload;
        let found = hasher.finish();
        if found != *wanted {
            return Ok(Err(found));
        }
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()?;
        durable::move_to(&staging.directory().join("blob"), &self.path(wanted))?;
        Ok(Ok(()))
    }

    /// Removes files that nobody has used for a day.
    pub(super) fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let written = fs::metadata(&path).and_then(|facts| facts.modified());
            if written.is_ok_and(|written| written.elapsed().is_ok_and(|age| age > KEPT)) {
                // One that cannot be removed is tried again at the next start.
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn path(&self, digest: &Sha256Digest) -> PathBuf {
        self.directory.join(format!("sha256-{}", digest.as_str()))
    }
}

impl Upload {
    /// Takes more bytes. Blocks.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }
}
