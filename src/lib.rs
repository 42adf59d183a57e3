//! vllama: Ollama's manners with vLLM's speed.
//!
//! One process that is PID 1, owns every vLLM below it and serves the Ollama API:
//!
//! ```text
//!  client ── TCP ──> server ──> api/ollama ──> scheduler ──(Lease)──> engine::client ── unix socket ──> vLLM
//!  client <───────── server <── api/ollama <──────────────────────── engine::client <── SSE ────────── vLLM
//!                                                 │ wants Ready / Stopped
//!                                                 ▼
//!                                         engine::lifecycle ──spawn, signal──> init
//!                                         engine::lifecycle <──exit status──── init (the only waitpid in the program)
//! ```
//!
//! One direction down, one direction back; nobody reaches over a neighbour. `tests/architecture.rs` reads the `use`
//! lines and fails when a room looks where it may not.

pub mod access;
pub mod api;
pub mod cli;
pub mod config;
pub mod disk;
pub mod engine;
pub mod gpu;
pub mod init;
pub mod model;
pub mod scheduler;
pub mod server;
pub mod telemetry;
