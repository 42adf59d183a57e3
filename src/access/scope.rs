//! What keys are for, and which of it a route asks for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One thing a key may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Asking models, and reading what there is.
    Infer,
    /// Changing what there is: pull, create, copy, delete, upload, unload.
    Manage,
    /// Reading how the server is doing: metrics, the queue, health in detail.
    Metrics,
}

/// The text names no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no scope; there are infer, manage and metrics")]
pub struct UnknownScope(pub String);

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Infer, Self::Manage, Self::Metrics];

    /// Its name in the key file and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Manage => "manage",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.name() == text.trim()).ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// What a route asks of a key. Every route says it: the route tables have no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it answers anybody.
    Open,
    /// One of these scopes.
    Needs(&'static [Scope]),
}

impl Access {
    /// Asks an engine. Only these routes count against a key's limits, so that a page that looks at lists every second does
    /// not use up what is meant for questions.
    pub const INFER: Self = Self::Needs(&[Scope::Infer]);
    /// Changes what there is.
    pub const MANAGE: Self = Self::Needs(&[Scope::Manage]);
    /// Tells how the server is doing.
    pub const METRICS: Self = Self::Needs(&[Scope::Metrics]);
    /// Tells what there is: whoever asks models or changes them has to know.
    pub const READ: Self = Self::Needs(&[Scope::Infer, Scope::Manage]);
    /// Any key will do.
    pub const ANY: Self = Self::Needs(&Scope::ALL);

    /// The scopes, one of which is needed; none where it is open.
    #[must_use]
    pub const fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Open => &[],
            Self::Needs(scopes) => scopes,
        }
    }

    /// Whether a request counts against the limits of its key.
    #[must_use]
    pub const fn is_counted(self) -> bool {
        matches!(self, Self::Needs([Scope::Infer]))
    }
}

impl fmt::Display for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => formatter.write_str("nothing"),
            Self::Needs(scopes) => formatter.write_str(&listed(scopes, "or")),
        }
    }
}

/// `infer`, `infer or manage`, `infer, manage or metrics`.
pub(super) fn listed(scopes: &[Scope], word: &str) -> String {
    match scopes {
        [] => "none".to_owned(),
        [one] => one.to_string(),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|scope| scope.name()).collect();
            format!("{} {word} {last}", first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
            assert_eq!(serde_json::to_string(&scope).ok(), Some(format!("\"{scope}\"")));
        }
        assert_eq!("admin".parse::<Scope>(), Err(UnknownScope("admin".to_owned())));
    }

    #[test]
    fn only_what_asks_an_engine_is_counted() {
        assert!(Access::INFER.is_counted());
        assert!(
            [Access::Open, Access::MANAGE, Access::METRICS, Access::READ, Access::ANY]
                .iter()
                .all(|access| !access.is_counted())
        );
        assert_eq!(
            (Access::READ.to_string(), Access::ANY.to_string()),
            ("infer or manage".to_owned(), "infer, manage or metrics".to_owned())
        );
    }
}
