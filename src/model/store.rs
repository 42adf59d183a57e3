//! The store: installed models on disk, one directory each, made complete before its name appears.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Card, ModelName};

/// What was written beside a checkpoint when it was installed.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
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

/// The installed models. Cheap to clone; reading a known name touches no disk.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<()>,
}

impl Store {
    /// All installed models, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Installed>> {
        let _ = &self.inner;
        unimplemented!("filled in beside this commit")
    }

    /// The installed model of that name.
    #[must_use]
    pub fn find(&self, name: &ModelName) -> Option<Arc<Installed>> {
        let _ = name;
        unimplemented!("filled in beside this commit")
    }
}
