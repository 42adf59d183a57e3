//! The process table as `/proc` shows it.

use std::collections::HashMap;
use std::fs;

use super::sys;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Number of its session.
    pub(super) session: i32,
    parent: i32,
    state: u8,
    threads: i64,
    /// When it was started, in clock ticks since boot: tells two processes with one pid apart.
    started: u64,
}

impl Process {
    pub(super) fn read(pid: i32) -> Option<Self> {
        Self::parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Reads `/proc/<pid>/stat` (proc_pid_stat(5)). The name may hold anything, parentheses and line ends too.
    fn parse(pid: i32, text: &[u8]) -> Option<Self> {
        let end_of_name = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(&text[end_of_name + 1..]).ok()?;
        // The first of these is field 3, the state.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            pid,
            state: *field(3)?.as_bytes().first()?,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            started: field(22)?.parse().ok()?,
        })
    }

    /// What no other process has had since boot.
    pub(super) fn identity(&self) -> (i32, u64) {
        (self.pid, self.started)
    }

    /// Neither dead nor a zombie. One whose first thread has ended while others run looks like a zombie but is none.
    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x') || self.threads > 1
    }

    /// Whether its environment, as it was at exec, has this entry.
    pub(super) fn carries(&self, entry: &str) -> bool {
        fs::read(format!("/proc/{}/environ", self.pid))
            .is_ok_and(|text| text.split(|byte| *byte == 0).any(|found| found == entry.as_bytes()))
    }

    /// Whether its environment, as it was at exec, has an entry that starts so.
    pub(super) fn carries_prefix(&self, prefix: &str) -> bool {
        fs::read(format!("/proc/{}/environ", self.pid))
            .is_ok_and(|text| text.split(|byte| *byte == 0).any(|found| found.starts_with(prefix.as_bytes())))
    }

    /// Its words joined by spaces; empty when it is gone.
    pub(super) fn command_line(&self) -> String {
        let text = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&text).replace('\0', " ")
    }

    /// Sends a signal to this very process, not to one that has its pid by now.
    pub(super) fn signal(&self, signal: i32) {
        let reference = sys::open_process(self.pid);
        if Self::read(self.pid).is_none_or(|now| now.identity() != self.identity()) {
            return;
        }
        match reference {
            Ok(reference) => sys::signal_process(&reference, signal),
            // A kernel without such references: what remains is the moment since we looked.
            Err(_) => sys::kill(self.pid, signal),
        };
    }
}

/// Every process that descends from `root`, zombies too, `root` itself not.
///
/// One whose parents cannot be followed, because they ended while the list was read, is taken for a descendant.
pub(super) fn below(root: i32) -> Vec<Process> {
    let Ok(directory) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: HashMap<i32, Process> = pids.filter_map(|pid| Some((pid, Process::read(pid)?))).collect();
    let descends = |process: &&Process| {
        let mut parent = process.parent;
        // No chain is longer than the table; a torn picture could hold a ring.
        for _ in 0..all.len() {
            if parent == root {
                return true;
            }
            match all.get(&parent) {
                Some(process) => parent = process.parent,
                // 0 is above PID 1 and above the kernel's own: the end of a chain that does not pass us.
                None => return parent != 0,
            }
        }
        false
    };
    all.values().filter(|process| process.pid != root).filter(descends).copied().collect()
}

/// The memory resident for this process, in bytes, shared pages counted in full.
pub(super) fn resident_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_line_ends_is_read_over() {
        let text = b"7 (a) Z 1\n) S 3 7 5 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 9 0 4711 8192 1 18446744073709551615\n";
        let process = Process::parse(7, text);
        let expected = Process { pid: 7, session: 5, parent: 3, state: b'S', threads: 9, started: 4711 };
        assert_eq!(process, Some(expected));
    }

    #[test]
    fn a_torn_line_is_no_process() {
        for text in [&b""[..], b"7", b"7 (a", b"7 (a) S", b"7 (a) S x 7 5"] {
            assert_eq!(Process::parse(7, text), None);
        }
    }

    #[test]
    fn a_first_thread_that_has_ended_does_not_make_a_zombie() {
        let process = |state, threads| Process { pid: 7, session: 7, parent: 1, state, threads, started: 0 };
        assert!(process(b'S', 1).is_alive());
        assert!(process(b'Z', 3).is_alive());
        assert!(!process(b'Z', 1).is_alive());
        assert!(!process(b'X', 0).is_alive());
    }

    #[test]
    fn our_own_memory_is_some() {
        assert!(resident_bytes(std::process::id().cast_signed()).is_some_and(|bytes| bytes > 4096));
    }
}
