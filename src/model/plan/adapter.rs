//! Adapters (LoRA): a few weights of their own on top of a model's.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Ranks vLLM makes room for.
const RANKS: [u64; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];

/// One adapter of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// The name requests ask for it by.
    pub name: String,
    /// Its directory, with `adapter_config.json`.
    pub directory: PathBuf,
    /// Width of its matrices, 1–512.
    pub rank: u64,
}

impl Adapter {
    /// Reads the rank of the adapter in `directory`.
    ///
    /// # Errors
    /// `adapter_config.json` is missing, is no JSON, or has no rank vLLM can serve.
    pub fn read(name: &str, directory: &Path) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Config {
            r: u64,
        }
        let text = crate::model::card::read_text(directory, "adapter_config.json")?;
        let Config { r: rank } = serde_json::from_str(&text)?;
        if room(rank).is_none() {
            let error = format!("adapter_config.json: its rank is {rank}, and vLLM serves 1 to 512");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(Self { name: name.to_owned(), directory: directory.to_owned(), rank })
    }
}

/// The rank vLLM must make room for; `None` where it cannot.
pub(super) fn room(rank: u64) -> Option<u64> {
    RANKS.into_iter().find(|room| (1..=*room).contains(&rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_is_read_and_checked() {
        let directory = tempfile::tempdir().expect("a directory");
        let read = |text: &str| {
            std::fs::write(directory.path().join("adapter_config.json"), text).expect("written");
            Adapter::read("a", directory.path()).map(|adapter| adapter.rank)
        };
        assert_eq!(read(r#"{"r":12,"lora_alpha":16}"#).ok(), Some(12));
        assert_eq!((room(12), room(512), room(513), room(0)), (Some(16), Some(512), None, None));
        assert!(read(r#"{"r":4096}"#).is_err() && read("{}").is_err());
    }
}
