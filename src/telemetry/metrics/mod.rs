//! `/metrics`: vllama's own figures, then what the engines say of themselves.
//!
//! In: ended requests from `server`, snapshots of the scheduler, the texts of engines, what the machine has. Out: one page
//! in the text format or as OpenMetrics. Names are in [`table`] alone.

mod format;
mod machine;
mod page;
mod requests;
mod samples;
pub mod table;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

pub use format::Format;
pub use machine::Machine;
pub use requests::Ended;

use crate::scheduler::Snapshot;
use page::Page;
use requests::Requests;

/// All that vllama counts, and the machine it asks when somebody wants to know. Shared by everybody who counts.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Requests,
    connections: Gauge,
    refused: Counter,
    machine: Machine,
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
        self.connections.inc();
        Connection(self.connections.clone())
    }

    /// Counts a connection that could not be taken.
    pub fn connection_refused(&self) {
        self.refused.inc();
    }

    /// The page. Asks the machine, which takes a moment but never long.
    pub async fn page(&self, snapshot: &Snapshot, ready: bool, store_bytes: u64, format: Format) -> String {
        let reading = self.machine.read().await;
        let mut page = format.write(Page::new(self, snapshot, ready, store_bytes, reading));
        page.push_str(format.end());
        page
    }
}
