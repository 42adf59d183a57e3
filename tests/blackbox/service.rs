//! Under a service manager: what it is told, and the sockets it hands over.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::harness::vllama::chat;
use crate::harness::{Client, Request, Vllama, eventually};

/// A service manager that only listens, and is quick at it: what finds its queue full is lost.
struct Listener {
    notes: mpsc::Receiver<String>,
    heard: Vec<String>,
}

impl Listener {
    /// One with its socket at this path.
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        let (sender, notes) = mpsc::channel();
        // Ends with the process of the tests, or when nobody wants to know any more.
        std::thread::spawn(move || {
            let mut note = [0; 4096];
            while let Ok(length) = socket.recv(&mut note) {
                if sender.send(String::from_utf8_lossy(&note[..length]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { notes, heard: Vec::new() }
    }

    /// Waits until it has heard this line, behind those it waited for before.
    fn hears(&mut self, line: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let note =
                self.notes.recv_timeout(left).unwrap_or_else(|error| panic!("{line}: {error}, {:?}", self.heard));
            self.heard.push(note.clone());
            if note.lines().any(|heard| heard.starts_with(line)) {
                return;
            }
        }
    }

    /// Whether it hears this line within so long.
    fn would_hear(&mut self, line: &str, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut heard = false;
        while let Ok(note) = self.notes.recv_timeout(end.saturating_duration_since(Instant::now())) {
            heard |= note.contains(line);
        }
        heard
    }
}

/// Threads that are held still, by a debugger's means, until this is dropped.
struct Frozen {
    release: Option<mpsc::Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Frozen {
    fn new(threads: Vec<i32>) -> nix::Result<Self> {
        assert!(!threads.is_empty(), "there are such threads");
        let (held, holds) = mpsc::channel();
        let (release, released) = mpsc::channel();
        // All of it is one thread's to do, which is the debugger.
        let holder = std::thread::spawn(move || {
            let threads: Vec<_> = threads.into_iter().map(Pid::from_raw).collect();
            let hold = |thread: &Pid| {
                ptrace::seize(*thread, ptrace::Options::empty())?;
                ptrace::interrupt(*thread)?;
                waitpid(*thread, Some(WaitPidFlag::__WALL)).map(drop)
            };
            held.send(threads.iter().try_for_each(hold)).expect("the test waits");
            // Ends when the sender is dropped.
            let _ = released.recv();
            for thread in threads {
                let _ = ptrace::detach(thread, None);
            }
        });
        let held = holds.recv().expect("the holder answers");
        let frozen = Self { release: Some(release), holder: Some(holder) };
        held.map(|()| frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.release.take());
        self.holder.take().map(JoinHandle::join);
    }
}

/// The threads of a process whose number and name are so.
fn threads(process: i32, are: impl Fn(i32, &str) -> bool) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads").flatten();
    let threads = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let number = task.file_name().to_str()?.parse().ok()?;
        are(number, name.trim()).then_some(number)
    });
    threads.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_hangs_or_a_main_loop_that_hangs_is_not_told_to_be_alive() {
    let period = Duration::from_millis(200);
    let builder = Vllama::with_fake().env("WATCHDOG_USEC", &period.as_micros().to_string());
    let path = builder.path().join("notify");
    let mut manager = Listener::at(&path);
    let vllama = builder.env("NOTIFY_SOCKET", &path.to_string_lossy()).start_listening().await;
    assert!(manager.would_hear("WATCHDOG=1", 2 * period));
    let pid = vllama.pid();
    let runtime = threads(pid, |_, name| name.starts_with("tokio"));
    let main_loop = threads(pid, |number, _| number == pid);
    for threads in [runtime, main_loop] {
        let frozen = match Frozen::new(threads.clone()) {
            Ok(frozen) => frozen,
            Err(error) => return println!("skipped: threads cannot be held still here: {error}"),
        };
        // One may be on its way, or due before the other side is missed.
        manager.would_hear("WATCHDOG=1", period);
        assert!(!manager.would_hear("WATCHDOG=1", 3 * period), "{threads:?} hang");
        drop(frozen);
        manager.hears("WATCHDOG=1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_from_ready_to_stopping_and_that_vllama_lives() {
    let builder = Vllama::with_fake().env("WATCHDOG_USEC", "200000");
    let path = builder.path().join("notify");
    let mut manager = Listener::at(&path);
    let mut vllama = builder.env("NOTIFY_SOCKET", &path.to_string_lossy()).start_listening().await;
    manager.hears("READY=1");
    manager.hears("STATUS=smollm2:135m ready");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");
    let engine = vllama.process("fake-vllm");
    let environment = std::fs::read(format!("/proc/{}/environ", engine.pid)).expect("the environment of the engine");
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("NOTIFY_SOCKET=") && !environment.contains("WATCHDOG_USEC="), "{environment}");
    vllama.signal(Signal::SIGHUP);
    manager.hears("RELOADING=1");
    manager.hears("READY=1");
    vllama.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    assert_eq!(vllama.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_socket_that_is_handed_over_outlives_the_process_and_nobody_is_turned_away_in_between() {
    let socket = Arc::new(TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let address = socket.local_addr().expect("its address");
    let mut first = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "40").inherits(&socket).start().await;
    assert_eq!(first.address, address, "its own port is not opened");
    let client = first.client.clone();
    let stream = tokio::spawn(async move { client.post("/api/chat", &chat("FAKE:count 40", true)).await });
    first.engine_runs(1).await;
    first.signal(Signal::SIGTERM);
    first.says("finishing what runs").await;
    // Comes while the first one goes, and waits for the second.
    let mut between = Client::Tcp(address).send(&Request::new("GET", "/api/version")).await.expect("a connection");
    let lines = stream.await.expect("the stream's task").lines();
    assert_eq!(lines.last().expect("lines")["eval_count"], 41, "the stream came to its end");
    assert_eq!(first.ended().await.code(), Some(0));
    let second = Vllama::with_fake().inherits(&socket).start_listening().await;
    assert_eq!(between.answer().await.expect("an answer of the second").status(), 200);
    eventually("new connections are taken", async || (second.get("/health/live").await.status() == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn a_socket_that_does_not_listen_is_refused_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let connected = std::net::TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    // Only its type says that it listens.
    let connected = Arc::new(TcpListener::from(std::os::fd::OwnedFd::from(connected)));
    let ended = Vllama::with_fake().inherits(&connected).run().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("descriptor 3 does not listen"), "{}", ended.stderr);
    assert!(ended.stderr.contains("ListenStream="), "{}", ended.stderr);
}
