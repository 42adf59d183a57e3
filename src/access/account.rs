//! What one key has used: requests of the last minute, requests that run, tokens of the day.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::denied::Denied;
use super::limits::Limits;

const MINUTE: f64 = 60.0;
const DAY: u64 = 24 * 60 * 60;

/// The time, on both of its clocks: minutes are measured by one that nobody sets, days are those of the calendar.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For minutes.
    pub instant: Instant,
    /// For days.
    pub wall: SystemTime,
}

impl Now {
    /// Now.
    #[must_use]
    pub fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// Days since 1970, and the time until the next one.
    pub(super) fn day(&self) -> (u64, Duration) {
        let since = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let day = since.as_secs() / DAY;
        (day, Duration::from_secs((day + 1) * DAY).saturating_sub(since))
    }
}

/// What is left of one limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The limit.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Until all of it is there again.
    pub reset: Duration,
}

/// What is left of a key's limits, for the headers that clients know.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quota {
    /// Of requests a minute, where they are limited.
    pub requests: Option<Share>,
    /// Of tokens a day, where they are limited.
    pub tokens: Option<Share>,
}

/// What one key has used. The lock is held for some additions.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Counters>);

#[derive(Debug, Default)]
struct Counters {
    /// Requests that have not flowed off yet, at that time: they do so evenly, all of them in a minute. `None` before the
    /// first one.
    requests: Option<(f64, Instant)>,
    running: u64,
    /// Days since 1970, and the tokens of that day.
    tokens: (u64, u64),
}

impl Account {
    fn counters(&self) -> MutexGuard<'_, Counters> {
        // Additions do not panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request, if it may run.
    pub fn enter(&self, limits: &Limits, now: Now) -> Result<Quota, Denied> {
        let mut counters = self.counters();
        let (today, midnight) = now.day();
        if let Some(limit) = limits.concurrent
            && counters.running >= limit.get()
        {
            return Err(Denied::Concurrent { limit: limit.get(), quota: counters.quota(limits, now) });
        }
        if let Some(limit) = limits.tokens_per_day
            && counters.spent(today) >= limit.get()
        {
            return Err(Denied::Tokens { retry: midnight, quota: counters.quota(limits, now) });
        }
        if let Some(limit) = limits.requests_per_minute {
            let pending = counters.pending(limit.get(), now.instant);
            let over = pending + 1.0 - as_float(limit.get());
            if over > 0.0 {
                let retry = Duration::from_secs_f64(over * MINUTE / as_float(limit.get()));
                return Err(Denied::Requests { retry, quota: counters.quota(limits, now) });
            }
            counters.requests = Some((pending + 1.0, now.instant));
        }
        counters.running += 1;
        Ok(counters.quota(limits, now))
    }

    /// A request has ended.
    pub fn leave(&self) {
        let mut counters = self.counters();
        counters.running = counters.running.saturating_sub(1);
    }

    /// Counts tokens that a request has used.
    pub fn spend(&self, tokens: u64, now: Now) {
        let (today, _) = now.day();
        let mut counters = self.counters();
        counters.tokens = (today, counters.spent(today).saturating_add(tokens));
    }

    /// Tokens of a day, counted before a restart.
    pub fn restore(&self, day: u64, tokens: u64) {
        self.counters().tokens = (day, tokens);
    }

    /// Tokens of this day so far.
    pub fn spent(&self, day: u64) -> u64 {
        self.counters().spent(day)
    }
}

impl Counters {
    /// Requests that have not flowed off yet, when `limit` do so in a minute.
    fn pending(&self, limit: u64, now: Instant) -> f64 {
        let Some((pending, at)) = self.requests else { return 0.0 };
        let gone = now.saturating_duration_since(at).as_secs_f64() * as_float(limit) / MINUTE;
        // The limit may have become lower.
        (pending - gone).clamp(0.0, as_float(limit))
    }

    fn spent(&self, day: u64) -> u64 {
        let (counted, tokens) = self.tokens;
        if counted == day { tokens } else { 0 }
    }

    fn quota(&self, limits: &Limits, now: Now) -> Quota {
        let requests = limits.requests_per_minute.map(|limit| {
            let pending = self.pending(limit.get(), now.instant);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the limit")]
            let remaining = (as_float(limit.get()) - pending) as u64;
            let reset = Duration::from_secs_f64(pending * MINUTE / as_float(limit.get()));
            Share { limit: limit.get(), remaining, reset }
        });
        let (today, midnight) = now.day();
        let tokens = limits.tokens_per_day.map(|limit| {
            let remaining = limit.get().saturating_sub(self.spent(today));
            Share { limit: limit.get(), remaining, reset: midnight }
        });
        Quota { requests, tokens }
    }
}

#[expect(clippy::cast_precision_loss, reason = "limits beyond 2^53 limit nothing")]
fn as_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Limits {
        serde_json::from_str(text).expect("limits")
    }

    fn later(now: Now, seconds: u64) -> Now {
        let time = Duration::from_secs(seconds);
        Now { instant: now.instant + time, wall: now.wall + time }
    }

    /// Noon of some day.
    fn noon() -> Now {
        Now { instant: Instant::now(), wall: UNIX_EPOCH + Duration::from_secs(20_000 * DAY + DAY / 2) }
    }

    #[test]
    fn requests_come_at_once_and_then_evenly() {
        let (account, limits, now) = (Account::default(), limits(r#"{"requests_per_minute":6}"#), noon());
        for left in (0..6).rev() {
            let quota = account.enter(&limits, now).expect("within the limit");
            let share = quota.requests.expect("a limit");
            assert_eq!((share.limit, share.remaining), (6, left));
        }
        let denied = account.enter(&limits, now).expect_err("too many");
        assert_eq!((denied.retry_after(), denied.reason()), (Some(10), "requests"));
        assert_eq!(denied.quota().and_then(|quota| quota.requests).map(|share| share.reset.as_secs()), Some(60));
        // One that was refused costs nothing.
        assert_eq!(account.enter(&limits, later(now, 9)).expect_err("too soon").retry_after(), Some(1));
        assert!(account.enter(&limits, later(now, 10)).is_ok());
        assert!(account.enter(&limits, later(now, 10)).is_err());
        let share = account.enter(&limits, later(now, 3600)).expect("an hour later").requests.expect("a limit");
        assert_eq!(share.remaining, 5);
    }

    #[test]
    fn a_lower_limit_holds_at_once_and_a_higher_one_too() {
        let (account, now) = (Account::default(), noon());
        let (many, few) = (limits(r#"{"requests_per_minute":100}"#), limits(r#"{"requests_per_minute":2}"#));
        for _ in 0..50 {
            account.enter(&many, now).expect("within the limit");
        }
        assert_eq!(account.enter(&few, now).expect_err("too many").retry_after(), Some(30));
        assert!(account.enter(&many, now).is_ok());
    }

    #[test]
    fn places_are_given_back() {
        let (account, limits, now) = (Account::default(), limits(r#"{"concurrent":2}"#), noon());
        assert!(account.enter(&limits, now).is_ok() && account.enter(&limits, now).is_ok());
        assert_eq!(account.enter(&limits, now).expect_err("too many").reason(), "concurrent");
        account.leave();
        assert!(account.enter(&limits, now).is_ok());
    }

    #[test]
    fn tokens_are_those_of_the_day() {
        let (account, limits, now) = (Account::default(), limits(r#"{"tokens_per_day":100}"#), noon());
        account.enter(&limits, now).expect("within the limit");
        account.spend(60, now);
        let share = account.enter(&limits, now).expect("within the limit").tokens.expect("a limit");
        assert_eq!((share.remaining, share.reset.as_secs()), (40, DAY / 2));
        // What runs ends, and may go beyond.
        account.spend(60, now);
        let denied = account.enter(&limits, now).expect_err("too many");
        assert_eq!((denied.retry_after(), denied.reason()), (Some(DAY / 2), "tokens"));
        let tomorrow = later(now, DAY / 2);
        assert_eq!(account.enter(&limits, tomorrow).expect("a new day").tokens.map(|share| share.remaining), Some(100));
        assert_eq!(account.spent(now.day().0), 120);
    }
}
