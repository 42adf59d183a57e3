//! Asks all ready engines for their pages at once, and waits a second at most.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::scheduler::Meter;

/// How long an engine may take; one that works hard takes some milliseconds, and one that hangs for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pages of all engines, by their models; `None` for those that did not tell theirs in time. Dropping the future asks
/// nobody any more.
pub(super) async fn read(meters: Vec<Meter>) -> BTreeMap<String, Option<String>> {
    let mut asked = JoinSet::new();
    let mut pages = BTreeMap::new();
    for meter in meters {
        // Only one engine is told under a name: a page must not tell two values of one thing.
        let name = meter.model.display();
        if pages.insert(name.clone(), None).is_none() {
            asked.spawn(async move { (name, timeout(PATIENCE, meter.read()).await.ok().flatten()) });
        }
    }
    while let Some(told) = asked.join_next().await {
        if let Ok((name, page)) = told {
            pages.insert(name, page);
        }
    }
    pages
}
