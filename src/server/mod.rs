//! Sockets and HTTP: connections, limits, origins, keys, routing, request ids, the access log, drain.
//!
//! In: TCP connections. Out: a [`Call`](crate::api::Call) to the handler of a route, and its reply back to the client.
//! Knows no model and no engine: what an answer says is the business of `api` and `telemetry`.

mod admission;
mod asked;
mod body;
mod bounded;
mod clients;
mod connection;
mod cors;
mod crowd;
mod door;
mod encoding;
mod front;
mod handling;
mod host;
mod keys;
mod patience;
mod prefer;
mod record;
mod request_id;
mod router;
mod running;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access::Gate;
use crate::api::App;
pub use cors::Origins;
pub use door::Door;
use door::attend;
use front::{Front, Watchers};
use router::Router;

pub use router::OPERATORS;

/// What a client may cost. Nothing here limits how long an answer takes or how long a stream may be silent: clients
/// wait minutes for a model to load (ollama-api §13.34).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest request body in bytes; more is answered 413. Images come inside JSON, so this is not small.
    pub body_limit: usize,
    /// Longest request head in bytes; more is answered 431. At least 8192.
    pub header_limit: usize,
    /// Longest body of a route that takes it as it comes, in bytes; more is answered 413.
    pub upload_limit: u64,
    /// How long a client may take to send a request head once it has begun, or to begin its first one.
    pub header_timeout: Duration,
    /// How long a client may be silent in the middle of a body; then it is answered 408.
    pub body_timeout: Duration,
    /// How long a client may read nothing of an answer that waits for it; then its connection and its request end.
    pub stall_timeout: Duration,
    /// How long a connection may stay open between two requests.
    pub idle_timeout: Duration,
    /// Connections at a time. Who finds no place takes that of the connection that has rested longest; where none rests it
    /// is answered 503, but for operators' questions.
    pub max_connections: usize,
    /// Connections that are let in without a place; the oldest goes when there are more.
    pub lobby: usize,
    /// Requests with a body at a time: each may need a descriptor beside that of its connection. More are answered 503.
    pub max_requests: usize,
    /// Answers of models that one client, known by its key or its address, may have on their way at a time; more are answered 429. 0 =
    /// any number.
    pub streams_per_client: usize,
    /// How long a request waits at most for its model by what is known of it, where the client says nothing; it is
    /// answered 503 at once where it would be longer. `None` = as long as it takes.
    pub patience: Option<Duration>,
    /// Origins whose pages may ask (ollama-api §8.1).
    pub origins: Origins,
    /// Name of this machine, one of the names the host check lets through (ollama-api §8.2).
    pub hostname: Option<String>,
    /// Looks at the keys of requests; `None` where none are asked for.
    pub gate: Option<Arc<Gate>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            body_limit: 64 * 1024 * 1024,
            upload_limit: 1 << 40,
            header_limit: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            max_connections: 4096,
            lobby: 64,
            max_requests: 4096,
            streams_per_client: 0,
            patience: None,
            origins: Origins::new(&[]),
            hostname: None,
            gate: None,
        }
    }
}

/// What the server is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Serve.
    #[default]
    Serving,
    /// Finish what runs, and end.
    Draining,
}

/// Serves at all doors until the phase is [`Phase::Draining`] (or its sender is gone). Then it answers on, so that load
/// balancers learn that it is not ready and new inference is refused, each answer with `Connection: close`, until the last
/// request that began before has ended; closes the ports, ends idle connections and returns. An inherited door takes nobody
/// any more from the beginning of that. Dropping the future cuts everything off. Settings may change while it serves;
/// `max_connections`, `lobby` and `max_requests` may not.
pub async fn serve(
    doors: Vec<Door>,
    app: Arc<App>,
    settings: watch::Receiver<Arc<Settings>>,
    phase: watch::Receiver<Phase>,
) {
    let watchers = Watchers { metrics: app.metrics.clone(), tracer: app.tracer.clone() };
    serve_routes(doors, Router::new(app), settings, phase, watchers).await;
}

/// Serves `/metrics` and `/health`, and nothing else, until `phase` is [`Phase::Draining`] or its sender is gone.
pub async fn serve_monitoring(
    door: Door,
    app: Arc<App>,
    settings: watch::Receiver<Arc<Settings>>,
    phase: watch::Receiver<Phase>,
) {
    let router = Router::monitoring(&app);
    let watchers = Watchers { metrics: app.metrics.clone(), tracer: None };
    serve_routes(vec![door], router, settings, phase, watchers).await;
}

async fn serve_routes(
    doors: Vec<Door>,
    router: Router,
    settings: watch::Receiver<Arc<Settings>>,
    phase: watch::Receiver<Phase>,
    watchers: Watchers,
) {
    let front = Arc::new(Front::new(router, settings, phase.clone(), watchers));
    let mut open = JoinSet::new();
    for door in doors {
        open.spawn(attend(door, front.clone(), phase.clone()));
    }
    while open.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests;
