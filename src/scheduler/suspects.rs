//! Requests that were running when their engine died: who of them may have killed it.
//!
//! Most of them are innocent, so each is asked again, but they begin one after the other: if the engine dies in the turn
//! of one, that request is what kills it, and it is refused for a while instead of ending every engine that is started
//! (issue 5).

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a request that kills engines is refused; what makes it kill may be gone with a new version or setting.
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// Most requests that are remembered, of one engine.
const REMEMBERED: usize = 64;

/// What is known of one engine's requests.
#[derive(Debug)]
pub(super) struct Suspects {
    one_at_a_time: Semaphore,
    /// What kills. The lock is held for a look or a push only.
    convicts: Mutex<VecDeque<Convict>>,
}

/// A request that kills engines.
#[derive(Clone, Copy, Debug)]
struct Convict {
    since: Instant,
    /// The last generation that died of it.
    generation: u64,
    /// Of its path and body.
    fingerprint: u64,
}

impl Default for Suspects {
    fn default() -> Self {
        Self { one_at_a_time: Semaphore::new(1), convicts: Mutex::default() }
    }
}

impl Suspects {
    /// Waits for the turn of a request that has seen an engine die; its turn is over when the permit is dropped.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.one_at_a_time.acquire().await.ok()
    }

    /// Whether this request has killed engines lately.
    pub(super) fn knows(&self, path: &str, body: &[u8], now: Instant) -> bool {
        let mut convicts = self.convicts.lock().unwrap_or_else(PoisonError::into_inner);
        while convicts.front().is_some_and(|convict| now.saturating_duration_since(convict.since) >= REFUSED_FOR) {
            convicts.pop_front();
        }
        // Hardly ever is there one, and then bodies need not be read.
        if convicts.is_empty() {
            return false;
        }
        let fingerprint = fingerprint(path, body);
        convicts.iter().any(|convict| convict.fingerprint == fingerprint)
    }

    /// Notes that this generation died of this request.
    pub(super) fn convict(&self, path: &str, body: &[u8], generation: u64, now: Instant) {
        let mut convicts = self.convicts.lock().unwrap_or_else(PoisonError::into_inner);
        if convicts.len() == REMEMBERED {
            convicts.pop_front();
        }
        convicts.push_back(Convict { since: now, generation, fingerprint: fingerprint(path, body) });
    }

    /// Whether it is known of whose doing this generation died.
    pub(super) fn has_convict(&self, generation: u64) -> bool {
        let convicts = self.convicts.lock().unwrap_or_else(PoisonError::into_inner);
        convicts.iter().any(|convict| convict.generation == generation)
    }
}

fn fingerprint(path: &str, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (path, body).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_known_for_a_while_and_not_for_ever() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        assert!(!suspects.knows("/v1/x", b"{}", now));
        suspects.convict("/v1/x", b"{}", 2, now);
        assert!(suspects.knows("/v1/x", b"{}", now));
        assert!(suspects.has_convict(2) && !suspects.has_convict(3));
        assert!(!suspects.knows("/v1/y", b"{}", now) && !suspects.knows("/v1/x", b"[]", now));
        assert!(!suspects.knows("/v1/x", b"{}", now + REFUSED_FOR));
        assert!(!suspects.knows("/v1/x", b"{}", now), "it has been forgotten");
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        for number in 0..=REMEMBERED {
            suspects.convict("/v1/x", number.to_string().as_bytes(), 2, now);
        }
        assert!(!suspects.knows("/v1/x", b"0", now) && suspects.knows("/v1/x", b"1", now));
    }
}
