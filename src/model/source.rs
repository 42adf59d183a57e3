//! What a whole checkpoint in Hugging Face's format says about itself, and whether it is whole.
//!
//! In: a directory as it was copied, uploaded or downloaded. Out: the [`Source`] that its manifest keeps. The figures are
//! the [`Card`]'s, so that lists and plans agree.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::card::CardError;
use super::card::weights::{INDEX, Index, loaded};
use super::safetensors::{self, Tensor};
use super::{Card, card};

/// Longest licence that is kept, in bytes; the longest in use have some 40 KiB.
const LICENSE_LIMIT: u64 = 64 << 10;
/// Its head names the licence.
pub(super) const README: &str = "README.md";
/// Beginning of a README that is looked at for the licence, in bytes.
const README_LIMIT: u64 = 64 << 10;

/// What the source of a model said about it; the rest of the [`Manifest`](super::Manifest) is measured.
#[derive(Clone, Debug)]
pub struct Source {
    /// Format the model came in: `gguf` or `safetensors`.
    pub format: String,
    /// Quantisation as `quantization_level` says it (ollama-api §4.2).
    pub quantization: String,
    /// Licence text or identifier.
    pub license: Option<String>,
    /// Number of weights.
    pub parameters: u64,
}

/// Why a checkpoint is not taken. `Display` says what is wrong, [`SourceError::advice`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is no checkpoint, or one vLLM does not load.
    #[error("{0}")]
    NoCheckpoint(String),
    /// Part of it is missing or torn.
    #[error("{0}")]
    NotWhole(String),
    /// It cannot be read, or the store cannot be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SourceError {
    /// What the user can do who has the directory.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoCheckpoint(_) => "give the directory of a Hugging Face checkpoint with safetensors weights",
            Self::NotWhole(_) => "download or copy it again, and compare the sizes of the files",
            Self::File { .. } => "check that the directory can be read and that the disk has room",
        }
    }

    /// Of a file of the checkpoint in `root`: one that is there and makes no sense is torn.
    fn of_file(root: &Path, file: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::NotWhole(format!("{file}: {error}")),
            _ => Self::File { path: root.join(file), source: error },
        }
    }

    /// Of the card of the checkpoint in `root`.
    pub(super) fn of_card(root: &Path, error: CardError) -> Self {
        match error {
            CardError::File { file, source } => Self::of_file(root, &file, source),
            error @ CardError::Config(_) => Self::NoCheckpoint(error.to_string()),
        }
    }
}

impl Source {
    /// Reads a checkpoint, which must be [`whole`] and have a `config.json` that makes sense. `named` is the licence its
    /// publisher names: a licence file says more, the head of the README as much.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn read(checkpoint: &Path, named: Option<String>) -> Result<Self, SourceError> {
        whole(checkpoint)?;
        Self::of_whole(checkpoint, named)
    }

    /// Reads a checkpoint that is known to be whole.
    pub(super) fn of_whole(checkpoint: &Path, named: Option<String>) -> Result<Self, SourceError> {
        let card = Card::read(checkpoint, 0).map_err(|error| SourceError::of_card(checkpoint, error))?;
        Ok(Self {
            format: "safetensors".into(),
            quantization: card.level().to_owned(),
            license: license(checkpoint, named),
            parameters: card.parameters,
        })
    }
}

/// The weight files of a checkpoint, relative to it: those that vLLM loads.
pub(super) fn weights(checkpoint: &Path) -> Result<BTreeSet<String>, SourceError> {
    loaded(checkpoint, card::Format::HuggingFace).map_err(|error| SourceError::of_card(checkpoint, error))
}

/// The tensors of a checkpoint, if all files are there: its configuration, and the weights that vLLM loads, each file as
/// long as its header says.
pub(super) fn whole(checkpoint: &Path) -> Result<Vec<Tensor>, SourceError> {
    if !checkpoint.join("config.json").is_file() {
        return Err(SourceError::NoCheckpoint("there is no config.json in it".into()));
    }
    let files = weights(checkpoint)?;
    if let Some(Index { weight_map }) = index(checkpoint)?
        && let Some(missing) = weight_map.values().find(|file| !files.contains(file.as_str()))
    {
        return Err(SourceError::NotWhole(format!("{INDEX} names {missing}, which is not there")));
    }
    if files.is_empty() {
        return Err(SourceError::NoCheckpoint(match weights_of_others(checkpoint) {
            Some(file) => format!("its weights are in {file}, which is not safetensors"),
            None => "there are no weights in it: no safetensors file".into(),
        }));
    }
    let paths: Vec<PathBuf> = files.iter().map(|file| checkpoint.join(file)).collect();
    let tensors = safetensors::tensors_of(&paths).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => SourceError::NotWhole(error.to_string()),
        _ => SourceError::File { path: checkpoint.into(), source: error },
    })?;
    if tensors.is_empty() {
        return Err(SourceError::NoCheckpoint("there are no weights in its safetensors files".into()));
    }
    Ok(tensors)
}

/// Which weight is in which file, where the checkpoint says so.
pub(super) fn index(checkpoint: &Path) -> Result<Option<Index>, SourceError> {
    card::json(checkpoint, INDEX).map_err(|error| SourceError::of_card(checkpoint, error))
}

/// The names of the files at the top, in their order.
fn names(checkpoint: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(checkpoint).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_file()).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A file with weights in a format vLLM is not given.
fn weights_of_others(checkpoint: &Path) -> Option<String> {
    let other = |name: &String| [".bin", ".pth", ".pt", ".gguf", ".h5"].iter().any(|end| name.ends_with(end));
    names(checkpoint).into_iter().find(other)
}

/// Whether a file of this name is the licence.
pub(super) fn is_license(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let stem = name.strip_suffix(".txt").or_else(|| name.strip_suffix(".md")).unwrap_or(&name);
    ["license", "licence", "copying"].contains(&stem)
}

/// The text of the licence file, else the licence that is named.
fn license(checkpoint: &Path, named: Option<String>) -> Option<String> {
    let mut files = names(checkpoint).into_iter().filter(|name| is_license(name));
    let text = files.find_map(|name| {
        let text = beginning(&checkpoint.join(name), LICENSE_LIMIT + 1)?;
        // Of half a licence nobody knows what it allows.
        (text.len() as u64 <= LICENSE_LIMIT && !text.trim().is_empty()).then_some(text)
    });
    let named = named.filter(|name| !name.is_empty() && name.len() as u64 <= LICENSE_LIMIT);
    text.or(named).or_else(|| in_readme(checkpoint))
}

/// The licence that the head of the README names, as the hub reads it: `license`, or where that is `other`, its name.
fn in_readme(checkpoint: &Path) -> Option<String> {
    let text = beginning(&checkpoint.join(README), README_LIMIT)?;
    let mut lines = text.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let head: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let field = |name: &str| {
        let value = head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim().trim_matches(['"', '\''])).filter(|value| !value.is_empty())
    };
    let license = field("license")?;
    let name = if license == "other" { field("license_name").unwrap_or(license) } else { license };
    Some(name.to_owned())
}

/// The first bytes of a file, `limit` at most, as text.
fn beginning(file: &Path, limit: u64) -> Option<String> {
    let mut text = Vec::new();
    fs::File::open(file).ok()?.take(limit).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file with one tensor of this name: one float.
    pub(in crate::model) fn weight(name: &str) -> Vec<u8> {
        file(&format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#), 4)
    }

    /// A weight file with this header, and zeros behind it.
    fn file(header: &str, bytes: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [length.as_slice(), header.as_bytes(), &vec![0; bytes]].concat()
    }

    /// A checkpoint in the making.
    pub(in crate::model) struct Made(pub tempfile::TempDir);

    impl Made {
        /// One that is whole.
        pub(in crate::model) fn new() -> Self {
            let made = Self(tempfile::tempdir().expect("a directory"));
            made.with("config.json", br#"{"architectures":["BertModel"],"model_type":"bert"}"#)
                .with("tokenizer.json", b"{}")
                .with("model.safetensors", &weight("w"))
        }

        pub(in crate::model) fn with(self, name: &str, bytes: &[u8]) -> Self {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, bytes).expect("written");
            self
        }

        pub(in crate::model) fn without(self, name: &str) -> Self {
            fs::remove_file(self.0.path().join(name)).expect("removed");
            self
        }

        fn read(&self, named: Option<&str>) -> Source {
            Source::read(self.0.path(), named.map(str::to_owned)).expect("a whole checkpoint")
        }

        fn wrong(&self) -> String {
            Source::read(self.0.path(), None).expect_err("not a whole checkpoint").to_string()
        }
    }

    #[test]
    fn a_packed_checkpoint_is_told_and_counted_as_its_card_has_it() {
        let config = br#"{"architectures":["LlamaForCausalLM"],"num_hidden_layers":1,
            "quantization_config":{"quant_method":"gptq","bits":4,"group_size":128}}"#;
        let header = r#"{"model.layers.0.q.qweight":{"dtype":"I32","shape":[4,8],"data_offsets":[0,128]},
            "model.layers.0.q.qzeros":{"dtype":"I32","shape":[2],"data_offsets":[128,136]},
            "model.layers.0.q.scales":{"dtype":"F16","shape":[4],"data_offsets":[136,144]},
            "model.layers.1.w":{"dtype":"F16","shape":[4],"data_offsets":[144,152]},
            "model.embed.weight":{"dtype":"F16","shape":[2,3],"data_offsets":[152,164]}}"#;
        let made = Made::new().with("config.json", config).with("model.safetensors", &file(header, 164));
        let source = made.read(None);
        // The second layer only guesses: the model has one.
        assert_eq!((source.quantization.as_str(), source.parameters), ("INT4", 4 * 8 * 8 + 6));
        assert_eq!(Card::read(made.0.path(), 0).expect("a card").parameters, source.parameters);
    }

    #[test]
    fn a_licence_file_says_more_than_a_name() {
        let readme = b"---\nlanguage: en\nlicense: apache-2.0\n---\nlicense: mit\n";
        let made = Made::new();
        assert_eq!(made.read(None).license, None);
        assert_eq!(made.read(Some("mit")).license.as_deref(), Some("mit"));
        let made = made.with("README.md", readme);
        assert_eq!(made.read(None).license.as_deref(), Some("apache-2.0"));
        assert_eq!(made.read(Some("mit")).license.as_deref(), Some("mit"));
        let made = made.with("NOTICE", b"no licence").with("COPYING", b"  \n").with("Licence.md", b"You may.\n");
        assert_eq!(made.read(Some("mit")).license.as_deref(), Some("You may.\n"));
        let made = made.without("Licence.md").with("LICENSE", &[b'x'; (64 << 10) + 1]);
        assert_eq!(made.read(Some("mit")).license.as_deref(), Some("mit"));
        let made = made.with("README.md", b"---\nlicense: other\nlicense_name: \"gemma\"\n---\n");
        assert_eq!(made.read(None).license.as_deref(), Some("gemma"));
    }

    #[test]
    fn what_is_missing_torn_or_hostile_is_named() {
        let torn = weight("w")[..30].to_vec();
        let index = br#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
        let sharded = Made::new().without("model.safetensors").with(INDEX, index);
        for (made, text) in [
            (Made::new().without("config.json"), "there is no config.json"),
            (Made::new().with("config.json", b"{}"), "config.json: it names no architecture"),
            (Made::new().with("config.json", b"[]"), "config.json: it names no architecture"),
            (Made::new().with("config.json", b"{"), "config.json"),
            (Made::new().without("model.safetensors"), "there are no weights in it"),
            (Made::new().with("model.safetensors", &file("{}", 0)), "there are no weights in its safetensors files"),
            (
                Made::new().without("model.safetensors").with("pytorch_model.bin", b"x"),
                "in pytorch_model.bin, which is not",
            ),
            (Made::new().with("model.safetensors", &torn), "model.safetensors: its header of"),
            (Made::new().with("model.safetensors", &[0xff; 100]), "model.safetensors: its header of"),
            (Made::new().with("model.safetensors", b"x"), "model.safetensors: it is too short"),
            (Made::new().with("model.safetensors", &file("[1]", 0)), "model.safetensors: its header is no JSON"),
            (Made::new().with("model.safetensors", &weight("w")[..64]), "model.safetensors: it has 64 bytes where"),
            (Made::new().with(INDEX, b"x"), INDEX),
            (Made::new().with(INDEX, br#"{"weight_map":{"w":"../model.safetensors"}}"#), "which is not there"),
            (sharded.with("model-1.safetensors", &weight("a")), "names model-2.safetensors, which is not there"),
        ] {
            assert!(made.wrong().contains(text), "{text}: {}", made.wrong());
        }
    }
}
