//! A body that is read while it comes, for what is too large to be held in memory.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::timeout;

/// How long a body that nobody wants is read all the same, and thrown away. A client that is still sending would not
/// see the answer otherwise, only a broken connection.
const POLITENESS: Duration = Duration::from_secs(5);

/// Why a body was not taken. The connection is closed after the answer, since the rest of the body is still on its way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// Status of the answer.
    pub status: StatusCode,
    /// What the client is told.
    pub text: String,
}

type Incoming = Pin<Box<dyn http_body::Body<Data = Bytes, Error = Refused> + Send + Sync>>;

/// The rest of a body. `server` bounds its length and the client's silence.
#[derive(Default)]
pub struct Upload {
    body: Option<Incoming>,
    /// Whether the client waits for leave to send it (`Expect: 100-continue`); the first read gives it.
    asks_first: bool,
}

impl Upload {
    /// A body that is still to come. `asks_first` says that the client waits for leave to send it
    /// (`Expect: 100-continue`), which the first read gives.
    pub fn new(
        body: impl http_body::Body<Data = Bytes, Error = Refused> + Send + Sync + 'static,
        asks_first: bool,
    ) -> Self {
        Self { body: Some(Box::pin(body)), asks_first }
    }

    /// Bytes that will come, where the client has said so.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.body.as_ref()?.size_hint().exact()
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`Refused`] when there are too many, or when they do not come.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refused> {
        let Some(body) = &mut self.body else { return Ok(None) };
        match body.frame().await {
            Some(Ok(frame)) => {
                self.asks_first = false;
                Ok(Some(frame.into_data().unwrap_or_default()))
            }
            Some(Err(refused)) => Err(refused),
            None => Ok(None),
        }
    }

    /// Throws the rest away, so that the answer reaches a client that is still sending.
    pub async fn discard(mut self) {
        if self.asks_first {
            return;
        }
        let all = async { while let Ok(Some(_)) = self.next().await {} };
        // Whoever sends for longer gets the answer late or never.
        let _ = timeout(POLITENESS, all).await;
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Upload").field("length", &self.length()).finish_non_exhaustive()
    }
}
