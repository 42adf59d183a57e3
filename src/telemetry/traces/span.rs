//! A span as a collector reads it: OTLP's JSON, with the names of OpenTelemetry's conventions for HTTP and generative AI.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Closing, Open};

/// OTLP's number for a span of somebody who serves.
const SERVER: u8 = 2;
/// OTLP's number for a span that ended in an error.
const ERROR: u8 = 2;

/// The span of a request that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    trace: String,
    span: String,
    parent: Option<String>,
    began: SystemTime,
    took: Duration,
    method: String,
    route: &'static str,
    status: u16,
    model: Option<String>,
    /// Since the beginning: when it had its place in an engine, and when its first token came.
    moments: [(&'static str, Option<Duration>); 2],
    waited: Option<Duration>,
    tokens: (u64, u64),
}

impl Span {
    pub(super) fn new(open: Open, closing: Closing<'_>) -> Self {
        let Open { trace, parent, began } = open;
        let Closing { method, status, took, facts } = closing;
        Self {
            trace: trace.id().to_owned(),
            span: trace.span().to_owned(),
            parent,
            began,
            took,
            method: method.to_owned(),
            route: facts.route().unwrap_or("other"),
            status,
            model: facts.model().map(str::to_owned),
            moments: [("lease", facts.leased()), ("first_token", facts.pace().map(|(first, _)| first))],
            waited: facts.waited(),
            tokens: facts.tokens(),
        }
    }

    fn value(&self) -> Value {
        let at = |moment: Duration| nanoseconds(self.began + moment);
        let mut attributes = vec![
            text("http.request.method", &self.method),
            text("http.route", self.route),
            number("http.response.status_code", self.status.into()),
        ];
        attributes.extend(self.model.as_deref().map(|model| text("gen_ai.request.model", model)));
        attributes.extend(self.waited.map(|waited| seconds("vllama.queue.wait_seconds", waited)));
        let (prompt, generated) = self.tokens;
        for (key, tokens) in [("gen_ai.usage.input_tokens", prompt), ("gen_ai.usage.output_tokens", generated)] {
            attributes.extend((tokens > 0).then(|| number(key, tokens)));
        }
        let events = self
            .moments
            .iter()
            .filter_map(|(name, moment)| Some(json!({"name": name, "timeUnixNano": at((*moment)?)})));
        let events: Vec<Value> = events.collect();
        let failed = self.status >= 500;
        json!({
            "traceId": self.trace,
            "spanId": self.span,
            "parentSpanId": self.parent.as_deref().unwrap_or_default(),
            "name": format!("{} {}", self.method, self.route),
            "kind": SERVER,
            "startTimeUnixNano": at(Duration::ZERO),
            "endTimeUnixNano": at(self.took),
            "attributes": attributes,
            "events": events,
            "status": if failed { json!({"code": ERROR}) } else { json!({}) },
        })
    }
}

/// The body of a request to a collector.
pub(super) fn batch(spans: &[Span]) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let batch = json!({"resourceSpans": [{
        "resource": {"attributes": [text("service.name", "vllama"), text("service.version", version)]},
        "scopeSpans": [{
            "scope": {"name": "vllama", "version": version},
            "spans": spans.iter().map(Span::value).collect::<Vec<_>>(),
        }],
    }]});
    // Strings, numbers and lists always become JSON.
    serde_json::to_vec(&batch).unwrap_or_default()
}

/// Numbers of 64 bits are strings in OTLP's JSON.
fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

fn seconds(key: &str, value: Duration) -> Value {
    json!({"key": key, "value": {"doubleValue": value.as_secs_f64()}})
}
