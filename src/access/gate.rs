//! The door: finds the key that a request shows, and says whether the request may come in. Owns what keys have used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::account::{Account, Now, Quota};
use super::denied::Denied;
use super::file::Entry;
use super::grant::Grant;
use super::key::Key;
use super::scope::Access;
use super::secret::Digest;
use super::usage::Usage;

/// The good keys and what they have used. Both locks are held for a look or some additions.
#[derive(Debug)]
pub struct Gate {
    ring: RwLock<Arc<Ring>>,
    /// Whether tokens have been counted since the last [`Gate::changed_usage`].
    counted: AtomicBool,
}

/// Keys by the prefix of their digest.
#[derive(Debug, Default)]
struct Ring(HashMap<[u8; 8], Vec<(Digest, Arc<Key>)>>);

impl Ring {
    fn find(&self, digest: &Digest) -> Option<&Arc<Key>> {
        let alike = self.0.get(&digest.prefix())?;
        alike.iter().find(|(other, _)| other == digest).map(|(_, key)| key)
    }

    fn keys(&self) -> impl Iterator<Item = &(Digest, Arc<Key>)> {
        self.0.values().flatten()
    }
}

/// A request that is in. Counts until it is dropped.
#[derive(Debug)]
pub struct Admission {
    key: Arc<Key>,
    gate: Arc<Gate>,
    /// What is left of the key's limits after it.
    pub quota: Quota,
}

impl Gate {
    /// A gate for the keys of a file, with what they have used before.
    #[must_use]
    pub fn new(entries: &[Entry], usage: &Usage) -> Arc<Self> {
        let gate = Self { ring: RwLock::default(), counted: AtomicBool::new(false) };
        gate.replace(entries, usage);
        Arc::new(gate)
    }

    /// From now on these keys are good, and no others. Keys that were good before keep what they have used.
    pub fn change(&self, entries: &[Entry]) {
        self.replace(entries, &Usage::default());
    }

    fn replace(&self, entries: &[Entry], usage: &Usage) {
        let before = self.ring();
        let mut ring = Ring::default();
        for entry in entries.iter().filter(|entry| entry.is_good()) {
            let account = before.find(&entry.sha256).map_or_else(
                || {
                    let account = Account::default();
                    usage.restore(&entry.sha256, &account);
                    Arc::new(account)
                },
                |key| key.account.clone(),
            );
            let Entry { name, scopes, limits, .. } = entry.clone();
            let key = Arc::new(Key { name, scopes, limits, account });
            ring.0.entry(entry.sha256.prefix()).or_default().push((entry.sha256, key));
        }
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    fn ring(&self) -> Arc<Ring> {
        // A pointer is replaced whole.
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a request in that shows these texts as its key: the first good one counts. What it may goes with it; where the
    /// route is one that counts, so does what it costs.
    ///
    /// # Errors
    /// [`Denied`] and whose key was shown, before anything has been counted.
    pub fn admit<'a>(
        self: &Arc<Self>,
        shown: impl Iterator<Item = &'a str>,
        access: Access,
        now: Now,
    ) -> Result<(Grant, Option<Admission>), (Denied, Grant)> {
        let mut shows = false;
        let key = {
            let ring = self.ring();
            let mut shown = shown.inspect(|_| shows = true);
            shown.find_map(|text| ring.find(&Digest::of(text)?).cloned())
        };
        let Some(key) = key else {
            return match access {
                Access::Open => Ok((Grant::nothing(), None)),
                Access::Needs(_) => Err((if shows { Denied::UnknownKey } else { Denied::NoKey }, Grant::nothing())),
            };
        };
        let needed = access.scopes();
        if !needed.is_empty() && !needed.iter().any(|scope| key.has(*scope)) {
            return Err((Denied::Scope { needed: access, has: key.scopes.clone() }, Grant::of(key)));
        }
        if !access.is_counted() {
            return Ok((Grant::of(key), None));
        }
        let quota = match key.account.enter(&key.limits, now) {
            Ok(quota) => quota,
            Err(denied) => return Err((denied, Grant::of(key))),
        };
        let admission = Admission { key: key.clone(), gate: self.clone(), quota };
        Ok((Grant::of(key), Some(admission)))
    }

    /// What all keys have used today, if tokens have been counted since the last call.
    #[must_use]
    pub fn changed_usage(&self, now: Now) -> Option<Usage> {
        self.counted.swap(false, Ordering::Relaxed).then(|| {
            let ring = self.ring();
            Usage::of(ring.keys().map(|(digest, key)| (digest, &*key.account)), now)
        })
    }
}

impl Admission {
    /// Counts tokens that the request has used.
    pub fn spend(&self, tokens: u64, now: Now) {
        if tokens > 0 {
            self.key.account.spend(tokens, now);
            self.gate.counted.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.key.account.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Scope, Secret};

    fn entry(name: &str, scopes: &[Scope], limits: &str) -> (Secret, Entry) {
        let secret = Secret::new().expect("a key");
        let limits = serde_json::from_str(limits).expect("limits");
        let entry = Entry::new(name.parse().expect("a name"), &secret, scopes.to_vec(), limits);
        (secret, entry)
    }

    fn admit(
        gate: &Arc<Gate>,
        shown: &[&str],
        access: Access,
    ) -> Result<(Option<String>, Option<Admission>), &'static str> {
        let admitted = gate.admit(shown.iter().copied(), access, Now::read());
        admitted
            .map(|(grant, admission)| (grant.key().map(str::to_owned), admission))
            .map_err(|(denied, _)| denied.reason())
    }

    #[test]
    fn only_a_good_key_with_the_scope_comes_in() {
        let (secret, entry) = entry("bob", &[Scope::Infer], "{}");
        let gate = Gate::new(std::slice::from_ref(&entry), &Usage::default());
        let (key, long) = (secret.tell(), "x".repeat(5000));
        let wrong = format!("{key}x");
        for (shown, access, expected) in [
            (&[][..], Access::INFER, Err("no_key")),
            (&["", &long, &wrong, "sk-vllama-"], Access::INFER, Err("unknown_key")),
            (&[key], Access::MANAGE, Err("scope")),
            (&[key], Access::METRICS, Err("scope")),
            (&[key], Access::READ, Ok(Some("bob"))),
            (&["another", key], Access::INFER, Ok(Some("bob"))),
            (&[], Access::Open, Ok(None)),
            (&["another"], Access::Open, Ok(None)),
            (&[key], Access::Open, Ok(Some("bob"))),
        ] {
            let admitted = admit(&gate, shown, access).map(|(name, _)| name);
            assert_eq!(admitted, expected.map(|name| name.map(str::to_owned)), "{access:?}");
        }
        let revoked = Entry { revoked: Some("2026-11-24T00:00:00Z".to_owned()), ..entry };
        gate.change(&[revoked]);
        assert_eq!(admit(&gate, &[key], Access::INFER).expect_err("revoked"), "unknown_key");
    }

    #[test]
    fn what_was_used_outlives_a_change_of_the_file_and_a_restart() {
        let (secret, mut entry) = entry("bob", &[Scope::Infer], r#"{"concurrent":1,"tokens_per_day":100}"#);
        let gate = Gate::new(std::slice::from_ref(&entry), &Usage::default());
        let (_, running) = admit(&gate, &[secret.tell()], Access::INFER).expect("in");
        gate.change(std::slice::from_ref(&entry));
        assert_eq!(admit(&gate, &[secret.tell()], Access::INFER).expect_err("one runs"), "concurrent");
        assert!(gate.changed_usage(Now::read()).is_none());
        running.expect("counted").spend(100, Now::read());
        assert_eq!(admit(&gate, &[secret.tell()], Access::INFER).expect_err("spent"), "tokens");
        let usage = gate.changed_usage(Now::read()).expect("usage");
        assert!(gate.changed_usage(Now::read()).is_none());
        let usage = serde_json::from_str(&serde_json::to_string(&usage).expect("JSON")).expect("usage");
        let gate = Gate::new(std::slice::from_ref(&entry), &usage);
        assert_eq!(admit(&gate, &[secret.tell()], Access::INFER).expect_err("spent"), "tokens");
        entry.limits.tokens_per_day = None;
        gate.change(&[entry]);
        assert!(admit(&gate, &[secret.tell()], Access::INFER).is_ok());
    }
}
