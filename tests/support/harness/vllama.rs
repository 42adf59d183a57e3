//! A vllama process of a test's own.

use std::io::{BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Answer, Client, Request};
use super::phases::Phases;
use super::{embedder, model, processes};

/// Longest wait for any state. Far above what is normal, as the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the fake engine's orders lie, below a test's own directory.
const ORDERS: &str = "orders";

/// Time between two looks at a state that cannot be waited for.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `state` gives an answer.
pub async fn eventually<T>(what: &str, state: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, state).await
}

/// Waits at most this long until `state` gives an answer.
pub async fn within<T>(limit: Duration, what: &str, mut state: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = state().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        // Whoever may wait for minutes looks less often: looking takes time from the engine that is waited for.
        tokio::time::sleep(LOOK.max(limit / 20_000)).await;
    }
}

/// How a vllama is started.
#[derive(Clone)]
pub struct Builder {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Arc<TempDir>,
    mark: String,
    start_limit: Duration,
    inherited: Option<Arc<TcpListener>>,
    descriptors: Option<u32>,
}

/// A running vllama. When it is dropped, everything it started ends with it.
pub struct Vllama {
    /// Sends requests to it.
    pub client: Client,
    /// Its address.
    pub address: SocketAddr,
    /// The address of its port for monitoring, if it has one.
    pub monitoring: Option<SocketAddr>,
    process: Running,
    directory: Arc<TempDir>,
    mark: String,
    /// Longest wait for the engine.
    start_limit: Duration,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Whether the next one cleans up what this one leaves.
    abandoned: bool,
}

/// What is left of a vllama that ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it said on standard output.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
}

/// The process and what it says.
struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

#[derive(Clone, Default)]
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    /// Whether the stream has ended and all of it is there.
    ended: Arc<AtomicBool>,
}

impl Lines {
    fn read(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let written = lines.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                written.lines.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                line.clear();
            }
            written.ended.store(true, Ordering::Release);
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Vllama {
    /// A vllama with a tiny model and the fake engine.
    pub fn with_fake() -> Builder {
        let directory = tempfile::Builder::new().prefix("vllama-").tempdir().expect("a temporary directory");
        model::install(&directory.path().join("models"), "smollm2", "135m");
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let environment = vec![
            ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
            ("HOME".to_owned(), path("home")),
            ("OLLAMA_HOST".to_owned(), "127.0.0.1:0".to_owned()),
            ("VLLAMA_MODELS".to_owned(), path("models")),
            ("VLLAMA_BASE_MODELS".to_owned(), path("no-base")),
            ("VLLAMA_STATE".to_owned(), path("state")),
            ("VLLAMA_RUN".to_owned(), path("run")),
            ("VLLAMA_ENGINE".to_owned(), env!("CARGO_BIN_EXE_fake-vllm").to_owned()),
            ("VLLAMA_GPU_HELPER".to_owned(), env!("CARGO_BIN_EXE_vllama-gpu").to_owned()),
            ("VLLAMA_LOG_FORMAT".to_owned(), "json".to_owned()),
            ("VLLAMA_LOG".to_owned(), "debug".to_owned()),
            ("FAKE_VLLM_MARK".to_owned(), mark.clone()),
        ];
        let arguments = ["serve", model::NAME, "--json"].map(str::to_owned).to_vec();
        Builder {
            arguments,
            environment,
            directory: Arc::new(directory),
            mark,
            start_limit: PATIENCE,
            inherited: None,
            descriptors: None,
        }
    }

    /// A vllama with a tiny embedding model, which is the one it serves, and the fake engine with MiniLM's context.
    pub fn with_fake_embedder() -> Builder {
        let builder = Self::with_fake().env("FAKE_VLLM_MAX_MODEL_LEN", "256");
        embedder::install(&builder.path().join("models"));
        builder.arguments(&["serve", embedder::NAME, "--json"])
    }

    /// A vllama whose model calls functions, thinks and reads images, and the fake engine, which replays the streams of
    /// `tests/golden/vllm` when it is told `FAKE:replay NAME BYTES`.
    pub fn with_fake_thinker() -> Builder {
        let builder = Self::with_fake();
        model::install_thinker(&builder.path().join("models"));
        let replays = builder.path().join("replays");
        std::fs::create_dir(&replays).expect("a directory of the test's own");
        let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm");
        for file in std::fs::read_dir(recordings).expect("recordings").flatten().map(|entry| entry.path()) {
            let name = file.file_name().and_then(|name| name.to_str()?.strip_suffix(".response.txt"));
            let answer = std::fs::read(&file).expect("a recording");
            let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|end| end + 4);
            if let (Some(name), Some(end)) = (name, end) {
                std::fs::write(replays.join(name), &answer[end..]).expect("a file to replay");
            }
        }
        let builder = builder.env("FAKE_VLLM_REPLAY_DIR", &replays.to_string_lossy());
        builder.arguments(&["serve", model::THINKER, "--json"])
    }

    /// A vllama with the real engine of the virtual environment `venv`, a model store that holds the default model, and
    /// a state directory that keeps vLLM's caches from one test to the next.
    pub fn with_real(venv: &Path, models: &Path, state: &Path) -> Builder {
        let mut builder = Self::with_fake()
            .env("VLLAMA_ENGINE", &venv.join("bin/vllm").to_string_lossy())
            .env("VLLAMA_MODELS", &models.to_string_lossy())
            .env("VLLAMA_STATE", &state.to_string_lossy());
        // The same tests with vLLM's other frontend (decision 0031).
        if let Ok(frontend) = std::env::var("VLLAMA_ENGINE_FRONTEND") {
            builder = builder.env("VLLAMA_ENGINE_FRONTEND", &frontend);
        }
        builder.start_limit = Duration::from_secs(400);
        builder
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.client.post(path, body).await
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.client.get(path).await
    }

    /// A chat of one message, answered in one piece.
    pub async fn chat(&self, message: &str) -> Answer {
        self.post("/api/chat", &chat(message, false)).await
    }

    /// A chat of one message, answered as a stream.
    pub async fn chat_stream(&self, message: &str) -> Answer {
        self.post("/api/chat", &chat(message, true)).await
    }

    /// Waits until the engine answers.
    pub async fn ready(&self) {
        let what = format!("ready; last said: {:?}", self.process.stderr.all().last());
        within(self.start_limit, &what, async || {
            let answer = self.client.try_request(&Request::new("GET", "/health/ready")).await.ok()?;
            (answer.status() == 200).then_some(())
        })
        .await;
    }

    /// `/health` as JSON, whatever its status.
    pub async fn health(&self) -> Value {
        self.get("/health").await.json()
    }

    /// Waits until `/health` shows the engine in this state.
    pub async fn engine_state(&self, state: &str) -> Value {
        eventually(&format!("the engine is {state}"), async || {
            let health = self.health().await;
            (health["engine"]["state"] == state).then_some(health)
        })
        .await
    }

    /// Waits until this generation of the engine answers.
    pub async fn generation(&self, number: u64) -> Value {
        eventually(&format!("generation {number} is ready"), async || {
            let health = self.health().await;
            (health["engine"]["generation"] == number && health["engine"]["state"] == "ready").then_some(health)
        })
        .await
    }

    /// The process id of vllama.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.child.id()).expect("a process id")
    }

    /// The file system it has for itself: `models`, `state`, `run`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Holds the fake engine up, where it was built [`Builder::with_phases`].
    pub fn phases(&self) -> Phases {
        Phases(self.path(ORDERS))
    }

    /// The directories of engine generations that are there now.
    pub fn generations(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        find_generations(&self.path("run"), &mut found);
        found.sort();
        found
    }

    /// Speaks to the engine past vllama.
    pub fn engine(&self) -> Client {
        let generation = self.generations().pop().expect("a generation of the engine");
        Client::Unix(generation.join("engine.sock"))
    }

    /// Number of requests the engine is working on.
    pub async fn engine_running(&self) -> usize {
        let metrics = self.engine().get("/metrics").await.text();
        let line = metrics.lines().find(|line| line.starts_with("vllm:num_requests_running{"));
        let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse::<f64>().ok());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let count = value.expect("the number of running requests") as usize;
        count
    }

    /// Waits until the engine works on this many requests.
    pub async fn engine_runs(&self, number: usize) {
        let what = format!("the engine works on {number} requests");
        eventually(&what, async || (self.engine_running().await == number).then_some(())).await;
    }

    /// The request the engine got last: `path`, `headers`, `body`.
    pub async fn engine_request(&self) -> Value {
        self.engine().get("/fake/requests").await.json()
    }

    /// All living processes that belong to this vllama, itself included.
    pub fn processes(&self) -> Vec<processes::Process> {
        processes::marked(&format!("FAKE_VLLM_MARK={}", self.mark))
    }

    /// The living process of that name below this vllama.
    pub fn process(&self, name: &str) -> processes::Process {
        // On a busy machine an engine is ready before its children have their titles.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.processes();
            if let Some(found) = all.iter().find(|process| process.name.starts_with(name)) {
                return found.clone();
            }
            assert!(Instant::now() < deadline, "{name} in {all:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// The events it has told on standard output.
    pub fn events(&self) -> Vec<Value> {
        self.process.stdout.all().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What it has said on standard error.
    pub fn stderr(&self) -> Vec<String> {
        self.process.stderr.all()
    }

    /// Its log so far; every line must be JSON.
    pub fn log(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        self.stderr().iter().map(parse).collect()
    }

    /// Waits until it has said this on standard error.
    pub async fn says(&self, what: &str) {
        let said = async || self.stderr().iter().any(|line| line.contains(what)).then_some(());
        eventually(&format!("vllama says '{what}'"), said).await;
    }

    /// Sends a signal to vllama.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Waits until vllama has ended, as long as for its start: a real engine on a busy machine takes its time for both.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.process.child;
        within(self.start_limit, "vllama ends", async || child.try_wait().expect("the state of a child")).await
    }

    /// Ends it by SIGKILL, and nothing else with it: what it had started lives on. The builder starts the next one in the
    /// same directories.
    pub fn kill(mut self) -> Builder {
        self.signal(Signal::SIGKILL);
        let _ = self.process.child.wait();
        self.abandoned = true;
        Builder {
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            directory: self.directory.clone(),
            mark: self.mark.clone(),
            start_limit: self.start_limit,
            inherited: None,
            descriptors: None,
        }
    }

    /// Ends it by SIGTERM and checks that it went in order and nothing is left.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "exit status of an orderly end");
        self.assert_nothing_left();
    }

    /// Checks that neither a process nor a generation's directory nor shared memory is left.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.processes(), [], "processes left behind");
        assert_eq!(self.generations(), [] as [PathBuf; 0], "directories left behind");
        assert_eq!(self.shared_memory(), [] as [PathBuf; 0], "shared memory left behind");
    }

    /// Shared memory made by engines of this vllama, as their count file tells.
    pub fn shared_memory(&self) -> Vec<PathBuf> {
        let starts = std::fs::read_to_string(self.path("starts")).unwrap_or_default();
        let segment = |pid: &str| PathBuf::from(format!("/dev/shm/psm_fake_{pid}"));
        starts.lines().map(segment).filter(|path| path.exists()).collect()
    }

    /// Number of times an engine has been started.
    pub fn starts(&self) -> usize {
        std::fs::read_to_string(self.path("starts")).unwrap_or_default().lines().count()
    }
}

impl Drop for Vllama {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        if std::thread::panicking() {
            // Looks at its health fill the log; what happened last is what helps.
            let mut stderr = self.process.stderr.all();
            stderr.retain(|line| !line.contains(r#""path":"/health""#));
            eprintln!("--- the last lines of vllama ---\n{}", stderr[stderr.len().saturating_sub(40)..].join("\n"));
            eprintln!("--- its processes ---\n{:?}", self.processes());
        }
        end(&mut self.process.child, &self.mark);
        for segment in self.shared_memory() {
            let _ = std::fs::remove_file(segment);
        }
    }
}

impl Builder {
    /// Sets a variable of vllama's environment; `FAKE_VLLM_*` reaches the engine.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The fake engine can be held up in its phases, see [`Vllama::phases`].
    pub fn with_phases(self) -> Self {
        let Phases(orders) = self.phases();
        std::fs::create_dir(&orders).expect("a directory of the test's own");
        self.env("FAKE_VLLM_ORDERS", &orders.to_string_lossy())
    }

    /// The same before it is started.
    pub fn phases(&self) -> Phases {
        Phases(self.path().join(ORDERS))
    }

    /// Hands a listening socket over, as systemd does.
    pub fn inherits(mut self, listener: &Arc<TcpListener>) -> Self {
        self.inherited = Some(listener.clone());
        self
    }

    /// Lets it and what it starts have so many open files and no more.
    pub fn descriptors(mut self, number: u32) -> Self {
        self.descriptors = Some(number);
        self
    }

    /// Adds an argument to the command line.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Replaces the command line.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    /// Puts this shell script where the engine's Python is: what it gets is `-c`, a script, and the script's arguments.
    pub fn python(self, script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let programs = self.path().join("bin");
        std::fs::create_dir_all(&programs).expect("a directory for programs");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fake-vllm"), programs.join("vllm")).expect("a link");
        let python = programs.join("python");
        std::fs::write(&python, script).expect("a script");
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("an executable");
        let engine = programs.join("vllm").to_string_lossy().into_owned();
        self.env("VLLAMA_ENGINE", &engine)
    }

    /// Runs `vllama` with these arguments and this builder's environment, as a process of the caller's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vllama"));
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Installs another model beside the one that is served.
    pub fn with_model(self, model: &str, tag: &str) -> Self {
        model::install(&self.path().join("models"), model, tag);
        self
    }

    /// Installs another model that claims to be this large, in bytes.
    pub fn with_sized_model(self, model: &str, tag: &str, size: u64) -> Self {
        model::install_sized(&self.path().join("models"), model, tag, size);
        self
    }

    /// Installs an embedding model beside the one that is served.
    pub fn with_embedder(self) -> Self {
        embedder::install(&self.path().join("models"));
        self
    }

    /// Installs a model that calls functions, thinks and reads images beside the one that is served.
    pub fn with_thinker(self) -> Self {
        model::install_thinker(&self.path().join("models"));
        self
    }

    /// Installs the default model a second time, under another name.
    pub fn with_copy(self, model: &str, tag: &str) -> Self {
        model::install_copy(&self.path().join("models"), model, tag);
        self
    }

    /// Takes a model away again.
    pub fn without_model(self, model: &str, tag: &str) -> Self {
        let place = self.path().join("models/registry.ollama.ai/library").join(model).join(tag);
        std::fs::remove_dir_all(place).expect("an installed model");
        self
    }

    /// The directory this vllama will have for itself.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it and waits until the engine is ready.
    pub async fn start(self) -> Vllama {
        let vllama = self.start_listening().await;
        vllama.ready().await;
        vllama
    }

    /// Starts it and waits until it listens; the engine may still be starting.
    pub async fn start_listening(self) -> Vllama {
        let mut process = self.spawn();
        let mark = self.mark.clone();
        let listening = eventually("vllama listens", async || {
            let event =
                |line: &String| serde_json::from_str::<Value>(line).ok().filter(|event| event["event"] == "listening");
            let listening = process.stdout.all().iter().find_map(event);
            if listening.is_none()
                && let Ok(Some(status)) = process.child.try_wait()
            {
                end(&mut process.child, &mark);
                panic!("vllama ended with {status} before it listened:\n{}", process.stderr.all().join("\n"));
            }
            listening
        })
        .await;
        let told = |name: &str| -> Option<SocketAddr> { listening[name].as_str()?.parse().ok() };
        let (address, monitoring) = (told("address").expect("the address of the listening event"), told("metrics"));
        let Self { directory, mark, start_limit, arguments, environment, .. } = self;
        let client = Client::Tcp(address);
        Vllama {
            client,
            address,
            monitoring,
            process,
            directory,
            mark,
            start_limit,
            arguments,
            environment,
            abandoned: false,
        }
    }

    /// Starts it and waits until it has ended by itself.
    pub async fn run(self) -> Ended {
        let mut process = self.spawn();
        let status = eventually("vllama ends", async || process.child.try_wait().expect("the state of a child")).await;
        end(&mut process.child, &self.mark);
        let streams = [&process.stdout, &process.stderr];
        let read = async || streams.iter().all(|lines| lines.ended.load(Ordering::Acquire)).then_some(());
        eventually("all it said has been read", read).await;
        let [stdout, stderr] = streams.map(|lines| lines.all().join("\n"));
        Ended { status, stdout, stderr }
    }

    fn spawn(&self) -> Running {
        let mut passed: Vec<&str> = self.environment.iter().map(|(name, _)| name.as_str()).collect();
        passed.retain(|name| name.starts_with("FAKE_VLLM_"));
        passed.push("FAKE_VLLM_COUNT_FILE");
        let program = env!("CARGO_BIN_EXE_vllama");
        let (mut command, stdin) = match (&self.inherited, self.descriptors) {
            (None, None) => (Command::new(program), Stdio::null()),
            (None, Some(number)) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &number.to_string(), program]);
                (shell, Stdio::null())
            }
            (Some(listener), _) => {
                // Only the process itself knows the number it has to be told.
                let hand_over = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", hand_over, "sh", program]);
                (shell, OwnedFd::from(listener.try_clone().expect("a second descriptor")).into())
            }
        };
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("FAKE_VLLM_COUNT_FILE", self.path().join("starts"))
            .env("VLLAMA_ENGINE_ENV", passed.join(","))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("vllama starts");
        let stdout = Lines::read(child.stdout.take().expect("a pipe"));
        let stderr = Lines::read(child.stderr.take().expect("a pipe"));
        Running { child, stdout, stderr }
    }
}

/// The body of a chat of one message.
pub fn chat(message: &str, stream: bool) -> Value {
    json!({"model": model::NAME, "messages": [{"role": "user", "content": message}], "stream": stream})
}

/// The body of a generation.
pub fn generate(prompt: &str, stream: bool) -> Value {
    json!({"model": model::NAME, "prompt": prompt, "stream": stream})
}

/// Asks politely, then in a hurry, then kills whatever bears the mark.
fn end(child: &mut Child, mark: &str) {
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut asked = 0;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        if asked < 2 {
            processes::signal(pid, Signal::SIGTERM);
            asked += 1;
        }
        std::thread::sleep(LOOK);
    }
    for process in processes::marked(&format!("FAKE_VLLM_MARK={mark}")) {
        processes::signal(process.pid, Signal::SIGKILL);
    }
    let _ = child.wait();
}

fn find_generations(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix('g').is_some_and(|number| number.parse::<u64>().is_ok());
        if number { found.push(path) } else { find_generations(&path, found) }
    }
}
