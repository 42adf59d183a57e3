//! Gives memory back when a crowd has gone.
//!
//! What ten thousand connections and their requests held lies all over the allocator's heaps, between what lives on, so it
//! would stay with vllama until the next crowd (decision 0052).

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::init::give_back_memory;

/// How often to look.
const EVERY: Duration = Duration::from_secs(1);

/// So many less are a crowd that has gone. What fewer leave behind is not worth the work.
const CROWD: usize = 100;

/// How many there are, and were at most since the last look: a crowd may come and go between two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    pub most: usize,
    pub now: usize,
}

/// How many there have been since memory was given back last.
#[derive(Debug, Default)]
struct Tide {
    most: usize,
}

impl Tide {
    /// Whether most of them have gone, now that there are so many.
    fn has_ebbed(&mut self, Crowd { most, now }: Crowd) -> bool {
        self.most = self.most.max(most);
        let ebbed = self.most.saturating_sub(now) >= CROWD.max(self.most / 2);
        if ebbed {
            self.most = now;
        }
        ebbed
    }
}

/// Looks now and then how many there are, of connections and requests, and gives memory back when most have gone. Never ends.
pub(super) async fn watch(count: impl Fn() -> Crowd) {
    let mut tide = Tide::default();
    let mut look = interval(EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if tide.has_ebbed(count()) {
            tracing::debug!("a crowd has gone; giving back the memory it took");
            // A panic in it would have been logged, and can do no harm here.
            let _ = tokio::task::spawn_blocking(give_back_memory).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_for_each_time_that_most_have_gone() {
        let mut tide = Tide::default();
        let steps = [
            (0, false),
            (99, false),
            (0, false),
            (10_000, false),
            (6_000, false),
            (5_000, true),
            (5_000, false),
            (2_600, false),
            (2_500, true),
            (0, true),
            (0, false),
            (120, false),
            (20, true),
            (119, false),
            (20, false),
        ];
        for (step, (now, ebbed)) in steps.into_iter().enumerate() {
            assert_eq!(tide.has_ebbed(Crowd { most: now, now }), ebbed, "step {step}: {now}");
        }
    }

    #[test]
    fn a_crowd_that_has_come_and_gone_between_two_looks_is_one() {
        let mut tide = Tide::default();
        assert!(tide.has_ebbed(Crowd { most: 300, now: 1 }));
        assert!(!tide.has_ebbed(Crowd { most: 1, now: 1 }));
    }
}
