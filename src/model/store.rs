//! The store: installed models on disk, one directory each, made complete before its name appears.
//!
//! `<models>/<host>/<namespace>/<model>/<tag>/` holds a Hugging Face checkpoint and `vllama.json`, the [`Manifest`]. A
//! model is built in `<models>/.staging/` and moved to its place by one rename, so what is listed is whole.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::{Card, ModelName};

const MANIFEST: &str = "vllama.json";
const STAGING: &str = ".staging";

/// What was written beside a checkpoint when it was installed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Manifest {
    /// The name as it was given at installation, display form.
    pub name: String,
    /// SHA-256 over the installed files, 64 hex characters, no prefix.
    pub digest: String,
    /// Bytes on disk.
    pub size: u64,
    /// Format the model came in: `gguf` or `safetensors`.
    pub format: String,
    /// Quantisation of the source in Ollama's words, e.g. `Q4_1`, `BF16`.
    pub quantization: String,
    /// Licence text or identifier, where the source names one.
    pub license: Option<String>,
    /// Number of weights.
    pub parameters: u64,
}

/// One installed model.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Its name.
    pub name: ModelName,
    /// The checkpoint's directory.
    pub directory: PathBuf,
    /// When it was installed.
    pub modified_at: SystemTime,
    /// What was written down at installation.
    pub manifest: Manifest,
    /// Facts of the checkpoint.
    pub card: Card,
}

impl Installed {
    /// What an engine for this model serves. Models with equal keys share one engine.
    #[must_use]
    pub fn engine_key(&self) -> String {
        self.manifest.digest.clone()
    }
}

/// What the source of a model said about it; the rest of the [`Manifest`] is measured.
#[derive(Clone, Debug)]
pub struct Source {
    /// Format the model came in: `gguf` or `safetensors`.
    pub format: String,
    /// Quantisation in Ollama's words.
    pub quantization: String,
    /// Licence text or identifier.
    pub license: Option<String>,
    /// Number of weights.
    pub parameters: u64,
}

type Models = HashMap<ModelName, Arc<Installed>>;

/// The installed models. Cheap to clone; finding a known name touches no disk.
#[derive(Clone, Debug)]
pub struct Store {
    root: Arc<Path>,
    models: Arc<RwLock<Arc<Models>>>,
}

impl Store {
    /// Opens the store in `root`, which is made when it is not there, and reads what is installed. A directory that
    /// holds no whole model is left alone and not listed.
    ///
    /// # Errors
    /// When `root` cannot be made or read.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let models = read_models(root)?;
        Ok(Self { root: root.into(), models: Arc::new(RwLock::new(Arc::new(models))) })
    }

    /// All installed models, newest first; looks at the disk, since another vllama may have installed one.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Installed>> {
        if let Ok(models) = read_models(&self.root) {
            self.replace(models);
        }
        let mut list: Vec<_> = self.known().values().cloned().collect();
        list.sort_by(|one, other| {
            other.modified_at.cmp(&one.modified_at).then_with(|| one.manifest.name.cmp(&other.manifest.name))
        });
        list
    }

    /// The installed model of that name; looks at the disk only for a name not seen before.
    #[must_use]
    pub fn find(&self, name: &ModelName) -> Option<Arc<Installed>> {
        if let Some(model) = self.known().get(name) {
            return Some(model.clone());
        }
        let model = Arc::new(read_model(&self.place(name)).ok()?);
        let mut models = Models::clone(&self.known());
        models.insert(name.clone(), model.clone());
        self.replace(models);
        Some(model)
    }

    /// Makes an empty directory to build a model in.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn stage(&self) -> io::Result<Staging> {
        let directory = self.root.join(STAGING).join(uuid::Uuid::new_v4().to_string());
        fs::create_dir_all(&directory)?;
        Ok(Staging { directory })
    }

    /// Moves a finished checkpoint to its name, over whatever had that name before.
    ///
    /// # Errors
    /// When the checkpoint cannot be read as one, or the store cannot be written; the staged files are removed then.
    pub fn install(&self, staging: Staging, name: &ModelName, source: Source) -> io::Result<Arc<Installed>> {
        let (digest, size) = measure(&staging.directory)?;
        let manifest = Manifest {
            name: name.display(),
            digest,
            size,
            format: source.format,
            quantization: source.quantization,
            license: source.license,
            parameters: source.parameters,
        };
        let text = serde_json::to_vec_pretty(&manifest)?;
        let manifest_file = staging.directory.join(MANIFEST);
        fs::write(&manifest_file, text)?;
        for entry in fs::read_dir(&staging.directory)? {
            let file = fs::File::open(entry?.path())?;
            // Models are no secret, and a server may run as another user than the one that imported them.
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            file.sync_all()?;
        }
        read_model(&staging.directory)?;
        let place = self.place(name);
        let parent = place.parent().ok_or_else(|| io::Error::other("a model's place has a parent"))?;
        fs::create_dir_all(parent)?;
        if place.exists() {
            // A directory cannot be renamed over a full one: the old model goes to the staging area, and then away.
            let old = self.stage()?;
            fs::rename(&place, old.directory.join("replaced"))?;
        }
        fs::rename(&staging.directory, &place)?;
        fs::File::open(parent)?.sync_all()?;
        let model = Arc::new(read_model(&place)?);
        let mut models = Models::clone(&self.known());
        models.insert(name.clone(), model.clone());
        self.replace(models);
        Ok(model)
    }

    fn place(&self, name: &ModelName) -> PathBuf {
        name.key().iter().fold(self.root.to_path_buf(), |path, part| path.join(part))
    }

    fn known(&self) -> Arc<Models> {
        // A poisoned lock still guards a whole map: it is only ever replaced in one assignment.
        self.models.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn replace(&self, models: Models) {
        *self.models.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(models);
    }
}

/// A directory a model is built in; removed with all it holds unless [`Store::install`] took it.
#[derive(Debug)]
pub struct Staging {
    directory: PathBuf,
}

impl Staging {
    /// Where to put the files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a successful install there is nothing here any more, which is fine.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn read_models(root: &Path) -> io::Result<Models> {
    let mut models = Models::new();
    let mut level = vec![root.to_path_buf()];
    for _ in 0..4 {
        let mut next = Vec::new();
        for directory in level {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            next.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
                path.is_dir() && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            }));
        }
        level = next;
    }
    for directory in level {
        match read_model(&directory) {
            Ok(model) => _ = models.insert(model.name.clone(), Arc::new(model)),
            Err(error) => tracing::warn!(directory = %directory.display(), %error, "not a whole model, left alone"),
        }
    }
    Ok(models)
}

fn read_model(directory: &Path) -> io::Result<Installed> {
    let file = directory.join(MANIFEST);
    let mut text = String::new();
    fs::File::open(&file)?.take(1 << 20).read_to_string(&mut text)?;
    let manifest: Manifest = serde_json::from_str(&text)?;
    let invalid = |error: &dyn std::error::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let name = ModelName::parse(&manifest.name).map_err(|error| invalid(&error))?;
    let card = Card::read(directory, manifest.parameters).map_err(|error| invalid(&error))?;
    let modified_at = fs::metadata(&file)?.modified()?;
    Ok(Installed { name, directory: directory.into(), modified_at, manifest, card })
}

/// SHA-256 over the names, sizes and contents of the files in `directory`, and the sum of their sizes in bytes.
fn measure(directory: &Path) -> io::Result<(String, u64)> {
    let mut names: Vec<_> =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    names.sort();
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 20];
    for path in names {
        let mut file = fs::File::open(&path)?;
        let length = file.metadata()?.len();
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(length.to_le_bytes());
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
        size += length;
    }
    Ok((hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama"}"#;

    fn source() -> Source {
        Source { format: "gguf".into(), quantization: "Q4_1".into(), license: None, parameters: 7 }
    }

    fn install(store: &Store, name: &str) -> io::Result<Arc<Installed>> {
        let staging = store.stage()?;
        fs::write(staging.directory().join("config.json"), CONFIG)?;
        store.install(staging, &ModelName::parse(name).expect("a name"), source())
    }

    #[test]
    fn an_installed_model_is_found_by_any_spelling_and_after_a_restart() {
        let root = tempfile::tempdir().expect("a directory");
        let store = Store::open(root.path()).expect("a store");
        let model = install(&store, "SmolLM2:135m").expect("installed");
        assert_eq!((model.manifest.digest.len(), model.manifest.size), (64, CONFIG.len() as u64));
        let again = Store::open(root.path()).expect("a store");
        let found = again.find(&ModelName::parse("smollm2:135M").expect("a name")).expect("found");
        assert_eq!(found.manifest, model.manifest);
        assert_eq!(again.list().len(), 1);
    }

    #[test]
    fn a_model_installed_by_another_vllama_appears_without_a_restart() {
        let root = tempfile::tempdir().expect("a directory");
        let store = Store::open(root.path()).expect("a store");
        install(&Store::open(root.path()).expect("a second handle"), "a").expect("installed");
        assert!(store.find(&ModelName::parse("a").expect("a name")).is_some());
    }

    #[test]
    fn what_is_half_built_or_torn_is_not_listed() {
        let root = tempfile::tempdir().expect("a directory");
        let store = Store::open(root.path()).expect("a store");
        let staging = store.stage().expect("staged");
        fs::write(staging.directory().join("config.json"), CONFIG).expect("written");
        let torn = root.path().join("registry.ollama.ai/library/torn/latest");
        fs::create_dir_all(&torn).expect("made");
        fs::write(torn.join(MANIFEST), "{").expect("written");
        assert!(store.list().is_empty());
        assert!(store.find(&ModelName::parse("torn").expect("a name")).is_none());
    }

    #[test]
    fn a_failed_install_leaves_nothing_and_a_second_install_replaces_the_first() {
        let root = tempfile::tempdir().expect("a directory");
        let store = Store::open(root.path()).expect("a store");
        let staging = store.stage().expect("staged");
        let name = ModelName::parse("a").expect("a name");
        assert!(store.install(staging, &name, source()).is_err());
        assert_eq!(fs::read_dir(root.path().join(STAGING)).expect("read").count(), 0);
        install(&store, "a").expect("installed");
        install(&store, "a").expect("installed again");
        assert_eq!(store.list().len(), 1);
        assert_eq!(fs::read_dir(root.path().join(STAGING)).expect("read").count(), 0);
    }
}
