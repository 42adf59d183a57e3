//! `/metrics`: vllama's own figures, then what the engines say of themselves.
//!
//! In: ended requests from `server`, snapshots of the scheduler, the texts of engines, what the machine has. Out: one page
//! in the text format or as OpenMetrics. Names are in [`table`] alone.

mod engines;
mod format;
mod labels;
mod machine;
mod merged;
mod page;
mod requests;
mod samples;
pub mod table;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

pub use format::Format;
pub use machine::Machine;
pub use requests::Ended;

use crate::scheduler::{Meter, Snapshot};
use merged::Merged;
use page::Page;
use requests::Requests;

/// All that vllama counts, and the machine it asks when somebody wants to know. Shared by everybody who counts.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Requests,
    connections: Gauge,
    /// Most of them at a time since this was last asked for.
    most_connections: AtomicI64,
    refused: Counter,
    machine: Machine,
}

/// What the page tells of the house: whoever keeps it knows.
#[derive(Clone, Copy, Debug)]
pub struct House<'a> {
    /// The scheduler's state.
    pub snapshot: &'a Snapshot,
    /// Whether the default model can answer.
    pub ready: bool,
    /// Bytes of all installed models.
    pub store_bytes: u64,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct Connection(Gauge);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        Self { machine, ..Self::default() }
    }

    /// Counts a request that has ended.
    pub fn ended(&self, request: Ended<'_>) {
        self.requests.count(request);
    }

    /// Counts a connection that has been taken.
    #[must_use]
    pub fn connection(&self) -> Connection {
        let now = self.connections.inc() + 1;
        self.most_connections.fetch_max(now, Ordering::Relaxed);
        Connection(self.connections.clone())
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        usize::try_from(self.connections.get()).unwrap_or_default()
    }

    /// Most connections that were open at a time since this was last asked.
    #[must_use]
    pub fn take_most_connections(&self) -> usize {
        let now = self.connections.get();
        usize::try_from(self.most_connections.swap(now, Ordering::Relaxed).max(now)).unwrap_or_default()
    }

    /// Counts a connection that could not be taken.
    pub fn connection_refused(&self) {
        self.refused.inc();
    }

    /// The page. Asks the engines and the machine, and waits no longer than a second for any of them.
    pub async fn page(&self, house: &House<'_>, meters: Vec<Meter>, format: Format) -> String {
        let (reading, pages) = tokio::join!(self.machine.read(), engines::read(meters));
        let (mut merged, mut scraped) = (Merged::default(), BTreeMap::new());
        for (engine, text) in pages {
            text.iter().for_each(|text| merged.add(&engine, text));
            scraped.insert(engine, text.is_some());
        }
        let mut page = format.write(Page::new(self, house, scraped, reading));
        merged.write(format, &mut page);
        page.push_str(format.end());
        page
    }
}
