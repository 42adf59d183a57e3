//! A Hugging Face checkpoint as it lies in somebody's directory: what of it vLLM loads, and whether it is whole.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::gather::{READ, is_inside, quantization};
use super::{Card, Source, safetensors};

/// Which file each weight of a checkpoint in several files is in.
const INDEX: &str = "model.safetensors.index.json";
/// Largest JSON file that is read, in bytes; an index of the largest models has some ten megabytes.
const JSON_LIMIT: u64 = 64 << 20;
/// Beginning of a README that is looked at for the licence, in bytes.
const README_LIMIT: u64 = 64 << 10;

/// Files one of which holds the tokenizer, by their ends: each library has its own.
const TOKENIZERS: [&str; 7] =
    ["tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", ".tiktoken", "tekken.json", "spiece.model"];

/// Why a directory is not taken. `Display` says what is wrong, [`DirectoryError::advice`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
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

impl DirectoryError {
    /// What the user can do.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoCheckpoint(_) => "give the directory of a Hugging Face checkpoint with safetensors weights",
            Self::NotWhole(_) => "download or copy it again, and compare the sizes of the files",
            Self::File { .. } => "check that the directory can be read and that the disk has room",
        }
    }
}

/// A checkpoint that is whole.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    /// Files to take, relative to the directory, with their sizes in bytes.
    files: Vec<(PathBuf, u64)>,
    /// What it says about itself.
    pub source: Source,
}

/// What [`INDEX`] says.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// One entry of `modules.json`, which sentence transformers have.
#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(default)]
    r#type: String,
}

impl Directory {
    /// Looks through a directory: `config.json`, a tokenizer and weights must be there, each weight file as long as its
    /// header says, and each file that an index or a list of modules names.
    ///
    /// # Errors
    /// [`DirectoryError`]; nothing has been written.
    pub fn read(root: &Path) -> Result<Self, DirectoryError> {
        let mut files: BTreeSet<PathBuf> = names(root)?.into_iter().map(PathBuf::from).collect();
        if !files.contains(Path::new("config.json")) {
            return Err(DirectoryError::NoCheckpoint("there is no config.json in it".into()));
        }
        let mut weights = weights(root, &files)?;
        files.retain(|file| {
            // A manifest is no part of a checkpoint, though it lies in the directory of an installed one.
            let manifest = file == Path::new("vllama.json");
            !manifest
                && !is_weights(file)
                && file.to_str().is_some_and(|name| READ.iter().any(|end| name.ends_with(end)))
        });
        let has_tokenizer = TOKENIZERS.iter().any(|end| files.iter().any(|file| file.to_string_lossy().ends_with(end)));
        if !has_tokenizer {
            return Err(DirectoryError::NotWhole("there is no tokenizer in it, such as tokenizer.json".into()));
        }
        for file in modules(root)? {
            if is_weights(&file) { weights.push(file) } else { _ = files.insert(file) }
        }
        let paths: Vec<PathBuf> = weights.iter().map(|file| root.join(file)).collect();
        let tensors = safetensors::tensors_of(&paths).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => DirectoryError::NotWhole(error.to_string()),
            _ => DirectoryError::File { path: root.into(), source: error },
        })?;
        if tensors.is_empty() {
            return Err(DirectoryError::NoCheckpoint("there are no weights in its safetensors files".into()));
        }
        let known: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        if let Some(index) = read_json::<Index>(root, INDEX)?
            && let Some(missing) = index.weight_map.keys().find(|name| !known.contains(name.as_str()))
        {
            return Err(DirectoryError::NotWhole(format!("{INDEX} names the weight {missing}, which no file has")));
        }
        let (parameters, dtype) = safetensors::summary(&tensors);
        Card::read(root, parameters).map_err(|error| DirectoryError::NoCheckpoint(error.to_string()))?;
        let source = Source {
            format: "safetensors".into(),
            quantization: quantization(root, dtype),
            license: license(root),
            parameters,
        };
        files.extend(weights);
        let size = |file: PathBuf| {
            let path = root.join(&file);
            let size = fs::metadata(&path).map_err(|source| DirectoryError::File { path, source })?.len();
            Ok((file, size))
        };
        let files = files.into_iter().map(size).collect::<Result<_, _>>()?;
        Ok(Self { root: root.into(), files, source })
    }

    /// The files that are taken, relative to the directory.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(file, _)| file.as_path())
    }

    /// Copies what vLLM loads to `target`, an empty directory. Copies, since the owner of the directory may change a file
    /// in place; a file system that can shares their blocks. `tell` hears bytes done and bytes in all.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub fn copy_to(&self, target: &Path, mut tell: impl FnMut(u64, u64)) -> Result<(), DirectoryError> {
        let total = self.files.iter().map(|(_, size)| size).sum();
        let mut done = 0;
        for (file, size) in &self.files {
            let (from, to) = (self.root.join(file), target.join(file));
            // Links are followed: in a download cache every file is one.
            let copied = to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::copy(&from, &to));
            let copied = copied.map_err(|source| DirectoryError::File { path: from, source })?;
            if copied != *size {
                return Err(DirectoryError::NotWhole(format!("{} changed while it was copied", file.display())));
            }
            done += size;
            tell(done, total);
        }
        Ok(())
    }
}

fn is_weights(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "safetensors")
}

/// The names of the files in a directory; hidden ones and names that are no text are nobody's checkpoint.
fn names(directory: &Path) -> Result<Vec<String>, DirectoryError> {
    let failed = |source| DirectoryError::File { path: directory.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'));
        names.extend(name.filter(|_| entry.path().is_file()));
    }
    Ok(names)
}

/// The weight files vLLM would load: those of the index, or all there are.
fn weights(root: &Path, files: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, DirectoryError> {
    let there: Vec<PathBuf> = files.iter().filter(|file| is_weights(file)).cloned().collect();
    if let Some(index) = read_json::<Index>(root, INDEX)? {
        let shards: BTreeSet<PathBuf> = index.weight_map.into_values().map(PathBuf::from).collect();
        return match shards.iter().find(|shard| !there.contains(shard)) {
            Some(missing) => {
                Err(DirectoryError::NotWhole(format!("{INDEX} names {}, which is not there", missing.display())))
            }
            None => Ok(shards.into_iter().collect()),
        };
    }
    // The same weights once more, in the format of the makers' own programs.
    let own = |file: &PathBuf| file.to_string_lossy().starts_with("consolidated");
    let shards: Vec<PathBuf> = there.into_iter().filter(|file| !own(file)).collect();
    if !shards.is_empty() {
        return Ok(shards);
    }
    let other = |file: &&PathBuf| {
        file.extension().is_some_and(|end| ["bin", "pth", "pt", "gguf", "h5"].iter().any(|other| end == *other))
    };
    Err(DirectoryError::NoCheckpoint(match files.iter().find(other) {
        Some(file) => format!("its weights are in {}, which is not safetensors", file.display()),
        None => "there are no weights in it: no safetensors file".into(),
    }))
}

/// The files of the parts that `modules.json` names, such as `1_Pooling`.
fn modules(root: &Path) -> Result<Vec<PathBuf>, DirectoryError> {
    let modules: Vec<Module> = read_json(root, "modules.json")?.unwrap_or_default();
    let mut files = Vec::new();
    for Module { path, r#type } in modules {
        let path = path.trim_end_matches('/');
        if path.is_empty() {
            continue;
        }
        if !is_inside(path) {
            return Err(DirectoryError::NoCheckpoint(format!("modules.json names {path:?}, which leads out of it")));
        }
        let directory = root.join(path);
        if !directory.is_dir() {
            // Normalising has nothing to set, and its directory often got lost.
            if r#type.ends_with("Normalize") {
                continue;
            }
            return Err(DirectoryError::NotWhole(format!("modules.json names {path}, which is not there")));
        }
        let names = names(&directory)?.into_iter().filter(|name| READ.iter().any(|end| name.ends_with(end)));
        files.extend(names.map(|name| Path::new(path).join(name)));
    }
    Ok(files)
}

fn read_json<T: serde::de::DeserializeOwned>(root: &Path, name: &str) -> Result<Option<T>, DirectoryError> {
    let path = root.join(name);
    let mut text = Vec::new();
    match fs::File::open(&path).and_then(|file| file.take(JSON_LIMIT).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DirectoryError::File { path, source }),
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| DirectoryError::NotWhole(format!("{name}: {error}")))
}

/// The licence that the head of the README names, as the Hub reads it.
fn license(root: &Path) -> Option<String> {
    let mut text = Vec::new();
    fs::File::open(root.join("README.md")).ok()?.take(README_LIMIT).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut head = lines.take_while(|line| line.trim_end() != "---");
    let license = head.find_map(|line| line.strip_prefix("license:"))?.trim().trim_matches(['"', '\'']);
    (!license.is_empty()).then(|| license.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one tensor of this name: one float.
    fn weight(name: &str) -> Vec<u8> {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    struct Made(tempfile::TempDir);

    impl Made {
        fn new() -> Self {
            let made = Self(tempfile::tempdir().expect("a directory"));
            made.with("config.json", br#"{"architectures":["BertModel"],"model_type":"bert"}"#)
                .with("tokenizer.json", b"{}")
                .with("model.safetensors", &weight("w"))
        }

        fn with(self, name: &str, bytes: &[u8]) -> Self {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, bytes).expect("written");
            self
        }

        fn without(self, name: &str) -> Self {
            fs::remove_file(self.0.path().join(name)).expect("removed");
            self
        }

        fn files(&self) -> Vec<String> {
            let directory = Directory::read(self.0.path()).expect("a whole checkpoint");
            directory.files().map(|file| file.to_string_lossy().into_owned()).collect()
        }

        fn wrong(&self) -> String {
            Directory::read(self.0.path()).expect_err("not a whole checkpoint").to_string()
        }
    }

    #[test]
    fn what_vllm_loads_is_taken_and_nothing_else() {
        let made = Made::new()
            .with(
                "modules.json",
                br#"[{"path":""},{"path":"1_Pooling","type":"a.Pooling"},{"path":"2_Normalize","type":"a.Normalize"}]"#,
            )
            .with("1_Pooling/config.json", b"{}")
            .with("1_Pooling/run.py", b"")
            .with("vocab.txt", b"")
            .with("pytorch_model.bin", b"x")
            .with("modeling.py", b"x")
            .with("onnx/model.onnx", b"x")
            .with("onnx/config.json", b"{}")
            .with(".gitattributes", b"x")
            .with(".hidden.json", b"{}")
            .with("consolidated.safetensors", b"torn")
            .with("README.md", b"---\nlanguage: en\nlicense: apache-2.0\n---\nlicense: other\n");
        let taken = [
            "1_Pooling/config.json",
            "config.json",
            "model.safetensors",
            "modules.json",
            "tokenizer.json",
            "vocab.txt",
        ];
        assert_eq!(made.files(), taken);
        let directory = Directory::read(made.0.path()).expect("a whole checkpoint");
        let Source { format, quantization, license, parameters } = &directory.source;
        assert_eq!((format.as_str(), quantization.as_str(), *parameters), ("safetensors", "F32", 1));
        assert_eq!(license.as_deref(), Some("apache-2.0"));
        let target = tempfile::tempdir().expect("a directory");
        let mut told = Vec::new();
        directory.copy_to(target.path(), |done, total| told.push((done, total))).expect("copied");
        assert_eq!(told.len(), taken.len());
        assert!(told.last().is_some_and(|(done, total)| done == total && *total > 0));
        assert!(taken.iter().all(|name| target.path().join(name).is_file()));
    }

    #[test]
    fn links_of_a_download_cache_are_followed() {
        let made = Made::new();
        let cache = tempfile::tempdir().expect("a directory");
        for name in made.files() {
            std::os::unix::fs::symlink(made.0.path().join(&name), cache.path().join(&name)).expect("linked");
        }
        let target = tempfile::tempdir().expect("a directory");
        Directory::read(cache.path()).expect("whole").copy_to(target.path(), |_, _| {}).expect("copied");
        assert!(fs::symlink_metadata(target.path().join("model.safetensors")).expect("there").is_file());
    }

    #[test]
    fn every_shard_of_an_index_must_be_there_and_hold_its_weights() {
        let index = br#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
        let made =
            Made::new().without("model.safetensors").with(INDEX, index).with("model-1.safetensors", &weight("a"));
        assert_eq!(made.wrong(), format!("{INDEX} names model-2.safetensors, which is not there"));
        let made = made.with("model-2.safetensors", &weight("b")).with("spare.safetensors", b"torn");
        assert!(made.files().contains(&"model-2.safetensors".to_owned()));
        assert!(!made.files().contains(&"spare.safetensors".to_owned()));
        let made = made.with("model-2.safetensors", &weight("c"));
        assert_eq!(made.wrong(), format!("{INDEX} names the weight b, which no file has"));
        let leads_out = Made::new().with(INDEX, br#"{"weight_map":{"w":"../model.safetensors"}}"#);
        assert!(leads_out.wrong().contains("which is not there"), "{}", leads_out.wrong());
    }

    #[test]
    fn what_is_missing_or_torn_is_named() {
        let torn = weight("w")[..30].to_vec();
        for (made, text) in [
            (Made::new().without("config.json"), "there is no config.json"),
            (Made::new().without("tokenizer.json"), "there is no tokenizer"),
            (Made::new().without("model.safetensors"), "there are no weights in it"),
            (
                Made::new().without("model.safetensors").with("pytorch_model.bin", b"x"),
                "in pytorch_model.bin, which is not",
            ),
            (Made::new().with("model.safetensors", &torn), "model.safetensors: its header of"),
            (Made::new().with("model.safetensors", &weight("w")[..64]), "model.safetensors: it has 64 bytes where"),
            (Made::new().with("config.json", b"{}"), "it names no architecture"),
            (Made::new().with("config.json", b"{"), "config.json"),
            (Made::new().with("modules.json", br#"[{"path":"1_Pooling","type":"Pooling"}]"#), "names 1_Pooling, which"),
            (Made::new().with("modules.json", br#"[{"path":"../x"}]"#), "leads out"),
        ] {
            assert!(made.wrong().contains(text), "{text}: {}", made.wrong());
        }
    }
}
