//! What is written down about an installed model, and the model as the rest of the program knows it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::digest::Sha256Digest;
use super::plan::Adapter;
use super::{Card, ModelName, Overlay, ParserChoice};

/// What was written down when a model was installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Manifest {
    /// The name as it was given at installation, display form.
    pub name: String,
    /// SHA-256 of the model, 64 hex characters, no prefix: over the files of its checkpoint, and over what it adds to
    /// them where it adds anything.
    pub digest: String,
    /// Bytes on disk, shared ones included.
    pub size: u64,
    /// Format the model came in: `gguf` or `safetensors`.
    pub format: String,
    /// Quantisation of the source in Ollama's words, e.g. `Q4_1`, `BF16`.
    pub quantization: String,
    /// Licence text or identifier, where the source names one.
    pub license: Option<String>,
    /// Number of weights.
    pub parameters: u64,
    /// SHA-256 of the checkpoint it stands on; `None` where the checkpoint lies beside the manifest, as the first
    /// versions of vllama had it, and then `digest` is the checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Sha256Digest>,
    /// What the model adds to its checkpoint.
    #[serde(default, skip_serializing_if = "Overlay::is_empty")]
    pub overlay: Overlay,
}

impl Manifest {
    /// See [`Installed::engine_key`].
    #[must_use]
    pub fn engine_key(&self) -> String {
        let checkpoint = self.checkpoint.as_ref().map_or(self.digest.as_str(), Sha256Digest::as_str);
        match &self.overlay.adapter {
            Some(adapter) => format!("{checkpoint}+{}", adapter.digest.as_str()),
            None => checkpoint.to_owned(),
        }
    }
}

/// One installed model.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Its name.
    pub name: ModelName,
    /// The checkpoint's directory.
    pub directory: PathBuf,
    /// Its LoRA adapter, if it has one.
    pub adapter: Option<Adapter>,
    /// When it was installed.
    pub modified_at: SystemTime,
    /// What was written down at installation.
    pub manifest: Manifest,
    /// Facts of the checkpoint.
    pub card: Card,
}

impl Installed {
    /// What an engine has to load for this model: checkpoint and adapter. Models with equal keys share one engine;
    /// system prompts and parameters never start another.
    #[must_use]
    pub fn engine_key(&self) -> String {
        self.manifest.engine_key()
    }

    /// The model as an engine serves it that reads tool calls and thoughts like this; costs nothing where that is as the
    /// card says.
    #[must_use]
    pub fn read_like(self: Arc<Self>, choice: ParserChoice) -> Arc<Self> {
        if choice == ParserChoice::default() {
            return self;
        }
        let mut model = Self::clone(&self);
        choice.apply(&mut model.card);
        Arc::new(model)
    }

    /// What the model adds to its checkpoint.
    #[must_use]
    pub fn overlay(&self) -> &Overlay {
        &self.manifest.overlay
    }

    /// All its licences: that of the checkpoint first.
    pub fn licenses(&self) -> impl Iterator<Item = &str> {
        let own = self.manifest.license.iter();
        own.chain(&self.manifest.overlay.license).map(String::as_str).filter(|text| !text.is_empty())
    }
}
