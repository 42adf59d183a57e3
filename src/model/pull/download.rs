//! One pull: asks the script for the files, shows how far they are, and installs the model.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::error::Told;
use super::progress::{Layer, Phase, Progress};
use super::{Origin, Outcome, Publish, PullError, place};
use crate::init::Exit;
use crate::model::python::{DOWNLOAD, Python};
use crate::model::store::{Checkpoint, Draft};
use crate::model::{ModelName, Overlay, Source, Store, card};

/// The file of a checkpoint that says where it came from; the script writes it.
const SOURCE_FILE: &str = "vllama-source.json";

/// What every pull needs.
#[derive(Clone)]
pub(super) struct Workshop {
    pub store: Store,
    pub python: Python,
    /// Where unfinished downloads are kept.
    pub downloads: PathBuf,
    pub publish: Publish,
}

/// What the script is told.
#[derive(Serialize)]
struct Order<'a> {
    repository: &'a str,
    revision: &'a str,
    directory: &'a Path,
    /// The commit that is installed.
    installed: Option<&'a str>,
}

/// What the script says.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Layer { layer: usize, digest: String, total: u64, completed: u64 },
    Unchanged,
    Done { files: PathBuf, license: Option<String> },
    Error(Told),
}

/// What the script has brought.
enum Fetched {
    /// A whole checkpoint, and the licence the hub names.
    Files { files: PathBuf, license: Option<String> },
    /// What is installed is what the hub has.
    Nothing,
}

/// Where an installed checkpoint came from.
#[derive(Deserialize)]
struct Provenance {
    repository: String,
    commit: String,
}

impl Workshop {
    /// Pulls a model, and logs how that ends.
    pub(super) async fn pull(self, name: ModelName, progress: Arc<watch::Sender<Progress>>) -> Outcome {
        let begun = Instant::now();
        let outcome = self.bring(name.clone(), progress).await;
        let seconds = begun.elapsed().as_secs();
        match &outcome {
            Ok(model) => tracing::info!(model = %name, bytes = model.manifest.size, seconds, "pulled"),
            Err(error) => tracing::warn!(model = %name, %error, seconds, "not pulled"),
        }
        outcome
    }

    async fn bring(self, name: ModelName, progress: Arc<watch::Sender<Progress>>) -> Outcome {
        let origin = Origin::of(&name)?;
        let installed = self.store.find(&name);
        let provenance = installed.as_ref().and_then(|installed| provenance(&installed.directory));
        if let (Some(installed), None) = (&installed, &provenance) {
            // Imported or made here: nobody can say that the hub's is newer, and it is not to be lost.
            return Ok(installed.clone());
        }
        let commit = provenance.as_ref().filter(|known| known.repository == origin.repository);
        let commit = commit.map(|known| known.commit.as_str());
        match (self.fetch(&name, &origin, commit, &progress).await, installed) {
            (Ok(Fetched::Files { files, license }), _) => self.install(name, files, license, &progress).await,
            (Ok(Fetched::Nothing), Some(installed)) => {
                progress.send_modify(|progress| progress.phase = Phase::Writing);
                Ok(installed)
            }
            (Ok(Fetched::Nothing), None) => {
                Err(PullError::Failed("it was deleted meanwhile; pull it again".to_owned()))
            }
            (Err(error), Some(installed)) if error.is_unreachable() => {
                tracing::warn!(model = %name, %error, "the installed model is kept as it is");
                Ok(installed)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Runs the script to its end.
    async fn fetch(
        &self,
        name: &ModelName,
        origin: &Origin,
        installed: Option<&str>,
        progress: &watch::Sender<Progress>,
    ) -> Result<Fetched, PullError> {
        let directory = place::of(&self.downloads, name);
        let (downloads, kept) = (self.downloads.clone(), directory.clone());
        // Its outcome is nobody's business: what could not be swept is swept with the next pull.
        let _ = tokio::task::spawn_blocking(move || place::sweep(&downloads, &kept)).await;
        let order =
            Order { repository: &origin.repository, revision: &origin.revision, directory: &directory, installed };
        let order = serde_json::to_string(&order).map_err(|error| PullError::Failed(error.to_string()))?;
        let mut running = self.python.run(DOWNLOAD, [order.into()], []).map_err(|error| {
            let python = self.python.program().display();
            PullError::Failed(format!("cannot start the engine's Python, {python}: {error}. Install vLLM"))
        })?;
        let mut outcome = None;
        let mut began = false;
        while let Some(event) = running.next().await {
            began = true;
            match event {
                Event::Layer { layer, digest, total, completed } => {
                    progress.send_modify(|progress| {
                        note(&mut progress.layers, layer, Layer { digest: digest.into(), total, completed })
                    });
                }
                Event::Unchanged => outcome = Some(Ok(Fetched::Nothing)),
                Event::Done { files, license } => outcome = Some(Ok(Fetched::Files { files, license })),
                Event::Error(told) => outcome = Some(Err(PullError::from(told))),
            }
        }
        let (exit, said) = running.ended().await;
        match outcome {
            Some(Ok(fetched)) if exit == Exit::Code(0) => Ok(fetched),
            Some(Err(error)) => Err(error),
            // Before its first event it has not asked the hub anything, so its words hold no secret.
            _ if !began => Err(PullError::Failed(format!("the download did not begin ({exit:?}) {said}"))),
            _ => Err(PullError::Failed(format!("the download ended without a result ({exit:?}); pull again"))),
        }
    }

    /// Gives the files their name in the store.
    async fn install(
        self,
        name: ModelName,
        files: PathBuf,
        license: Option<String>,
        progress: &watch::Sender<Progress>,
    ) -> Outcome {
        progress.send_modify(|progress| progress.phase = Phase::Verifying);
        let store = self.store.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let source = Source::read(&files, license)?;
            let staging = store.stage()?;
            place::link_all(&files, staging.directory())?;
            let checkpoint = Checkpoint::Built(staging, source);
            Ok::<_, PullError>(store.prepare(Draft { checkpoint, overlay: Overlay::default(), adapter: None })?)
        });
        let installed = async {
            let prepared = prepared.await.map_err(io::Error::from)??;
            progress.send_modify(|progress| progress.phase = Phase::Writing);
            Ok((self.publish)(name.clone(), prepared).await?)
        };
        let outcome: Outcome = installed.await;
        if outcome.is_ok() {
            let directory = place::of(&self.downloads, &name);
            // Large files take their time to go, and nobody need wait for that.
            tokio::task::spawn_blocking(move || place::remove(&directory));
        }
        outcome
    }
}

/// Notes how far a file is. Layers come in order; one that does not is no layer of ours.
fn note(layers: &mut Vec<Layer>, index: usize, layer: Layer) {
    if let Some(known) = layers.get_mut(index) {
        *known = layer;
    } else if index == layers.len() {
        layers.push(layer);
    }
}

fn provenance(checkpoint: &Path) -> Option<Provenance> {
    serde_json::from_str(&card::read_text(checkpoint, SOURCE_FILE).ok()?).ok()
}
