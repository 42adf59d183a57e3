//! What a request found out about itself while it ran, for the line in the access log and for the metrics.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Filled in by the server and the dialect, read by the server when the answer has ended. Never holds text of a prompt or
/// an answer.
#[derive(Debug)]
pub struct Facts {
    arrived: Instant,
    route: OnceLock<&'static str>,
    model: OnceLock<String>,
    installed: AtomicBool,
    key: OnceLock<String>,
    refusal: OnceLock<&'static str>,
    /// When it had its place in an engine, and how long it had waited then.
    place: OnceLock<(Instant, Duration)>,
    first_token: OnceLock<Instant>,
    last_token: OnceLock<Instant>,
    tokens_in: AtomicU64,
    tokens_out: AtomicU64,
    /// About how many tokens the prompt has, told before the engine says it.
    asked: AtomicU64,
    /// Events of a stream that have come.
    events: AtomicU64,
    complete: AtomicBool,
}

impl Default for Facts {
    /// Of a request that arrives now.
    fn default() -> Self {
        Self {
            arrived: Instant::now(),
            route: OnceLock::new(),
            model: OnceLock::new(),
            installed: AtomicBool::new(false),
            key: OnceLock::new(),
            refusal: OnceLock::new(),
            place: OnceLock::new(),
            first_token: OnceLock::new(),
            last_token: OnceLock::new(),
            tokens_in: AtomicU64::new(0),
            tokens_out: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            events: AtomicU64::new(0),
            complete: AtomicBool::new(false),
        }
    }
}

/// Notes something once; the first note counts.
fn note<T>(place: &OnceLock<T>, value: T) {
    let _already_set = place.set(value);
}

impl Facts {
    /// When the request's head had been read.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Notes the pattern of the request's route.
    pub fn set_route(&self, pattern: &'static str) {
        note(&self.route, pattern);
    }

    /// The pattern of its route, if there is one at its path.
    #[must_use]
    pub fn route(&self) -> Option<&'static str> {
        self.route.get().copied()
    }

    /// Notes the installed model the request is for; the first note counts.
    pub fn set_model(&self, name: String) {
        if self.model.set(name).is_ok() {
            self.installed.store(true, Ordering::Relaxed);
        }
    }

    /// Notes a model that the request is about and that need not be installed: metrics do not tell its name, as a client
    /// could think of any number of them.
    pub fn set_wanted(&self, name: String) {
        note(&self.model, name);
    }

    /// The model, once it is known.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.get().map(String::as_str)
    }

    /// Whether the model is an installed one.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        self.installed.load(Ordering::Relaxed)
    }

    /// Notes the name of the key that the request was made with.
    pub fn set_key(&self, name: String) {
        note(&self.key, name);
    }

    /// The name of its key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.get().map(String::as_str)
    }

    /// Notes that the request was refused because of its key, or for want of one, and why: one of a few words.
    pub fn set_refusal(&self, reason: &'static str) {
        note(&self.refusal, reason);
    }

    /// Why it was refused because of its key: `no_key`, `unknown_key`, `scope`, `model`, `requests`, `concurrent` or `tokens`;
    /// `None` when it was not.
    #[must_use]
    pub fn refusal(&self) -> Option<&'static str> {
        self.refusal.get().copied()
    }

    /// Notes that an engine is asked: the length of the request in bytes, and the most tokens that a prompt may have. A
    /// token is some four bytes of text.
    pub fn set_asked(&self, bytes: usize, most: u64) {
        self.asked.store((bytes as u64 / 4).min(most), Ordering::Relaxed);
    }

    /// Notes that an event of a stream has come: about one token.
    pub fn add_event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// Tokens the request has used. Of an answer that was not `whole` the engine has not told them: they are as many as
    /// events have come, and about those of the prompt, so that nobody saves tokens by hanging up.
    #[must_use]
    pub fn used(&self, whole: bool) -> u64 {
        let (prompt, answer) = self.tokens();
        if whole {
            return prompt + answer;
        }
        let prompt = if prompt > 0 { prompt } else { self.asked.load(Ordering::Relaxed) };
        prompt + answer.max(self.events.load(Ordering::Relaxed))
    }

    /// Notes that the request has its place in an engine, now, and how long it waited for it.
    pub fn set_waited(&self, time: Duration) {
        note(&self.place, (Instant::now(), time));
    }

    /// The time from its arrival until it had its place.
    #[must_use]
    pub fn leased(&self) -> Option<Duration> {
        self.place.get().map(|(leased, _)| leased.saturating_duration_since(self.arrived))
    }

    /// How long it waited for its place, once it has had it.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.place.get().map(|(_, waited)| *waited)
    }

    /// Notes that the first token of a streamed answer has come, now.
    pub fn set_first_token(&self) {
        note(&self.first_token, Instant::now());
    }

    /// The time from its arrival to the first token of a streamed answer, and, of a whole stream of several tokens, the
    /// mean time between two of them.
    #[must_use]
    pub fn pace(&self) -> Option<(Duration, Option<Duration>)> {
        let first = *self.first_token.get()?;
        let gaps = self.tokens().1.checked_sub(1).and_then(|gaps| u32::try_from(gaps).ok()).filter(|gaps| *gaps > 0);
        let gap = gaps.and_then(|gaps| Some(self.last_token.get()?.saturating_duration_since(first) / gaps));
        Some((first.saturating_duration_since(self.arrived), gap))
    }

    /// Notes the number of tokens of the prompt and of the answer.
    pub fn set_tokens(&self, prompt: u64, answer: u64) {
        self.tokens_in.store(prompt, Ordering::Relaxed);
        self.tokens_out.store(answer, Ordering::Relaxed);
    }

    /// Notes that the last line of a stream has been made: many clients hang up as soon as they have read it, which is
    /// not going away early.
    pub fn set_complete(&self) {
        note(&self.last_token, Instant::now());
        self.complete.store(true, Ordering::Relaxed);
    }

    /// Whether the last line of a stream has been made.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// Tokens of the prompt and of the answer; zero while unknown.
    #[must_use]
    pub fn tokens(&self) -> (u64, u64) {
        (self.tokens_in.load(Ordering::Relaxed), self.tokens_out.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_hangs_up_has_used_what_is_known_of_it() {
        let facts = Facts::default();
        assert_eq!((facts.used(true), facts.used(false)), (0, 0));
        facts.set_asked(400, 1000);
        facts.add_event();
        facts.add_event();
        assert_eq!((facts.used(true), facts.used(false)), (0, 102));
        facts.set_tokens(37, 0);
        assert_eq!(facts.used(false), 39, "Anthropic's streams begin with the prompt's");
        facts.set_tokens(37, 8);
        assert_eq!((facts.used(true), facts.used(false)), (45, 45));
        facts.set_asked(40_000_000, 1000);
        assert_eq!(Facts::default().used(false), 0);
    }

    #[test]
    fn the_pace_of_a_stream_is_its_first_token_and_the_mean_gap_between_all() {
        let arrived = Instant::now();
        let at = |milliseconds| arrived + Duration::from_millis(milliseconds);
        let facts = Facts { arrived, ..Facts::default() };
        assert_eq!(facts.pace(), None);
        note(&facts.first_token, at(100));
        facts.set_tokens(7, 5);
        assert_eq!(facts.pace(), Some((Duration::from_millis(100), None)), "a client that leaves has no gaps");
        note(&facts.last_token, at(500));
        assert_eq!(facts.pace(), Some((Duration::from_millis(100), Some(Duration::from_millis(100)))));
        facts.set_tokens(7, 1);
        assert_eq!(facts.pace(), Some((Duration::from_millis(100), None)), "one token has no gaps");
    }
}
