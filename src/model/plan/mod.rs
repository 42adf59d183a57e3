//! From the facts of a checkpoint and of the machine to every engine flag, each with its reason. Pure.

mod adapter;
mod change;
mod fit;
mod flags;
mod frontend;
mod hardware;
mod memory;
mod text;
mod wishes;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::{Card, Installed};
use fit::{Fit, Load};

pub use adapter::Adapter;
pub use change::{Change, Lever};
pub use frontend::{Frontend, FrontendWish, NoFrontend};
pub use hardware::{Gpu, Hardware};
pub use memory::{Memory, cache_bytes, cache_bytes_per_token, cache_tokens, gibibytes};
pub use wishes::Wishes;

/// Where inference runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// vLLM's CPU build.
    Cpu,
    /// vLLM's CUDA build.
    Cuda,
}

/// One argument or variable of the engine, and why it is there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Choice {
    /// The flag with its dashes, or the variable's name.
    pub name: &'static str,
    /// Its value; `None` for a flag that takes none.
    pub value: Option<String>,
    /// Further values behind the first, for a flag that takes several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<String>,
    /// Why, for people.
    pub reason: Cow<'static, str>,
}

/// Why a model cannot run here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// What happened.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// What is to be served.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// Its directory.
    pub directory: &'a Path,
    /// The name the engine knows it by.
    pub name: &'a str,
    /// Bytes of its files, for where the weights' headers do not tell.
    pub size: u64,
    /// Its facts.
    pub card: &'a Card,
    /// What it is served with on top.
    pub adapters: &'a [Adapter],
}

/// All choices for one engine.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Directory of the checkpoint.
    pub checkpoint: PathBuf,
    /// The name requests give the engine.
    pub served_name: String,
    /// The name of the bare checkpoint: the same, or another where the name belongs to the checkpoint with an adapter.
    pub checkpoint_name: String,
    /// Where inference runs.
    pub device: Device,
    /// GPUs it takes; 0 on the CPU.
    pub gpus: usize,
    /// The program that answers its requests.
    pub frontend: Frontend,
    /// Flags, in the order they are given.
    pub flags: Vec<Choice>,
    /// Environment variables that belong to the plan; the same at every start, for vLLM's compile cache.
    pub environment: Vec<Choice>,
    /// Flags that one might have expected, and why they are not there.
    pub left_out: Vec<Choice>,
    /// The operator's own arguments, last and verbatim.
    pub extra_arguments: Vec<String>,
    /// The operator's own variables for this model; they win over all others. What looks like a secret is not told.
    #[serde(serialize_with = "text::told")]
    pub extra_environment: Vec<(String, String)>,
    /// What it is expected to need on its device (on each of its GPUs) before anybody has measured it.
    pub memory: Memory,
    /// Most requests the engine is given at a time.
    pub concurrency: usize,
    /// Why the estimate says that it cannot run here; nobody should start it then.
    pub refusal: Option<Refusal>,
    /// What was changed because it failed, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

impl Plan {
    /// Chooses all flags for serving `model` on `hardware`.
    #[must_use]
    pub fn new(model: &Installed, hardware: &Hardware, wishes: &Wishes) -> Self {
        Self::called(&model.manifest.name, model, hardware, wishes)
    }

    /// The same for an engine that requests call `name`, whatever the model is called that it serves now: several models
    /// may share an engine, which knows one name.
    #[must_use]
    pub fn called(name: &str, model: &Installed, hardware: &Hardware, wishes: &Wishes) -> Self {
        let adapter = model.adapter.as_ref().map(|adapter| Adapter { name: name.to_owned(), ..adapter.clone() });
        let checkpoint = Checkpoint {
            directory: &model.directory,
            name,
            size: model.manifest.size,
            card: &model.card,
            adapters: adapter.as_slice(),
        };
        Self::of(&checkpoint, hardware, wishes)
    }

    /// Chooses all flags for serving a checkpoint with its adapters on `hardware`.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint<'_>, hardware: &Hardware, wishes: &Wishes) -> Self {
        let device = if hardware.nvidia || !hardware.gpus.is_empty() { Device::Cuda } else { Device::Cpu };
        let card = checkpoint.card;
        let numbers = flags::numbers(card, device, hardware);
        let speculates = flags::speculates(card, device);
        let load = Load {
            name: checkpoint.name,
            card,
            pooling: card.is_pooling(),
            weights: weights(checkpoint, numbers.size, speculates),
            value_size: numbers.size,
        };
        let fit = fit::fit(&load, device, hardware, wishes);
        let concurrency = concurrency(&fit, device, hardware, wishes);
        let (frontend, unmet) = frontend::choose(card, wishes);
        let flags::Chosen { flags, mut left_out } = flags::choose(&flags::Case {
            checkpoint,
            device,
            numbers: &numbers,
            fit: &fit,
            wishes,
            concurrency,
            speculates,
            frontend,
        });
        left_out.extend(unmet);
        Self {
            checkpoint: checkpoint.directory.to_owned(),
            served_name: checkpoint.name.to_owned(),
            checkpoint_name: if checkpoint.adapters.iter().any(|adapter| adapter.name == checkpoint.name) {
                format!("{} without its adapter", checkpoint.name)
            } else {
                checkpoint.name.to_owned()
            },
            device,
            gpus: usize::try_from(fit.gpus).unwrap_or(usize::MAX),
            frontend,
            flags,
            environment: flags::environment(device, &fit, frontend),
            left_out,
            extra_arguments: wishes.extra_arguments.clone(),
            extra_environment: wishes.extra_environment.clone(),
            memory: fit.memory,
            concurrency,
            refusal: fit.refusal,
            changes: Vec::new(),
        }
    }
}

/// Bytes of the weights as they are served: numbers are converted to the type the engine computes in, packed ones stay.
fn weights(checkpoint: &Checkpoint<'_>, size: u64, speculates: bool) -> u64 {
    let weights = &checkpoint.card.weights;
    let draft = if speculates { weights.draft_bytes } else { 0 };
    match (weights.bytes, &checkpoint.card.quantization) {
        (0, _) => checkpoint.size,
        (bytes, Some(_)) => bytes - weights.draft_bytes + draft,
        (_, None) => weights.served_bytes(size) + draft,
    }
}

/// Most requests at a time: the operator's wish, else what vLLM takes by itself on such a machine.
fn concurrency(fit: &Fit, device: Device, hardware: &Hardware, wishes: &Wishes) -> usize {
    let default = match (device, fit.small_batches) {
        (Device::Cpu, _) => 128,
        (Device::Cuda, true) => 32,
        (Device::Cuda, false) if fit.batch > 2048 && !hardware.gpus.is_empty() => 1024,
        (Device::Cuda, false) => 256,
    };
    wishes.concurrency.unwrap_or(default).max(1)
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
