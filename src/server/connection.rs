//! One connection, from its arrival to its end: it waits for a request, is served, and rests until the next one.
//!
//! hyper has two buffers of 8 KiB for each connection, and most connections only rest. So hyper gets a connection when its
//! client says something, and it is taken back when it rests (decision 0052).

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Settings;
use super::crowd::{Crowd, Guest};
use super::front::{Front, Visitor};
use super::patience::{Patience, Patient, Times};
use super::record::Recorded;

/// How long a client in the lobby may take to ask.
const LOBBY_TIME: Duration = Duration::from_secs(2);

/// A connection that has just come.
pub(super) struct Guided {
    pub stream: TcpStream,
    /// Counts it.
    pub guest: Guest,
    pub visitor: Visitor,
}

/// A connection that rests.
struct Rests {
    stream: TcpStream,
    /// Whether any request came.
    has_asked: bool,
}

/// How serving a connection ended.
enum Served {
    /// All requests have been answered, and nothing of another one has come.
    Rests,
    /// It is over.
    Over(hyper::Result<()>),
}

/// Serves it to its end.
pub(super) async fn connection(guided: Guided, front: Arc<Front>, mut closing: watch::Receiver<bool>) {
    let Guided { mut stream, mut guest, mut visitor } = guided;
    // Every token is a small write, and is wanted at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    if !guest.find_place().await {
        return;
    }
    visitor.in_lobby = guest.is_in_lobby();
    let mut wait = Wait::First(head_time(&front.settings(), visitor));
    while wait.until_readable(&stream, front.crowd(), &mut guest, &mut closing).await {
        // In a box of its own, so that nothing is left of it while the connection rests.
        let served = Box::pin(serve(stream, visitor, &front, &mut guest, &mut closing)).await;
        let Some(rests) = served else { return };
        stream = rests.stream;
        // A new socket is said to be readable before the kernel has been asked.
        if rests.has_asked {
            wait = Wait::Next(front.settings().idle_timeout);
        }
    }
}

/// How long a client may take to send a head.
fn head_time(settings: &Settings, visitor: Visitor) -> Duration {
    if visitor.in_lobby { settings.header_timeout.min(LOBBY_TIME) } else { settings.header_timeout }
}

/// What a connection waits for, and how long.
enum Wait {
    /// For its first request.
    First(Duration),
    /// For another one: it rests.
    Next(Duration),
}

impl Wait {
    /// Waits until the client says something or hangs up; false when the connection has to go.
    async fn until_readable(
        &self,
        stream: &TcpStream,
        crowd: &Crowd,
        guest: &mut Guest,
        closing: &mut watch::Receiver<bool>,
    ) -> bool {
        let (longest, rests) = match *self {
            Self::First(longest) => (longest, false),
            Self::Next(longest) => (longest, true),
        };
        tokio::select! {
            // What has come counts, even when somebody asks for its place at the same moment.
            biased;
            readable = stream.readable() => readable.is_ok(),
            () = closed(closing) => false,
            () = crowd.needs_room(), if rests => false,
            () = guest.has_to_leave() => false,
            () = sleep(longest) => false,
        }
    }
}

/// Serves it until it rests; `None` when it is over before.
async fn serve(
    stream: TcpStream,
    visitor: Visitor,
    front: &Arc<Front>,
    guest: &mut Guest,
    closing: &mut watch::Receiver<bool>,
) -> Option<Rests> {
    let patience = Arc::new(Patience::default());
    let (http, times) = {
        let settings = front.settings();
        let mut http = http1::Builder::new();
        // `Patient` looks after the time of heads, and `Wait` after the time before them.
        http.max_buf_size(settings.header_limit.max(8192)).header_read_timeout(None);
        (http, Times { head: head_time(&settings, visitor), stall: settings.stall_timeout })
    };
    let (answering, waiting) = (front.clone(), patience.clone());
    let service = service_fn(move |request| {
        let (front, patience) = (answering.clone(), waiting.clone());
        // Before anybody reads on.
        patience.begin();
        async move { Ok::<_, Infallible>(front.answer(request, patience, visitor).await) }
    });
    let mut stream = Patient::new(stream, patience.clone(), times);
    loop {
        let mut connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let mut last = false;
        let served = tokio::select! {
            // The connection first: the others depend on how far it is.
            biased;
            served = poll_fn(|context| poll_serve(&mut connection, &patience, &mut last, context)) => served,
            () = closed(closing) => {
                Pin::new(&mut connection).graceful_shutdown();
                Served::Over((&mut connection).await)
            }
            () = guest.has_to_leave() => Served::Over(Ok(())),
        };
        match served {
            Served::Rests => {
                let parts = connection.into_parts();
                stream = parts.io.into_inner();
                if parts.read_buf.is_empty() {
                    return Some(Rests { stream: stream.into_inner(), has_asked: patience.has_begun() });
                }
                // The beginning of another request came together with the last one.
                stream.put_back(parts.read_buf);
            }
            Served::Over(outcome) => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a connection ended early");
                }
                return None;
            }
        }
    }
}

/// Goes on with serving. `last` becomes true when the answer that is on its way has to be the last one.
fn poll_serve<S>(
    connection: &mut http1::Connection<TokioIo<Patient<TcpStream>>, S>,
    patience: &Patience,
    last: &mut bool,
    context: &mut Context<'_>,
) -> Poll<Served>
where
    S: HttpService<Incoming, ResBody = Recorded, Error = Infallible> + Unpin,
{
    let mut connection = Pin::new(connection);
    // A second time for what the end of an answer has left: a handler that did not read all of its request.
    for _ in 0..2 {
        if let Poll::Ready(outcome) = connection.as_mut().poll(context) {
            return Poll::Ready(Served::Over(outcome));
        }
        if *last || !patience.rests() {
            return Poll::Pending;
        }
    }
    // Only hyper knows whether the last request has been read to its end. If so it is done at once; else what is left of
    // that must not be taken for another one, and hyper closes the connection.
    *last = true;
    connection.as_mut().graceful_shutdown();
    match connection.poll(context) {
        Poll::Ready(Ok(())) => Poll::Ready(Served::Rests),
        other => other.map(Served::Over),
    }
}

/// Waits until connections may not rest any more.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}
