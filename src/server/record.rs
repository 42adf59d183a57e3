//! The access log: one line for each request, written when its answer has ended or its client is gone.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;

use super::clients::Stream;
use super::patience::Patience;
use super::running::Run;
use crate::access::{Admission, Now};
use crate::api;
use crate::telemetry::Facts;
use crate::telemetry::metrics::{Ended, Metrics};
use crate::telemetry::traces::{Closing, Open, Tracer};

/// nginx's number for a client that went away before its answer had ended; only ever logged and counted.
const CLIENT_GONE: u16 = 499;

/// Lives as long as its request: first beside the handler, then inside the answer's body.
pub struct Record {
    /// Carries the request id.
    pub span: Span,
    /// Method of the request.
    pub method: Method,
    /// Path without the query, which may hold what nobody should read.
    pub path: String,
    /// What the request found out about itself.
    pub facts: Arc<Facts>,
    /// Counts it when it is over.
    pub metrics: Arc<Metrics>,
    /// Its span, where somebody collects them.
    pub traced: Option<(Tracer, Open)>,
    /// Status of the answer, once there is one.
    pub status: Option<StatusCode>,
    /// Whether the answer has been handed over completely.
    pub ended: bool,
    /// Is told when the request is over.
    pub patience: Arc<Patience>,
    /// Counts the request among those that a drain waits for; `None` when it began during one.
    pub _run: Option<Run>,
    /// What it occupies.
    pub holds: Holds,
}

/// What a request occupies until its answer has ended.
#[derive(Debug, Default)]
pub struct Holds {
    /// Its second descriptor.
    pub descriptor: Option<OwnedSemaphorePermit>,
    /// Its client's share.
    pub stream: Option<Stream>,
    /// Counts it against its key's limits.
    pub admission: Option<Admission>,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.patience.end();
        let whole = self.status.is_some() && (self.ended || self.facts.complete());
        if let Some(admission) = self.holds.admission.take() {
            admission.spend(self.facts.used(whole), Now::read());
        }
        let status = match self.status {
            Some(status) if whole => status.as_u16(),
            _ => CLIENT_GONE,
        };
        let took = self.facts.arrived().elapsed();
        self.metrics.ended(Ended { status, took, facts: &self.facts });
        if let Some((tracer, open)) = self.traced.take() {
            tracer.close(open, Closing { method: self.method.as_str(), status, took, facts: &self.facts });
        }
        let latency_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (tokens_in, tokens_out) = self.facts.tokens();
        let told = |tokens: u64| (tokens > 0).then_some(tokens);
        let (method, path) = (self.method.as_str(), self.path.as_str());
        let (model, key, refused) = (self.facts.model(), self.facts.key(), self.facts.refusal());
        self.span.in_scope(|| {
            // Probes come every few seconds and say nothing.
            if path.starts_with("/health") || path == "/metrics" {
                tracing::debug!(method, path, status, latency_ms, "request");
            } else {
                tracing::info!(
                    method,
                    path,
                    status,
                    latency_ms,
                    model,
                    key,
                    refused,
                    tokens_in = told(tokens_in),
                    tokens_out = told(tokens_out),
                    "request"
                );
            }
        });
    }
}

/// The body of an answer, with the record of its request.
pub struct Recorded {
    body: api::Body,
    record: Record,
}

impl Recorded {
    /// Puts the two together.
    pub fn new(body: api::Body, record: Record) -> Self {
        Self { body, record }
    }
}

impl Body for Recorded {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { body, record } = &mut *self;
        // What the answer logs on its way belongs to its request.
        let polled = record.span.in_scope(|| Pin::new(body).poll_frame(context));
        record.ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // The last frame may be taken without asking whether another one follows.
        self.record.ended |= self.body.is_end_stream();
    }
}
