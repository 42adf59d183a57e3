//! The way of one request through the server: who may ask, which route, the key, the body, the handler, and back.

use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, ALLOW, CONNECTION, EXPECT, HOST, LOCATION, RETRY_AFTER, SERVER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument;

use super::bounded::Bounded;
use super::clients::{Client, Clients};
use super::cors::{self, Verdict};
use super::crowd::Crowd;
use super::patience::Patience;
use super::prefer;
use super::record::{Holds, Record, Recorded};
use super::router::{Entry, Found, Intake, Router};
use super::running::Running;
use super::{Phase, Settings, body, encoding, host, keys, request_id};
use crate::access::{Access, Grant, Now};
use crate::api::{self, Answering, Call, Reply, Trace, Upload};
use crate::telemetry::{Facts, Metrics, Tracer};

/// Names vllama and its version. `/api/version` cannot: it has to name a version of Ollama.
const NAME: HeaderValue = HeaderValue::from_static(concat!("vllama/", env!("CARGO_PKG_VERSION")));

const CLOSE: HeaderValue = HeaderValue::from_static("close");

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

/// The same where there is no place: some client's request ends all the time.
const SOON: HeaderValue = HeaderValue::from_static("1");

/// How long the body of a request that is turned away is read.
const FAREWELL: Duration = Duration::from_secs(1);

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
    router: Router,
    settings: watch::Receiver<Arc<Settings>>,
    phase: watch::Receiver<Phase>,
    watchers: Watchers,
    /// The requests that began while it served.
    running: Arc<Running>,
    crowd: Arc<Crowd>,
    clients: Arc<Clients>,
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

    /// Host and origin first: a page that may not ask must not cause anything either.
    async fn admit(&self, asked: Asked<'_>, holds: &mut Holds) -> Reply {
        let Asked { head, settings, visitor, .. } = asked;
        let mut names = head.headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or("?"));
        let (first, second) = (names.next(), names.next());
        if second.is_some() {
            // Whoever looked at the other one before us must not be deceived (RFC 9112, section 3.2).
            let mut reply =
                api::whole(StatusCode::BAD_REQUEST, "text/plain", "400 bad request: more than one Host header");
            reply.headers_mut().insert(CONNECTION, CLOSE);
            return reply;
        }
        // A whole URL in the first line counts more than the header (RFC 9112, section 3.2.2).
        let named = head.uri.authority().map_or(first.unwrap_or_default(), http::uri::Authority::host);
        if visitor.local && !host::is_ours(named, settings.hostname.as_deref()) {
            return empty(StatusCode::FORBIDDEN);
        }
        let origin = match settings.origins.judge(&head.headers) {
            Verdict::NotCrossOrigin => return self.enter(asked, holds).await,
            Verdict::Forbidden => return empty(StatusCode::FORBIDDEN),
            Verdict::Allowed(origin) => origin,
        };
        let mut reply = if head.method == Method::OPTIONS {
            let mut reply = empty(StatusCode::NO_CONTENT);
            cors::preflight(reply.headers_mut());
            reply
        } else {
            self.enter(asked, holds).await
        };
        cors::allow(reply.headers_mut(), origin);
        reply
    }

    /// Then the key, before anything of the body is read, and whatever the path: who has none learns nothing. A preflight
    /// has none, so it does not come here.
    async fn enter(&self, mut asked: Asked<'_>, holds: &mut Holds) -> Reply {
        let Asked { head, settings, visitor, .. } = asked;
        let path = head.uri.path();
        let found = self.router.find(&head.method, path);
        if let Found::Route(entry) = &found
            && visitor.in_lobby
            && !entry.is_for_operators()
        {
            return self.turn_away(entry, asked).await;
        }
        let Some(gate) = settings.gate.as_ref().filter(|_| !self.router.is_open()) else {
            asked.call.grant = Grant::everything();
            return self.route(found, asked, holds).await;
        };
        let (access, refuse) = match &found {
            Found::Route(entry) => (entry.access, entry.refuse),
            Found::OtherMethods(_) | Found::WithoutSlash(_) | Found::Nothing => (Access::ANY, Router::stray(path)),
        };
        match gate.admit(keys::shown(&head.headers), access, Now::read()) {
            Ok((grant, admitted)) => {
                if let Some(key) = grant.key() {
                    asked.call.facts.set_key(key.to_owned());
                }
                asked.call.grant = grant;
                holds.admission = admitted;
            }
            Err((denied, who)) => {
                if let Some(key) = who.key() {
                    asked.call.facts.set_key(key.to_owned());
                }
                asked.call.facts.set_refusal(denied.reason());
                return keys::refuse(&denied, refuse, path, &asked.call.request_id);
            }
        }
        let quota = holds.admission.as_ref().map(|admission| admission.quota);
        let mut reply = self.route(found, asked, holds).await;
        if let Some(quota) = quota {
            keys::tell(&quota, path, reply.headers_mut());
        }
        reply
    }

    async fn route(&self, found: Found<'_>, asked: Asked<'_>, holds: &mut Holds) -> Reply {
        let Asked { head, ref call, .. } = asked;
        match found {
            Found::Route(entry) => match self.occupy(entry, &asked, holds) {
                None => self.call(entry, asked).await,
                Some(refusal) => refusal,
            },
            Found::OtherMethods(methods) => {
                let stray = Router::stray(head.uri.path());
                let mut reply = stray(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed", &call.request_id);
                let methods = methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ");
                if let Ok(methods) = HeaderValue::from_str(&methods) {
                    reply.headers_mut().insert(ALLOW, methods);
                }
                reply
            }
            Found::WithoutSlash(path) => {
                let status = match head.method {
                    Method::GET => StatusCode::MOVED_PERMANENTLY,
                    _ => StatusCode::TEMPORARY_REDIRECT,
                };
                let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
                let mut reply = empty(status);
                if let Ok(location) = HeaderValue::from_str(&format!("{path}{query}")) {
                    reply.headers_mut().insert(LOCATION, location);
                }
                reply
            }
            Found::Nothing => {
                Router::stray(head.uri.path())(StatusCode::NOT_FOUND, "404 page not found", &call.request_id)
            }
        }
    }

    /// For a client that came when all places were taken.
    async fn turn_away(&self, entry: &Entry, mut asked: Asked<'_>) -> Reply {
        asked.call.facts.set_route(entry.path);
        self.count_refused();
        let text = format!(
            "server busy: all of its {} connections are taken; try again in a moment, or raise --max-connections \
             (VLLAMA_MAX_CONNECTIONS) on the server",
            self.crowd.most()
        );
        if !asked.asks_first() {
            let _ = timeout(FAREWELL, body::discard(&mut asked.body)).await;
        }
        asked.refuse(entry, StatusCode::SERVICE_UNAVAILABLE, &text)
    }

    /// Takes what the request needs for itself as long as its answer lasts, before its body is read; a refusal where it
    /// cannot have that.
    fn occupy(&self, entry: &Entry, asked: &Asked<'_>, holds: &mut Holds) -> Option<Reply> {
        asked.call.facts.set_route(entry.path);
        if api::ASKS_A_MODEL.contains(&entry.path) {
            let client = Client::of(asked.call.grant.key(), asked.visitor.address);
            let most = asked.settings.streams_per_client;
            holds.stream = self.clients.begin(client, most);
            if holds.stream.is_none() {
                let text = format!(
                    "too many requests at a time: {most} of this client's are being answered, which is the limit; wait for \
                     one of them, or raise --streams-per-client (VLLAMA_STREAMS_PER_CLIENT) on the server"
                );
                return Some(asked.refuse(entry, StatusCode::TOO_MANY_REQUESTS, &text));
            }
        }
        if asked.has_body() {
            holds.descriptor = self.crowd.request();
            if holds.descriptor.is_none() {
                self.count_refused();
                let text = "server busy: it may have no more open files for requests; try again in a moment, or raise \
                            the limit of open files (`ulimit -n`) on the server";
                return Some(asked.refuse(entry, StatusCode::SERVICE_UNAVAILABLE, text));
            }
        }
        None
    }

    /// Counts somebody who was told to come back.
    fn count_refused(&self) {
        self.metrics().connection_refused();
        self.crowd.tell_of_refusals();
    }

    async fn call(&self, entry: &Entry, asked: Asked<'_>) -> Reply {
        let has_body = asked.has_body();
        let asks_first = asked.asks_first();
        let Asked { head, body, mut call, settings, patience, .. } = asked;
        call.parameter = entry.parameter(head.uri.path()).unwrap_or_default().to_owned();
        let Settings { body_limit, upload_limit, body_timeout, .. } = *settings;
        // Counts until the handler has made of it what it needs.
        let mut held = self.crowd.body(body_limit);
        match entry.intake {
            Intake::Whole | Intake::Unpacked if has_body => {
                match body::read(body, asks_first, (body_limit, &mut held), body_timeout).await {
                    Ok(bytes) => call.body = bytes,
                    Err(refused) => {
                        let mut reply = (entry.refuse)(refused.status, &refused.text, &call.request_id);
                        if refused.status == StatusCode::SERVICE_UNAVAILABLE {
                            reply.headers_mut().insert(RETRY_AFTER, SOON);
                        }
                        reply.headers_mut().insert(CONNECTION, CLOSE);
                        return reply;
                    }
                }
            }
            Intake::Stream if has_body => {
                call.upload = Upload::new(Bounded::new(body, upload_limit, body_timeout), asks_first);
            }
            Intake::Whole | Intake::Unpacked | Intake::Stream => {}
        }
        if entry.intake != Intake::Stream && !api::ends_with_its_client(entry.path) {
            patience.outlast();
        }
        if entry.intake == Intake::Unpacked {
            match encoding::unpacked(&head.headers, std::mem::take(&mut call.body)).await {
                Ok(bytes) => call.body = bytes,
                Err(refused) => {
                    let mut reply = (entry.refuse)(refused.status, &refused.text, &call.request_id);
                    if refused.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
                        reply.headers_mut().insert(ACCEPT_ENCODING, encoding::TAKEN);
                    }
                    return reply;
                }
            }
        }
        let request_id = call.request_id.clone();
        // A bug met before the handler's future exists must not end the connection either.
        let answering = catch_unwind(AssertUnwindSafe(|| (entry.handler)(call)));
        let reply = match answering {
            Ok(answering) => Caught(answering).await,
            Err(_) => None,
        };
        // The panic has been logged with its place; the client need not know it.
        let mut reply = reply.unwrap_or_else(|| {
            let text = "vllama met a bug while it answered this request; its log says where";
            (entry.refuse)(StatusCode::INTERNAL_SERVER_ERROR, text, &request_id)
        });
        if entry.intake == Intake::Stream && has_body && !reply.status().is_success() {
            // The rest of the body may still be on its way.
            reply.headers_mut().insert(CONNECTION, CLOSE);
        }
        reply
    }
}

/// A request on its way to its route.
struct Asked<'a> {
    head: &'a request::Parts,
    body: Incoming,
    call: Call,
    settings: &'a Settings,
    visitor: Visitor,
    patience: &'a Patience,
}

impl Asked<'_> {
    /// Whether its method is one with a body.
    fn has_body(&self) -> bool {
        !matches!(self.head.method, Method::GET | Method::HEAD)
    }

    /// Whether the client waits for leave to send the body.
    fn asks_first(&self) -> bool {
        self.head.headers.contains_key(EXPECT)
    }

    /// A refusal before the body has been read, for now.
    fn refuse(&self, entry: &Entry, status: StatusCode, text: &str) -> Reply {
        let mut reply = (entry.refuse)(status, text, &self.call.request_id);
        reply.headers_mut().insert(RETRY_AFTER, SOON);
        if self.has_body() {
            // It may still be on its way.
            reply.headers_mut().insert(CONNECTION, CLOSE);
        }
        reply
    }
}

/// A handler whose panics end nothing but itself: `None`.
struct Caught(Answering);

impl Future for Caught {
    type Output = Option<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The future is never polled again after a panic, so nobody sees what it left half done.
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
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

fn empty(status: StatusCode) -> Reply {
    let mut reply = Reply::new(api::Body::Whole(None));
    *reply.status_mut() = status;
    reply
}
