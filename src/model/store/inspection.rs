//! A look at a store that changes nothing: what is whole, what is not, what should not be there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layer::{Entry, Layer, read_entry};
use super::lock::try_flock;
use super::{Base, Inner};
use crate::model::parser_choice::ParserChoices;

/// What a look at a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Number of whole models in the writable layer.
    pub models: usize,
    /// Number of models that the read-only layer below adds: those of an image.
    pub base_models: usize,
    /// Manifests that are no whole model, and why.
    pub broken: Vec<(PathBuf, String)>,
    /// Directories that somebody began to build in and never finished.
    pub leftovers: usize,
    /// What belongs to another user than the store's directory itself.
    pub foreign: Vec<PathBuf>,
}

impl Inspection {
    /// Looks at the writable layer in `root`, which need not be there yet, and at the models in `base`, which its own may
    /// stand on.
    ///
    /// # Errors
    /// When `root` or `base` cannot be read.
    pub fn of(root: &Path, base: &Path) -> io::Result<Self> {
        let base = (base.is_dir() && base != root).then(|| Base::read(base, ParserChoices::default())).transpose()?;
        let layer = Layer { root: root.into() };
        let names = base.iter().flat_map(|base| base.models.keys());
        let base_models = names.filter(|name| !layer.manifest(name).exists()).count();
        let owner = match fs::metadata(root) {
            Ok(facts) => facts.uid(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { base_models, ..Self::default() });
            }
            Err(error) => return Err(error),
        };
        let mut found = Self { base_models, leftovers: leftovers(&layer.staging()), ..Self::default() };
        let manifests = layer.manifests()?;
        let areas = [layer.checkpoints(), layer.adapters(), layer.blobs()];
        let inside = areas.iter().filter_map(|area| fs::read_dir(area).ok()).flatten().flatten();
        let entries = manifests.iter().cloned().chain(areas.iter().cloned()).chain(inside.map(|entry| entry.path()));
        found.foreign =
            entries.filter(|path| fs::symlink_metadata(path).is_ok_and(|facts| facts.uid() != owner)).collect();
        let inner = Inner::new(layer, base, ParserChoices::default());
        for file in manifests {
            match whole(&inner, &file) {
                Ok(true) => found.models += 1,
                Ok(false) => {}
                // Deleted since the directory was read.
                Err(_) if !file.exists() => {}
                Err(error) => found.broken.push((file, error.to_string())),
            }
        }
        Ok(found)
    }
}

/// Whether a manifest is that of a model, and not one that hides a model of the layer below; an error when the model is
/// not whole.
fn whole(store: &Inner, file: &Path) -> io::Result<bool> {
    let Entry::Model(manifest) = read_entry(file)? else { return Ok(false) };
    let directory = store.checkpoint(&manifest, file);
    if !directory.is_dir() {
        let text = format!("its checkpoint {} is not there", directory.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(store.read(file)?.is_some())
}

/// Number of directories in `area` that nobody holds.
fn leftovers(area: &Path) -> usize {
    let Ok(entries) = fs::read_dir(area) else { return 0 };
    // Locked for a moment only: whoever is just making one then makes another.
    entries
        .flatten()
        .filter(|entry| File::open(entry.path()).is_ok_and(|file| matches!(try_flock(file), Ok(Some(_)))))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_not_there_is_no_fault_and_one_with_scraps_is_told_scrap_by_scrap() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("models");
        let look = || Inspection::of(&root, Path::new("/nowhere")).expect("a look");
        assert_eq!(look(), Inspection::default());
        let place = root.join("registry.ollama.ai/library/a/latest");
        fs::create_dir_all(&place).expect("a place");
        fs::create_dir_all(root.join(".staging/half")).expect("a leftover");
        assert_eq!(look(), Inspection { leftovers: 1, ..Inspection::default() });
        let held = File::open(root.join(".staging/half")).map(try_flock).expect("open").expect("a lock");
        assert_eq!(look(), Inspection::default(), "somebody builds there: {held:?}");
        let digest = "0".repeat(64);
        let manifest = format!(
            r#"{{"name":"a","digest":"{digest}","size":1,"format":"safetensors","quantization":"F32","license":null,"parameters":1,"checkpoint":"{digest}"}}"#
        );
        fs::write(place.join("vllama.json"), manifest).expect("a manifest");
        let found = look();
        assert_eq!(found.models, 0);
        assert!(
            found.broken[0].1.contains(".checkpoints/000") && found.broken[0].1.contains("is not there"),
            "{found:?}"
        );
    }
}
