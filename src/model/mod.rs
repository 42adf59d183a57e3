//! Models: names, the store on disk, the facts of a checkpoint and the plan for serving it.
//!
//! In: directories and checkpoint files. Out: [`Installed`] models, a [`plan::Plan`] for the engine.
//! Knows no HTTP and no engine. Of processes it knows the embedded Python scripts ([`python`]), which import and download.

pub mod card;
pub mod digest;
pub mod directory;
pub mod fill_in;
pub mod gather;
pub mod library;
pub mod manifest;
pub mod name;
pub mod overlay;
mod parser_choice;
pub mod parsers;
mod placement;
pub mod plan;
pub mod pull;
pub mod python;
pub mod safetensors;
pub mod source;
pub mod store;

pub use card::{Capability, Card, GenerationDefaults};
pub use manifest::{Installed, Manifest};
pub use name::{InvalidName, ModelName};
pub use overlay::Overlay;
pub use parser_choice::{ParserChoice, ParserChoices};
pub use source::Source;
pub use store::{Staging, Store};
