//! Listening sockets that whoever started us has handed over (systemd's socket activation).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::sys;

/// The first descriptor behind the three standard ones.
const FIRST: i32 = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes over this many listening sockets, the descriptors from 3 on; programs that are started later do not get them.
/// Call it once, before anything else is opened: a number that nobody handed over could be a file of ours by then.
///
/// # Errors
/// One of them is no listening socket, or they have been taken already.
pub fn inherited_listeners(count: usize) -> io::Result<Vec<OwnedFd>> {
    if count > 0 && TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("the inherited sockets have been taken already"));
    }
    // More than that no process can have, and the first one that is missing ends it.
    let count = i32::try_from(count).unwrap_or(i32::MAX - FIRST);
    (FIRST..FIRST + count).map(sys::adopt_listener).collect()
}
