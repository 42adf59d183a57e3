//! Looks for dead children that nobody collects, all the time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::harness::processes;

/// A dead child is collected within this time.
const LIMIT: Duration = Duration::from_millis(100);
/// No machine is that busy.
const STARVED: Duration = Duration::from_secs(2);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// A look that comes later than this tells of a machine that has no time for anybody.
const LATE: Duration = Duration::from_millis(80);

/// The processes whose children are watched, and the dead that were seen too long.
#[derive(Clone, Default)]
pub struct Zombies(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    parents: Vec<i32>,
    found: Vec<String>,
}

impl Zombies {
    /// Watches from now on, in a thread that ends with the program.
    pub fn watch() -> Self {
        let zombies = Self::default();
        let shared = zombies.clone();
        std::thread::spawn(move || shared.look());
        zombies
    }

    /// Watches the children of this process as well.
    pub fn watch_children_of(&self, parent: i32) {
        self.lock().parents.push(parent);
    }

    /// Watches them no more.
    pub fn forget(&self, parent: i32) {
        self.lock().parents.retain(|known| *known != parent);
    }

    /// The dead that were not collected in time.
    pub fn found(&self) -> Vec<String> {
        self.lock().found.clone()
    }

    fn look(&self) {
        let mut seen: HashMap<i32, Instant> = HashMap::new();
        let mut last = Instant::now();
        loop {
            std::thread::sleep(LOOK);
            let now = Instant::now();
            if now - last > LATE + LOOK {
                seen.clear();
            }
            last = now;
            let mut watched = self.lock();
            let all = processes::all();
            let dead = all.iter().filter(|process| process.state == 'Z');
            let dead: Vec<_> = dead.filter(|process| watched.parents.contains(&process.parent)).collect();
            seen.retain(|pid, _| dead.iter().any(|process| process.pid == *pid));
            for process in dead {
                let since = *seen.entry(process.pid).or_insert(now);
                // A parent that would run if it were let is not to blame, unless it never ends.
                let is_late = now - since > LIMIT && !is_still_dying(process.pid);
                if is_late && (!waits_for_a_processor(process.parent) || now - since > STARVED) {
                    watched.found.push(format!("{} ({}) for {:?}", process.name, process.pid, now - since));
                    seen.remove(&process.pid);
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the kernel still ends threads of this dead process, which takes a while where they hold gigabytes: it can be collected
/// only when the last of them is gone.
fn is_still_dying(pid: i32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

/// Whether a thread of this process would run if it were let: the one that collects the dead, or one that it waits for.
fn waits_for_a_processor(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    stats.into_iter().any(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" R")))
}
