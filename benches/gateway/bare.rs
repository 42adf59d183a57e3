//! vLLM without vllama: the same engine started by hand, to compare with.

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

/// Longest wait for a bare engine; with its default flags it compiles first.
const LOAD: Duration = Duration::from_secs(900);

/// What stays of vllama's command line and environment where vLLM is started as its readme has it: it has to find the model,
/// and refuses to start on a processor without a size for its cache.
const KEPT: [&str; 4] = ["PATH", "HOME", "HF_HUB_OFFLINE", "VLLM_CPU_KVCACHE_SPACE"];

/// A command line of vLLM.
pub struct Bare {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    socket: PathBuf,
    directory: tempfile::TempDir,
}

impl Bare {
    /// That of the engine at this socket, with a socket and temporary files of its own.
    pub fn like(theirs: &Path) -> Self {
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

    /// The same model with the flags that vLLM chooses by itself.
    pub fn with_default_flags(mut self) -> Self {
        let named = ["--uds", "--served-model-name"];
        let place = |name: &str| self.arguments.iter().position(|argument| argument == name);
        // Interpreter, program, verb and model come first.
        let first = self.arguments.iter().position(|argument| argument == "serve").expect("`vllm serve`") + 2;
        let kept = named.map(place).map(|place| place.expect("an engine of vllama's has a name and a socket"));
        let kept = kept.into_iter().flat_map(|place| [place, place + 1]);
        let places: Vec<usize> = (0..first).chain(kept).collect();
        self.arguments = places.into_iter().map(|place| self.arguments[place].clone()).collect();
        self.environment.retain(|(name, _)| KEPT.iter().any(|kept| name == kept));
        self
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// From its start to its first token.
    pub async fn first_token(&self) -> Duration {
        let begun = Instant::now();
        let engine = self.start().await;
        load::first_lines(&Target::Engine(self.socket.clone()), 1).await;
        let elapsed = begun.elapsed();
        drop(engine);
        let _ = std::fs::remove_file(&self.socket);
        elapsed
    }

    /// Starts it and waits until it takes connections.
    pub async fn start(&self) -> Running {
        let begun = Instant::now();
        let mut engine = Running(
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
            assert!(matches!(engine.0.try_wait(), Ok(None)), "a bare engine does not end in its start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        engine
    }
}

/// A bare engine; ended when dropped.
pub struct Running(Child);

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
