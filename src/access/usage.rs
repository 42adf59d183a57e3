//! What keys have used of a day, to be kept over restarts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::account::{Account, Now};
use super::secret::Digest;

/// Tokens of a day by the ids of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Days since 1970, UTC.
    day: u64,
    tokens: BTreeMap<String, u64>,
}

impl Usage {
    pub(super) fn of<'a>(accounts: impl Iterator<Item = (&'a Digest, &'a Account)>, now: Now) -> Self {
        let (day, _) = now.day();
        let tokens = accounts.map(|(digest, account)| (digest.id(), account.spent(day)));
        Self { day, tokens: tokens.filter(|(_, tokens)| *tokens > 0).collect() }
    }

    /// Puts what a key has used into its account. Of another day nothing counts any more.
    pub(super) fn restore(&self, key: &Digest, account: &Account) {
        if let Some(tokens) = self.tokens.get(&key.id()) {
            account.restore(self.day, *tokens);
        }
    }
}
