//! What is done when the store is opened: leftovers of killed processes go, and models in the layout of the first
//! versions are moved. A crash at any point of it leaves every model readable.

use std::fs;
use std::io;
use std::path::Path;

use super::layer::{self, Entry, entry_text, read_entry};
use super::lock::LayerLock;
use super::{Store, durable, lock, staging};
use crate::model::digest::Sha256Digest;

impl Store {
    /// All of it.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let upper = &self.inner.upper;
        let _lock = LayerLock::take(&upper.root)?;
        let swept = staging::sweep(&upper.staging());
        sweep_locks(&upper.locks());
        let bench = self.stage()?;
        for file in upper.manifests()? {
            if let Err(error) = self.settle_place(&file) {
                tracing::debug!(file = %file.display(), %error, "left where it is");
            }
        }
        prune_empty(&upper.root, 4);
        self.inner.blobs.sweep();
        if swept > 0 {
            tracing::info!(count = swept, "removed what had been left unfinished in the model store");
        }
        self.unreferenced(&bench)
    }

    /// Brings the place of a name to today's layout: a manifest and nothing else.
    fn settle_place(&self, file: &Path) -> io::Result<()> {
        let bench = self.stage()?;
        if let Entry::Model(mut manifest) = read_entry(file)?
            && manifest.checkpoint.is_none()
        {
            let place = file.parent().unwrap_or(file);
            let digest = Sha256Digest::parse(&manifest.digest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            // What cannot be read as a checkpoint is left alone, for whoever wants to look at it.
            layer::assemble(*manifest.clone(), place.into(), None, layer::written_at(file)?)?;
            let target = self.inner.upper.checkpoint(&digest);
            if !target.is_dir() {
                let linked = self.stage()?;
                durable::link_all(place, linked.directory(), layer::MANIFEST, false)?;
                durable::settle(linked.directory())?;
                durable::move_to(linked.directory(), &target)?;
            }
            manifest.checkpoint = Some(digest);
            let text = entry_text(&Entry::Model(manifest))?;
            // As old as it was: lists are sorted by it.
            durable::write(bench.directory(), file, &text, Some(layer::written_at(file)?))?;
        }
        self.clear_place(file, &bench)
    }
}

/// Removes directories that were made for a manifest which never came, down to this depth.
fn prune_empty(directory: &Path, depth: usize) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let inside = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in inside.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
        if depth > 1 {
            prune_empty(&entry.path(), depth - 1);
        }
        // One that is not empty stays.
        let _ = fs::remove_dir(entry.path());
    }
}

/// Removes lock files of names that nobody holds.
fn sweep_locks(area: &Path) {
    let Ok(entries) = fs::read_dir(area) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        // Taken and given back, which removes it.
        drop(lock::NameLock::try_take(path));
    }
}
