//! Counts requests, so that a drain knows when the last one has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The requests that run.
#[derive(Debug, Default)]
pub struct Running {
    count: AtomicUsize,
    none: Notify,
}

/// One of them; counts until it is dropped.
#[derive(Debug)]
pub struct Run {
    running: Arc<Running>,
}

impl Running {
    /// Counts one more.
    pub fn begin(self: &Arc<Self>) -> Run {
        self.count.fetch_add(1, Ordering::SeqCst);
        Run { running: self.clone() }
    }

    /// Waits for a moment in which there is none.
    pub async fn none(&self) {
        loop {
            // Made before the look: an end that comes between the two wakes it all the same.
            let none = self.none.notified();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.running.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.running.none.notify_waiters();
        }
    }
}
