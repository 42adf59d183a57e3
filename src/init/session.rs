//! One program we started and everything below it: signals, members, memory.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::processes::{self, Process};
use super::reap::{Reaper, Standing};
use super::sys;

/// Most rounds of one [`Session::kill_all`]: even a fork bomb must not keep us for ever.
const ROUNDS: usize = 100;

/// The processes of one spawn: those in its session, and those that left it but carry its marker.
#[derive(Clone)]
pub struct Session {
    reaper: Arc<Reaper>,
    pid: i32,
    number: u64,
    /// `VLLAMA_GENERATION=…`, complete.
    marker: Option<Arc<str>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Session({}, {:?})", self.pid, self.marker)
    }
}

impl Session {
    pub(super) fn new(reaper: Arc<Reaper>, pid: i32, number: u64, marker: Option<Arc<str>>) -> Self {
        Self { reaper, pid, number, marker }
    }

    /// The leader's pid. Another process may have it once the leader has been reaped.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to the leader alone. False when it has been reaped (a recycled pid is never signalled) or the
    /// signal is none.
    pub fn signal_leader(&self, signal: i32) -> bool {
        self.reaper.while_there(self.pid, self.number, || sys::kill(self.pid, signal))
    }

    /// Sends SIGKILL to every process of the session and to every process that carries its marker, again until no new
    /// one turns up. They are dead soon after; [`Session::members`] says when.
    ///
    /// Reads `/proc`, which may wait for a process that hangs in a driver: not for the main thread.
    pub fn kill_all(&self) {
        // In one stroke, before anybody can fork.
        self.reaper.while_there(self.pid, self.number, || sys::kill_group(self.pid, libc::SIGKILL));
        self.signal_except(libc::SIGKILL, |_| false);
    }

    /// Sends SIGSTOP to every process that [`Session::kill_all`] would kill, but for those whose command line, its words
    /// joined by spaces, `is_spared`: until they are killed, they make nothing that whoever looks at them now would miss.
    #[must_use]
    pub fn freeze_except(&self, is_spared: impl Fn(&str) -> bool) -> Frozen {
        self.signal_except(libc::SIGSTOP, is_spared)
    }

    fn signal_except(&self, signal: i32, is_spared: impl Fn(&str) -> bool) -> Frozen {
        let mut frozen = Frozen::default();
        let mut known = HashSet::new();
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let new: Vec<_> = self.find().into_iter().filter(|process| known.insert(process.identity())).collect();
            // Twice: a process that forks and ends while the list is read can be missed together with its child.
            quiet = if new.is_empty() { quiet + 1 } else { 0 };
            if quiet == 2 {
                break;
            }
            for process in new {
                if is_spared(&process.command_line()) {
                    frozen.spared.push(process);
                } else {
                    process.signal(signal);
                    frozen.stopped.push(process);
                }
            }
        }
        frozen
    }

    /// The pids of the living processes of the session and of those that carry its marker; zombies are not counted.
    ///
    /// A process whose marker cannot be read, because it belongs to another user or has overwritten its environment
    /// (`setproctitle` does unless `SPT_NOENV` is set), is found by its session alone.
    #[must_use]
    pub fn members(&self) -> Vec<i32> {
        self.find().iter().map(|process| process.pid).collect()
    }

    /// The memory resident for all members, in bytes. Pages that several share count for each of them: an upper limit.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.find().iter().filter_map(|process| processes::resident_bytes(process.pid)).sum()
    }

    fn find(&self) -> Vec<Process> {
        // Asked before the list is read: while the leader is there its number cannot be that of another session.
        let standing = self.reaper.standing(self.pid, self.number);
        let others: HashSet<i32> = self.reaper.leaders().into_iter().filter(|leader| *leader != self.pid).collect();
        let all = processes::below(std::process::id().cast_signed());
        let session_is_ours = match standing {
            Standing::Leads => true,
            // A process that has our leader's number now is a stranger, and so is the session of that number.
            Standing::Gone => !all.iter().any(|process| process.pid == self.pid),
            Standing::Replaced => false,
        };
        all.into_iter()
            .filter(|process| process.pid > 1 && process.is_alive())
            .filter(|process| {
                if process.session == self.pid && session_is_ours {
                    return true;
                }
                // Who sits in another engine's session need not be asked; asking one that hangs would hang us.
                !others.contains(&process.session) && self.marker.as_ref().is_some_and(|marker| process.carries(marker))
            })
            .collect()
    }
}

/// The processes of a session at the moment when they were stopped by [`Session::freeze_except`]. To look at them reads no
/// more of `/proc` than is theirs, which on a machine with thousands of processes is little.
#[derive(Clone, Debug, Default)]
pub struct Frozen {
    stopped: Vec<Process>,
    spared: Vec<Process>,
}

impl Frozen {
    /// The pids of all, the spared too.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.all().map(|process| process.pid).collect()
    }

    /// Sends SIGKILL to those that were stopped. They are dead soon after; [`Frozen::are_gone`] says when.
    pub fn kill(&self) {
        self.stopped.iter().for_each(|process| process.signal(libc::SIGKILL));
    }

    /// Whether none of them lives any more, the spared neither.
    #[must_use]
    pub fn are_gone(&self) -> bool {
        let lives = |process: &Process| {
            let now = Process::read(process.pid);
            now.is_some_and(|now| now.identity() == process.identity() && now.is_alive())
        };
        !self.all().any(lives)
    }

    fn all(&self) -> impl Iterator<Item = &Process> {
        self.stopped.iter().chain(&self.spared)
    }
}
