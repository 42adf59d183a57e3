//! Requests over the engine's Unix socket.
//!
//! Connections are kept and used again. One whose answer was not read to the end is closed at once: that is how vLLM
//! learns that nobody wants the answer any more, and aborts the request (vllm-engine §3.5).

use std::borrow::Cow;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Limited};
use nix::sys::resource::{Resource, getrlimit};

use super::heartbeat::{InFlight, Pulse};
use super::trace::Trace;
use super::wire::{Connection, Framing, piece};

/// Longest answer that [`Client::get`] reads, in bytes.
const WHOLE_LIMIT: usize = 64 << 20;
const JSON: &str = "application/json";
/// Most connections kept for later, of all engines together: descriptors are the process's.
const KEPT: usize = 256;

/// Of this many descriptors one may be a kept connection.
const KEPT_PART: u64 = 8;

/// Connections to all engines that are kept for later now.
static KEPT_NOW: AtomicUsize = AtomicUsize::new(0);

/// Most of them in this process, whose limit is set before the first engine is started.
static MOST_KEPT: LazyLock<usize> =
    LazyLock::new(|| kept_connections(getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(descriptors, _)| descriptors)));

/// Most connections to engines that are kept for later, of a process that may have so many descriptors.
#[must_use]
pub fn kept_connections(descriptors: u64) -> usize {
    usize::try_from(descriptors / KEPT_PART).map_or(KEPT, |part| part.min(KEPT))
}

/// The engine died, or hung up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineGone {
    /// Before it saw anything of the request, which can safely go to another engine.
    #[error("the engine cannot be reached")]
    Unreached,
    /// In the middle of it; the request may be what killed it.
    #[error("the engine hung up in the middle of a request")]
    HungUp,
    /// Before it answered, and the request does not wait for the next one as long as that takes.
    #[error(
        "the engine died before it answered, and it takes another {} s to start again, which is longer than this request \
         waits; try again then",
        .retry_after.as_secs_f64().ceil()
    )]
    TooSlow {
        /// When the next one will be ready, by what is known.
        retry_after: Duration,
    },
    /// More than once in the middle of this request, which is not tried again.
    #[error(
        "the engine died each time it worked on this request, so the request is not tried again for ten minutes; the \
         engine's log tells why it died. Other requests are served on"
    )]
    Poisoned,
}

/// Where a request comes from, for the engine's own records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// Its identity in the engine's log; empty = the engine makes one up.
    pub request_id: &'a str,
    /// The trace it is part of.
    pub trace: Option<&'a Trace>,
}

impl<'a> From<&'a str> for Origin<'a> {
    fn from(request_id: &'a str) -> Self {
        Self { request_id, trace: None }
    }
}

/// The body of a request.
#[derive(Clone, Debug)]
pub struct Content {
    /// What it is; goes into the head as it stands, and must not hold line ends.
    pub kind: Cow<'static, str>,
    /// The bytes.
    pub bytes: Bytes,
    /// Which requests the engine takes first, where it goes by that: the lower number; `None` = as the request itself says.
    pub priority: Option<i32>,
}

impl From<Bytes> for Content {
    fn from(json: Bytes) -> Self {
        Self { kind: Cow::Borrowed(JSON), bytes: json, priority: None }
    }
}

/// A client of one generation's socket; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    socket: Box<Path>,
    /// Connections nobody uses now. The lock is held for a push or a pop only.
    idle: Mutex<Vec<Kept>>,
    pulse: Arc<Pulse>,
}

impl Client {
    /// A client for the socket at `path`; connects with the first request.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { pool: Arc::new(Pool { socket: path.into(), idle: Mutex::default(), pulse: Arc::default() }) }
    }

    /// Posts a body, which is JSON unless it says otherwise, to `path` and waits for the head of the answer: its status and
    /// its content type. Dropping the future or the answer's body aborts the request.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine cannot be reached or hangs up before the head has come.
    pub async fn post(
        &self,
        path: &'static str,
        content: impl Into<Content>,
        origin: impl Into<Origin<'_>>,
    ) -> Result<Response<EngineBody>, EngineGone> {
        let in_flight = self.pool.pulse.request();
        let mut answer = self.send("POST", path, &content.into(), origin.into()).await?;
        in_flight.beat();
        answer.body_mut().in_flight = Some(in_flight);
        Ok(answer)
    }

    /// What its requests tell of the engine's life.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pool.pulse
    }

    /// Gets `path` and reads the whole answer: status and body.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine cannot be reached, hangs up or says more than it should.
    pub async fn get(&self, path: &'static str) -> Result<(StatusCode, Bytes), EngineGone> {
        self.get_within(path, WHOLE_LIMIT).await
    }

    /// The same with another limit of the answer's body, in bytes.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_within(&self, path: &'static str, limit: usize) -> Result<(StatusCode, Bytes), EngineGone> {
        let response = self.send("GET", path, &Bytes::new().into(), Origin::default()).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(|_| EngineGone::HungUp)?;
        Ok((status, body.to_bytes()))
    }

    async fn send(
        &self,
        method: &'static str,
        path: &'static str,
        Content { kind, bytes: body, priority }: &Content,
        Origin { request_id, trace }: Origin<'_>,
    ) -> Result<Response<EngineBody>, EngineGone> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: engine\r\ncontent-type: {kind}\r\n");
        // What could break the head does not get into it.
        if !request_id.is_empty() && request_id.bytes().all(|byte| byte.is_ascii_graphic()) {
            head.extend(["x-request-id: ", request_id, "\r\n"]);
        }
        if let Some(priority) = priority {
            head.extend(["x-vllm-priority: ", &priority.to_string(), "\r\n"]);
        }
        if let Some(trace) = trace {
            head.extend(["traceparent: ", trace.parent(), "\r\n"]);
            trace.state().iter().for_each(|state| head.extend(["tracestate: ", state, "\r\n"]));
        }
        let head = head.into_bytes();
        let (connection, head) = loop {
            let kept = self.pool.take();
            let was_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(&self.pool.socket).await.map_err(|_| EngineGone::Unreached)?,
            };
            let sent = connection.send(head.clone(), body).await;
            match (connection.head().await, sent) {
                // An engine that refuses a request may answer and close before it has read all of it: the answer counts.
                (Ok(head), _) => break (connection, head),
                // What was not sent whole cannot have been carried out. A kept connection may just have been too old.
                (Err(_), Err(_)) if was_kept => {}
                (Err(_), Err(_)) => return Err(EngineGone::Unreached),
                (Err(error), Ok(())) => {
                    tracing::debug!(%error, path, "the engine did not answer");
                    return Err(EngineGone::HungUp);
                }
            }
        };
        let mut response = Response::new(EngineBody {
            connection: Some(connection),
            framing: head.framing,
            read: BytesMut::new(),
            // vLLM's server closes a connection behind an answer to what it did not expect, and the next request on it
            // would be lost.
            keeps_alive: head.keeps_alive && !head.status.is_server_error(),
            pool: self.pool.clone(),
            in_flight: None,
        });
        *response.status_mut() = head.status;
        response.headers_mut().extend(head.content_type.map(|kind| (http::header::CONTENT_TYPE, kind)));
        Ok(response)
    }
}

impl Pool {
    /// A kept connection that still stands.
    fn take(&self) -> Option<Connection> {
        loop {
            let Kept { mut connection, .. } = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if connection.stands() {
                return Some(connection);
            }
        }
    }

    fn put_back(&self, connection: Connection) {
        if connection.is_clean()
            && let Some(counted) = Counted::new(*MOST_KEPT)
        {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(Kept { connection, _counted: counted });
        }
    }
}

/// A connection that nobody uses now.
#[derive(Debug)]
struct Kept {
    connection: Connection,
    _counted: Counted,
}

/// One of the kept connections of this process.
#[derive(Debug)]
struct Counted;

impl Counted {
    /// One more, where there are less than `most`.
    fn new(most: usize) -> Option<Self> {
        let more = |kept| (kept < most).then_some(kept + 1);
        KEPT_NOW.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        KEPT_NOW.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Body of an engine's answer. Read to the end, its connection is kept; dropped before, the connection is closed.
#[derive(Debug)]
pub struct EngineBody {
    /// Gone at the end.
    connection: Option<Connection>,
    framing: Framing,
    read: BytesMut,
    keeps_alive: bool,
    pool: Arc<Pool>,
    /// Until the end of the answer.
    in_flight: Option<InFlight>,
}

impl EngineBody {
    /// Waits for the first bytes that have not been handed on yet, and leaves them where they are: empty at the end.
    ///
    /// # Errors
    /// [`EngineGone::HungUp`] when the answer breaks off.
    pub async fn begin(&mut self) -> Result<&[u8], EngineGone> {
        poll_fn(|context| self.poll_read(context)).await?;
        Ok(&self.read)
    }

    /// Reads once where nothing has been read that is not handed on.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), EngineGone>> {
        let Self { connection, framing, read, keeps_alive, pool, in_flight } = self;
        let Some(open) = connection.as_mut().filter(|_| read.is_empty()) else { return Poll::Ready(Ok(())) };
        match ready!(open.poll_body(context, framing, read)) {
            Ok(done) => {
                in_flight.iter().for_each(InFlight::beat);
                if done {
                    *in_flight = None;
                    connection
                        .take()
                        .filter(|_| *keeps_alive)
                        .into_iter()
                        .for_each(|connection| pool.put_back(connection));
                }
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                tracing::debug!(%error, "the engine's answer broke off");
                *connection = None;
                *in_flight = None;
                Poll::Ready(Err(EngineGone::HungUp))
            }
        }
    }
}

impl Body for EngineBody {
    type Data = Bytes;
    type Error = EngineGone;

    /// A frame is all that has come by now, however many chunks that is.
    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, EngineGone>>> {
        let body = self.get_mut();
        match ready!(body.poll_read(context)) {
            Ok(()) => {
                let frame = piece(&mut body.read);
                Poll::Ready((!frame.is_empty()).then(|| Ok(Frame::data(frame))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none() && self.read.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    async fn request(stream: &mut UnixStream) -> String {
        let mut text = vec![0; 4096];
        let read = stream.read(&mut text).await.expect("a request");
        String::from_utf8_lossy(&text[..read]).into_owned()
    }

    async fn ask(client: &Client) -> Result<Bytes, EngineGone> {
        let answer = client.post("/v1/x", Bytes::from_static(b"{}"), "id-7").await?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    /// An engine's socket, and a client of it.
    fn engine() -> (tempfile::TempDir, UnixListener, Client) {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        (directory, listener, Client::new(&socket))
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_unreached_and_one_that_hangs_up_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("engine.sock");
        let client = Client::new(&socket);
        assert_eq!(ask(&client).await, Err(EngineGone::Unreached));
        let listener = UnixListener::bind(&socket).expect("a socket");
        let (answer, ()) = tokio::join!(ask(&client), async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            request(&mut stream).await;
        });
        assert_eq!(answer, Err(EngineGone::HungUp));
        drop(listener);
        assert_eq!(ask(&client).await, Err(EngineGone::Unreached));
    }

    #[test]
    fn kept_connections_are_bounded_over_all_engines() {
        for (descriptors, most) in [(0, 0), (256, 32), (2048, 256), (1 << 20, 256), (u64::MAX, 256)] {
            assert_eq!(kept_connections(descriptors), most, "{descriptors}");
        }
        assert!(Counted::new(0).is_none());
        let before = KEPT_NOW.load(Ordering::Relaxed);
        let kept: Vec<_> = (0..1000).map_while(|_| Counted::new(before + 100)).collect();
        assert!(kept.len() <= 100, "{}", kept.len());
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_replaced_when_the_engine_has_closed_it() {
        let (_directory, listener, client) = engine();
        let engine = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            for _ in 0..2 {
                let text = request(&mut stream).await;
                assert!(text.starts_with("POST /v1/x HTTP/1.1\r\n") && text.ends_with("content-length: 2\r\n\r\n{}"));
                assert!(text.contains("\r\nx-request-id: id-7\r\n"), "{text}");
                stream.write_all(ANSWER).await.expect("sent");
            }
            drop(stream);
            let (mut stream, _) = listener.accept().await.expect("another connection");
            request(&mut stream).await;
            stream.write_all(ANSWER).await.expect("sent");
        };
        let user = async {
            for _ in 0..3 {
                assert_eq!(ask(&client).await.expect("an answer"), "ok");
                // The engine gets its turn to close.
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(engine, user);
    }

    #[tokio::test]
    async fn a_connection_on_which_the_engine_failed_is_not_used_again() {
        let (_directory, listener, client) = engine();
        let engine = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            request(&mut stream).await;
            // It says nothing of closing, and does so when the next request is on its way.
            let failed = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno";
            stream.write_all(failed).await.expect("sent");
            let (mut next, _) = listener.accept().await.expect("another connection");
            request(&mut next).await;
            next.write_all(ANSWER).await.expect("sent");
            drop(stream);
        };
        let user = async {
            assert_eq!(ask(&client).await.expect("an answer"), "no");
            assert_eq!(ask(&client).await.expect("an answer"), "ok");
        };
        tokio::join!(engine, user);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_to_its_end_closes_the_connection() {
        let (_directory, listener, client) = engine();
        let engine = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await.expect("sent");
            stream.read(&mut [0; 16]).await.expect("the end")
        };
        let user = async {
            let mut answer = client.post("/v1/x", Bytes::new(), "").await.expect("an answer");
            assert!(answer.body_mut().frame().await.is_some_and(|frame| frame.is_ok()));
        };
        let (read, ()) = tokio::join!(engine, user);
        assert_eq!(read, 0);
    }
}
