//! Traces: one span for each request, sent to a collector in batches (OTLP over HTTP, as JSON).
//!
//! In: requests that begin and end. Out: nothing anybody waits for: what the collector does not take is lost.

mod endpoint;
mod export;
mod span;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

pub use endpoint::Endpoint;
pub use span::Span;

use super::Facts;
use crate::scheduler::Trace;

/// Most spans that wait to be sent; what comes on top is lost.
const WAITING: usize = 4096;
/// How long the last spans may take at the end.
const LAST: Duration = Duration::from_secs(1);

/// Takes the spans of requests; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    spans: mpsc::Sender<Span>,
}

/// A span that has begun.
#[derive(Debug)]
pub struct Open {
    /// The trace as the engine is told it: below this span.
    pub trace: Trace,
    parent: Option<String>,
    began: SystemTime,
}

/// What a span is told at its end.
#[derive(Clone, Copy, Debug)]
pub struct Closing<'a> {
    /// Method of the request.
    pub method: &'a str,
    /// Status of its answer, or 499.
    pub status: u16,
    /// From its head to the end of its answer.
    pub took: Duration,
    /// What it found out about itself.
    pub facts: &'a Facts,
}

/// The task that sends them.
#[derive(Debug)]
pub struct Export {
    task: JoinHandle<()>,
    end: Arc<Notify>,
}

impl Tracer {
    /// Begins to send spans to `endpoint`.
    #[must_use]
    pub fn start(endpoint: Endpoint) -> (Self, Export) {
        let (spans, receiver) = mpsc::channel(WAITING);
        let end = Arc::new(Notify::new());
        let task = tokio::spawn(export::run(endpoint, receiver, end.clone()));
        (Self { spans }, Export { task, end })
    }

    /// Begins the span of a request, below the one that its client is in. `None` where that client has decided against
    /// recording: then the trace is handed on as it came.
    #[must_use]
    pub fn open(&self, client: Option<&Trace>) -> Option<Open> {
        if client.is_some_and(|trace| !trace.is_sampled()) {
            return None;
        }
        let parent = client.map(|trace| trace.span().to_owned());
        let trace = client.map_or_else(Trace::begin, Trace::below);
        Some(Open { trace, parent, began: SystemTime::now() })
    }

    /// Ends a span. Never waits.
    pub fn close(&self, open: Open, closing: Closing<'_>) {
        if self.spans.try_send(Span::new(open, closing)).is_err() {
            tracing::debug!("a span is lost: the collector takes none, or too few");
        }
    }
}

impl Export {
    /// Sends the last spans, for which it waits a moment; no further ones are taken.
    pub async fn finish(self) {
        self.end.notify_one();
        // What has not been sent by then is lost, as it may be at any time.
        let _ = tokio::time::timeout(LAST, self.task).await;
    }
}
