//! Looking at processes from outside, through `/proc`.

use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// The id of its parent.
    pub parent: i32,
    /// Its short name.
    pub name: String,
    /// `R`, `S`, `Z` …
    pub state: char,
}

/// All processes whose environment holds this `NAME=value`. The dead ones have no environment any more.
pub fn marked(mark: &str) -> Vec<Process> {
    let has_mark = |process: &Process| {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    all().into_iter().filter(has_mark).collect()
}

/// The children of a process, the dead ones too.
pub fn children(parent: i32) -> Vec<Process> {
    all().into_iter().filter(|process| process.parent == parent).collect()
}

/// Sends a signal; that the process has gone already is fine.
pub fn signal(pid: i32, signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
}

/// Every process of this machine.
pub fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| read(&entry.ok()?.path())).collect()
}

/// Reads `stat`: pid (name) state parent …; the name may hold blanks and brackets.
fn read(directory: &Path) -> Option<Process> {
    let pid = directory.file_name()?.to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Process { pid, parent: fields.next()?.parse().ok()?, name: name.to_owned(), state })
}
