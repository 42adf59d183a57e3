//! Whether an engine that has work does any.
//!
//! A wedged engine answers `/health` as ever (vllm-engine §1.4). Alive is one whose answers bring bytes, or whose steps
//! move on while requests run. While bytes come nothing is asked; else its metrics are read now and then, which costs the
//! engine the event loop that its answers need.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::client::Client;

/// An engine that has not made a step yet may compile its kernels first: this many times the limit.
const WARMING_UP: u32 = 3;
/// Shortest and longest time between two looks.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// Longest wait for the metrics, unless looks are rarer than that.
const ANSWER: Duration = Duration::from_secs(1);

/// What a client knows of its engine by itself.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    requests: AtomicUsize,
    beats: AtomicU64,
}

/// One request on its way; ends when dropped.
#[derive(Debug)]
pub(super) struct InFlight(std::sync::Arc<Pulse>);

impl Pulse {
    /// Notes a request until the guard is dropped.
    pub(super) fn request(self: &std::sync::Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    fn read(&self) -> (usize, u64) {
        (self.requests.load(Ordering::Relaxed), self.beats.load(Ordering::Relaxed))
    }
}

impl InFlight {
    /// Notes that bytes of the answer have come.
    pub(super) fn beat(&self) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An engine that does nothing though it has work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wedged {
    /// Time without a sign of life.
    pub silence: Duration,
    /// Requests that wait for it.
    pub requests: usize,
}

/// Watches an engine for as long as it is polled; ends when it has given no sign of life for `limit` while it had work.
/// Zero = never.
pub(super) async fn watch(client: Client, limit: Duration) -> Wedged {
    if limit.is_zero() {
        return std::future::pending().await;
    }
    let every = (limit / 12).clamp(LOOKS.0, LOOKS.1);
    let mut heart = Heart::new(limit, Instant::now());
    loop {
        sleep(every).await;
        let (requests, beats) = client.pulse().read();
        if heart.is_alive(requests, beats, Instant::now()) {
            continue;
        }
        let steps = match timeout(every.max(ANSWER), client.get("/metrics")).await {
            Ok(Ok((status, text))) if status.is_success() => Steps::read(&String::from_utf8_lossy(&text)),
            _ => None,
        };
        if let Some(silence) = heart.judge(steps, Instant::now()) {
            return Wedged { silence, requests };
        }
    }
}

/// What an engine's metrics say about its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Steps {
    /// Steps since it was started.
    count: u64,
    /// Whether it has requests, in its batch or in its queue.
    busy: bool,
}

impl Steps {
    /// From Prometheus' text: sums over all parts of the engine. `None` where the steps are not told.
    fn read(text: &str) -> Option<Self> {
        let sum = |name: &str| {
            let values = text.lines().filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
            });
            values.fold(None, |sum: Option<f64>, value| Some(sum.unwrap_or_default() + value))
        };
        let count = sum("vllm:iteration_tokens_total_count")?;
        let requests = ["vllm:num_requests_running", "vllm:num_requests_waiting"].map(sum);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count that Prometheus tells as a double"
        )]
        Some(Self { count: count as u64, busy: requests.into_iter().flatten().any(|number| number > 0.0) })
    }
}

/// The signs of life so far.
struct Heart {
    limit: Duration,
    /// Bytes or steps have been seen.
    is_warm: bool,
    beats: u64,
    steps: Option<u64>,
    last_sign: Instant,
}

impl Heart {
    fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, is_warm: false, beats: 0, steps: None, last_sign: now }
    }

    /// Whether it is alive as far as its client can tell: it has nothing to do, or bytes have come.
    fn is_alive(&mut self, requests: usize, beats: u64, now: Instant) -> bool {
        let beaten = std::mem::replace(&mut self.beats, beats) != beats;
        self.is_warm |= beaten;
        let alive = requests == 0 || beaten;
        if alive {
            self.last_sign = now;
            // Steps of the next request count from its own first look.
            self.steps = None;
        }
        alive
    }

    /// Judges it by its metrics, `None` where it did not tell them: the time without a sign of life, when that is too long.
    fn judge(&mut self, steps: Option<Steps>, now: Instant) -> Option<Duration> {
        if let Some(Steps { count, busy }) = steps {
            let moved = self.steps.replace(count).is_some_and(|before| before != count);
            self.is_warm |= moved;
            // A request that the engine does not know yet is with its front, which has just answered.
            if moved || !busy {
                self.last_sign = now;
            }
        }
        let limit = if self.is_warm { self.limit } else { self.limit.saturating_mul(WARMING_UP) };
        let silence = now.saturating_duration_since(self.last_sign);
        (silence >= limit).then_some(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    /// A heart that has been seen beating, and its start.
    fn warm() -> (Heart, Instant) {
        let begun = Instant::now();
        let mut heart = Heart::new(LIMIT, begun);
        assert!(heart.is_alive(1, 1, begun));
        (heart, begun)
    }

    fn after(begun: Instant, seconds: u64) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    fn busy(count: u64) -> Option<Steps> {
        Some(Steps { count, busy: true })
    }

    #[test]
    fn an_engine_without_work_is_alive_whatever_it_says() {
        let (mut heart, begun) = warm();
        assert!(heart.is_alive(0, 1, after(begun, 1000)));
        assert!(!heart.is_alive(1, 1, after(begun, 1001)));
        assert_eq!(heart.judge(busy(7), after(begun, 1001)), None, "its time begins with the request");
    }

    #[test]
    fn bytes_and_steps_are_signs_of_life() {
        let (mut heart, begun) = warm();
        for second in (10..1000).step_by(100) {
            assert!(heart.is_alive(1, 1 + second, after(begun, second)));
        }
        for second in (1000..3000).step_by(100) {
            assert!(!heart.is_alive(1, 911, after(begun, second)) || second == 1000);
            assert_eq!(heart.judge(busy(second), after(begun, second)), None, "after {second} s");
        }
    }

    #[test]
    fn without_a_step_it_is_wedged_after_the_limit() {
        for told in [busy(7), None] {
            let (mut heart, begun) = warm();
            for second in [10, 60, 119] {
                assert!(!heart.is_alive(1, 1, after(begun, second)));
                assert_eq!(heart.judge(told, after(begun, second)), None, "after {second} s");
            }
            assert_eq!(heart.judge(told, after(begun, 120)), Some(LIMIT), "{told:?}");
        }
    }

    #[test]
    fn before_its_first_step_it_has_longer() {
        let begun = Instant::now();
        let mut heart = Heart::new(LIMIT, begun);
        assert!(!heart.is_alive(1, 0, after(begun, 1)));
        assert_eq!(heart.judge(busy(0), after(begun, 359)), None);
        assert_eq!(heart.judge(busy(0), after(begun, 360)), Some(LIMIT * 3));
        assert_eq!(heart.judge(busy(1), after(begun, 361)), None, "it moves");
        assert_eq!(heart.judge(busy(1), after(begun, 481)), Some(LIMIT), "and is warm from now on");
    }

    #[test]
    fn a_request_that_the_engine_does_not_know_yet_is_none_of_its() {
        let (mut heart, begun) = warm();
        let idle = Some(Steps { count: 7, busy: false });
        assert!(!heart.is_alive(1, 1, after(begun, 500)));
        assert_eq!(heart.judge(idle, after(begun, 500)), None);
    }

    #[test]
    fn steps_are_read_over_all_parts_of_an_engine() {
        let text = "# HELP vllm:iteration_tokens_total Histogram\n\
                    vllm:iteration_tokens_total_bucket{engine=\"0\",le=\"1.0\"} 3.0\n\
                    vllm:iteration_tokens_total_count{engine=\"0\"} 40.0\n\
                    vllm:iteration_tokens_total_count{engine=\"1\"} 2.0\n\
                    vllm:num_requests_running{engine=\"0\"} 0.0\n\
                    vllm:num_requests_waiting_by_reason{engine=\"0\"} 9.0\n\
                    vllm:num_requests_waiting{engine=\"1\"} 1.0\n";
        assert_eq!(Steps::read(text), Some(Steps { count: 42, busy: true }));
        assert_eq!(Steps::read("vllm:iteration_tokens_total_count 1\n"), Some(Steps { count: 1, busy: false }));
        assert_eq!(Steps::read("vllm:num_requests_running 1\n"), None);
    }
}
