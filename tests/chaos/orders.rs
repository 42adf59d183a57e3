//! Orders to the processes of a fake engine, and phases in which it is held up (see the fake's own `orders`).

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::faults::Phase;
use crate::harness::processes::{self, Process};
use crate::harness::{Phases, Vllama, eventually};

/// Orders to one vllama's engine.
pub struct Orders {
    phases: Phases,
}

impl Orders {
    /// To the engine of this vllama.
    pub fn to(vllama: &Vllama) -> Self {
        Self { phases: vllama.phases() }
    }

    fn path(&self, name: String) -> PathBuf {
        self.phases.0.join(name)
    }

    /// Tells a process what to do, as soon as it takes orders.
    pub async fn give(&self, process: &Process, order: &str) {
        let listens = async || self.takes_orders(process).then_some(());
        eventually(&format!("{} takes orders", process.name), listens).await;
        fs::write(self.path(process.pid.to_string()), order).unwrap();
        processes::signal(process.pid, Signal::SIGUSR1);
    }

    fn takes_orders(&self, process: &Process) -> bool {
        ["leader", "core", "worker"].iter().any(|role| {
            let pid = fs::read_to_string(self.path(format!("{}.{role}", process.parent)));
            pid.is_ok_and(|pid| pid == process.pid.to_string())
        })
    }

    /// Whether a process of this vllama takes orders, so that it is complete.
    pub fn all_take_orders(&self, vllama: &Vllama) -> bool {
        let engine = |process: &&Process| {
            ["fake-vllm", "VLLM::EngineCor", "VLLM::Worker"].iter().any(|name| process.name == *name)
        };
        let all = vllama.processes();
        let mut engine = all.iter().filter(engine).peekable();
        engine.peek().is_some() && engine.all(|process| self.takes_orders(process))
    }

    /// Whoever comes to this phase goes no further.
    pub fn hold(&self, phase: Phase) {
        self.phases.hold(name(phase));
    }

    /// Waits until an engine is held up in this phase.
    pub async fn reached(&self, phase: Phase) {
        self.phases.reached(name(phase)).await;
    }

    /// Lets go on whoever is held up.
    pub fn release(&self, phase: Phase) {
        self.phases.release(name(phase));
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Import => "import",
        Phase::Load => "load",
        Phase::Stopping => "stopping",
        Phase::Ready | Phase::Streaming => unreachable!("nobody is held up there"),
    }
}
