//! Orders from outside while the program runs, for each process of the tree: a word in the file `<directory>/<pid>`, taken
//! when SIGUSR1 comes. The same directory holds a start or a stop up in a phase: as long as `<directory>/hold-<phase>`
//! is there it goes no further, and says so in `at-<phase>`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;

use crate::processes::{self, Role};

/// Time between two looks at a file.
pub const LOOK: Duration = Duration::from_millis(5);
/// How long a slow death takes.
const SLOW_DEATH: Duration = Duration::from_millis(500);

/// What a process can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `exit 0`, `exit 1`: it leaves with this status.
    Exit(i32),
    /// `hang`: it does nothing any more.
    Hang,
    /// `garbage`: it says what is no text, and what it answers just now is none either.
    Garbage,
    /// `slow death`: it does nothing any more, complains for half a second and leaves with status 1.
    SlowDeath,
    /// `fork away`: one more descendant leaves its session by a double fork.
    ForkAway,
    /// `ignore TERM`: it does not care about SIGTERM from now on.
    IgnoreTerm,
}

impl Order {
    fn named(word: &str) -> Self {
        match word {
            "exit 0" => Self::Exit(0),
            "exit 1" => Self::Exit(1),
            "hang" => Self::Hang,
            "garbage" => Self::Garbage,
            "slow death" => Self::SlowDeath,
            "fork away" => Self::ForkAway,
            "ignore TERM" => Self::IgnoreTerm,
            _ => panic!("{word:?} is no order"),
        }
    }
}

/// Whether this process cares about SIGTERM no more.
pub static IGNORES_TERM: AtomicBool = AtomicBool::new(false);
/// Whether this process does nothing any more.
static STANDS_STILL: AtomicBool = AtomicBool::new(false);
/// How often the answers on their way have become garbage.
static GARBAGE: AtomicU64 = AtomicU64::new(0);

/// Takes orders from now on, in a thread of its own. `leave` ends the process with a status. To be called before any other
/// thread is started, so that none takes the signal.
pub fn listen(directory: &Path, role: Option<Role>, leave: impl Fn(i32) + Send + 'static) {
    let signal = processes::block(&[Signal::SIGUSR1]);
    let directory = directory.to_owned();
    let place = announced(&directory, getppid().as_raw(), role);
    std::thread::spawn(move || {
        let _ = SigSet::all().thread_block();
        // Another process may have had this pid.
        let _ = fs::remove_file(directory.join(format!("{}.still", std::process::id())));
        // Who finds it may order.
        let _ = fs::write(place, std::process::id().to_string());
        loop {
            let _ = signal.wait();
            let word = fs::read_to_string(directory.join(std::process::id().to_string()));
            obey(Order::named(word.expect("an order").trim()), &directory, &leave);
        }
    });
}

/// Where the child of `parent` with this role leaves its pid when it takes orders.
fn announced(directory: &Path, parent: i32, role: Option<Role>) -> PathBuf {
    directory.join(format!("{parent}.{}", role.map_or("leader", Role::name)))
}

fn obey(order: Order, directory: &Path, leave: &impl Fn(i32)) {
    match order {
        Order::Exit(status) => leave(status),
        Order::Hang => stand_still(directory),
        Order::Garbage => {
            print_garbage();
            GARBAGE.fetch_add(1, Ordering::SeqCst);
        }
        Order::SlowDeath => {
            stand_still(directory);
            for line in 0..10 {
                eprintln!("ERROR 11-23 12:00:00 [core.py:1136]   File \"engine.py\", line {line}, in step");
                std::thread::sleep(SLOW_DEATH / 10);
            }
            leave(1);
        }
        Order::ForkAway => drop(processes::start(Role::StrayParent).wait()),
        Order::IgnoreTerm => IGNORES_TERM.store(true, Ordering::SeqCst),
    }
}

fn stand_still(directory: &Path) {
    STANDS_STILL.store(true, Ordering::SeqCst);
    let _ = fs::write(directory.join(format!("{}.still", std::process::id())), "");
}

/// A quarter of a megabyte without a line end, on both streams.
fn print_garbage() {
    use std::io::Write as _;
    let noise: Vec<u8> = (0..256 << 10).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let noise: Vec<u8> = noise.into_iter().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
    let _ = std::io::stdout().lock().write_all(&noise);
    let _ = std::io::stderr().lock().write_all(&noise);
    let _ = std::io::stdout().lock().write_all(b"\n");
    let _ = std::io::stderr().lock().write_all(b"\n");
}

/// Stays for ever when this process was told to stand still; a thread that calls it often hangs like Python's would.
pub fn hang_if_told() {
    while STANDS_STILL.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Changes when the answers on their way become garbage.
pub fn garbage() -> u64 {
    GARBAGE.load(Ordering::SeqCst)
}

/// Whether the core or its worker does nothing, stopped by a signal or told so.
pub fn core_stands_still(directory: &Path, core: i32) -> bool {
    let worker = fs::read_to_string(announced(directory, core, Some(Role::Worker)));
    let worker = worker.ok().and_then(|pid| pid.parse().ok());
    [Some(core), worker].into_iter().flatten().any(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_stopped = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"));
        is_stopped || directory.join(format!("{pid}.still")).exists()
    })
}

/// Waits where a phase is held up, and tells that it does.
pub async fn pass(directory: Option<&Path>, phase: &str) {
    let Some(hold) = held_up(directory, phase) else { return };
    while hold.exists() {
        tokio::time::sleep(LOOK).await;
    }
}

/// As [`pass`], before there is a runtime.
pub fn pass_blocking(directory: Option<&Path>, phase: &str) {
    let Some(hold) = held_up(directory, phase) else { return };
    while hold.exists() {
        hang_if_told();
        std::thread::sleep(LOOK);
    }
}

fn held_up(directory: Option<&Path>, phase: &str) -> Option<PathBuf> {
    let hold = directory?.join(format!("hold-{phase}"));
    if !hold.exists() {
        return None;
    }
    let _ = fs::write(directory?.join(format!("at-{phase}")), std::process::id().to_string());
    Some(hold)
}
