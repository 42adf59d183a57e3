//! The processes below the leader, and how they live and die.
//!
//! Children are this program again with `FAKE_VLLM_ROLE` set and vLLM's title as their name. As with vLLM, nobody
//! notices the leader's death, core and worker notice each other's, and all stay in the leader's session.

use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd;

use crate::orders;
use crate::settings::Settings;

/// What a process is in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Python's resource tracker: outlives everybody until its pipe closes, ignores SIGTERM.
    Tracker,
    /// The engine's core; owns the worker.
    Core,
    /// A worker; ends when its core ends.
    Worker,
    /// Starts a stray outside the session and leaves.
    StrayParent,
    /// Outside the session, ignores SIGTERM.
    Stray,
    /// Starts short-lived children and leaves, so that they die as orphans.
    OrphanParent,
    /// Dies at once.
    Orphan,
}

const ROLES: &[(&str, Role)] = &[
    ("tracker", Role::Tracker),
    ("core", Role::Core),
    ("worker", Role::Worker),
    ("stray-parent", Role::StrayParent),
    ("stray", Role::Stray),
    ("orphan-parent", Role::OrphanParent),
    ("orphan", Role::Orphan),
];

impl Role {
    /// The role of that name.
    pub fn named(name: &str) -> Self {
        ROLES.iter().find(|(known, _)| *known == name).expect("FAKE_VLLM_ROLE: a known role").1
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        ROLES.iter().find(|(_, role)| *role == self).map_or("", |(name, _)| name)
    }

    /// The title `ps` shows.
    fn title(self) -> &'static str {
        match self {
            Self::Tracker => "python -c from multiprocessing.resource_tracker import main;main(9)",
            Self::Core => "VLLM::EngineCore",
            Self::Worker => "VLLM::Worker",
            Self::StrayParent | Self::Stray => "fake-stray",
            Self::OrphanParent | Self::Orphan => "fake-orphan",
        }
    }
}

/// Starts a child of this role. Nobody has to wait for it: leaving the dead behind is what a fake is for.
pub fn start(role: Role) -> Child {
    let program = std::env::current_exe().expect("the path of this program");
    let mut command = Command::new(program);
    command
        .arg0(role.title())
        .env("FAKE_VLLM_ROLE", role.name())
        .env("FAKE_VLLM_PARENT", std::process::id().to_string());
    // The pipe tells tracker and worker when their owner has gone; others must not notice.
    let noticing = matches!(role, Role::Tracker | Role::Worker);
    command.stdin(if noticing { Stdio::piped() } else { Stdio::null() });
    command.spawn().expect("a child process")
}

/// The life of a child.
pub fn live_as(role: Role, settings: &Settings) -> ExitCode {
    let name = std::ffi::CString::new(role.title()).unwrap_or_default();
    let _ = nix::sys::prctl::set_name(&name);
    if settings.ignore_term || matches!(role, Role::Tracker | Role::Stray) {
        block(&[Signal::SIGTERM, Signal::SIGINT]);
    } else {
        // The leader waits for them, and who is blocked hands that down.
        let _ = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]).thread_unblock();
    }
    if let (Some(directory), Role::Core | Role::Worker) = (&settings.orders, role) {
        orders::listen(directory, Some(role), |status| std::process::exit(status));
    }
    match role {
        Role::Core => {
            if let Some(leader) = settings.parent {
                map(&segment(leader));
            }
            let mut worker = start(Role::Worker);
            // Waiting would close the pipe that tells the worker of our death.
            let _pipe = worker.stdin.take();
            let _ = worker.wait();
            orders::hang_if_told();
            // vLLM's core does not outlive a worker.
            return ExitCode::FAILURE;
        }
        Role::Tracker | Role::Worker => {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            if let (Role::Tracker, true, Some(leader)) = (role, settings.tracked, settings.parent) {
                let _ = std::fs::remove_file(segment(leader));
            }
            orders::hang_if_told();
        }
        Role::StrayParent => {
            let _ = unistd::setsid();
            std::mem::forget(start(Role::Stray));
        }
        Role::Stray => {
            let _ = unistd::setsid();
            wait_for_ever()
        }
        Role::OrphanParent => {
            for _ in 0..settings.zombies {
                std::mem::forget(start(Role::Orphan));
            }
        }
        // Late enough that its parent has gone and the subreaper owns it.
        Role::Orphan => std::thread::sleep(Duration::from_millis(20)),
    }
    ExitCode::SUCCESS
}

/// The shared memory of the leader with this pid.
pub fn segment(leader: u32) -> PathBuf {
    format!("/dev/shm/psm_fake_{leader}").into()
}

/// Maps a file for the rest of this process's life, as Python's shared memory is; one that is not there is fine.
#[expect(
    unsafe_code,
    reason = "there is no safe way to map a file, and a supervisor recognises segments by their maps"
)]
pub fn map(path: &Path) {
    let Ok(file) = std::fs::File::options().read(true).write(true).open(path) else { return };
    // SAFETY: a fresh mapping at an address of the kernel's choice, never read nor written nor unmapped.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(address, libc::MAP_FAILED, "{} can be mapped", path.display());
}

/// Keeps signals from this process; waited for with [`SigSet::wait`] or never.
pub fn block(signals: &[Signal]) -> SigSet {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block().expect("a signal mask");
    set
}

/// Kills or stops one process; that it has gone already is fine.
pub fn signal(pid: i32, signal: Signal) {
    let _ = nix::sys::signal::kill(unistd::Pid::from_raw(pid), signal);
}

fn wait_for_ever() -> ! {
    loop {
        unistd::pause();
    }
}
