//! The way through: dialects that vLLM speaks itself. Bodies pass as bytes; only the model's name is looked at and
//! rewritten, inward to the engine's ([`request`]) and outward to the client's ([`events`], [`model_name`]), so that a
//! new field of vLLM works the day it ships.
//!
//! In: a [`Call`](super::Call) and a [`Dialect`]. Out: a [`Reply`](super::Reply) with the engine's bytes, or a
//! [`PassError`] that the dialect puts into its own shape. Knows nothing of sockets and processes.

pub mod error;
pub mod events;
mod exchange;
pub mod form;
pub mod media;
pub mod members;
pub mod model_name;
pub mod request;
pub mod stream;
pub mod usage;

pub use error::{PassError, Told};
pub use exchange::Question;
pub use request::{Request, find};

/// What differs between the dialects that pass through.
#[derive(Debug)]
pub struct Dialect {
    /// The members that name the model, each as a path from the top of an answer or of an event's data.
    pub names: &'static [&'static [&'static str]],
    /// What an event means, by its name (empty where it has none) and its data.
    pub meaning: fn(name: &[u8], data: &[u8]) -> Meaning,
    /// An error as the end of a stream of which so many events have been sent; events complete with their empty lines.
    pub error: fn(told: &Told, events: u64) -> Vec<u8>,
}

/// What an event of a stream means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// More is to come.
    More,
    /// It is the last one; the engine's work is done.
    Last,
    /// The engine failed.
    Error,
}
