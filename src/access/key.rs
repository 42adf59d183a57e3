//! One key as the gate knows it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::account::Account;
use super::limits::Limits;
use super::scope::Scope;

/// Longest name of a key, in bytes.
const LONGEST: usize = 64;

/// The name of a key: in logs, metrics and lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyName(Arc<str>);

/// The text is no name for a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no name for a key; take 1 to 64 letters, digits, dots, dashes, underscores or @")]
pub struct InvalidKeyName(pub String);

impl KeyName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = InvalidKeyName;

    fn from_str(text: &str) -> Result<Self, InvalidKeyName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_@".contains(&byte);
        // A dash in front would make it an option of the command line.
        let valid = (1..=LONGEST).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-');
        if valid { Ok(Self(text.into())) } else { Err(InvalidKeyName(text.to_owned())) }
    }
}

impl TryFrom<String> for KeyName {
    type Error = InvalidKeyName;

    fn try_from(text: String) -> Result<Self, InvalidKeyName> {
        text.parse()
    }
}

impl From<KeyName> for String {
    fn from(name: KeyName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A key that is good, and what it has used.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: KeyName,
    /// What it is for.
    pub scopes: Vec<Scope>,
    /// What it may cost.
    pub limits: Limits,
    /// What it has cost; outlives changes of the file.
    pub(super) account: Arc<Account>,
}

impl Key {
    /// Whether it is for this.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for (text, valid) in
            [("admin", true), ("bob@example.org", true), ("a b", false), ("", false), ("-x", false), ("ü", false)]
        {
            assert_eq!(text.parse::<KeyName>().is_ok(), valid, "{text}");
        }
        assert!("x".repeat(65).parse::<KeyName>().is_err());
    }
}
