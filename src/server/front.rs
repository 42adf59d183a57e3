//! The envelope of every request: its identity and its record on the way in, the headers of all answers on the way out. Who
//! may come in is decided in `admission`.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ACCEPT, CONNECTION, RETRY_AFTER, SERVER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;
use tracing::Instrument;

use super::asked::{Asked, CLOSE};
use super::clients::Clients;
use super::crowd::Crowd;
use super::patience::Patience;
use super::prefer;
use super::record::{Holds, Record, Recorded};
use super::router::Router;
use super::running::Running;
use super::{Phase, Settings, request_id};
use crate::access::Grant;
use crate::api::{self, Call, Trace, Upload};
use crate::telemetry::{Facts, Metrics, Tracer};

/// Names vllama and its version. `/api/version` cannot: it has to name a version of Ollama.
const NAME: HeaderValue = HeaderValue::from_static(concat!("vllama/", env!("CARGO_PKG_VERSION")));

/// Tells nginx to pass a stream on as it comes. Without it nginx keeps all of an answer until its end, unless its own
/// configuration forbids it.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// When it may be worth to try a vllama again that is on its way out, in seconds: a restart listens within that.
const BACK_SOON: HeaderValue = HeaderValue::from_static("5");

/// Those who are told of every request.
#[derive(Clone, Default)]
pub struct Watchers {
    /// Counts it.
    pub metrics: Arc<Metrics>,
    /// Records it, where somebody collects spans.
    pub tracer: Option<Tracer>,
}

/// Who sends the requests of a connection, and how it came in.
#[derive(Clone, Copy, Debug)]
pub struct Visitor {
    /// Switches the host check on: only this machine can reach the port that it came by.
    pub local: bool,
    /// Its address.
    pub address: IpAddr,
    /// Whether there was no place for it: it is let in to ask how vllama is, and for nothing else.
    pub in_lobby: bool,
}

/// Everything a request meets before and after its handler.
pub struct Front {
    pub(super) router: Router,
    settings: watch::Receiver<Arc<Settings>>,
    phase: watch::Receiver<Phase>,
    watchers: Watchers,
    /// The requests that began while it served.
    running: Arc<Running>,
    crowd: Arc<Crowd>,
    /// What each client has running.
    pub(super) clients: Arc<Clients>,
}

impl Front {
    /// Everything a request meets.
    pub fn new(
        router: Router,
        settings: watch::Receiver<Arc<Settings>>,
        phase: watch::Receiver<Phase>,
        watchers: Watchers,
    ) -> Self {
        let crowd = {
            let Settings { max_connections, lobby, max_requests, .. } = **settings.borrow();
            // Who looks at vllama for operators is few, and has the descriptors of vllama's own work.
            if router.is_open() { Crowd::new(lobby, 4, 4) } else { Crowd::new(max_connections, lobby, max_requests) }
        };
        Self {
            router,
            settings,
            phase,
            watchers,
            running: Arc::default(),
            crowd: Arc::new(crowd),
            clients: Arc::default(),
        }
    }

    /// Who is here.
    pub fn crowd(&self) -> &Arc<Crowd> {
        &self.crowd
    }

    /// Counts what the server does.
    pub fn metrics(&self) -> &Metrics {
        &self.watchers.metrics
    }

    /// The settings now: they may change between two requests.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// The requests that began before the drain and still run.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Answers a request that `patience` knows to have begun. Dropping the future, or the body of the answer, stops all work
    /// on it.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        patience: Arc<Patience>,
        visitor: Visitor,
    ) -> Response<Recorded> {
        // Counted first: whoever waits for none after the phase has changed then misses no request.
        let run = self.running.begin();
        let draining = *self.phase.borrow() == Phase::Draining;
        let settings = self.settings();
        let (head, body) = request.into_parts();
        let request_id = request_id::of(&head.headers);
        let client = trace(&head.headers);
        let open = self.watchers.tracer.as_ref().and_then(|tracer| tracer.open(client.as_ref()));
        let trace = open.as_ref().map(|open| open.trace.clone()).or(client);
        let trace_id = trace.as_ref().map(Trace::id);
        let span = tracing::info_span!("request", request_id = &*request_id, trace_id);
        let facts = Arc::new(Facts::default());
        let mut record = Record {
            span: span.clone(),
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            facts: facts.clone(),
            metrics: self.watchers.metrics.clone(),
            traced: self.watchers.tracer.clone().zip(open),
            status: None,
            ended: false,
            patience,
            holds: Holds::default(),
            _run: (!draining).then_some(run),
        };
        let call = Call {
            method: head.method.clone(),
            parameter: String::new(),
            body: bytes::Bytes::new(),
            upload: Upload::default(),
            request_id: request_id.clone(),
            grant: Grant::nothing(),
            trace: trace.map(Arc::new),
            arrived: facts.arrived(),
            accept: accept(&head.headers),
            patience: prefer::wait(&head.headers).or(settings.patience),
            facts,
        };
        let asked = Asked { head: &head, body, call, settings: &settings, visitor, patience: &record.patience };
        let mut reply = self.admit(asked, &mut record.holds).instrument(span).await;
        let status = reply.status();
        let streams = matches!(reply.body(), api::Body::Stream(_));
        let headers = reply.headers_mut();
        headers.insert(SERVER, NAME);
        if visitor.in_lobby {
            headers.insert(CONNECTION, CLOSE);
        }
        if streams {
            headers.insert(UNBUFFERED.0, UNBUFFERED.1);
        }
        if draining || *self.phase.borrow() == Phase::Draining {
            // The client's next request belongs to whoever serves next.
            headers.insert(CONNECTION, CLOSE);
            if status == StatusCode::SERVICE_UNAVAILABLE {
                headers.entry(RETRY_AFTER).or_insert(BACK_SOON);
            }
        }
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            headers.insert(request_id::HEADER, id);
        }
        record.status = Some(reply.status());
        // Nobody asks for the body of an answer to HEAD.
        record.ended = head.method == Method::HEAD;
        reply.map(|body| Recorded::new(body, record))
    }
}

/// The trace that the request is part of (W3C Trace Context: of two parents neither counts, and states are one list).
fn trace(headers: &HeaderMap) -> Option<Trace> {
    let mut parents = headers.get_all("traceparent").iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
    let states = headers.get_all("tracestate").iter().map(|state| state.to_str().ok());
    let states: Option<Vec<&str>> = states.collect();
    Trace::read(parent.to_str().ok()?, states.map(|states| states.join(",")))
}

/// The formats that a client takes, all headers together (RFC 9110, section 5.3).
fn accept(headers: &HeaderMap) -> String {
    let values: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}
