//! Why a request is not let in, in words for its client.

use std::time::Duration;

use super::account::Quota;
use super::scope::{Access, Scope, listed};

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Denied {
    /// It shows no key.
    #[error(
        "this server asks for a key, and the request has none; send one as `Authorization: Bearer sk-vllama-…` or as `x-api-key`"
    )]
    NoKey,
    /// It shows none that is good.
    #[error("the key of this request is not known here, or it has been revoked; ask the operator for a new one")]
    UnknownKey,
    /// Its key is for other things: what is needed, and what the key has.
    #[error(
        "this key may not do that: it has the scope {}, and {needed} is needed; ask the operator for a key that has it",
        listed(.has, "and")
    )]
    Scope {
        /// What the route asks for.
        needed: Access,
        /// What the key has.
        has: Vec<Scope>,
    },
    /// Too many requests a minute: how many may come, and when the next one may.
    #[error(
        "this key may ask {} times a minute, and has done so; try again in {} s",
        .quota.requests.map_or(0, |share| share.limit), seconds(*.retry)
    )]
    Requests {
        /// How long to wait.
        retry: Duration,
        /// What is left of all limits.
        quota: Quota,
    },
    /// Too many requests at a time.
    #[error("this key may have {limit} requests at a time, and has them; try again when one of them has ended")]
    Concurrent {
        /// How many may run.
        limit: u64,
        /// What is left of all limits.
        quota: Quota,
    },
    /// Too many tokens today.
    #[error(
        "this key may use {} tokens a day, and has used them; try again in {} s, at midnight UTC",
        .quota.tokens.map_or(0, |share| share.limit), seconds(*.retry)
    )]
    Tokens {
        /// How long to wait.
        retry: Duration,
        /// What is left of all limits.
        quota: Quota,
    },
}

impl Denied {
    /// A word for it, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::UnknownKey => "unknown_key",
            Self::Scope { .. } => "scope",
            Self::Requests { .. } => "requests",
            Self::Concurrent { .. } => "concurrent",
            Self::Tokens { .. } => "tokens",
        }
    }

    /// Whole seconds after which trying again may help, at least one; `None` where it will not.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::NoKey | Self::UnknownKey | Self::Scope { .. } => None,
            Self::Requests { retry, .. } | Self::Tokens { retry, .. } => Some(seconds(*retry)),
            // Nobody knows when an answer ends.
            Self::Concurrent { .. } => Some(1),
        }
    }

    /// What is left of the key's limits, where they are why.
    #[must_use]
    pub fn quota(&self) -> Option<&Quota> {
        match self {
            Self::NoKey | Self::UnknownKey | Self::Scope { .. } => None,
            Self::Requests { quota, .. } | Self::Concurrent { quota, .. } | Self::Tokens { quota, .. } => Some(quota),
        }
    }
}

fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}
