//! One vLLM process tree seen from outside.
//!
//! In: a [`Plan`](crate::model::plan::Plan) and the wish to run or to stop. Out: a [`Status`] anybody can watch and,
//! while the engine is ready, a [`Client`] for its Unix socket. Knows how vLLM starts, speaks and dies; knows no
//! dialect, no queue and no other engine.

mod backoff;
pub mod client;
pub mod command;
pub mod failure;
pub mod generation;
mod heartbeat;
pub mod lifecycle;
pub mod log;
pub mod measure;
mod output;
mod remedy;
mod room;
mod run;
mod sleeping;
pub mod startup;
pub mod status;
mod stop;
pub mod surroundings;
pub mod trace;
mod wire;

pub use client::{Client, Content, EngineBody, EngineGone, Origin, kept_connections};
pub use command::Installation;
pub use failure::Failure;
pub use lifecycle::{Engine, Settings};
pub use startup::Phase;
pub use status::{State, Status};
pub use surroundings::Surroundings;
pub use trace::Trace;
