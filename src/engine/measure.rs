//! What an engine's processes hold in main memory, each shared page counted once.
//!
//! The kernel walks a process's pages for it, milliseconds for each GiB: for a task of its own every few seconds, never
//! for a request.

use std::convert::Infallible;
use std::fs;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::status::{State, Status};
use crate::init::Session;

/// Time between two measurements.
const EVERY: Duration = Duration::from_secs(10);

/// Bytes of main memory that these processes hold: a page that several share counts in parts (`Pss`). A process whose
/// shares the kernel does not tell counts with all its pages; one that is gone, not at all.
#[must_use]
pub fn proportional_bytes(pids: &[i32]) -> u64 {
    let of = |pid: i32| {
        let read = |file: &str, field| figure(&fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?, field);
        read("smaps_rollup", "Pss:").or_else(|| read("status", "VmRSS:"))
    };
    pids.iter().filter_map(|pid| of(*pid)).sum()
}

/// Measures now and every ten seconds, for as long as it is polled, and writes the figures into the status.
pub(super) async fn keep_measuring(session: Session, status: watch::Sender<Status>) -> Infallible {
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let session = session.clone();
        let bytes = tokio::task::spawn_blocking(move || proportional_bytes(&session.members())).await;
        // Without processes there is nothing to tell: they have just died.
        let Some(bytes) = bytes.ok().filter(|bytes| *bytes > 0) else { continue };
        status.send_if_modified(|status| note(status, bytes));
    }
}

/// Notes a measurement; whether it changed anything. Memory of an engine that sleeps is no measure of what it needs.
fn note(status: &mut Status, bytes: u64) -> bool {
    let before = (status.measured_bytes, status.peak_memory_bytes);
    status.measured_bytes = Some(bytes);
    if status.state == State::Ready {
        status.peak_memory_bytes = status.peak_memory_bytes.max(Some(bytes));
    }
    before != (status.measured_bytes, status.peak_memory_bytes)
}

/// The bytes in the line of `field`, given in kB as everywhere in `/proc`.
fn figure(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_their_names_alone() {
        let text = "5581-7ffe ---p 00000000 00:00 0    [rollup]\nRss:    2048 kB\nPss:       1500 kB\nPss_Anon: 7 kB\n";
        assert_eq!(figure(text, "Pss:"), Some(1500 * 1024));
        assert_eq!(figure(text, "Swap:"), None);
        assert_eq!(figure("Pss: many kB\n", "Pss:"), None);
    }

    #[test]
    fn our_own_memory_is_counted_and_a_process_that_is_gone_is_not() {
        let own = std::process::id().cast_signed();
        assert!(proportional_bytes(&[own]) > 1 << 20);
        // No pid is above the kernel's limit of 2^22.
        assert_eq!(proportional_bytes(&[1 << 23]), 0);
    }

    #[test]
    fn the_peak_is_of_the_time_it_was_ready() {
        let mut status = Status { state: State::Ready, ..Status::default() };
        assert!(note(&mut status, 500) && !note(&mut status, 500) && note(&mut status, 300));
        assert_eq!((status.measured_bytes, status.peak_memory_bytes), (Some(300), Some(500)));
        status.state = State::Asleep { level: 1 };
        assert!(note(&mut status, 900));
        assert_eq!((status.measured_bytes, status.peak_memory_bytes), (Some(900), Some(500)));
    }
}
