//! The list of programs we started and the only place that waits for children.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sys::{self, Waited};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It returned this code, 0–255.
    Code(i32),
    /// This signal killed it, 1–64.
    Signal(i32),
}

impl Exit {
    /// Reads a wait status; `None` for a child that was only stopped or continued.
    pub(super) fn decode(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Self::Code(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Self::Signal(libc::WTERMSIG(status)))
        } else {
            None
        }
    }

    /// The code a shell would show: the program's own, or 128 + the signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// Whether the program returned 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// What is called, once and on the main thread, when a program has been reaped. It must not block.
pub type OnExit = Box<dyn FnOnce(Exit) + Send>;

/// The list, behind the one lock that forking, reaping and signalling share.
#[derive(Default)]
pub(super) struct Reaper {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    /// Every program that has not been reaped, by pid.
    leaders: HashMap<i32, Leader>,
    /// The last program that had each pid, by number; tells whose a session is when its leader is gone.
    /// Never more entries than there are pids.
    owners: HashMap<i32, u64>,
    /// Ends that came before it was known whether exec had worked, by number: the pid may be another's by now.
    early: HashMap<u64, Exit>,
    /// Ends that are known but that the main thread has yet to tell.
    due: Vec<(OnExit, Exit)>,
}

struct Leader {
    /// Tells two programs with the same, recycled, pid apart.
    number: u64,
    /// Whom to tell; `None` while exec may still fail.
    on_exit: Option<OnExit>,
}

/// What became of a program that leads a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not reaped: its pid, and so the session's number, is its own.
    Leads,
    /// Reaped.
    Gone,
    /// Reaped, and a later program of ours has its pid.
    Replaced,
}

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, List> {
        // No code of others runs under this lock, so a poisoned list is a whole list.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forks under the lock and puts the child on the list before anybody can reap it.
    pub(super) fn fork<T>(&self, number: u64, fork: impl FnOnce() -> io::Result<(i32, T)>) -> io::Result<(i32, T)> {
        let mut list = self.lock();
        let (pid, rest) = fork()?;
        list.leaders.insert(pid, Leader { number, on_exit: None });
        list.owners.insert(pid, number);
        Ok((pid, rest))
    }

    /// The program runs: from now on its end is told.
    pub(super) fn confirm(&self, pid: i32, number: u64, on_exit: OnExit) {
        let mut list = self.lock();
        if let Some(exit) = list.early.remove(&number) {
            list.due.push((on_exit, exit));
            sys::wake();
        } else if let Some(leader) = list.leaders.get_mut(&pid) {
            leader.on_exit = Some(on_exit);
        }
    }

    /// The program could not be executed: takes the child off the list and reaps it, so that no zombie is left and
    /// nothing is told.
    pub(super) fn discard(&self, pid: i32, number: u64) {
        let mut list = self.lock();
        if list.early.remove(&number).is_none() {
            // It is on its way out already; the kill makes sure that the wait under the lock is short.
            sys::kill(pid, libc::SIGKILL);
            sys::wait_for(pid);
            list.leaders.remove(&pid);
        }
    }

    /// Whether this program has been reaped, and whether its pid has gone to a later one since.
    pub(super) fn standing(&self, pid: i32, number: u64) -> Standing {
        let list = self.lock();
        if list.holds(pid, number) {
            Standing::Leads
        } else if list.owners.get(&pid) == Some(&number) {
            Standing::Gone
        } else {
            Standing::Replaced
        }
    }

    /// Calls `send` while the program cannot be reaped; false, and no call, when it has been.
    pub(super) fn while_there(&self, pid: i32, number: u64, send: impl FnOnce() -> bool) -> bool {
        let list = self.lock();
        list.holds(pid, number) && send()
    }

    /// The pids of all programs that are not yet reaped; each is also the number of a session.
    pub(super) fn leaders(&self) -> Vec<i32> {
        self.lock().leaders.keys().copied().collect()
    }

    /// Kills every program that has not been reaped, with its process group, and reaps them for at most this long.
    pub(super) fn end_all(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        for leader in self.leaders() {
            sys::kill_group(leader, libc::SIGKILL);
        }
        while !self.leaders().is_empty() && Instant::now() < deadline {
            self.reap();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Reaps until no dead child is left, and tells each end. SIGCHLDs merge: one may stand for any number of children.
    pub(super) fn reap(&self) {
        loop {
            let mut list = self.lock();
            let waited = sys::wait_any();
            if let Waited::Gone(pid, exit) = waited {
                list.ended(pid, exit);
            }
            let due = std::mem::take(&mut list.due);
            drop(list);
            let idle = matches!(waited, Waited::Nothing) && due.is_empty();
            for (on_exit, exit) in due {
                // A bug in a listener must not end PID 1. The panic hook has told what happened.
                let _ = catch_unwind(AssertUnwindSafe(move || on_exit(exit)));
            }
            if idle {
                return;
            }
        }
    }
}

impl List {
    fn holds(&self, pid: i32, number: u64) -> bool {
        self.leaders.get(&pid).is_some_and(|leader| leader.number == number)
    }

    /// Notes an end. A pid that is not on the list was an orphan that came to us: nobody asks for it.
    fn ended(&mut self, pid: i32, exit: Exit) {
        match self.leaders.remove(&pid) {
            Some(Leader { on_exit: Some(on_exit), .. }) => self.due.push((on_exit, exit)),
            Some(Leader { number, on_exit: None }) => drop(self.early.insert(number, exit)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_read_for_every_code_and_every_signal() {
        for code in 0..=255 {
            assert_eq!(Exit::decode(code << 8), Some(Exit::Code(code)));
        }
        for signal in 1..=64 {
            assert_eq!(Exit::decode(signal), Some(Exit::Signal(signal)));
            assert_eq!(Exit::decode(signal | 0x80), Some(Exit::Signal(signal)), "with a core dump");
            assert_eq!(Exit::decode(signal << 8 | 0x7f), None, "stopped");
        }
        assert_eq!(Exit::decode(0xffff), None, "continued");
    }
}
