//! How each fault is made to happen.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use super::faults::{Blow, Fault, Part};
use super::load::{self, Ledger};
use super::narrow::{Full, Narrow};
use super::orders::Orders;
use crate::harness::processes::{self, Process};
use crate::harness::{Request, Vllama, eventually, model, vllama};

/// How long a client waits for what will never come.
const GIVES_UP: Duration = Duration::from_millis(400);
/// Clients that hang up at once.
const VANISHING: usize = 40;
/// Clients that read nothing at the same time.
const STALLING: usize = 8;
/// Clients that come at once.
const FLOOD: usize = 150;

/// A vllama and what belongs to it in this program.
pub struct World {
    /// The vllama.
    pub vllama: Vllama,
    /// Orders to its engine.
    pub orders: Orders,
    /// All requests it gets.
    pub ledger: Ledger,
    /// The file system of its state directory, where it has one of its own.
    pub narrow: Option<Narrow>,
}

impl World {
    /// Makes a fault happen; what it gives lasts as long as the fault shall.
    pub async fn strike(&self, fault: Fault, random: &mut fastrand::Rng) -> Option<Full> {
        let vllama = &self.vllama;
        match fault {
            Fault::Blow(blow, part, _) => self.blow(blow, part).await,
            Fault::Tracker => self.kill("python"),
            Fault::All(_) => self.kill(""),
            Fault::Twice => {
                let old = self.generation().await;
                self.kill("fake-vllm");
                let next = async || (self.generation().await > old).then_some(());
                eventually("the next generation starts", next).await;
                self.kill("fake-vllm");
            }
            Fault::Deadly(order) | Fault::Broken(order) => {
                // Every time another request: one that kills engines is refused after the second time.
                let prompt = format!("{} FAKE:{order}", random.u64(..));
                let request = Request::post("/api/chat", &vllama::chat(&prompt, random.bool()));
                let answer = vllama.client.request(&request).await;
                assert!(!answer.text().is_empty(), "{order} is answered");
            }
            Fault::Unanswered => {
                let request = Request::post("/api/chat", &vllama::chat("FAKE:hang 1", random.bool()));
                let mut exchange = vllama.client.send(&request).await.expect("a request on its way");
                // As long as others move, the engine is not wedged, and this is nobody's fault that vllama could mend.
                let _ = tokio::time::timeout(GIVES_UP, exchange.answer()).await;
            }
            Fault::Unload => self.unload().await,
            Fault::TermIgnored => {
                self.orders.give(&self.process(Part::Leader), "ignore TERM").await;
                self.unload().await;
            }
            Fault::Vanish | Fault::Stall | Fault::Flood => self.clients(fault, random).await,
            Fault::FullDisk => {
                let full = Full::fill(self.narrow.as_ref()?.path());
                self.kill("fake-vllm");
                return Some(full);
            }
            Fault::FullSharedMemory => {
                let mut full = Full::fill(Path::new("/dev/shm"));
                self.kill("fake-vllm");
                let failed = async || {
                    // The segments of the dead have made room.
                    full.fill_up();
                    let engine = vllama.health().await["engine"].clone();
                    if engine["state"] == "ready" {
                        // It has been quicker than we, and taken that room.
                        self.kill("fake-vllm");
                    }
                    engine["failure"].to_string().contains("No space left on device").then_some(())
                };
                eventually("a start fails of a full /dev/shm", failed).await;
            }
            Fault::Noise => {
                for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGUSR2] {
                    vllama.signal(signal);
                }
            }
        }
        None
    }

    async fn blow(&self, blow: Blow, part: Part) {
        let process = self.process(part);
        let order = match blow {
            Blow::Kill => return processes::signal(process.pid, Signal::SIGKILL),
            Blow::Stop => return processes::signal(process.pid, Signal::SIGSTOP),
            Blow::Term => return processes::signal(process.pid, Signal::SIGTERM),
            Blow::Exit(0) => "exit 0",
            Blow::Exit(_) => "exit 1",
            Blow::Hang => "hang",
            Blow::Garbage => "garbage",
            Blow::SlowDeath => "slow death",
            Blow::ForkAway => "fork away",
        };
        let strays = || self.vllama.processes().iter().filter(|process| process.name == "fake-stray").count();
        let before = strays();
        self.orders.give(&process, order).await;
        if blow == Blow::ForkAway {
            eventually("a process forks away", async || (strays() > before).then_some(())).await;
            self.kill("fake-vllm");
        }
    }

    /// The process that is this part of the engine.
    fn process(&self, part: Part) -> Process {
        self.vllama.process(match part {
            Part::Leader => "fake-vllm",
            Part::Core => "VLLM::EngineCor",
            Part::Worker => "VLLM::Worker",
        })
    }

    /// Kills all processes of the engine whose names begin so, if there are any at this moment.
    fn kill(&self, name: &str) {
        let own = self.vllama.pid();
        let engine = |process: &&Process| process.pid != own && !process.name.starts_with("vllama");
        for process in self.vllama.processes().iter().filter(engine).filter(|process| process.name.starts_with(name)) {
            processes::signal(process.pid, Signal::SIGKILL);
        }
    }

    /// Wants the engine gone as soon as it has nothing to do.
    pub async fn unload(&self) {
        let body = json!({"model": model::NAME, "keep_alive": 0});
        assert_eq!(self.vllama.post("/api/generate", &body).await.status(), 200);
    }

    /// Number of the engine's last start.
    pub async fn generation(&self) -> Option<u64> {
        self.vllama.health().await["engine"]["generation"].as_u64()
    }

    async fn clients(&self, fault: Fault, random: &mut fastrand::Rng) {
        let number = match fault {
            Fault::Vanish => VANISHING,
            Fault::Stall => STALLING,
            _ => FLOOD,
        };
        let mut clients = JoinSet::new();
        for which in 0..number {
            let (client, ledger, mut random) = (self.vllama.client.clone(), self.ledger.clone(), random.fork());
            clients.spawn(async move {
                match (fault, which % 3) {
                    (Fault::Vanish, _) => load::leave(&client, &mut random, &ledger).await,
                    (Fault::Stall, _) => load::stall(&client, &mut random, &ledger).await,
                    (_, 0) => drop(load::ask(&client, None, &mut random, &ledger).await),
                    (_, kind) => {
                        let mut exchange = client.connect().await.expect("a connection");
                        let noise: &[u8] = if kind == 1 {
                            b"\x16\x03\x01\x02\x00\x01\xff no HTTP\r\n\r\n"
                        } else {
                            b"POST /api/chat HTT"
                        };
                        exchange.write(noise).await.expect("bytes on their way");
                        if kind == 1 {
                            exchange.until_closed().await;
                        }
                    }
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.expect("a client does not panic");
        }
    }
}
