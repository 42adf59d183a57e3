//! Models: names, the store on disk, the facts of a checkpoint and the plan for serving it.
//!
//! In: directories and checkpoint files. Out: [`Installed`] models, a [`plan::Plan`] for the engine.
//! Knows no HTTP, no process and no other room.

pub mod card;
pub mod name;
pub mod plan;
pub mod store;

pub use card::{Capability, Card, GenerationDefaults};
pub use name::{InvalidName, ModelName};
pub use store::{Installed, Manifest, Source, Staging, Store};
