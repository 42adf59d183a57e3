//! What a vllama has when nothing has gone wrong yet, and the checks that it has no more, and no less, after each round.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{Vllama, eventually, processes};

/// Longest wait until all is as it was.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Most idle connections to the engine that vllama keeps for the next requests.
const KEPT: usize = 256;
/// Growth of resident memory that says nothing, in bytes: the allocator keeps what a busy moment took.
const MEMORY: u64 = 24 << 20;
/// Threads that come with work that blocks, and go ten seconds after it.
const THREADS: usize = 24;

/// What is there when all is well.
pub struct Ground {
    /// The names of all processes.
    processes: Vec<String>,
    /// What lies below the run directory.
    files: BTreeSet<String>,
    /// What vllama has open.
    descriptors: Vec<String>,
    usage: Usage,
}

/// What a process holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Open descriptors, but for connections to the engine.
    pub descriptors: usize,
    /// Connections to the engine.
    pub engine_connections: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory in bytes.
    pub memory: u64,
}

impl Usage {
    /// Of vllama itself.
    pub fn of(vllama: &Vllama) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", vllama.pid())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = descriptors(vllama);
        let unix = fs::read_to_string("/proc/net/unix").unwrap();
        let unix: BTreeSet<_> = unix.lines().filter_map(|line| line.split_whitespace().nth(6)).collect();
        let is_unix = |name: &&String| {
            let inode = name.strip_prefix("socket:[").and_then(|name| name.strip_suffix(']'));
            inode.is_some_and(|inode| unix.contains(inode))
        };
        let engine_connections = descriptors.iter().filter(is_unix).count();
        Self {
            descriptors: descriptors.len() - engine_connections,
            engine_connections,
            threads: field("Threads:") as usize,
            memory: field("VmRSS:") * 1024,
        }
    }
}

impl Ground {
    /// Looks at a vllama whose engine is complete and has nothing to do.
    pub fn of(vllama: &Vllama) -> Self {
        Self {
            processes: names(vllama),
            files: files(vllama),
            descriptors: descriptors(vllama),
            usage: Usage::of(vllama),
        }
    }

    /// Checks that nothing is left of the round.
    pub async fn check(&self, vllama: &Vllama, fault: &str) {
        let is_idle = async || {
            let engine = &vllama.health().await["engine"];
            (engine["state"] == "ready" && engine["running"] == 0 && engine["waiting"] == 0).then_some(())
        };
        eventually(&format!("ready and idle after {fault}"), is_idle).await;
        same(&format!("the processes after {fault}"), &self.processes, || names(vllama)).await;
        same(&format!("the files of the run directory after {fault}"), &self.files, || files(vllama)).await;
        let segments = || segments(vllama);
        same(&format!("the segments of shared memory after {fault}"), &1, || segments().len()).await;
        vllama.engine_runs(0).await;
        let mut usage = Usage::of(vllama);
        let is_small = async || {
            usage = Usage::of(vllama);
            (usage.descriptors <= self.usage.descriptors
                && usage.engine_connections <= KEPT
                && usage.threads <= self.usage.threads + THREADS)
                .then_some(())
        };
        let what =
            format!("no more descriptors and threads after {fault} than {:?} and {:?}", self.usage, self.descriptors);
        let is_small = tokio::time::timeout(PATIENCE, until(is_small)).await.is_ok();
        assert!(is_small, "{what}: {usage:?}, {:?}", descriptors(vllama));
        let grown = usage.memory.saturating_sub(self.usage.memory);
        assert!(grown < MEMORY, "resident memory has grown by {grown} bytes after {fault}");
    }
}

/// Looks until it is so.
async fn until(mut is_so: impl AsyncFnMut() -> Option<()>) {
    while is_so().await.is_none() {
        tokio::time::sleep(LOOK).await;
    }
}

/// What vllama has open, by name.
fn descriptors(vllama: &Vllama) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", vllama.pid())).unwrap();
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    names.sort_unstable();
    names
}

/// Waits until what is there is what shall be there; tells what is too much or missing.
async fn same<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, found: impl Fn() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = found();
        if found == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {found:?} instead of {expected:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The names of all living processes of this vllama.
fn names(vllama: &Vllama) -> Vec<String> {
    let mut names: Vec<_> = vllama.processes().into_iter().map(|process| process.name).collect();
    names.sort_unstable();
    names
}

/// What lies below the run directory, whatever the number of the generation.
fn files(vllama: &Vllama) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    list(&vllama.path("run"), "", &mut found);
    found
}

fn list(directory: &Path, inside: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix('g').is_some_and(|number| number.parse::<u64>().is_ok());
        let name = format!("{inside}/{}", if number { "g" } else { &name });
        // A second generation shows as a name that is there already.
        let name = if found.contains(&name) { format!("{name} again") } else { name };
        list(&entry.path(), &name, found);
        found.insert(name);
    }
}

/// Segments of this vllama's engines. The pid of one that is gone may belong to somebody else's engine by now.
fn segments(vllama: &Vllama) -> Vec<PathBuf> {
    let own: Vec<i32> = vllama.processes().iter().map(|process| process.pid).collect();
    let strangers: BTreeSet<i32> = processes::all().iter().map(|process| process.pid).collect();
    let pid = |path: &PathBuf| path.to_string_lossy().rsplit('_').next().and_then(|pid| pid.parse().ok());
    let mut segments = vllama.shared_memory();
    segments.retain(|path| pid(path).is_some_and(|pid: i32| own.contains(&pid) || !strangers.contains(&pid)));
    segments.sort_unstable();
    segments.dedup();
    segments
}
