//! What a request found out about itself while it ran, for the line in the access log.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Filled in by the dialect, read by the server when the answer has ended. Never holds text of a prompt or an answer.
#[derive(Debug, Default)]
pub struct Facts {
    model: OnceLock<String>,
    tokens_in: AtomicU64,
    tokens_out: AtomicU64,
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
