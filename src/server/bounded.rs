//! A body that is handed on while it comes, but not without end and not from a client that has fallen silent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::body::{silent, unreadable};
use crate::api::Refused;

/// The body `B` within its bounds.
pub struct Bounded<B> {
    body: B,
    /// Most bytes in all.
    limit: u64,
    /// Bytes that may still come.
    left: u64,
    silence: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl<B> Bounded<B> {
    /// At most `limit` bytes, and never longer than `silence` without one.
    pub fn new(body: B, limit: u64, silence: Duration) -> Self {
        Self { body, limit, left: limit, silence, deadline: Box::pin(sleep(silence)) }
    }

    /// Says so once. What comes after it is handed on without a bound, to be thrown away for the sake of a client that
    /// is still sending.
    fn too_large(&mut self) -> Refused {
        self.left = u64::MAX;
        Refused {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            text: format!(
                "the file is too large: the limit is {} bytes; raise VLLAMA_MAX_BLOB on the server to take it",
                self.limit
            ),
        }
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = Refused;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
        let bounded = self.get_mut();
        if bounded.body.size_hint().lower() > bounded.left {
            return Poll::Ready(Some(Err(bounded.too_large())));
        }
        let Poll::Ready(frame) = Pin::new(&mut bounded.body).poll_frame(context) else {
            ready!(bounded.deadline.as_mut().poll(context));
            return Poll::Ready(Some(Err(silent(bounded.silence))));
        };
        bounded.deadline.as_mut().reset(Instant::now() + bounded.silence);
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match bounded.left.checked_sub(length) {
                    Some(left) => {
                        bounded.left = left;
                        Some(Ok(frame))
                    }
                    None => Some(Err(bounded.too_large())),
                }
            }
            Some(Err(error)) => Some(Err(unreadable(&error))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
