//! Processes of an earlier vllama that was killed: nobody's children any more, found by their environment.

use std::fs;

use super::processes::Process;

/// Processes anywhere on this machine whose environment has an entry that starts with `prefix`; not this one.
#[must_use]
pub fn strays(prefix: &str) -> Vec<i32> {
    find(prefix).iter().map(|process| process.pid).collect()
}

/// Sends SIGKILL to the [`strays`].
pub fn kill_strays(prefix: &str) {
    for process in find(prefix) {
        process.signal(libc::SIGKILL);
    }
}

fn find(prefix: &str) -> Vec<Process> {
    let own = std::process::id().cast_signed();
    let Ok(directory) = fs::read_dir("/proc") else { return Vec::new() };
    directory
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid > 1 && *pid != own)
        .filter_map(Process::read)
        .filter(|process| process.is_alive() && process.carries_prefix(prefix))
        .collect()
}
