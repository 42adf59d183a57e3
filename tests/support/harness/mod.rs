//! What the black-box tests stand on: a vllama of their own with the fake engine under it, and an HTTP client that
//! sees how an answer arrives.

pub mod checkpoint;
pub mod client;
pub mod default_model;
pub mod embedder;
pub mod model;
pub mod phases;
pub mod processes;
pub mod vllama;

pub use client::{Answer, Client, Exchange, Framing, Request};
pub use phases::Phases;
pub use vllama::{Vllama, eventually, within};
