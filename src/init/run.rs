//! The main loop: wait for a signal, reap, tell.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal as Number};

use super::reap::Reaper;
use super::spawn::Spawner;
use super::sys;

/// Most descriptors we allow ourselves. The engines inherit the limit, and container runtimes offer hard limits of a
/// thousand million, which makes programs that walk over all possible descriptors crawl.
const DESCRIPTORS: u64 = 1 << 20;

/// Longest time without a look for dead children. SIGCHLD wakes the loop at once; this is the net below it, for the
/// case that a foreign thread unblocks signals and swallows one.
const NET: Duration = Duration::from_secs(1);

static MADE: AtomicBool = AtomicBool::new(false);

/// A signal from outside, for the rest of the program to act upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// SIGTERM: stop in good order.
    Terminate,
    /// SIGINT: stop in good order; Ctrl-C.
    Interrupt,
    /// SIGHUP: the terminal is gone, or by custom "read the configuration again".
    HangUp,
    /// SIGQUIT: Ctrl-\.
    Quit,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
}

impl Signal {
    const HANDLED: [(Number, Self); 6] = [
        (Number::SIGTERM, Self::Terminate),
        (Number::SIGINT, Self::Interrupt),
        (Number::SIGHUP, Self::HangUp),
        (Number::SIGQUIT, Self::Quit),
        (Number::SIGUSR1, Self::User1),
        (Number::SIGUSR2, Self::User2),
    ];

    fn from_number(number: i32) -> Option<Self> {
        Self::HANDLED.iter().find(|(known, _)| *known as i32 == number).map(|(_, signal)| *signal)
    }
}

/// Makes [`Init::run`] return.
#[derive(Clone)]
pub struct Stopper {
    code: Arc<OnceLock<i32>>,
}

impl Stopper {
    /// Makes [`Init::run`] return `code`. The first call counts; later ones change nothing.
    pub fn stop(&self, code: i32) {
        if self.code.set(code).is_ok() {
            sys::wake();
        }
    }
}

/// Whether [`Init::run`] still turns: for a watchdog.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    turns: Arc<AtomicU64>,
}

impl Pulse {
    /// How often the main loop has turned so far.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Makes it turn once more, soon; it does so once a second anyway.
    pub fn ask(&self) {
        sys::wake();
    }
}

/// PID 1, or a stand-in for it: owns the signals and the children of this process.
pub struct Init {
    signals: SigSet,
    /// The signal mask we were started with.
    pub(super) original: SigSet,
    spawner: Spawner,
    stopper: Stopper,
    pulse: Pulse,
}

/// How long killed programs may take to go before vllama goes without them.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Init {
    /// Takes over signals and children. Call it on the main thread before any other thread exists: threads started
    /// later inherit the blocked signals.
    ///
    /// - SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGCHLD are blocked, to be taken by [`Init::run`].
    ///   HUP, INT and QUIT stay ignored where they were ignored at the start (`nohup`, background jobs of a shell).
    /// - Unless it is PID 1 the process becomes subreaper: orphans below it come to it.
    /// - Open files: soft limit raised to the hard one (at most 1,048,576). Core dumps off: an engine's would be as
    ///   large as its memory.
    ///
    /// # Errors
    /// Made for the second time, threads exist already, or a system call failed.
    pub fn new() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Number::SIGCHLD);
        for (number, _) in Signal::HANDLED {
            let may_be_ignored = matches!(number, Number::SIGHUP | Number::SIGINT | Number::SIGQUIT);
            if !(may_be_ignored && sys::is_ignored(number as i32)) {
                signals.add(number);
            }
        }
        let init = Self::with(signals)?;
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // A limit that cannot be raised is no reason not to start.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(DESCRIPTORS)), hard);
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        Ok(init)
    }

    /// Takes over children and the given signals, which must hold SIGCHLD.
    pub(super) fn with(signals: SigSet) -> io::Result<Self> {
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads > 1 {
            return Err(io::Error::other(format!("the init must be made before other threads: there are {threads}")));
        }
        if MADE.swap(true, Ordering::SeqCst) {
            return Err(io::Error::other("there is an init already"));
        }
        // An ignored SIGCHLD, which exec hands down, makes the kernel drop exit statuses.
        sys::set_default(libc::SIGCHLD);
        let original = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        if std::process::id() != 1 {
            nix::sys::prctl::set_child_subreaper(true)?;
        }
        // Random, so that no other vllama on this machine, nor an earlier one, marks its children alike.
        let run = RandomState::new().build_hasher().finish();
        let reaper = Arc::new(Reaper::default());
        let stopper = Stopper { code: Arc::new(OnceLock::new()) };
        Ok(Self { signals, original, spawner: Spawner::new(reaper, run), stopper, pulse: Pulse::default() })
    }

    /// What starts programs; as many copies as wanted, usable from any thread.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// What ends [`Init::run`]; as many copies as wanted, usable from any thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// What tells whether [`Init::run`] still turns.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// The main loop. Blocks until [`Stopper::stop`] and returns its code; until then reaps every child at once, calls
    /// each `on_exit`, and `on_signal` for every other signal. Neither may block. A panic in one of them is caught.
    ///
    /// What was spawned and still runs at the end is killed: nothing that vllama started outlives it.
    pub fn run(self, mut on_signal: impl FnMut(Signal)) -> i32 {
        let reaper = self.spawner.reaper();
        let code = self.serve(|number| {
            if let Some(signal) = Signal::from_number(number) {
                on_signal(signal);
            }
        });
        reaper.end_all(LAST_WORDS);
        code
    }

    /// The main loop with signals as numbers.
    pub(super) fn serve(self, mut on_number: impl FnMut(i32)) -> i32 {
        let reaper = self.spawner.reaper();
        loop {
            reaper.reap();
            self.pulse.turns.fetch_add(1, Ordering::Relaxed);
            if let Some(code) = self.stopper.code.get() {
                return *code;
            }
            match sys::wait_signal(&self.signals, NET) {
                None | Some(libc::SIGCHLD) => {}
                // A bug in a listener must not end PID 1. The panic hook has told what happened.
                Some(number) => drop(catch_unwind(AssertUnwindSafe(|| on_number(number)))),
            }
        }
    }
}
