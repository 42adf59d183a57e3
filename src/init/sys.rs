//! The system calls that neither std nor nix offers safely, each behind a small safe function.
//!
//! nix decodes wait statuses and signals into enums that know no real-time signals, and fails *after* the child has been
//! reaped; so numbers stay numbers here.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::SigSet;

use super::Exit;

/// What one look for dead children found.
pub(super) enum Waited {
    /// This child is gone and has been reaped.
    Gone(i32, Exit),
    /// A child changed its state without ending (stopped or continued under a tracer): nothing was reaped.
    Unchanged,
    /// No child is waiting to be reaped.
    Nothing,
}

/// Reaps one dead child, any, without waiting. Only `reap` may call this, holding its lock.
pub(super) fn wait_any() -> Waited {
    // __WALL: children of any kind, also those whose exit signal is not SIGCHLD.
    wait(-1, libc::WNOHANG | libc::__WALL)
}

/// Reaps this child and waits until it is dead. Only `reap` may call this, holding its lock.
pub(super) fn wait_for(pid: i32) {
    while let Waited::Unchanged = wait(pid, libc::__WALL) {}
}

fn wait(pid: i32, options: i32) -> Waited {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes one int to a valid place and keeps no pointer.
        let found = unsafe { libc::waitpid(pid, &raw mut status, options) };
        if found > 0 {
            return match Exit::decode(status) {
                Some(exit) => Waited::Gone(found, exit),
                None => Waited::Unchanged,
            };
        }
        if found < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        // Zero: children, none of them dead. ECHILD: no children.
        return Waited::Nothing;
    }
}

/// Sends a signal to one process; false when it did not arrive. Refuses the pids that mean "everybody", "my group" and
/// "the init", whatever a caller believes.
pub(super) fn kill(pid: i32, signal: i32) -> bool {
    // SAFETY: kill takes two numbers.
    pid > 1 && unsafe { libc::kill(pid, signal) } == 0
}

/// Sends a signal to every process of one group; the same refusals as [`kill`].
pub(super) fn kill_group(group: i32, signal: i32) -> bool {
    // SAFETY: kill takes two numbers; group > 1 keeps -group away from -1, which means everybody.
    group > 1 && unsafe { libc::kill(-group, signal) } == 0
}

/// Wakes the main loop: a SIGCHLD to ourselves makes it look for dead children, parked exits and the order to stop.
pub(super) fn wake() {
    // SAFETY: kill and getpid take and return numbers. Our own pid may be 1; the signal is blocked in every thread and
    // taken by the main loop alone.
    unsafe { libc::kill(libc::getpid(), libc::SIGCHLD) };
}

/// Waits for one signal of the set, which must be blocked; `None` after the time, or when interrupted.
pub(super) fn wait_signal(set: &SigSet, longest: Duration) -> Option<i32> {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(longest.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: longest.subsec_nanos().into(),
    };
    // SAFETY: the set and the time outlive the call; a null siginfo is allowed.
    let signal = unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &raw const timeout) };
    (signal > 0).then_some(signal)
}

/// Takes over a descriptor that this process was started with, which must be a listening socket. Only `inherit` may call
/// this, once for each number and before anything else is opened.
pub(super) fn adopt_listener(descriptor: i32) -> io::Result<OwnedFd> {
    let mut listens: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
    // SAFETY: writes one int, of the length that is given, to a valid place, and keeps no pointer.
    let asked = unsafe { libc::getsockopt(descriptor, level, option, (&raw mut listens).cast(), &raw mut length) };
    // SAFETY: two numbers in; on a number that is no descriptor it fails.
    if asked != 0 || unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if listens == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {descriptor} does not listen")));
    }
    // SAFETY: it is open, and by the order above nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Whether the signal is ignored in this process.
pub(super) fn is_ignored(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is a valid value, and with a null action nothing is changed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Sets a signal's disposition to its default.
pub(super) fn set_default(signal: i32) {
    // SAFETY: SIG_DFL installs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// A reference to a process that no other process can inherit with the number; an error where the kernel (before 5.3)
/// or a sandbox has none.
pub(super) fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: two numbers in, a descriptor or -1 out.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(descriptor) {
        // SAFETY: the kernel has just made this descriptor for us, closed on exec; nobody else owns it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal through a reference made by [`open_process`].
pub(super) fn signal_process(process: &OwnedFd, signal: i32) -> bool {
    let no_details = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open; a null siginfo means "as kill would send it".
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, no_details, 0) == 0 }
}

/// Gives all whole pages of the allocator that hold nothing back to the kernel.
pub(super) fn trim_heaps() {
    // SAFETY: takes a number; the C library locks its heaps one after the other.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Has the allocator keep up to this many free bytes at the end of a heap, and take this many more than it needs.
pub(super) fn keep_heap_ends(kept: i32, taken: i32) {
    // SAFETY: takes numbers; refuses what it cannot use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, kept);
        libc::mallopt(libc::M_TOP_PAD, taken);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = (kept, taken);
}

/// The environment of this process entry by entry, exactly as it is, each with its closing NUL.
/// Must be called while no other thread exists.
pub(super) fn environment() -> Vec<Vec<u8>> {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut entries = Vec::new();
    // SAFETY: environ is null or an array of C strings closed by a null; with a single thread nobody changes it.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            entries.push(std::ffi::CStr::from_ptr(*entry).to_bytes_with_nul().to_vec());
            entry = entry.add(1);
        }
    }
    entries
}
