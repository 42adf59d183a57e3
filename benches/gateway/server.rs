//! A vllama with the fake engine, and what the kernel says about it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::model;

/// The embedding model that lies beside the default model.
pub const EMBEDDER: &str = "all-minilm";

/// A running vllama; stopped when dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Time from exec to the listening event.
    pub listening: Duration,
    child: Child,
    directory: TempDir,
}

/// The vllama that is measured.
pub fn binary() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/vllama");
    std::env::var_os("VLLAMA_BENCH_BINARY")
        .map(PathBuf::from)
        .unwrap_or_else(|| if built.is_file() { built } else { env!("CARGO_BIN_EXE_vllama").into() })
}

/// As many descriptors as this process may have.
pub fn raise_limits() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit may become the hard one");
}

/// Processor time that all threads of a process have taken, to the nanosecond.
pub fn processor_time(process: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
    let spent = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

impl Server {
    /// Starts it with the fake engine and waits until that is ready.
    pub async fn start(environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("vllama-bench-").tempdir().expect("a temporary directory");
        model::install(&directory.path().join("models"), "smollm2", "135m");
        // What is measured is the way of many streams, not their queue.
        let file = directory.path().join("vllama.toml");
        std::fs::write(&file, format!("[models.\"{}\"]\nconcurrency = 4096\n", model::NAME)).expect("a file");
        let file = file.to_string_lossy().into_owned();
        let environment: Vec<_> = environment.iter().copied().chain([("VLLAMA_CONFIG", file.as_str())]).collect();
        Self::start_in(directory, Path::new(env!("CARGO_BIN_EXE_fake-vllm")), &environment)
    }

    /// Starts it with the engine of a virtual environment, the default model and the embedding model, and waits until the
    /// first is ready.
    pub async fn start_real(venv: &Path, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("vllama-bench-").tempdir().expect("a temporary directory");
        let engine = venv.join("bin/vllm");
        let files = std::fs::read_dir(venv.join("share/vllama")).expect("the default models' directory");
        for file in files.flatten().map(|entry| entry.path()) {
            let name = match file.extension() {
                Some(end) if end == "gguf" => model::NAME,
                _ if file.join("config.json").is_file() => EMBEDDER,
                _ => continue,
            };
            let status = Command::new(binary())
                .arg("import")
                .arg("--engine")
                .arg(&engine)
                .arg("--models-dir")
                .arg(directory.path().join("models"))
                .args([file, name.into()])
                .status();
            assert!(status.expect("the import runs").success());
        }
        Self::start_in(directory, &engine, environment)
    }

    fn start_in(directory: TempDir, engine: &Path, environment: &[(&str, &str)]) -> Self {
        let path = |name: &str| directory.path().join(name);
        let begun = Instant::now();
        let mut child = Command::new(binary())
            .args(["serve", model::NAME, "--json"])
            .env("OLLAMA_HOST", "127.0.0.1:0")
            .env("VLLAMA_MODELS", path("models"))
            .env("VLLAMA_STATE", path("state"))
            .env("VLLAMA_RUN", path("run"))
            .env("VLLAMA_ENGINE", engine)
            .env("VLLAMA_GPU_HELPER", env!("CARGO_BIN_EXE_vllama-gpu"))
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("vllama starts");
        let events = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut address = None;
        let mut listening = Duration::ZERO;
        for event in events {
            let event: serde_json::Value = serde_json::from_str(&event.expect("a line")).unwrap_or_default();
            if event["event"] == "listening" {
                listening = begun.elapsed();
                address = event["address"].as_str().and_then(|address| address.parse().ok());
            }
            if event["event"] == "ready" {
                break;
            }
        }
        Self { address: address.expect("a listening event"), listening, child, directory }
    }

    /// The engine's socket.
    pub fn socket(&self) -> PathBuf {
        let below = |directory: PathBuf| std::fs::read_dir(directory).expect("a directory").flatten();
        let directories =
            below(self.directory.path().join("run")).map(|entry| entry.path()).filter(|path| path.is_dir());
        let sockets = directories.flat_map(below).map(|entry| entry.path().join("engine.sock"));
        sockets.into_iter().find(|path| path.exists()).expect("the engine's socket")
    }

    /// Processor time it has taken.
    pub fn processor_time(&self) -> Duration {
        processor_time(self.child.id())
    }

    /// Processor time that its engine's processes have taken; they are a session of their own.
    pub fn engine_processor_time(&self) -> Duration {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        // Parent and session stand behind the name, which is in parentheses.
        let numbers = |process: u32| -> Option<(u32, u32)> {
            let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(1);
            let parent = fields.next()?.parse().ok()?;
            Some((parent, fields.nth(1)?.parse().ok()?))
        };
        let is_engine = |process: &u32| {
            let leader = numbers(*process).map(|(_, session)| session);
            leader.and_then(numbers).is_some_and(|(parent, _)| parent == self.child.id())
        };
        processes.filter(is_engine).map(processor_time).sum()
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).expect("its memory") * 1024
    }
}

impl Server {
    /// Ends it and its engine; its models stay until it is dropped.
    pub fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default());
        // Two signals: what runs need not finish.
        let _ = kill(pid, Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(20));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
