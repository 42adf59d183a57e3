//! Where things lie in one layer of the store, and how its manifests are read.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::model::digest::Sha256Digest;
use crate::model::plan::Adapter;
use crate::model::{Card, Installed, Manifest, ModelName};

/// Name of the manifest in a model's place.
pub(super) const MANIFEST: &str = "vllama.json";
/// Largest manifest that is read, in bytes; messages with images are the most that comes in.
const MANIFEST_LIMIT: u64 = 64 << 20;

/// One directory of models.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) root: PathBuf,
}

/// What a name stands for in a layer.
#[derive(Debug)]
pub(super) enum Entry {
    /// A model.
    Model(Box<Manifest>),
    /// Nothing, and it hides the model of that name in the layer below.
    Whiteout,
}

/// A manifest file as it was at one moment: another stamp, another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Layer {
    /// The directory of a name.
    pub(super) fn place(&self, name: &ModelName) -> PathBuf {
        name.key().iter().fold(self.root.clone(), |path, part| path.join(part))
    }

    /// The manifest of a name.
    pub(super) fn manifest(&self, name: &ModelName) -> PathBuf {
        self.place(name).join(MANIFEST)
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join(".staging")
    }

    pub(super) fn checkpoints(&self) -> PathBuf {
        self.root.join(".checkpoints")
    }

    pub(super) fn adapters(&self) -> PathBuf {
        self.root.join(".adapters")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join(".blobs")
    }

    pub(super) fn locks(&self) -> PathBuf {
        self.root.join(".locks")
    }

    pub(super) fn checkpoint(&self, digest: &Sha256Digest) -> PathBuf {
        self.checkpoints().join(digest.as_str())
    }

    pub(super) fn adapter(&self, digest: &Sha256Digest) -> PathBuf {
        self.adapters().join(digest.as_str())
    }

    /// The manifests of all names, whole or not: `<host>/<namespace>/<model>/<tag>/vllama.json`. What begins with a dot
    /// is no host.
    pub(super) fn manifests(&self) -> io::Result<Vec<PathBuf>> {
        let mut level = vec![self.root.clone()];
        for depth in 0..4 {
            let mut next = Vec::new();
            for directory in level {
                let entries = match fs::read_dir(&directory) {
                    Ok(entries) => entries,
                    // Somebody may have removed it since its parent was read; the root has to be there.
                    Err(error) if depth == 0 => return Err(error),
                    Err(_) => continue,
                };
                next.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
                    path.is_dir() && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
                }));
            }
            level = next;
        }
        // Directories of something else, Ollama's own perhaps, hold no manifest of ours.
        Ok(level.into_iter().map(|place| place.join(MANIFEST)).filter(|file| file.exists()).collect())
    }
}

/// Reads a manifest file.
pub(super) fn read_entry(file: &Path) -> io::Result<Entry> {
    #[derive(serde::Deserialize)]
    struct Whiteout {
        whiteout: bool,
    }
    let mut text = String::new();
    fs::File::open(file)?.take(MANIFEST_LIMIT).read_to_string(&mut text)?;
    if matches!(serde_json::from_str(&text), Ok(Whiteout { whiteout: true })) {
        return Ok(Entry::Whiteout);
    }
    Ok(Entry::Model(serde_json::from_str(&text)?))
}

/// The text of a manifest file for an entry; none that would not be read again.
pub(super) fn entry_text(entry: &Entry) -> io::Result<Vec<u8>> {
    let text = match entry {
        Entry::Model(manifest) => serde_json::to_vec_pretty(manifest)?,
        Entry::Whiteout => br#"{"whiteout":true}"#.to_vec(),
    };
    if text.len() as u64 > MANIFEST_LIMIT {
        let what = "the model's messages and texts are too long: more than 64 MiB; leave some out";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(text)
}

/// The stamp of a manifest file now.
pub(super) fn stamp(file: &Path) -> io::Result<Stamp> {
    let facts = fs::metadata(file)?;
    Ok(Stamp { inode: facts.ino(), length: facts.len(), modified: (facts.mtime(), facts.mtime_nsec()) })
}

/// When a manifest file was written.
pub(super) fn written_at(file: &Path) -> io::Result<SystemTime> {
    fs::metadata(file)?.modified()
}

/// Puts a model together from its manifest and the directories it stands on.
pub(super) fn assemble(
    manifest: Manifest,
    directory: PathBuf,
    adapter: Option<PathBuf>,
    modified_at: SystemTime,
) -> io::Result<Installed> {
    let invalid = |error: &dyn std::error::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let name = ModelName::parse(&manifest.name).map_err(|error| invalid(&error))?;
    let card = Card::read(&directory, manifest.parameters).map_err(|error| invalid(&error))?;
    let adapter = adapter.map(|directory| {
        Adapter::read(&manifest.name, &directory).map_err(|error| {
            io::Error::new(error.kind(), format!("its adapter {} cannot be read: {error}", directory.display()))
        })
    });
    let adapter = adapter.transpose()?;
    Ok(Installed { name, directory, adapter, modified_at, manifest, card })
}
