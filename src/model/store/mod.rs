//! The store: installed models on disk, in two layers, made complete before their names appear.
//!
//! The writable layer lies over a read-only base, models baked into an image. A name of the upper layer hides that of
//! the base; a base model that was deleted leaves a whiteout above it. In each layer:
//!
//! - `<host>/<namespace>/<model>/<tag>/vllama.json`: the [`Manifest`] of a name. It points at
//! - `.checkpoints/<sha256>/`: a Hugging Face checkpoint, stored once however many names stand on it, and gone with the
//!   last of them. Checkpoints beside the manifest, the layout of the first versions, are read and, above, moved.
//! - `.adapters/<sha256>/`: LoRA adapters, likewise.
//! - `.blobs/`: uploaded files that a create may name. `.staging/`: what is being built. `.lock`, `.locks/`: locks.
//!
//! Finding a known name looks at the date of one file, and nothing but an installation reads weights.

mod blobs;
mod change;
mod durable;
mod inspection;
mod layer;
mod lock;
mod staging;
mod upkeep;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

pub use blobs::{Blobs, Upload};
pub use change::{Checkpoint, Draft, Prepared};
pub use inspection::Inspection;
pub use lock::NameLock;
pub use staging::Staging;

use super::digest::Sha256Digest;
use super::{Installed, Manifest, ModelName, ParserChoices};
use layer::{Entry, Layer, Stamp, read_entry};

/// Time between two tries to lock a name.
const LOCK_PACE: Duration = Duration::from_millis(20);
/// Conversions of uploaded files at a time: each fills memory with tensors and the disk with weights.
const CONVERSIONS: usize = 1;

/// The installed models. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upper: Layer,
    base: Option<Base>,
    book: RwLock<Book>,
    blobs: Blobs,
    conversions: Semaphore,
    parsers: ParserChoices,
}

impl Inner {
    fn new(upper: Layer, base: Option<Base>, parsers: ParserChoices) -> Self {
        let (blobs, conversions) = (Blobs::new(&upper), Semaphore::new(CONVERSIONS));
        Self { upper, base, book: RwLock::default(), blobs, conversions, parsers }
    }
}

/// What is installed, as it was when the disk was last looked at.
#[derive(Debug, Default)]
struct Book {
    models: Arc<Models>,
    /// Number of changes to it, so that a look at the disk does not write down what has changed in the meantime.
    changes: u64,
}

/// The read-only layer, which does not change while vllama runs.
#[derive(Debug)]
struct Base {
    layer: Layer,
    models: Models,
    /// Where its checkpoints are: models above may stand on them.
    checkpoints: HashMap<Sha256Digest, PathBuf>,
}

type Models = HashMap<ModelName, Known>;

#[derive(Clone, Debug)]
struct Known {
    /// The manifest file that was read, and how it was then.
    file: PathBuf,
    stamp: Stamp,
    model: Arc<Installed>,
}

impl Store {
    /// Opens the store in `root`, without a base.
    ///
    /// # Errors
    /// When `root` cannot be made or read.
    pub fn open(root: &Path) -> io::Result<Self> {
        Self::with_base(root, None)
    }

    /// Opens the store in `root`, which is made when it is not there, over the one in `base`, which may be missing. What
    /// killed processes left behind is removed, and models in the layout of the first versions are moved. A directory
    /// that holds no whole model is left alone and not listed.
    ///
    /// # Errors
    /// When `root` cannot be made or read.
    pub fn with_base(root: &Path, base: Option<&Path>) -> io::Result<Self> {
        Self::with_parsers(root, base, ParserChoices::default())
    }

    /// The same, with what the operator has chosen about single models.
    ///
    /// # Errors
    /// When `root` cannot be made or read.
    pub fn with_parsers(root: &Path, base: Option<&Path>, parsers: ParserChoices) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let upper = Layer { root: root.into() };
        let base = base.filter(|base| base.is_dir() && *base != root);
        let base = base.map(|base| Base::read(base, parsers.clone())).transpose()?;
        let store = Self { inner: Arc::new(Inner::new(upper, base, parsers)) };
        if let Err(error) = store.tidy() {
            match error.kind() {
                // Somebody else's, or a read-only file system: nothing is expected of us.
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    tracing::debug!(%error, "the model store is only read");
                }
                _ => tracing::warn!(%error, "the model store could not be tidied; it is read as it is"),
            }
        }
        store.look()?;
        Ok(store)
    }

    /// Bytes of all installed models on disk, as they were when they were installed; what several names share counts once.
    /// Does not look at the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let known = self.known();
        let sizes: HashMap<_, _> =
            known.values().map(|known| (known.model.engine_key(), known.model.manifest.size)).collect();
        sizes.values().sum()
    }

    /// All installed models, newest first; looks at the disk, since another vllama may have changed something.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Installed>> {
        if let Err(error) = self.look() {
            tracing::warn!(%error, "the model store cannot be read; telling what is known");
        }
        let mut list: Vec<_> = self.known().values().map(|known| known.model.clone()).collect();
        list.sort_by(|one, other| {
            other.modified_at.cmp(&one.modified_at).then_with(|| one.manifest.name.cmp(&other.manifest.name))
        });
        list
    }

    /// The installed model of that name. Reads it only when its manifest is another than the one last seen: another
    /// vllama may have replaced it.
    #[must_use]
    pub fn find(&self, name: &ModelName) -> Option<Arc<Installed>> {
        let inner = &self.inner;
        let before = self.known().get(name).cloned();
        if let Some(known) = before.as_ref().filter(|known| inner.is_current(name, known)) {
            return Some(known.model.clone());
        }
        let found = match inner.read(&inner.upper.manifest(name)) {
            Ok(found) => found,
            Err(_) => inner.base.as_ref().and_then(|base| base.models.get(name).cloned()),
        };
        match &found {
            Some(known) => self.learn(|models| _ = models.insert(name.clone(), known.clone())),
            None if before.is_some() => self.learn(|models| _ = models.remove(name)),
            None => {}
        }
        found.map(|known| known.model)
    }

    /// Whether a model of another name needs the engine of this one.
    #[must_use]
    pub fn shares_engine(&self, model: &Installed) -> bool {
        let key = model.engine_key();
        self.list().iter().any(|other| other.name != model.name && other.engine_key() == key)
    }

    /// Makes an empty directory to build a model in, on the file system of the store.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn stage(&self) -> io::Result<Staging> {
        Staging::new(&self.inner.upper.staging())
    }

    /// The uploaded files.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// Waits for the turn to convert uploaded files.
    ///
    /// # Errors
    /// Never while the store is open.
    pub async fn conversion(&self) -> io::Result<SemaphorePermit<'_>> {
        self.inner.conversions.acquire().await.map_err(io::Error::other)
    }

    /// Waits for the right to change what `name` stands for, in this process and in others. Safe to cancel.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn lock(&self, name: &ModelName) -> io::Result<NameLock> {
        let file = Sha256Digest::of(name.key().join("/").as_bytes());
        let path = self.inner.upper.locks().join(file.as_str());
        loop {
            if let Some(lock) = NameLock::try_take(path.clone())? {
                return Ok(lock);
            }
            // Another process cannot wake this one.
            tokio::time::sleep(LOCK_PACE).await;
        }
    }

    /// Reads what is on the disk; manifests that have not changed are not read again.
    fn look(&self) -> io::Result<()> {
        loop {
            let (before, changes) = {
                let book = self.inner.book.read().unwrap_or_else(PoisonError::into_inner);
                (book.models.clone(), book.changes)
            };
            let models = self.inner.read_all(&before)?;
            let mut book = self.inner.book.write().unwrap_or_else(PoisonError::into_inner);
            if book.changes == changes {
                book.models = Arc::new(models);
                return Ok(());
            }
        }
    }

    fn known(&self) -> Arc<Models> {
        // A poisoned lock still guards a whole map: a change to it is one insertion or one removal.
        self.inner.book.read().unwrap_or_else(PoisonError::into_inner).models.clone()
    }

    fn learn(&self, change: impl FnOnce(&mut Models)) {
        let mut book = self.inner.book.write().unwrap_or_else(PoisonError::into_inner);
        book.changes += 1;
        change(Arc::make_mut(&mut book.models));
    }
}

impl Inner {
    /// Everything that is installed; what `before` knows of unchanged manifests is taken from there.
    fn read_all(&self, before: &Models) -> io::Result<Models> {
        let mut models = self.base.as_ref().map(|base| base.models.clone()).unwrap_or_default();
        let before: HashMap<&Path, &Known> = before.values().map(|known| (known.file.as_path(), known)).collect();
        for file in self.upper.manifests()? {
            let known = before.get(file.as_path()).filter(|known| {
                layer::stamp(&file).is_ok_and(|stamp| stamp == known.stamp) && known.model.directory.is_dir()
            });
            if let Some(known) = known {
                models.insert(known.model.name.clone(), (*known).clone());
                continue;
            }
            match self.read(&file) {
                Ok(Some(known)) => _ = models.insert(known.model.name.clone(), known),
                Ok(None) => models.retain(|name, _| self.upper.manifest(name) != file),
                // Deleted since the directory was read.
                Err(_) if !file.exists() => {}
                Err(error) => tracing::warn!(file = %file.display(), %error, "not a whole model, left alone"),
            }
        }
        Ok(models)
    }

    /// Whether a name still stands for what it stood for when it was read.
    fn is_current(&self, name: &ModelName, known: &Known) -> bool {
        let unchanged = layer::stamp(&known.file).is_ok_and(|stamp| stamp == known.stamp);
        unchanged && (known.file.starts_with(&self.upper.root) || !self.upper.manifest(name).exists())
    }

    /// Reads a manifest of the upper layer, and the checkpoint it stands on; `None` for a whiteout.
    fn read(&self, file: &Path) -> io::Result<Option<Known>> {
        let stamp = layer::stamp(file)?;
        let Entry::Model(manifest) = read_entry(file)? else { return Ok(None) };
        let directory = self.checkpoint(&manifest, file);
        let adapter = manifest.overlay.adapter.as_ref().map(|adapter| self.adapter(&adapter.digest));
        let mut model = layer::assemble(*manifest, directory, adapter, layer::written_at(file)?)?;
        self.parsers.apply(&model.name, &mut model.card);
        if self.upper.manifest(&model.name) != file {
            let text = format!("it calls itself {}, which is elsewhere", model.name);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Some(Known { file: file.into(), stamp, model: Arc::new(model) }))
    }

    /// Where the checkpoint of a manifest is: above, in the base, or beside the manifest.
    fn checkpoint(&self, manifest: &Manifest, file: &Path) -> PathBuf {
        let Some(digest) = &manifest.checkpoint else {
            return file.parent().unwrap_or(file).to_path_buf();
        };
        let above = self.upper.checkpoint(digest);
        let below = self.base.as_ref().and_then(|base| base.checkpoints.get(digest));
        if above.is_dir() { above } else { below.cloned().unwrap_or(above) }
    }

    fn adapter(&self, digest: &Sha256Digest) -> PathBuf {
        let above = self.upper.adapter(digest);
        let below = self.base.as_ref().map(|base| base.layer.adapter(digest)).filter(|below| below.is_dir());
        if above.is_dir() { above } else { below.unwrap_or(above) }
    }
}

impl Base {
    /// Reads all of it.
    fn read(root: &Path, parsers: ParserChoices) -> io::Result<Self> {
        let layer = Layer { root: root.into() };
        let inner = Inner::new(layer.clone(), None, parsers);
        let models = inner.read_all(&Models::new())?;
        let mut checkpoints = HashMap::new();
        for Known { model, .. } in models.values() {
            let digest = model.manifest.checkpoint.clone();
            // Beside its manifest, the checkpoint is the model.
            if let Some(digest) = digest.or_else(|| Sha256Digest::parse(&model.manifest.digest).ok()) {
                checkpoints.insert(digest, model.directory.clone());
            }
        }
        Ok(Self { layer, models, checkpoints })
    }
}

#[cfg(test)]
mod tests;
