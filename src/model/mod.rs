//! Models: names, the store on disk, the facts of a checkpoint and the plan for serving it.
//!
//! In: directories and checkpoint files. Out: [`Installed`] models, a [`plan::Plan`] for the engine.
//! Knows no HTTP and no engine. Of processes it knows the embedded Python scripts ([`python`]), which import and download.

pub mod card;
pub mod name;
pub mod parsers;
pub mod plan;
pub mod python;
pub mod store;

pub use card::{Capability, Card, GenerationDefaults};
pub use name::{InvalidName, ModelName};
pub use store::{Installed, Manifest, Source, Staging, Store};
