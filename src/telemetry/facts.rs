//! What a request found out about itself while it ran, for the line in the access log.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Filled in by the dialect, read by the server when the answer has ended. Never holds text of a prompt or an answer.
#[derive(Debug, Default)]
pub struct Facts {
    model: OnceLock<String>,
    key: OnceLock<String>,
    refused: OnceLock<&'static str>,
    tokens_in: AtomicU64,
    tokens_out: AtomicU64,
    /// About how many tokens the prompt has, told before the engine says it.
    asked: AtomicU64,
    /// Events of a stream that have come.
    events: AtomicU64,
    complete: AtomicBool,
}

impl Facts {
    /// Notes the installed model the request is for; the first note counts.
    pub fn set_model(&self, name: String) {
        let _already_set = self.model.set(name);
    }

    /// The model, once it is known.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.get().map(String::as_str)
    }

    /// Notes the name of the request's key.
    pub fn set_key(&self, name: &str) {
        let _already_set = self.key.set(name.to_owned());
    }

    /// The name of the request's key; `None` without one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.get().map(String::as_str)
    }

    /// Notes in a word why the request was refused for its key's sake; the first note counts.
    pub fn set_refused(&self, reason: &'static str) {
        let _already_set = self.refused.set(reason);
    }

    /// Why the request was refused for its key's sake: `no_key`, `unknown_key`, `scope`, `model`, `requests`, `concurrent` or
    /// `tokens`; `None` when it was not.
    #[must_use]
    pub fn refused(&self) -> Option<&'static str> {
        self.refused.get().copied()
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

    /// Notes the number of tokens of the prompt and of the answer.
    pub fn set_tokens(&self, prompt: u64, answer: u64) {
        self.tokens_in.store(prompt, Ordering::Relaxed);
        self.tokens_out.store(answer, Ordering::Relaxed);
    }

    /// Notes that the last line of a stream has been made: many clients hang up as soon as they have read it, which is
    /// not going away early.
    pub fn set_complete(&self) {
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
}
