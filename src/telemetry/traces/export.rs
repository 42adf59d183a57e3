//! Sends spans, many at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::Endpoint;
use super::span::{Span, batch};

/// How long spans are collected before they are sent.
const PACE: Duration = Duration::from_secs(1);
/// Most spans of one request.
const MOST: usize = 512;
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most of its answer that is read, in bytes.
const ANSWER: usize = 64 << 10;
/// How often it is told that it does not take them.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Sends what comes until the end is told, and then what has come by then.
pub(super) async fn run(endpoint: Endpoint, mut spans: mpsc::Receiver<Span>, end: Arc<Notify>) {
    let mut collected = Vec::with_capacity(MOST);
    let mut complained: Option<Instant> = None;
    loop {
        tokio::select! {
            count = spans.recv_many(&mut collected, MOST) => if count == 0 { return },
            () = end.notified() => spans.close(),
        }
        if collected.len() < MOST && !spans.is_closed() {
            tokio::select! {
                () = sleep(PACE) => {}
                () = end.notified() => spans.close(),
            }
            while collected.len() < MOST
                && let Ok(span) = spans.try_recv()
            {
                collected.push(span);
            }
        }
        if collected.is_empty() {
            continue;
        }
        let sent = timeout(PATIENCE, send(&endpoint, batch(&collected))).await;
        let problem = match sent {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(_) => Some(format!("it did not answer within {} s", PATIENCE.as_secs())),
        };
        if let Some(problem) = problem
            && complained.is_none_or(|last| last.elapsed() >= COMPLAINT)
        {
            complained = Some(Instant::now());
            tracing::warn!(%endpoint, lost = collected.len(), "the collector does not take spans, which are lost: {problem}");
        }
        collected.clear();
    }
}

/// One connection for each batch: at most one a second, and a collector may close those that rest.
async fn send(endpoint: &Endpoint, body: Vec<u8>) -> Result<(), String> {
    let told = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect(&endpoint.authority).await.map_err(|error| told(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
    // Ends with the sender, or with the collector; what goes wrong shows in the answer.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(&endpoint.path)
        .header(HOST, &endpoint.authority)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| told(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| told(&error))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = Limited::new(answer.into_body(), ANSWER).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).chars().take(200).collect::<String>());
    Err(format!("{status}: {}", text.unwrap_or_default()))
}
