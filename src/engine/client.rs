//! HTTP/1.1 over the engine's Unix socket.
//!
//! Connections are kept and used again. One whose answer was not read to the end is closed at once: that is how vLLM
//! learns that nobody wants the answer any more, and aborts the request (vllm-engine §3.5).

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Longest answer that [`Client::get`] and [`Client::post_whole`] read, in bytes.
const WHOLE_LIMIT: usize = 64 << 20;

/// The engine died, or hung up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineGone {
    /// Before it saw anything of the request, which can safely go to another engine.
    #[error("the engine cannot be reached")]
    Unreached,
    /// In the middle of it; the request may be what killed it.
    #[error("the engine hung up in the middle of a request")]
    HungUp,
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
    idle: Mutex<Vec<Connection>>,
}

/// One connection; closed when dropped.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// A client for the socket at `path`; connects with the first request.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { pool: Arc::new(Pool { socket: path.into(), idle: Mutex::default() }) }
    }

    /// Posts a JSON body to `path` and waits for the head of the answer. Dropping the future or the answer's body aborts
    /// the request.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine cannot be reached or hangs up before the head has come.
    pub async fn post(
        &self,
        path: &'static str,
        body: Bytes,
        request_id: &str,
    ) -> Result<Response<EngineBody>, EngineGone> {
        self.send(Method::POST, path, body, request_id).await
    }

    /// Gets `path` and reads the whole answer: status and body.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine cannot be reached, hangs up or says more than it should.
    pub async fn get(&self, path: &'static str) -> Result<(http::StatusCode, Bytes), EngineGone> {
        let response = self.send(Method::GET, path, Bytes::new(), "").await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), WHOLE_LIMIT).collect().await.map_err(|_| EngineGone::HungUp)?;
        Ok((status, body.to_bytes()))
    }

    async fn send(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
        request_id: &str,
    ) -> Result<Response<EngineBody>, EngineGone> {
        loop {
            let pooled = self.pool.take().await;
            let was_pooled = pooled.is_some();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => self.pool.connect().await?,
            };
            let mut request = Request::builder().method(method.clone()).uri(path);
            if let Some(headers) = request.headers_mut() {
                headers.insert(HOST, HeaderValue::from_static("engine"));
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                if let Ok(id) = HeaderValue::from_str(request_id)
                    && !request_id.is_empty()
                {
                    headers.insert("x-request-id", id);
                }
            }
            let request = request.body(Full::new(body.clone())).map_err(|_| EngineGone::Unreached)?;
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(response.map(|incoming| EngineBody {
                        incoming,
                        connection: Some(connection),
                        pool: self.pool.clone(),
                    }));
                }
                // The engine closed a kept connection before it saw the request: another one is worth a try.
                Err(error) if error.message().is_some() => {
                    if !was_pooled {
                        return Err(EngineGone::Unreached);
                    }
                }
                Err(error) => {
                    tracing::debug!(error = %error.error(), path, "the engine did not answer");
                    return Err(EngineGone::HungUp);
                }
            }
        }
    }
}

impl Pool {
    /// A kept connection that still stands. One whose last answer has just ended may need a moment to be ready again.
    async fn take(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, EngineGone> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|_| EngineGone::Unreached)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| EngineGone::Unreached)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the engine ended");
            }
        });
        Ok(Connection { sender, driver })
    }

    fn put_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// Body of an engine's answer. Read to the end, its connection is kept; dropped before, the connection is closed.
#[derive(Debug)]
pub struct EngineBody {
    incoming: Incoming,
    connection: Option<Connection>,
    pool: Arc<Pool>,
}

impl Body for EngineBody {
    type Data = Bytes;
    type Error = EngineGone;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, EngineGone>>> {
        match ready!(Pin::new(&mut self.incoming).poll_frame(context)) {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => {
                tracing::debug!(%error, "the engine's answer broke off");
                self.connection = None;
                Poll::Ready(Some(Err(EngineGone::HungUp)))
            }
            None => {
                if let Some(connection) = self.connection.take() {
                    self.pool.put_back(connection);
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for EngineBody {
    fn drop(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(connection) = self.connection.take()
        {
            self.pool.put_back(connection);
        }
    }
}
