//! What a ready engine tells of itself, for those who collect figures. Needs no lease: it is no work of the engine's.

use super::book::Member;
use crate::engine::{Client, State};
use crate::model::ModelName;

/// Longest page of an engine, in bytes; a real one has some 100 KB.
const LONGEST: usize = 4 << 20;

/// The way to the metrics of one ready engine.
#[derive(Clone, Debug)]
pub struct Meter {
    /// The model it serves, by the name that was asked for last.
    pub model: ModelName,
    client: Client,
}

impl Meter {
    /// That of an engine, while it is ready: one that sleeps or starts is not asked.
    pub(super) fn of(member: &Member) -> Option<Self> {
        let status = member.status.as_ref()?.borrow();
        let client = status.client.clone().filter(|_| status.state == State::Ready)?;
        Some(Self { model: member.model.name.clone(), client })
    }

    /// Reads its page; `None` where it has none, or too long a one. May take for ever: an engine may hang.
    pub async fn read(&self) -> Option<String> {
        let (status, page) = self.client.get_within("/metrics", LONGEST).await.ok()?;
        status.is_success().then(|| String::from_utf8_lossy(&page).into_owned())
    }
}
