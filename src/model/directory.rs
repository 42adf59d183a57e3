//! A Hugging Face checkpoint as it lies in somebody's directory: what of it vLLM loads, and whether it is whole.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::card::json;
use super::card::weights::{INDEX, MODULES, Module};
use super::gather::{READ, is_inside};
use super::safetensors::Tensor;
use super::source::{self, Source, SourceError};

/// Files one of which holds the tokenizer, by their ends: each library has its own.
const TOKENIZERS: [&str; 7] =
    ["tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", ".tiktoken", "tekken.json", "spiece.model"];

/// A checkpoint that is whole.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    /// Files to take, relative to the directory, with their sizes in bytes.
    files: Vec<(PathBuf, u64)>,
    /// What it says about itself.
    pub source: Source,
}

impl Directory {
    /// Looks through a directory: a tokenizer must be there, the files of each module and the weights of the index, and
    /// what [`Source::read`] asks for.
    ///
    /// # Errors
    /// [`SourceError`]; nothing has been written.
    pub fn read(root: &Path) -> Result<Self, SourceError> {
        let mut files: BTreeSet<PathBuf> = names(root)?.into_iter().map(PathBuf::from).collect();
        files.retain(|file| {
            // A manifest is no part of a checkpoint, though it lies in the directory of an installed one.
            let manifest = file == Path::new("vllama.json");
            !manifest
                && !is_weights(file)
                && file.to_str().is_some_and(|name| READ.iter().any(|end| name.ends_with(end)))
        });
        let tensors = source::whole(root)?;
        every_weight(root, &tensors)?;
        let source = Source::of_whole(root, None)?;
        let has_tokenizer = TOKENIZERS.iter().any(|end| files.iter().any(|file| file.to_string_lossy().ends_with(end)));
        if !has_tokenizer {
            return Err(SourceError::NotWhole("there is no tokenizer in it, such as tokenizer.json".into()));
        }
        files.extend(modules(root)?);
        files.extend(source::weights(root)?.into_iter().map(PathBuf::from));
        let size = |file: PathBuf| {
            let path = root.join(&file);
            let size = fs::metadata(&path).map_err(|source| SourceError::File { path, source })?.len();
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
    /// [`SourceError::File`].
    pub fn copy_to(&self, target: &Path, mut tell: impl FnMut(u64, u64)) -> Result<(), SourceError> {
        let total = self.files.iter().map(|(_, size)| size).sum();
        let mut done = 0;
        for (file, size) in &self.files {
            let (from, to) = (self.root.join(file), target.join(file));
            // Links are followed: in a download cache every file is one.
            let copied = to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::copy(&from, &to));
            let copied = copied.map_err(|source| SourceError::File { path: from, source })?;
            if copied != *size {
                return Err(SourceError::NotWhole(format!("{} changed while it was copied", file.display())));
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
fn names(directory: &Path) -> Result<Vec<String>, SourceError> {
    let failed = |source| SourceError::File { path: directory.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'));
        names.extend(name.filter(|_| entry.path().is_file()));
    }
    Ok(names)
}

/// Whether the files hold every weight of the index: a file of another version does not.
fn every_weight(root: &Path, tensors: &[Tensor]) -> Result<(), SourceError> {
    let known: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let index = source::index(root)?;
    match index.iter().flat_map(|index| index.weight_map.keys()).find(|name| !known.contains(name.as_str())) {
        Some(missing) => Err(SourceError::NotWhole(format!("{INDEX} names the weight {missing}, which no file has"))),
        None => Ok(()),
    }
}

/// The files of the parts that [`MODULES`] names, such as `1_Pooling`; of weights those that vLLM loads.
fn modules(root: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let modules: Option<Vec<Module>> = json(root, MODULES).map_err(|error| SourceError::of_card(root, error))?;
    let mut files = Vec::new();
    for module in modules.unwrap_or_default() {
        let Some(path) = module.directory() else { continue };
        if !is_inside(path) {
            return Err(SourceError::NoCheckpoint(format!("{MODULES} names {path:?}, which leads out of it")));
        }
        let directory = root.join(path);
        if !directory.is_dir() {
            // Normalising has nothing to set, and its directory often got lost.
            if module.r#type.ends_with("Normalize") {
                continue;
            }
            return Err(SourceError::NotWhole(format!("{MODULES} names {path}, which is not there")));
        }
        let read = |name: &String| READ.iter().any(|end| name.ends_with(end)) && !is_weights(Path::new(name));
        files.extend(names(&directory)?.into_iter().filter(read).map(|name| Path::new(path).join(name)));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::{Made, weight};
    use super::*;

    impl Made {
        fn files(&self) -> Vec<String> {
            let directory = Directory::read(self.0.path()).expect("a whole checkpoint");
            directory.files().map(|file| file.to_string_lossy().into_owned()).collect()
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
    fn of_an_index_its_shards_are_taken_and_of_a_module_its_weights() {
        let index = br#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
        let made = Made::new()
            .without("model.safetensors")
            .with(INDEX, index)
            .with("model-1.safetensors", &weight("a"))
            .with("model-2.safetensors", &weight("b"))
            .with("spare.safetensors", b"torn")
            .with("modules.json", br#"[{"path":""},{"path":"2_Dense","type":"a.Dense"}]"#)
            .with("2_Dense/config.json", b"{}")
            .with("2_Dense/model.safetensors", &weight("c"))
            .with("2_Dense/old.safetensors", b"torn");
        let files = made.files();
        for (name, taken) in [
            ("model-1.safetensors", true),
            ("model-2.safetensors", true),
            ("spare.safetensors", false),
            ("2_Dense/config.json", true),
            ("2_Dense/model.safetensors", true),
            ("2_Dense/old.safetensors", false),
        ] {
            assert_eq!(files.iter().any(|file| file == name), taken, "{name}");
        }
        assert_eq!(Directory::read(made.0.path()).expect("a whole checkpoint").source.parameters, 3);
    }

    #[test]
    fn what_is_missing_is_named() {
        let index = br#"{"weight_map":{"w":"model.safetensors","b":"model.safetensors"}}"#;
        for (made, text) in [
            (Made::new().without("tokenizer.json"), "there is no tokenizer"),
            (Made::new().with(INDEX, index), "names the weight b, which no file has"),
            (Made::new().without("model.safetensors"), "there are no weights in it"),
            (Made::new().with("modules.json", br#"[{"path":"1_Pooling","type":"Pooling"}]"#), "names 1_Pooling, which"),
            (Made::new().with("modules.json", br#"[{"path":"../x"}]"#), "leads out"),
        ] {
            let error = Directory::read(made.0.path()).expect_err("not a whole checkpoint").to_string();
            assert!(error.contains(text), "{text}: {error}");
        }
    }
}
