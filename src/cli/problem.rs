//! What went wrong before anything could be served, in the house's form: what happened, why, what to do.

use std::fmt;

/// A problem that ends a verb with exit code 1.
#[derive(Debug)]
pub(super) struct Problem {
    /// What happened.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, why: impl fmt::Display, fix: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.to_string(), fix: fix.into() }
    }

    /// Tells it on standard error and gives the exit code.
    pub(super) fn tell(&self) -> i32 {
        eprintln!("✗ {self}");
        1
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}\n  → {}", self.what, self.why, self.fix)
    }
}
