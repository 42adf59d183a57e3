//! Keeps `vllama-gpu` running and the latest reading at hand.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Reading;
use crate::init::{Child, Exit, Spawner, Spec};

/// Longest line; a machine full of GPUs needs some thousand bytes.
const LONGEST_LINE: usize = 1 << 20;

/// How often the thread looks whether anybody still holds the [`Watch`].
const LOOK: u16 = 500;

/// How patient a [`Watch`] is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A reading older than this is none any more.
    pub fresh: Duration,
    /// A helper that says nothing for this long hangs and is killed.
    pub silence: Duration,
    /// Pause before a helper that has ended is started again; doubled with every end, until one has told something.
    pub pause: Duration,
    /// Longest such pause.
    pub longest_pause: Duration,
}

impl Default for Pace {
    /// For a helper that speaks once a second. Silence is long, as a driver may take half a minute to wake up.
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(5),
            silence: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// The latest reading of the GPUs. Copies share one helper, which ends when the last copy is dropped.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    latest: Mutex<Option<(Instant, Arc<Reading>)>>,
    /// Told with every reading.
    told: Condvar,
    fresh: Duration,
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watch").field("latest", &self.latest()).finish()
    }
}

impl Watch {
    /// Keeps `helper` running, with this environment (the driver's library may need `LD_LIBRARY_PATH`). Where the
    /// helper is missing, the GPUs are unknown for ever.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(
        spawner: Spawner,
        helper: PathBuf,
        environment: Vec<(OsString, OsString)>,
        pace: Pace,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { latest: Mutex::new(None), told: Condvar::new(), fresh: pace.fresh });
        let spec = Spec { program: helper, environment, ..Spec::default() };
        let keeper = Keeper { shared: Arc::downgrade(&shared), spawner, spec, pace };
        std::thread::Builder::new().name("gpu".into()).spawn(move || keeper.keep())?;
        Ok(Self { shared })
    }

    /// A watch that never knows anything: for a machine where nobody shall ask, and for tests.
    #[must_use]
    pub fn unknown() -> Self {
        Self { shared: Arc::new(Shared { latest: Mutex::new(None), told: Condvar::new(), fresh: Duration::ZERO }) }
    }

    /// The latest reading; `None` while nothing is known. Never waits for the driver.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Reading>> {
        self.latest_at().map(|(_, reading)| reading)
    }

    /// The latest reading and when it came; `None` while nothing is known. Never waits for the driver.
    #[must_use]
    pub fn latest_at(&self) -> Option<(Instant, Arc<Reading>)> {
        let latest = self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (time, reading) = latest.as_ref()?;
        (time.elapsed() < self.shared.fresh).then(|| (*time, Arc::clone(reading)))
    }

    /// The first reading; blocks until there is one, at most for `limit`. `None` when the helper told nothing by then.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<Arc<Reading>> {
        let latest = self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.told.wait_timeout_while(latest, limit, |latest| latest.is_none());
        let (latest, _) = waited.unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().map(|(_, reading)| Arc::clone(reading))
    }
}

/// The thread behind a [`Watch`].
struct Keeper {
    /// Gone when nobody wants to know any more.
    shared: Weak<Shared>,
    spawner: Spawner,
    spec: Spec,
    pace: Pace,
}

impl Keeper {
    fn keep(&self) {
        let helper = self.spec.program.display();
        let mut pause = self.pace.pause;
        while self.is_wanted() {
            let (sender, ended) = channel();
            let exit = Box::new(move |exit| {
                // Nobody may be waiting any more.
                let _ = sender.send(exit);
            });
            match self.spawner.spawn(&self.spec, exit) {
                Ok(child) => {
                    let spoke = self.follow(child, &ended);
                    if spoke {
                        pause = self.pace.pause;
                    }
                    if self.is_wanted() {
                        tracing::warn!(%helper, ?pause, "the GPU helper has ended and is started again");
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    tracing::warn!(%helper, %error, "GPU figures stay unknown: the helper is missing");
                    return;
                }
                Err(error) => tracing::warn!(%helper, %error, "the GPU helper cannot be started"),
            }
            self.rest(pause);
            pause = (pause * 2).min(self.pace.longest_pause);
        }
    }

    fn is_wanted(&self) -> bool {
        self.shared.strong_count() > 0
    }

    fn rest(&self, pause: Duration) {
        let start = Instant::now();
        while self.is_wanted() && start.elapsed() < pause {
            std::thread::sleep(Duration::from_millis(LOOK.into()).min(pause));
        }
    }

    /// Reads one helper until its end; whether it has told anything. There is never a second helper beside it: a
    /// process that hangs in the driver cannot even be killed, and a heap of them would help nobody.
    fn follow(&self, mut child: Child, ended: &Receiver<Exit>) -> bool {
        let spoke = match child.stdout.take() {
            Some(stdout) => self.read(File::from(stdout)),
            None => false,
        };
        self.publish(None);
        child.handle().kill_all();
        let look = Duration::from_millis(LOOK.into());
        while self.is_wanted() && ended.recv_timeout(look) == Err(RecvTimeoutError::Timeout) {}
        spoke
    }

    fn read(&self, mut stdout: File) -> bool {
        let mut spoke = false;
        let mut text = Vec::new();
        let mut heard = Instant::now();
        let mut piece = [0; 8192];
        while self.is_wanted() && heard.elapsed() < self.pace.silence && text.len() < LONGEST_LINE {
            let mut wait = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wait, PollTimeout::from(LOOK)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Ok(_) => {}
                Err(_) => return spoke,
            }
            match stdout.read(&mut piece) {
                Ok(0) | Err(_) => return spoke,
                Ok(length) => text.extend_from_slice(&piece[..length]),
            }
            while let Some(end) = memchr::memchr(b'\n', &text) {
                let line: Vec<u8> = text.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(reading) => {
                        heard = Instant::now();
                        spoke = true;
                        self.publish(Some(reading));
                    }
                    Err(error) => tracing::debug!(%error, "a line of the GPU helper is no reading"),
                }
            }
        }
        spoke
    }

    fn publish(&self, reading: Option<Reading>) {
        if let Some(shared) = self.shared.upgrade() {
            let latest = reading.map(|reading| (Instant::now(), Arc::new(reading)));
            *shared.latest.lock().unwrap_or_else(PoisonError::into_inner) = latest;
            shared.told.notify_all();
        }
    }
}
