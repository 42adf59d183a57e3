//! The body of an answer that comes as a stream: polls the engine's body directly, so that a client that goes away takes
//! the lease and the engine's work with it. No task and no channel stand between the two.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};

use super::ollama::error::ApiError;

/// How far an answer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Nothing yet that says the request went well.
    #[default]
    Waiting,
    /// On its way.
    Begun,
    /// The last of it has come.
    Done,
}

/// Makes what a client reads of what an engine says.
pub trait Telling {
    /// Why an answer ends before its end.
    type Error: From<ApiError>;

    /// Takes in what came in one read, and writes what it makes of it to `out`.
    ///
    /// # Errors
    /// What the engine says went wrong, or what it says makes no sense; nothing is read after it.
    fn read(&mut self, bytes: &[u8], out: &mut BytesMut) -> Result<(), Self::Error>;

    /// How far the answer has come.
    fn progress(&self) -> Progress;

    /// The client is about to get its first bytes.
    fn begin(&mut self);

    /// The engine's work is over, well or not.
    fn end(&mut self) {}

    /// Tells an error where the status has been sent already.
    fn fail(&mut self, error: Self::Error, out: &mut BytesMut);
}

/// An answer, told by `T`, from an engine's body `B`. Holds `L`, the lease, until the last of it has come.
pub struct Streamed<B, L, T> {
    engine: Option<Pin<Box<B>>>,
    lease: Option<L>,
    telling: T,
    /// Made but not yet handed on.
    ready: BytesMut,
}

impl<B, L, T> Streamed<B, L, T>
where
    B: Body<Data = Bytes>,
    ApiError: From<B::Error>,
    T: Telling,
{
    /// Reads until the engine shows that it is at work. Only then is it safe to answer 200 (ollama-api §13.34).
    ///
    /// # Errors
    /// What went wrong before.
    pub async fn begun(engine: B, lease: L, telling: T) -> Result<Self, T::Error> {
        let (engine, lease) = (Some(Box::pin(engine)), Some(lease));
        let mut streamed = Self { engine, lease, telling, ready: BytesMut::with_capacity(4096) };
        while streamed.telling.progress() == Progress::Waiting {
            if let Err(error) = poll_fn(|context| streamed.poll_read(context)).await {
                if streamed.telling.progress() == Progress::Waiting {
                    return Err(error);
                }
                // What came in the same read is the client's, however the network has cut it.
                streamed.telling.fail(error, &mut streamed.ready);
            }
        }
        streamed.telling.begin();
        Ok(streamed)
    }

    /// Reads once from the engine. What comes in one read leaves as one frame.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), T::Error>> {
        let Some(engine) = &mut self.engine else {
            return Poll::Ready(Ok(()));
        };
        let outcome = match ready!(engine.as_mut().poll_frame(context)) {
            Some(Ok(frame)) => frame.into_data().map_or(Ok(()), |bytes| self.telling.read(&bytes, &mut self.ready)),
            // After the last event this is the end, one way or another. Before it, it is none.
            Some(Err(_)) | None if self.telling.progress() == Progress::Done => {
                self.engine = None;
                Ok(())
            }
            Some(Err(error)) => Err(ApiError::from(error).into()),
            None => Err(ApiError::Gone.into()),
        };
        if outcome.is_err() {
            self.engine = None;
        }
        if outcome.is_err() || self.telling.progress() == Progress::Done {
            // The place is free before the client has read the last of it. The body is read on to its end, which is near,
            // so that its connection can be used again.
            self.lease = None;
            self.telling.end();
        }
        Poll::Ready(outcome)
    }
}

impl<B, L, T> Body for Streamed<B, L, T>
where
    B: Body<Data = Bytes>,
    ApiError: From<B::Error>,
    L: Unpin,
    T: Telling + Unpin,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let streamed = self.get_mut();
        loop {
            if !streamed.ready.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(streamed.ready.split().freeze()))));
            }
            if streamed.engine.is_none() {
                return Poll::Ready(None);
            }
            if let Err(error) = ready!(streamed.poll_read(context)) {
                streamed.telling.fail(error, &mut streamed.ready);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.engine.is_none() && self.ready.is_empty()
    }
}

/// An engine's body that has all been received, in pieces.
#[cfg(test)]
pub(super) struct Recorded(std::collections::VecDeque<Result<Bytes, crate::scheduler::EngineGone>>);

#[cfg(test)]
impl Recorded {
    /// These pieces; `gone` is an engine that hangs up.
    pub(super) fn new(pieces: &[&str]) -> Self {
        let piece = |piece: &&str| match *piece {
            "gone" => Err(crate::scheduler::EngineGone::HungUp),
            piece => Ok(Bytes::copy_from_slice(piece.as_bytes())),
        };
        Self(pieces.iter().map(piece).collect())
    }
}

#[cfg(test)]
impl Body for Recorded {
    type Data = Bytes;
    type Error = crate::scheduler::EngineGone;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|piece| piece.map(Frame::data)))
    }
}
