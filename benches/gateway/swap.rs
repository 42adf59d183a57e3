//! What it costs to give a model its turn: vllama ends one engine and starts another, beside a bare start of vLLM with the
//! same command line. Both times end with the first token (issue 3, shown by 3).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::UnixStream;

use crate::load::{self, Target};
use crate::server::{EMBEDDER, Server};

/// Swaps, and bare starts, in turns.
const ROUNDS: usize = 3;
/// Longest wait for a bare engine.
const LOAD: Duration = Duration::from_secs(300);

/// Seconds to the first token: bare starts, and swaps.
pub async fn measure(venv: &Path) -> [Vec<f64>; 2] {
    let one_at_a_time = [("OLLAMA_MAX_LOADED_MODELS", "1"), ("VLLAMA_MIN_RESIDENCE", "0")];
    let server = Server::start_real(venv, &one_at_a_time).await;
    let gateway = Target::Vllama(server.address);
    let bare = Bare::like(&server.socket());
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        load::embed(&gateway, EMBEDDER).await;
        times[1].push(load::first_lines(&gateway, 1).await[0] / 1000.0);
        // A bare start has the machine for itself, as a swap has.
        load::unload(&gateway).await;
        times[0].push(bare.first_token().await.as_secs_f64());
    }
    times
}

/// A command line of vLLM.
struct Bare {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    socket: PathBuf,
    directory: tempfile::TempDir,
}

impl Bare {
    /// That of the engine at this socket, with a socket and temporary files of its own.
    fn like(theirs: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("vllama-bench-").tempdir().expect("a temporary directory");
        let socket = directory.path().join("engine.sock");
        let processes = std::fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path());
        let mut leaders = processes.filter_map(|process| {
            let arguments = split(&std::fs::read(process.join("cmdline")).ok()?);
            let is_leader = arguments.iter().any(|argument| argument == theirs);
            is_leader.then_some((process, arguments))
        });
        let (process, mut arguments) = leaders.next().expect("the engine's process");
        for argument in &mut arguments {
            if *argument == theirs {
                *argument = socket.clone().into();
            }
        }
        let environment = split(&std::fs::read(process.join("environ")).expect("its environment"));
        let environment = environment.into_iter().filter_map(|variable| {
            let text = variable.into_string().ok()?;
            let (name, value) = text.split_once('=')?;
            // vllama finds its own processes by these.
            (!name.starts_with("VLLAMA_")).then(|| (name.into(), value.into()))
        });
        let environment = environment.collect();
        Self { arguments, environment, socket, directory }
    }

    async fn first_token(&self) -> Duration {
        let begun = Instant::now();
        let engine = Running(
            Command::new(&self.arguments[0])
                .args(&self.arguments[1..])
                .env_clear()
                .envs(self.environment.iter().map(|(name, value)| (name, value)))
                .env("TMPDIR", self.directory.path())
                .env("VLLM_RPC_BASE_PATH", self.directory.path())
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("vLLM starts"),
        );
        while UnixStream::connect(&self.socket).await.is_err() {
            assert!(begun.elapsed() < LOAD, "a bare engine gets ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        load::first_lines(&Target::Engine(self.socket.clone()), 1).await;
        let elapsed = begun.elapsed();
        drop(engine);
        let _ = std::fs::remove_file(&self.socket);
        elapsed
    }
}

/// A bare engine; ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a process number"));
        let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
        let _ = self.0.wait();
        let _ = killpg(pid, Signal::SIGKILL);
    }
}

/// The texts of a file of the kernel's that ends each with a zero.
fn split(bytes: &[u8]) -> Vec<OsString> {
    let texts = bytes.split(|byte| *byte == 0).filter(|text| !text.is_empty());
    texts.map(|text| OsString::from_vec(text.to_vec())).collect()
}
