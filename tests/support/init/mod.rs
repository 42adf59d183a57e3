//! What the tests of the init share: a look at `/proc`, and waiting for a state with a deadline.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Longest time a test waits for something that should come at once; long, because the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// One process as `/proc/<pid>/stat` shows it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub pid: i32,
    pub state: char,
    pub parent: i32,
    pub session: i32,
}

/// Looks at one process; `None` when there is none.
pub fn look(pid: i32) -> Option<Seen> {
    let text = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?).into_owned();
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    Some(Seen {
        pid,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
    })
}

/// All children of a process, zombies too.
pub fn children(parent: i32) -> Vec<Seen> {
    listed_children(parent).unwrap_or_else(|| {
        let Ok(directory) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let pids = directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(look).filter(|seen| seen.parent == parent).collect()
    })
}

/// The children as the kernel lists them for each thread: much faster, but not every kernel does.
fn listed_children(parent: i32) -> Option<Vec<Seen>> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).ok()?;
    let mut children = Vec::new();
    for thread in threads.flatten() {
        let Ok(text) = fs::read_to_string(thread.path().join("children")) else {
            // A thread that has ended meanwhile; or no such file at all, then for the first thread neither.
            fs::metadata(format!("/proc/{parent}/task/{parent}/children")).ok()?;
            continue;
        };
        children.extend(text.split_ascii_whitespace().filter_map(|pid| look(pid.parse().ok()?)));
    }
    Some(children)
}

/// The zombies among the children of a process.
pub fn zombies(parent: i32) -> Vec<i32> {
    children(parent).iter().filter(|seen| seen.state == 'Z').map(|seen| seen.pid).collect()
}

/// Waits until `state` gives something.
///
/// # Panics
/// When the deadline has passed.
#[track_caller]
pub fn wait_for<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = state() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until something is true.
///
/// # Panics
/// When the deadline has passed.
#[track_caller]
pub fn wait_until(what: &str, mut state: impl FnMut() -> bool) {
    wait_for(what, || state().then_some(()));
}

/// Runs checks one after the other, on a thread of their own, under an init made by `main`; says how many have failed.
/// After each one no child may be left.
pub fn run_checks(program: &str, checks: &[(&str, &dyn Fn())]) -> usize {
    let own = std::process::id().cast_signed();
    let mut failed = 0;
    for (name, check) in checks {
        let start = Instant::now();
        let fine = catch_unwind(AssertUnwindSafe(|| {
            check();
            wait_until("no child is left", || children(own).is_empty());
        }));
        failed += usize::from(fine.is_err());
        let word = if fine.is_ok() { "ok" } else { "FAILED" };
        println!("{program}: {name} ... {word} ({:.2?})", start.elapsed());
    }
    failed
}
