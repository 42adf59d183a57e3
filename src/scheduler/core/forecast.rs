//! How long things will take, from what starts took before.

use std::time::{Duration, Instant};

use super::{Core, EngineId, Life, Seat};

impl Core {
    /// How long a request that comes now would wait for this engine if nobody else were in the way; zero when it would
    /// not wait.
    pub(in crate::scheduler) fn estimate(&self, engine: EngineId, now: Instant) -> Duration {
        let Some(seat) = self.seats.get(&engine) else { return Duration::ZERO };
        match seat.life {
            Life::Ready if seat.takes_one_more() => Duration::ZERO,
            // When a place on a busy engine gets free nobody knows; what is running took some time already.
            Life::Ready => Duration::from_secs(1),
            Life::Starting | Life::Waking => left(seat, now),
            // It starts by itself, whoever else does.
            Life::Restarting => {
                let pause = seat.paused_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
                pause + seat.needs.start
            }
            _ => {
                let starts = self.seats.values().filter(|other| other.life.is_starting());
                let before = starts.map(|other| left(other, now)).max().unwrap_or_default();
                before + seat.needs.start
            }
        }
    }
}

/// What is left of a start, if it takes as long as the ones before; at least a moment.
fn left(seat: &Seat, now: Instant) -> Duration {
    seat.needs.start.saturating_sub(now.saturating_duration_since(seat.since)).max(Duration::from_secs(1))
}
