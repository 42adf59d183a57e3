//! vllama from outside, with the fake engine under it: each test starts a vllama of its own and reads as a sentence.

#[path = "../support/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests of the real engine")]
mod harness;
#[path = "../fuzz/mutate.rs"]
mod mutate;

mod answers;
mod anthropic;
mod attacks;
mod blobs;
mod catalogue;
mod changes;
mod cloud;
mod command_line;
mod contract;
mod deaths;
mod doctor;
mod edges;
mod embeddings;
mod fake_engine;
mod health;
mod hostile;
mod import;
mod keys;
mod kills;
mod life;
mod loading;
mod logs;
mod many;
mod memory;
mod metrics;
mod models;
mod openai;
mod overload;
mod passing;
mod plans;
mod prompts;
mod pulls;
mod reload;
mod scan;
mod scheduling;
mod sequences;
mod service;
mod shape;
mod thinking;
mod tools;
mod traces;
mod transcripts;
mod traps;
mod units;
mod vllm_routes;
