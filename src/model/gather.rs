//! Models and adapters put together from uploaded files: a GGUF file, or the files of a Hugging Face directory.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};

use serde::Deserialize;

use super::digest::Sha256Digest;
use super::directory::Directory;
use super::plan::Adapter;
use super::python::{IMPORT_GGUF, Python};
use super::source::{README, SourceError, is_license};
use super::{Source, Staging, Store, card, safetensors};
use crate::init::Exit;

/// What vLLM reads of a checkpoint, by the ends of file names. All else, code above all, is left out.
pub(super) const READ: [&str; 6] = [".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken"];
/// Deepest path inside a checkpoint, in parts.
const DEPTH: usize = 4;
/// First bytes of a GGUF file.
const GGUF: &[u8] = b"GGUF";

/// Uploaded files by the names they are to have.
pub type Files = Vec<(String, Sha256Digest)>;

/// What uploaded files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One GGUF file.
    Gguf(Sha256Digest),
    /// The files of a Hugging Face directory.
    Safetensors,
}

/// Why no model or adapter can be made of files.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// There are none. The words of this and the next two are Ollama's (ollama-api §4.7).
    #[error("no files provided to convert")]
    None,
    /// Neither GGUF nor safetensors.
    #[error("unknown type")]
    UnknownType,
    /// Named like a GGUF file, but none.
    #[error("supplied file was not in GGUF format")]
    NotGguf,
    /// A file was never uploaded.
    #[error("blob \"{0}\" not found")]
    Missing(Sha256Digest),
    /// The files make no model, or not one vllama can take: what is wrong and what to do.
    #[error("{0}")]
    Refused(String),
    /// Neither the files' fault nor the client's.
    #[error("{0}")]
    Failed(String),
    /// The store cannot be written.
    #[error("{0}")]
    Store(#[from] io::Error),
}

impl From<SourceError> for GatherError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::File { source, .. } => Self::Store(source),
            // Its paths are of no use to a client, and what to do is another thing here.
            error => Self::Refused(format!("the files are no checkpoint vLLM can load: {error}")),
        }
    }
}

/// What the import script tells.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Progress {
        phase: String,
        done: u64,
        total: u64,
    },
    Done {
        parameters: u64,
        quantization: String,
        license: Option<String>,
    },
    Error {
        code: String,
        message: String,
    },
    // Warnings are for whoever sits in front of it.
    #[serde(other)]
    Other,
}

/// Whether a file name stays where it is put: relative, without `..`, and not too deep.
#[must_use]
pub fn is_inside(name: &str) -> bool {
    let path = Path::new(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    // What `components` forgives (`a//b`, `a/.`, `a/`) is refused as well: one file, one name.
    let tidy = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    let writable = name.len() <= 1024 && name.split('/').all(|part| part.len() <= 255);
    plain && tidy && writable && !name.contains(['\\', '\0']) && name.split('/').count() <= DEPTH
}

/// Looks at names, and at the first bytes where names do not tell.
///
/// # Errors
/// [`GatherError`] when it is nothing vllama takes.
pub fn kind(store: &Store, files: &Files) -> Result<Kind, GatherError> {
    let ends = |end: &str| files.iter().any(|(name, _)| name.to_ascii_lowercase().ends_with(end));
    let Some((_, first)) = files.first() else { return Err(GatherError::None) };
    if ends(".safetensors") {
        return Ok(Kind::Safetensors);
    }
    let named = ends(".gguf");
    let is_gguf = starts_with(store, first, GGUF)?;
    match (named, is_gguf, files.len()) {
        (_, true, 1) => Ok(Kind::Gguf(first.clone())),
        (_, _, 2..) if named || is_gguf => Err(GatherError::Refused(
            "vllama makes a model of one GGUF file, and several were given; give the model's alone".to_owned(),
        )),
        (true, false, _) => Err(GatherError::NotGguf),
        _ => Err(GatherError::UnknownType),
    }
}

fn starts_with(store: &Store, digest: &Sha256Digest, start: &[u8]) -> Result<bool, GatherError> {
    use std::io::Read;
    let path = store.blobs().find(digest).ok_or_else(|| GatherError::Missing(digest.clone()))?;
    let mut read = Vec::with_capacity(start.len());
    std::fs::File::open(path)?.take(start.len() as u64).read_to_end(&mut read)?;
    Ok(read == start)
}

/// Makes a checkpoint of a GGUF file; `tell` hears how many tensors of how many are done.
///
/// # Errors
/// [`GatherError`]; nothing is left behind then.
pub async fn import(
    store: &Store,
    python: &Python,
    file: &Sha256Digest,
    mut tell: impl FnMut(u64, u64),
) -> Result<(Staging, Source), GatherError> {
    let _turn = store.conversion().await?;
    // A name of its own, so that the file stays even if the uploaded one is swept.
    let source = store.stage()?;
    let gguf = source.directory().join("model.gguf");
    link(store, file, &gguf)?;
    let staging = store.stage()?;
    let arguments: [OsString; 2] = [gguf.into(), staging.directory().into()];
    let mut running = python.run(IMPORT_GGUF, arguments, []).map_err(|error| {
        let program = python.program().display();
        GatherError::Failed(format!("the engine's Python, {program}, cannot be started: {error}; install vLLM there"))
    })?;
    let mut outcome = None;
    while let Some(event) = running.next().await {
        match event {
            // The other phase, the tokenizer, is over in a moment.
            Event::Progress { phase, done, total } if phase == "tensors" => tell(done, total),
            Event::Done { parameters, quantization, license } => {
                outcome = Some(Ok(Source { format: "gguf".into(), quantization, license, parameters }));
            }
            Event::Error { code, message } => outcome = Some(Err((code, message))),
            Event::Progress { .. } | Event::Other => {}
        }
    }
    let (exit, said) = running.ended().await;
    match outcome {
        Some(Ok(source)) if exit == Exit::Code(0) => Ok((staging, source)),
        Some(Err((code, message))) => Err(match code.as_str() {
            "disk_full" | "io" | "out_of_memory" | "internal" | "interrupted" => GatherError::Failed(message),
            _ => GatherError::Refused(message),
        }),
        _ => Err(GatherError::Failed(format!(
            "the import ended without a result ({exit:?}) {said}; check that memory and disk suffice, then try again"
        ))),
    }
}

/// Makes a checkpoint of the files of a Hugging Face directory: what vLLM loads of them, if they are whole.
///
/// # Errors
/// [`GatherError`] when they are no whole checkpoint; nothing is left behind then.
pub fn checkpoint(store: &Store, files: &Files) -> Result<(Staging, Source), GatherError> {
    let uploaded = store.stage()?;
    put(store, files, uploaded.directory())?;
    let directory = Directory::read(uploaded.directory())?;
    let staging = store.stage()?;
    for file in directory.files() {
        let target = staging.directory().join(file);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::rename(uploaded.directory().join(file), target)?;
    }
    Ok((staging, directory.source))
}

/// Makes a LoRA adapter of the files of one, as PEFT writes them.
///
/// # Errors
/// [`GatherError`] when they are no whole adapter; nothing is left behind then.
pub fn adapter(store: &Store, files: &Files) -> Result<Staging, GatherError> {
    if files.iter().any(|(name, _)| name.to_ascii_lowercase().ends_with(".gguf")) {
        return Err(GatherError::Refused(
            "vLLM takes LoRA adapters as safetensors, not as GGUF; give adapter_config.json and adapter_model.safetensors"
                .to_owned(),
        ));
    }
    let staging = store.stage()?;
    put(store, files, staging.directory())?;
    whole(staging.directory())?;
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        if !staging.directory().join(file).is_file() {
            return Err(GatherError::Refused(format!("the adapter has no {file}; give all files that PEFT wrote")));
        }
    }
    // With a limit: a client may have sent anything under this name.
    let config = match card::read_text(staging.directory(), "adapter_config.json") {
        // What is no text says nothing.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        config => config?,
    };
    let lora = serde_json::from_str::<serde_json::Value>(&config).is_ok_and(|config| config["peft_type"] == "LORA");
    if !lora {
        return Err(GatherError::Refused("adapter_config.json does not say that this is a LoRA adapter".to_owned()));
    }
    Adapter::read("", staging.directory()).map_err(|error| GatherError::Refused(error.to_string()))?;
    Ok(staging)
}

/// Puts files under their names, without those in which there is nothing for anybody here.
fn put(store: &Store, files: &Files, directory: &Path) -> Result<(), GatherError> {
    if files.is_empty() {
        return Err(GatherError::None);
    }
    let read = |name: &str| name == README || is_license(name) || READ.iter().any(|end| name.ends_with(end));
    for (name, digest) in files.iter().filter(|(name, _)| read(name)) {
        if !is_inside(name) {
            return Err(GatherError::Refused(format!("{name:?} is no file name inside a model")));
        }
        let target = directory.join(name);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        link(store, digest, &target)?;
    }
    Ok(())
}

/// The tensors, if no file is torn and there are some.
fn whole(directory: &Path) -> Result<Vec<safetensors::Tensor>, GatherError> {
    match safetensors::tensors(directory) {
        Ok(tensors) if tensors.is_empty() => Err(GatherError::Refused("there are no weights in the files".to_owned())),
        Ok(tensors) => Ok(tensors),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(GatherError::Refused(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn link(store: &Store, digest: &Sha256Digest, target: &Path) -> Result<(), GatherError> {
    store.blobs().link(digest, target).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => GatherError::Missing(digest.clone()),
        _ => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn upload(store: &Store, bytes: &[u8]) -> Sha256Digest {
        let digest = Sha256Digest::of(bytes);
        let mut upload = store.blobs().upload().await.expect("begun");
        upload.write(bytes).expect("written");
        store.blobs().keep(upload, &digest).expect("kept").expect("the right digest");
        digest
    }

    fn store() -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().expect("a directory");
        let store = Store::open(root.path()).expect("a store");
        (root, store)
    }

    #[test]
    fn names_that_lead_out_are_seen() {
        for name in ["config.json", "1_Pooling/config.json", "a/b/c/d.json", "model-00001-of-00002.safetensors"] {
            assert!(is_inside(name), "{name}");
        }
        let long = "x".repeat(256);
        for name in
            ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "a/.", "a\\b", "a\0", "a/b/c/d/e", long.as_str()]
        {
            assert!(!is_inside(name), "{name:?}");
        }
    }

    #[tokio::test]
    async fn kinds_are_told_by_names_and_first_bytes() {
        let (_root, store) = store();
        let gguf = upload(&store, b"GGUF\x03\0\0\0").await;
        let text = upload(&store, b"hello").await;
        let of = |names: &[(&str, &Sha256Digest)]| {
            kind(&store, &names.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).clone())).collect())
        };
        assert!(matches!(of(&[("m.gguf", &gguf)]), Ok(Kind::Gguf(_))));
        assert!(matches!(of(&[("model", &gguf)]), Ok(Kind::Gguf(_))));
        assert!(matches!(of(&[("a.safetensors", &text), ("config.json", &text)]), Ok(Kind::Safetensors)));
        assert!(matches!(of(&[]), Err(GatherError::None)));
        assert!(matches!(of(&[("m.gguf", &text)]), Err(GatherError::NotGguf)));
        assert!(matches!(of(&[("m.bin", &text)]), Err(GatherError::UnknownType)));
        assert!(matches!(of(&[("m.gguf", &gguf), ("n.gguf", &gguf)]), Err(GatherError::Refused(_))));
        assert!(matches!(of(&[("m.gguf", &Sha256Digest::of(b"?"))]), Err(GatherError::Missing(_))));
    }

    #[tokio::test]
    async fn a_checkpoint_is_put_together_without_what_nobody_reads() {
        let (root, store) = store();
        let weights = upload(&store, &safetensors::tests::file()).await;
        let config = upload(&store, br#"{"architectures":["LlamaForCausalLM"],"model_type":"llama"}"#).await;
        let license = upload(&store, b"You may.").await;
        let files: Files = [
            ("model.safetensors", &weights),
            ("config.json", &config),
            ("tokenizer.json", &config),
            ("evil.py", &config),
            ("LICENSE", &license),
        ]
        .map(|(name, digest)| (name.to_owned(), digest.clone()))
        .into();
        let (staging, source) = checkpoint(&store, &files).expect("a checkpoint");
        assert_eq!((source.parameters, source.quantization.as_str()), (6, "BF16"));
        assert_eq!(source.license.as_deref(), Some("You may."));
        assert!(staging.directory().join("config.json").is_file() && !staging.directory().join("evil.py").exists());
        drop(staging);
        let torn = upload(&store, &safetensors::tests::file()[..40]).await;
        for files in [
            vec![("model.safetensors".to_owned(), torn), ("config.json".to_owned(), config.clone())],
            vec![("model.safetensors".to_owned(), weights)],
            vec![("config.json".to_owned(), config)],
        ] {
            assert!(matches!(checkpoint(&store, &files), Err(GatherError::Refused(_))), "{files:?}");
        }
        assert_eq!(std::fs::read_dir(root.path().join(".staging")).expect("read").count(), 0);
    }

    #[tokio::test]
    async fn an_adapter_is_what_peft_writes() {
        let (_root, store) = store();
        let weights = upload(&store, &safetensors::tests::file()).await;
        let config = upload(&store, br#"{"peft_type":"LORA","r":8}"#).await;
        let other = upload(&store, br#"{"peft_type":"IA3"}"#).await;
        let files = |config: &Sha256Digest| -> Files {
            vec![
                ("adapter_model.safetensors".to_owned(), weights.clone()),
                ("adapter_config.json".to_owned(), config.clone()),
            ]
        };
        assert!(adapter(&store, &files(&config)).is_ok());
        assert!(matches!(adapter(&store, &files(&other)), Err(GatherError::Refused(_))));
        assert!(matches!(adapter(&store, &files(&config)[..1].to_vec()), Err(GatherError::Refused(_))));
        let gguf = vec![("lora.gguf".to_owned(), weights)];
        assert!(matches!(adapter(&store, &gguf), Err(GatherError::Refused(_))));
    }
}
