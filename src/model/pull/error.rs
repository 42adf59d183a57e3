//! Why a pull fails, in the words Ollama's clients know where Ollama has words for it (ollama-api §4.5, §14).

use std::io;

use serde::Deserialize;

use crate::model::source::SourceError;

/// Why a model was not pulled. `Display` is what the client reads; it never holds a token or the address of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// Neither the table nor the hub knows the name; the `ollama` program looks for exactly this text.
    #[error("pull model manifest: file does not exist")]
    NotFound,
    /// A registry that is neither Ollama's names nor Hugging Face; its host.
    #[error(
        "pull model manifest: {0} is no registry vllama can pull from; give a name of Ollama's library, or one of \
         Hugging Face such as hf.co/org/name"
    )]
    Registry(String),
    /// A GGUF file, which vLLM does not load; the repository.
    #[error(
        "{0} holds GGUF files, and vLLM needs safetensors: pull the repository of the original model instead, or \
         download the GGUF file and give it to `vllama import FILE NAME`"
    )]
    Gguf(String),
    /// The hub wants to know who asks.
    #[error("unauthorized: access denied: {0}")]
    Unauthorized(String),
    /// The hub is out of reach.
    #[error("cannot reach Hugging Face: {0}")]
    Network(String),
    /// `HF_HUB_OFFLINE` is set.
    #[error(
        "offline mode is on, so nothing can be pulled: unset HF_HUB_OFFLINE and start vllama again, or install the \
         model while connected"
    )]
    Offline,
    /// Too little room for the model.
    #[error("not enough disk space: {0}")]
    DiskFull(String),
    /// What came is not what was promised.
    #[error("digest mismatch, file must be downloaded again: want {want}, got {got}")]
    Digest {
        /// The digest the hub names, with its algorithm.
        want: String,
        /// The digest of what came.
        got: String,
    },
    /// A repository, or a file of it, that vLLM cannot serve; says what to do.
    #[error("{0}")]
    Unsuitable(String),
    /// vllama stops.
    #[error("the server is stopping; pull again when it is back, and the download goes on where it was")]
    Stopping,
    /// Something unforeseen.
    #[error("pull failed: {0}")]
    Failed(String),
}

impl PullError {
    /// Whether an installed model is good enough: nothing can be known about a newer one.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Network(_) | Self::Offline)
    }
}

/// What came makes no checkpoint.
impl From<SourceError> for PullError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::File { source, .. } => Self::Failed(format!("cannot read what was downloaded: {source}")),
            error => Self::Unsuitable(format!(
                "vLLM cannot serve this repository: {error}. Tell its makers, or pull another one"
            )),
        }
    }
}

/// What came cannot be installed.
impl From<io::Error> for PullError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => {
                Self::Unsuitable(format!("vLLM cannot serve this repository: {error}. Pull another one"))
            }
            io::ErrorKind::StorageFull => {
                Self::DiskFull("the disk became full during the installation. Free some and pull again".into())
            }
            _ => Self::Failed(format!("cannot write the model store: {error}")),
        }
    }
}

/// An error as the script tells it.
#[derive(Debug, Deserialize)]
pub(super) struct Told {
    code: Code,
    #[serde(default)]
    message: String,
    #[serde(default)]
    want: String,
    #[serde(default)]
    got: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Code {
    NotFound,
    Unauthorized,
    Network,
    Offline,
    DiskFull,
    Digest,
    Gguf,
    Unsuitable,
    #[serde(other)]
    Failed,
}

impl From<Told> for PullError {
    fn from(Told { code, message, want, got }: Told) -> Self {
        match code {
            Code::NotFound => Self::NotFound,
            Code::Unauthorized => Self::Unauthorized(message),
            Code::Network => Self::Network(message),
            Code::Offline => Self::Offline,
            Code::DiskFull => Self::DiskFull(message),
            Code::Digest => Self::Digest { want, got },
            Code::Gguf => Self::Gguf(message),
            Code::Unsuitable => Self::Unsuitable(message),
            Code::Failed => Self::Failed(message),
        }
    }
}
