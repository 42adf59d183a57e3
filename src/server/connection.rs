//! One connection, from its arrival to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::crowd::Guest;
use super::front::{Front, Visitor};
use super::patience::{Patience, Patient};

/// How long a client in the lobby may take to ask.
const LOBBY_TIME: Duration = Duration::from_secs(2);

/// A connection that has just come.
pub(super) struct Guided {
    pub stream: TcpStream,
    /// Counts it.
    pub guest: Guest,
    pub visitor: Visitor,
}

/// Serves it to its end.
pub(super) async fn connection(guided: Guided, front: Arc<Front>, mut closing: watch::Receiver<bool>) {
    let Guided { stream, mut guest, mut visitor } = guided;
    // Every token is a small write, and is wanted at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    if !guest.find_place().await {
        return;
    }
    visitor.in_lobby = guest.is_in_lobby();
    let settings = front.settings();
    let patience = Arc::new(Patience::default());
    let head_time = if visitor.in_lobby { settings.header_timeout.min(LOBBY_TIME) } else { settings.header_timeout };
    let stream = Patient::new(stream, patience.clone(), head_time, settings.stall_timeout);
    let mut http = http1::Builder::new();
    http.max_buf_size(settings.header_limit.max(8192));
    // hyper counts from the end of the last answer, so this is the time to rest; `Patient` hurries heads.
    http.timer(TokioTimer::new()).header_read_timeout(settings.idle_timeout);
    drop(settings);
    let (crowd, rests) = (front.crowd().clone(), patience.clone());
    let service = service_fn(move |request| {
        let (front, patience) = (front.clone(), patience.clone());
        // Before anybody reads on.
        patience.begin();
        async move { Ok::<_, Infallible>(front.answer(request, patience, visitor).await) }
    });
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        // The connection first: the others depend on how far it is.
        biased;
        outcome = connection.as_mut() => outcome,
        () = closed(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = crowd.needs_room(&rests) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = guest.has_to_leave() => Ok(()),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Waits until connections may not rest any more.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}
