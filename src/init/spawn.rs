//! Starting programs, each in a session of its own.

use std::ffi::OsString;
use std::fs::{File, read_to_string};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;
use nix::sys::signal::SigSet;

use super::fork::{Launch, Place};
use super::reap::{OnExit, Reaper};
use super::session::Session;

/// Environment variable that marks every process of one spawn, so that those which left its session are found.
/// [`Spawner::spawn`] sets it to a value no other spawn has.
pub const GENERATION: &str = "VLLAMA_GENERATION";

/// Variables by which systemd talks to one process: sockets and readiness are vllama's, not those of its children.
const NOT_PASSED_ON: [&str; 5] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", GENERATION];

/// A program to start, complete: nothing is inherited.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The program: a path, or a name to be looked up in the `PATH` of `environment`.
    pub program: PathBuf,
    /// Its arguments, the program's own name not among them.
    pub arguments: Vec<OsString>,
    /// Its whole environment, but for [`GENERATION`]. `LISTEN_*` and `NOTIFY_SOCKET` are left out.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working directory; `/` when empty.
    pub directory: PathBuf,
    /// By how much its `oom_score_adj` is higher than ours, so that the kernel kills it and not PID 1 when memory runs
    /// out: 0–1000; the sum is cut off at 1000.
    pub out_of_memory_score: u16,
}

/// A program that was started.
#[derive(Debug)]
pub struct Child {
    /// The reading end of its standard output; end of file when every process that inherited it is gone.
    pub stdout: Option<OwnedFd>,
    /// The reading end of its standard error.
    pub stderr: Option<OwnedFd>,
    session: Session,
}

impl Child {
    /// Its pid, which is also the number of its session and process group.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.session.pid()
    }

    /// What signals it and finds its processes; outlives the [`Child`].
    #[must_use]
    pub fn handle(&self) -> Session {
        self.session.clone()
    }
}

/// Starts programs; usable from any thread.
#[derive(Clone)]
pub struct Spawner {
    reaper: Arc<Reaper>,
    /// Marks this run of vllama.
    run: u64,
    /// How many programs were started.
    count: Arc<AtomicU64>,
}

impl Spawner {
    pub(super) fn new(reaper: Arc<Reaper>, run: u64) -> Self {
        Self { reaper, run, count: Arc::new(AtomicU64::new(0)) }
    }

    pub(super) fn reaper(&self) -> Arc<Reaper> {
        Arc::clone(&self.reaper)
    }

    /// Starts a program as the leader of a new session: no signal blocked or ignored, standard input `/dev/null`, output
    /// and error piped, every other descriptor closed, umask 077.
    ///
    /// `on_exit` is called exactly once, on the main thread, when the leader has been reaped, which may be before this
    /// returns. It must not block. When this returns an error it is never called and no process is left.
    ///
    /// Blocks until exec has worked; never call it from `on_exit` or `on_signal`.
    ///
    /// # Errors
    /// The program is not there ([`io::ErrorKind::NotFound`]), cannot be executed, its directory cannot be entered, a
    /// text holds a NUL, or processes or descriptors have run out.
    pub fn spawn(&self, spec: &Spec, on_exit: OnExit) -> io::Result<Child> {
        let number = self.next();
        let marker = format!("{GENERATION}={:016x}-{number}", self.run);
        let mut environment = entries(&spec.environment)?;
        environment.push(format!("{marker}\0").into_bytes());
        let null = File::open("/dev/null")?;
        let (stdout, stdout_writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, stderr_writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let place = Place::Session {
            streams: [null.as_raw_fd(), stdout_writer.as_raw_fd(), stderr_writer.as_raw_fd()],
            out_of_memory_score: out_of_memory_score(spec.out_of_memory_score),
        };
        let mut command = vec![spec.program.clone().into_os_string()];
        command.extend_from_slice(&spec.arguments);
        let directory = if spec.directory.as_os_str().is_empty() { PathBuf::from("/") } else { spec.directory.clone() };
        let launch = Launch::new(&command, environment, place, SigSet::empty())?.directory(&directory)?;
        let session = self.start(&launch, number, Some(marker.into()), on_exit)?;
        Ok(Child { stdout: Some(stdout), stderr: Some(stderr), session })
    }

    /// Starts what was prepared, without a marker.
    pub(super) fn launch(&self, launch: &Launch, on_exit: OnExit) -> io::Result<Session> {
        self.start(launch, self.next(), None, on_exit)
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    fn start(&self, launch: &Launch, number: u64, marker: Option<Arc<str>>, on_exit: OnExit) -> io::Result<Session> {
        let (pid, report) = self.reaper.fork(number, || launch.fork())?;
        // Not under the lock: exec from a file system that hangs must hold up this thread and nobody else.
        match launch.finish(report) {
            Ok(()) => {
                self.reaper.confirm(pid, number, on_exit);
                Ok(Session::new(self.reaper(), pid, number, marker))
            }
            Err(error) => {
                self.reaper.discard(pid, number);
                Err(error)
            }
        }
    }
}

/// `NAME=value` with a closing NUL for each variable that is passed on.
fn entries(environment: &[(OsString, OsString)]) -> io::Result<Vec<Vec<u8>>> {
    let passed_on = environment.iter().filter(|(name, _)| !NOT_PASSED_ON.iter().any(|other| name == other));
    let entry = |(name, value): &(OsString, OsString)| {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.contains(&0) {
            let text = format!("{:?} is no environment variable", String::from_utf8_lossy(name));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok([name, b"=", value, b"\0"].concat())
    };
    passed_on.map(entry).collect()
}

/// Our own score plus this much, as the kernel wants it written.
fn out_of_memory_score(above: u16) -> std::ffi::CString {
    let own = read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i32>().ok());
    let score = own.unwrap_or(0).saturating_add(above.into()).min(1000);
    // Digits and a sign hold no NUL.
    std::ffi::CString::new(score.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_to_vllama_is_not_passed_on() {
        let variable = |name: &str| (OsString::from(name), OsString::from("1"));
        let given: Vec<_> = NOT_PASSED_ON.iter().chain(&["HOME"]).map(|name| variable(name)).collect();
        assert_eq!(entries(&given).ok(), Some(vec![b"HOME=1\0".to_vec()]));
    }

    #[test]
    fn names_that_are_no_variables_are_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            assert!(entries(&[(name.into(), value.into())]).is_err(), "{name:?}={value:?}");
        }
    }
}
