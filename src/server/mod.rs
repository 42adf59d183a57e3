//! Sockets and HTTP: connections, limits, origins, keys, routing, request ids, the access log, drain.
//!
//! In: TCP connections. Out: a [`Call`](crate::api::Call) to the handler of a route, and its reply back to the client.
//! Knows no model and no engine: what an answer says is the business of `api` and `telemetry`.

mod body;
mod bounded;
mod cors;
mod encoding;
mod front;
mod host;
mod keys;
mod patience;
mod record;
mod request_id;
mod router;
mod running;

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::access::Gate;
use crate::api::App;
pub use cors::Origins;
use front::{Front, Watchers};
use patience::{Patience, Patient};
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
    /// Connections at a time; more wait in the kernel's queue.
    pub max_connections: usize,
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

/// A port that clients come in by.
#[derive(Debug)]
pub struct Door {
    /// Its socket.
    pub listener: TcpListener,
    /// Whether somebody else holds the socket too (systemd's socket activation): who comes when this vllama does not
    /// serve any more waits in it for the next one.
    pub inherited: bool,
}

/// Serves at all doors until the phase is [`Phase::Draining`] (or its sender is gone). Then it answers on, so that load
/// balancers learn that it is not ready and new inference is refused, each answer with `Connection: close`, until the last
/// request that began before has ended; closes the ports, ends idle connections and returns. An inherited door takes nobody
/// any more from the beginning of that. Dropping the future cuts everything off. Settings may change while it serves;
/// `max_connections` may not.
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
    let places = Arc::new(Semaphore::new(settings.borrow().max_connections));
    let front = Arc::new(Front::new(router, settings, phase.clone(), watchers));
    let mut open = JoinSet::new();
    for door in doors {
        open.spawn(attend(door, front.clone(), places.clone(), phase.clone()));
    }
    while open.join_next().await.is_some() {}
}

/// Takes the connections of one door, and serves them to their ends.
async fn attend(door: Door, front: Arc<Front>, places: Arc<Semaphore>, mut phase: watch::Receiver<Phase>) {
    let Door { listener, inherited } = door;
    // Only a server for this machine alone has to fear pages that make a name point to it.
    let local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let (close, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    let counted = front.clone();
    let mut ends = std::pin::pin!(async {
        draining(&mut phase).await;
        if !inherited {
            counted.running().none().await;
        }
    });
    loop {
        let accepted = tokio::select! {
            () = &mut ends => break,
            // Its outcome is nobody's business: a panic has been logged, and the rest was the client's doing.
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let counted = front.metrics().connection();
                let connection = connection(stream, front.clone(), local, closing.clone());
                connections.spawn(async move {
                    connection.await;
                    drop((place, counted));
                });
            }
            Err(error) => {
                front.metrics().connection_refused();
                // Out of file descriptors, most likely: some connection has to end first.
                tracing::warn!(%error, "a connection could not be accepted; trying again in a moment");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    tracing::debug!(connections = connections.len(), "the port is closed; finishing what runs");
    front.running().none().await;
    close.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // Nobody closes the semaphore.
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _address) = listener.accept().await?;
    Ok((stream, place))
}

/// Waits until it is time to end; without a sender there is nobody left to serve for.
async fn draining(shutdown: &mut watch::Receiver<Phase>) {
    let _ = shutdown.wait_for(|phase| *phase == Phase::Draining).await;
}

/// Waits until connections may not rest any more.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, front: Arc<Front>, local: bool, mut closing: watch::Receiver<bool>) {
    // Every token is a small write, and is wanted at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let settings = front.settings();
    let patience = Arc::new(Patience::default());
    let stream = Patient::new(stream, patience.clone(), settings.header_timeout, settings.stall_timeout);
    let mut http = http1::Builder::new();
    http.max_buf_size(settings.header_limit.max(8192));
    // hyper counts from the end of the last answer, so this is the time to rest; `Patient` hurries heads.
    http.timer(TokioTimer::new()).header_read_timeout(settings.idle_timeout);
    let service = service_fn(move |request| {
        let (front, patience) = (front.clone(), patience.clone());
        async move { Ok::<_, std::convert::Infallible>(front.answer(request, patience, local).await) }
    });
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = closed(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;
