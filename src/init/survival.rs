//! Who goes first when main memory runs out: not PID 1, on which everything else depends.

use std::fs;
use std::io;

/// Where the kernel is told.
const FILE: &str = "/proc/self/oom_score_adj";
/// Half way from the usual 0 to never: as the systemd unit has it.
const SPARED: i32 = -500;

/// Asks the kernel to spare this process when memory runs out, and gives the score that holds then. One that is spared
/// already stays as it is. Programs that are started later are told theirs by [`Spec`](super::Spec).
///
/// # Errors
/// It may not: that takes `CAP_SYS_RESOURCE`, which containers do not have unless they are given it.
pub fn ask_to_be_spared() -> io::Result<i32> {
    let own: i32 = fs::read_to_string(FILE)?.trim().parse().unwrap_or_default();
    if own > SPARED {
        fs::write(FILE, SPARED.to_string())?;
    }
    Ok(own.min(SPARED))
}
