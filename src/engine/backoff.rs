//! How long to wait before an engine that has died is started again.
//!
//! Requests wait meanwhile, so a pause must be worth it. What dies while it starts may die at once, again and again: that is
//! tried ever more slowly, and after a few times whoever waits is told (decision 0005). What has been ready has shown that
//! it can start, and its next start takes what a start takes, which is pause enough; a pause on top only
//! keeps what starts in no time from doing nothing else.

use std::time::Duration;

/// Longest pause after a start that failed.
const LONGEST: Duration = Duration::from_secs(60);
/// Longest pause of an engine that was ready before it died; less than the shortest start of a real engine, and far less
/// than clients wait.
const LONGEST_OF_READY: Duration = Duration::from_secs(5);
/// An engine that was ready this long has served well, however long its start took.
const SERVED_WELL: Duration = Duration::from_secs(600);

/// The deaths of one engine, as far as they make its next start wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    /// Starts in a row that failed, and the death of a ready engine before them, which was answered by the first.
    failed_starts: u32,
    /// Deaths in a row of an engine that was ready, but not for as long as its start took.
    short_lives: u32,
}

impl Backoff {
    /// How long to wait after a death: nothing the first time, then 1, 2, 4 s and so on. `ready_for` is how long the
    /// engine was ready, `None` where it did not come so far; `start_took` how long that start took.
    pub(super) fn pause(&mut self, ready_for: Option<Duration>, start_took: Duration) -> Duration {
        match ready_for {
            None => {
                self.failed_starts += 1;
                doubled(self.failed_starts).min(LONGEST)
            }
            // So it serves at least half of the time, however often it dies.
            Some(ready_for) if ready_for >= start_took.min(SERVED_WELL) => {
                *self = Self { failed_starts: 1, short_lives: 0 };
                Duration::ZERO
            }
            Some(_) => {
                self.failed_starts = 1;
                self.short_lives += 1;
                doubled(self.short_lives).min(LONGEST_OF_READY)
            }
        }
    }
}

/// 0 s for the first time, then 1, 2, 4 s and so on.
fn doubled(times: u32) -> Duration {
    match times.saturating_sub(1) {
        0 => Duration::ZERO,
        again => Duration::from_secs(1 << (again - 1).min(16)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const START: Duration = Duration::from_secs(40);

    /// The pauses in seconds after deaths of engines that were ready for so many seconds.
    fn pauses(backoff: &mut Backoff, lives: &[Option<u32>]) -> Vec<u64> {
        lives.iter().map(|ready| backoff.pause(ready.map(|seconds| SECOND * seconds), START).as_secs()).collect()
    }

    #[test]
    fn starts_that_fail_come_ever_more_slowly_up_to_a_minute() {
        let pauses = pauses(&mut Backoff::default(), &[None; 10]);
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn an_engine_that_served_well_is_started_again_at_once() {
        let mut backoff = Backoff::default();
        assert_eq!(pauses(&mut backoff, &[None, None, Some(40), Some(41), None, None]), [0, 1, 0, 0, 1, 2]);
        let long = backoff.pause(Some(SERVED_WELL), SERVED_WELL * 2);
        assert_eq!(long, Duration::ZERO, "ten minutes are long for any engine");
    }

    #[test]
    fn however_often_an_engine_dies_young_nobody_waits_long_for_its_next_start() {
        let mut backoff = Backoff::default();
        assert_eq!(pauses(&mut backoff, &[Some(3); 8]), [0, 1, 2, 4, 5, 5, 5, 5]);
        assert_eq!(
            pauses(&mut backoff, &[None, None, Some(3), None]),
            [1, 2, 5, 1],
            "starts that failed are forgotten"
        );
        assert_eq!(pauses(&mut backoff, &[Some(40), Some(3)]), [0, 0]);
    }
}
