//! What changes the store: a model gets its name, or loses it. Each change is one rename of one manifest; what no
//! manifest points at any more goes afterwards.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::layer::{self, Entry, entry_text, read_entry};
use super::lock::LayerLock;
use super::staging::Staging;
use super::{Store, durable};
use crate::model::digest::{Sha256Digest, measure};
use crate::model::overlay::{Adapter, Overlay};
use crate::model::source::Source;
use crate::model::{Card, Installed, Manifest, ModelName};

/// A model that has everything but a name.
#[derive(Debug)]
pub struct Draft {
    /// What it stands on.
    pub checkpoint: Checkpoint,
    /// What it adds to that.
    pub overlay: Overlay,
    /// A LoRA adapter of its own, built here; it takes the place of the overlay's.
    pub adapter: Option<Staging>,
}

/// The checkpoint of a [`Draft`].
#[derive(Debug)]
pub enum Checkpoint {
    /// Built just now.
    Built(Staging, Source),
    /// That of an installed model, shared with it.
    Of(Arc<Installed>),
}

/// A [`Draft`] whose parts are hashed and on the disk.
pub struct Prepared {
    checkpoint: Finished,
    adapter: Option<Finished>,
    /// All of it but the name.
    manifest: Manifest,
}

impl Prepared {
    /// The key of the engine that will serve it ([`Installed::engine_key`]).
    #[must_use]
    pub fn engine_key(&self) -> String {
        self.manifest.engine_key()
    }

    /// The digests of its checkpoint and its adapter.
    pub fn parts(&self) -> impl Iterator<Item = Sha256Digest> {
        let checkpoint = self.checkpoint.digest.clone();
        std::iter::once(checkpoint).chain(self.manifest.overlay.adapter.as_ref().map(|adapter| adapter.digest.clone()))
    }
}

/// A directory that gets a place by its digest.
struct Finished {
    /// `None` when it has its place already.
    staging: Option<Staging>,
    digest: Sha256Digest,
    /// In bytes.
    size: u64,
}

impl Finished {
    /// Hashes and brings to the disk what was built.
    fn of(staging: Staging) -> io::Result<Self> {
        let (digest, size) = measure(staging.directory())?;
        durable::settle(staging.directory())?;
        Ok(Self { staging: Some(staging), digest, size })
    }

    /// Moves it to its place, unless the same thing is there.
    fn put(&self, place: &Path) -> io::Result<()> {
        match &self.staging {
            Some(staging) if !place.is_dir() => durable::move_to(staging.directory(), place),
            _ => Ok(()),
        }
    }
}

impl Store {
    /// Gives a finished checkpoint a name, over whatever had that name before. Hashes it, which takes long.
    ///
    /// # Errors
    /// When the checkpoint cannot be read as one, or the store cannot be written; the staged files are removed then.
    pub fn install(&self, staging: Staging, name: &ModelName, source: Source) -> io::Result<Arc<Installed>> {
        let checkpoint = Checkpoint::Built(staging, source);
        let prepared = self.prepare(Draft { checkpoint, overlay: Overlay::default(), adapter: None })?;
        self.publish(prepared, name)
    }

    /// Gives an installed model another name, over whatever had that name before. No weight is copied.
    ///
    /// # Errors
    /// When the model is gone, or the store cannot be written.
    pub fn copy(&self, model: &Arc<Installed>, name: &ModelName) -> io::Result<Arc<Installed>> {
        let overlay = model.manifest.overlay.clone();
        let prepared = self.prepare(Draft { checkpoint: Checkpoint::Of(model.clone()), overlay, adapter: None })?;
        self.publish(prepared, name)
    }

    /// Does for a draft what takes long: hashes what was built, and brings it to the disk.
    ///
    /// # Errors
    /// When something cannot be read as what it should be, or the store cannot be written; what was staged is removed.
    pub fn prepare(&self, draft: Draft) -> io::Result<Prepared> {
        let Draft { checkpoint, mut overlay, adapter } = draft;
        let adapter = adapter.map(Finished::of).transpose()?;
        if let Some(Finished { digest, size, .. }) = &adapter {
            overlay.adapter = Some(Adapter { digest: digest.clone(), size: *size });
        }
        let (checkpoint, source) = match checkpoint {
            Checkpoint::Built(staging, source) => {
                Card::read(staging.directory(), source.parameters)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                (Finished::of(staging)?, source)
            }
            Checkpoint::Of(model) => self.shared(&model)?,
        };
        let manifest = Manifest {
            name: String::new(),
            digest: overlay.digest_on(&checkpoint.digest).as_str().to_owned(),
            size: checkpoint.size + overlay.adapter.as_ref().map_or(0, |adapter| adapter.size),
            format: source.format,
            quantization: source.quantization,
            license: source.license,
            parameters: source.parameters,
            checkpoint: Some(checkpoint.digest.clone()),
            overlay,
        };
        Ok(Prepared { checkpoint, adapter, manifest })
    }

    /// Gives a prepared model a name, over whatever had that name before. A matter of moments.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when what it stands on is gone, or what the system says.
    pub fn publish(&self, prepared: Prepared, name: &ModelName) -> io::Result<Arc<Installed>> {
        let upper = &self.inner.upper;
        let Prepared { checkpoint, adapter, mut manifest } = prepared;
        let bench = self.stage()?;
        let file = upper.manifest(name);
        let lock = LayerLock::take(&upper.root)?;
        manifest.name = match read_entry(&file) {
            // As in Ollama, a model that is replaced keeps the spelling of its name.
            Ok(Entry::Model(replaced)) => replaced.name,
            _ => name.display(),
        };
        checkpoint.put(&upper.checkpoint(&checkpoint.digest))?;
        if let Some(adapter) = &adapter {
            adapter.put(&upper.adapter(&adapter.digest))?;
        }
        let stands_on = manifest.overlay.adapter.as_ref().map(|adapter| self.inner.adapter(&adapter.digest));
        let stands_on = stands_on.into_iter().chain([self.inner.checkpoint(&manifest, &file)]);
        if stands_on.into_iter().any(|directory| !directory.is_dir()) {
            let text = "the model it is made from was deleted in the meantime";
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        let text = entry_text(&Entry::Model(Box::new(manifest)))?;
        durable::write(bench.directory(), &file, &text, None)?;
        let known = self.inner.read(&file)?.ok_or_else(|| io::Error::other("a manifest became a whiteout"))?;
        let model = known.model.clone();
        self.learn(|models| _ = models.insert(name.clone(), known));
        let gone = self.clear_place(&file, &bench).and_then(|()| self.unreferenced(&bench));
        drop(lock);
        self.inner.blobs.sweep();
        if let Err(error) = gone {
            tracing::warn!(%error, "what the replaced model stood on could not be removed; the next start tries again");
        }
        Ok(model)
    }

    /// Takes a name away; false when there is no model of that name. The model may be in use: see
    /// [`Store::shares_engine`]. What only this model stood on is removed.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn remove(&self, name: &ModelName) -> io::Result<bool> {
        let upper = &self.inner.upper;
        let bench = self.stage()?;
        let file = upper.manifest(name);
        let lock = LayerLock::take(&upper.root)?;
        let above = file.exists();
        let hidden = above && matches!(read_entry(&file), Ok(Entry::Whiteout));
        let below = self.inner.base.as_ref().and_then(|base| base.models.get(name));
        if hidden || (!above && below.is_none()) {
            return Ok(false);
        }
        if below.is_some() {
            durable::write(bench.directory(), &file, &entry_text(&Entry::Whiteout)?, None)?;
            self.clear_place(&file, &bench)?;
        } else {
            // With all that lies beside the manifest, in one step.
            let place = upper.place(name);
            fs::rename(&place, bench.directory().join("deleted"))?;
            if let Some(parent) = place.parent() {
                fs::File::open(parent)?.sync_all()?;
                durable::prune(parent, &upper.root);
            }
        }
        self.learn(|models| _ = models.remove(name));
        let gone = self.unreferenced(&bench);
        drop(lock);
        if let Err(error) = gone {
            tracing::warn!(%error, "what the deleted model stood on could not be removed; the next start tries again");
        }
        Ok(true)
    }

    /// The checkpoint of an installed model, to stand on.
    fn shared(&self, model: &Installed) -> io::Result<(Finished, Source)> {
        let manifest = &model.manifest;
        let source = Source {
            format: manifest.format.clone(),
            quantization: manifest.quantization.clone(),
            license: manifest.license.clone(),
            parameters: manifest.parameters,
        };
        let size =
            manifest.size - manifest.overlay.adapter.as_ref().map_or(0, |adapter| adapter.size.min(manifest.size));
        if let Some(digest) = manifest.checkpoint.clone() {
            return Ok((Finished { staging: None, digest, size }, source));
        }
        let beside = Sha256Digest::parse(&manifest.digest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let in_base = self.inner.base.as_ref().is_some_and(|base| base.checkpoints.contains_key(&beside));
        let staging = if in_base || self.inner.upper.checkpoint(&beside).is_dir() {
            None
        } else {
            // A file system without second names for files, or it would have been moved when the store was opened.
            let staging = self.stage()?;
            durable::link_all(&model.directory, staging.directory(), layer::MANIFEST, true)?;
            durable::settle(staging.directory())?;
            Some(staging)
        };
        Ok((Finished { staging, digest: beside, size }, source))
    }

    /// Moves everything but the manifest out of the place of a name: a checkpoint that lay there until now.
    pub(super) fn clear_place(&self, file: &Path, bench: &Staging) -> io::Result<()> {
        let Some(place) = file.parent() else { return Ok(()) };
        for entry in fs::read_dir(place)? {
            let path = entry?.path();
            if path != file {
                fs::rename(&path, bench.directory().join(uuid::Uuid::new_v4().to_string()))?;
            }
        }
        Ok(())
    }

    /// Moves checkpoints and adapters that no manifest names to `bench`, to be removed with it. Only under the lock.
    pub(super) fn unreferenced(&self, bench: &Staging) -> io::Result<()> {
        let upper = &self.inner.upper;
        let mut checkpoints = std::collections::HashSet::new();
        let mut adapters = std::collections::HashSet::new();
        for file in upper.manifests()? {
            // One that cannot be read may name anything: then nothing is removed.
            let entry = read_entry(&file)
                .map_err(|error| io::Error::new(error.kind(), format!("{} cannot be read: {error}", file.display())))?;
            if let Entry::Model(manifest) = entry {
                checkpoints.extend(manifest.checkpoint);
                adapters.extend(manifest.overlay.adapter.map(|adapter| adapter.digest));
            }
        }
        for (area, named) in [(upper.checkpoints(), checkpoints), (upper.adapters(), adapters)] {
            let entries = match fs::read_dir(&area) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for path in entries.flatten().map(|entry| entry.path()) {
                let digest = path.file_name().and_then(|name| Sha256Digest::parse(name.to_str()?).ok());
                if !digest.is_some_and(|digest| named.contains(&digest)) {
                    fs::rename(&path, bench.directory().join(uuid::Uuid::new_v4().to_string()))?;
                }
            }
        }
        Ok(())
    }
}
