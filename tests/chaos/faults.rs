//! What goes wrong, and where.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Request, Vllama, processes, vllama};

/// How long a client waits for what will never come.
const GIVES_UP: Duration = Duration::from_millis(400);

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A process of the engine gets a signal: the process, the signal, its name.
    Signal(&'static str, Signal, &'static str),
    /// A request makes the engine die or say nonsense.
    Prompt(&'static str),
    /// The engine never answers one request, whose client gives up at last.
    Hang,
    /// The engine is killed, and killed again while it starts.
    WhileStarting,
    /// The model is unloaded while requests run.
    Unload,
    /// vllama itself is told to be quiet and loud, and for its state.
    Noise,
}

/// Every fault.
pub const FAULTS: &[Fault] = &[
    Fault::Signal("fake-vllm", Signal::SIGKILL, "kill -9"),
    Fault::Signal("fake-vllm", Signal::SIGTERM, "TERM"),
    Fault::Signal("fake-vllm", Signal::SIGSTOP, "STOP"),
    Fault::Signal("VLLM::EngineCor", Signal::SIGKILL, "kill -9"),
    Fault::Signal("VLLM::EngineCor", Signal::SIGTERM, "TERM"),
    Fault::Signal("VLLM::Worker", Signal::SIGKILL, "kill -9"),
    Fault::Signal("python -c from ", Signal::SIGKILL, "kill -9"),
    Fault::Prompt("exit0 0"),
    Fault::Prompt("exit1 2"),
    Fault::Prompt("kill9 1"),
    Fault::Prompt("kill-core 0"),
    Fault::Hang,
    Fault::Prompt("cut 2"),
    Fault::Prompt("cut-head"),
    Fault::Prompt("not-json"),
    Fault::Prompt("error-midstream 2"),
    Fault::Prompt("no-done 2"),
    Fault::WhileStarting,
    Fault::Unload,
    Fault::Noise,
];

impl Fault {
    /// Its name in the table.
    pub fn name(self) -> String {
        match self {
            Self::Signal(process, _, signal) => format!("{signal} of {}", process.trim_end()),
            Self::Prompt(order) => format!("a request: {order}"),
            Self::Hang => "a request that is never answered".into(),
            Self::WhileStarting => "kill -9, and again while it starts".into(),
            Self::Unload => "unloaded while requests run".into(),
            Self::Noise => "USR1, USR2 to vllama".into(),
        }
    }

    /// Makes it happen.
    pub async fn strike(self, vllama: &Vllama, random: &mut fastrand::Rng) {
        match self {
            Self::Signal(process, signal, _) => strike(vllama, process, signal),
            Self::Prompt(order) => {
                // Every time another request: one that kills engines is refused after the second time.
                let prompt = format!("{} FAKE:{order}", random.u64(..));
                let request = Request::post("/api/chat", &vllama::chat(&prompt, random.bool()));
                let answer = vllama.client.request(&request).await;
                assert!(!answer.text().is_empty(), "{order} is answered");
            }
            Self::Hang => {
                let request = Request::post("/api/chat", &vllama::chat("FAKE:hang 1", random.bool()));
                let mut exchange = vllama.client.send(&request).await.expect("a request on its way");
                // As long as others move, the engine is not wedged, and this is nobody's fault that vllama could mend.
                let _ = tokio::time::timeout(GIVES_UP, exchange.answer()).await;
            }
            Self::WhileStarting => {
                strike(vllama, "fake-vllm", Signal::SIGKILL);
                let old = vllama.health().await["engine"]["generation"].as_u64();
                let next = async || {
                    let health = vllama.health().await;
                    (health["engine"]["generation"].as_u64() > old || health["engine"]["state"] == "ready")
                        .then_some(())
                };
                crate::harness::eventually("the next generation starts", next).await;
                strike(vllama, "fake-vllm", Signal::SIGKILL);
            }
            Self::Unload => {
                let body = json!({"model": crate::harness::model::NAME, "keep_alive": 0});
                assert_eq!(vllama.post("/api/generate", &body).await.status(), 200);
            }
            Self::Noise => {
                for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGUSR2] {
                    vllama.signal(signal);
                }
            }
        }
    }
}

/// Sends a signal to the process of that name, if there is one at this moment.
fn strike(vllama: &Vllama, name: &str, signal: Signal) {
    if let Some(process) = vllama.processes().iter().find(|process| process.name.starts_with(name)) {
        processes::signal(process.pid, signal);
    }
}
