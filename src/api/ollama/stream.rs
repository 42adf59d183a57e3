//! The body of a streamed answer: polls the engine's body directly, so that a client that goes away takes the lease
//! and the engine's work with it. No task and no channel stand between the two.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};

use super::error::ApiError;
use super::response::{Progress, Translator};
use super::sse::Events;

/// Lines of an answer, made from the events of an engine's body `B`. Holds `L`, the lease, until the last line is made.
pub struct Lines<B, L> {
    engine: Option<Pin<Box<B>>>,
    lease: Option<L>,
    events: Events,
    translator: Translator,
    progress: Progress,
    /// Lines made but not yet handed on.
    ready: BytesMut,
}

impl<B, L> Lines<B, L>
where
    B: Body<Data = Bytes>,
    B::Error: Into<ApiError>,
{
    /// Reads until the engine shows that it is at work. Only then is it safe to answer 200 (§13.34).
    ///
    /// # Errors
    /// What went wrong before.
    pub async fn open(engine: B, lease: L, translator: Translator) -> Result<Self, ApiError> {
        let mut lines = Self {
            engine: Some(Box::pin(engine)),
            lease: Some(lease),
            events: Events::default(),
            translator,
            progress: Progress::Waiting,
            ready: BytesMut::with_capacity(4096),
        };
        while lines.progress == Progress::Waiting {
            poll_fn(|context| lines.poll_read(context)).await?;
        }
        lines.translator.begin();
        Ok(lines)
    }

    /// Reads once from the engine and makes the lines it gives. All events that come in one read leave as one frame.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        let Some(engine) = &mut self.engine else {
            return Poll::Ready(Ok(()));
        };
        let outcome = match ready!(engine.as_mut().poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if self.progress < Progress::Done => self.absorb(&bytes),
                Ok(_) | Err(_) => Ok(()),
            },
            // After `[DONE]` this is the end, one way or another. Before it, it is none.
            Some(Err(_)) | None if self.progress == Progress::Done => {
                self.engine = None;
                Ok(())
            }
            Some(Err(error)) => Err(error.into()),
            None => Err(ApiError::Gone),
        };
        if outcome.is_err() {
            self.engine = None;
        }
        if outcome.is_err() || self.progress == Progress::Done {
            // The place is free before the client has read the last line. The body is read on to its end, which is
            // near, so that its connection can be used again.
            self.lease = None;
        }
        Poll::Ready(outcome)
    }

    fn absorb(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let Self { events, translator, progress, ready, .. } = self;
        let mut outcome = Ok(());
        events.read(bytes, |data| match translator.event(data, ready) {
            Ok(now) => {
                *progress = now.max(*progress);
                now != Progress::Done
            }
            Err(error) => {
                outcome = Err(error);
                false
            }
        });
        outcome
    }
}

impl<B, L> Body for Lines<B, L>
where
    B: Body<Data = Bytes>,
    B::Error: Into<ApiError>,
    L: Unpin,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let lines = self.get_mut();
        loop {
            if !lines.ready.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(lines.ready.split().freeze()))));
            }
            if lines.engine.is_none() {
                return Poll::Ready(None);
            }
            if let Err(error) = ready!(lines.poll_read(context)) {
                // The status has been sent; the last line says what happened (§1.2).
                lines.ready.extend_from_slice(&error.line());
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.engine.is_none() && self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Instant;

    use http_body_util::BodyExt;

    use super::*;
    use crate::api::ollama::response::{Asked, Clock, Shape};
    use crate::scheduler::EngineGone;
    use crate::telemetry::Facts;

    /// An engine's body that has all been received, in pieces.
    struct Recorded(VecDeque<Result<Bytes, EngineGone>>);

    impl Body for Recorded {
        type Data = Bytes;
        type Error = EngineGone;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, EngineGone>>> {
            Poll::Ready(self.0.pop_front().map(|piece| piece.map(Frame::data)))
        }
    }

    const ROLE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    const TEXT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
    const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    const ERROR: &str = "data: {\"error\":{\"message\":\"bad\",\"code\":400}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    async fn open(pieces: &[&str], lease: Arc<()>) -> Result<Lines<Recorded, Arc<()>>, ApiError> {
        let asked = Asked { shape: Shape::Generate, model: "m", logprobs: None, context: false };
        let now = Instant::now();
        let clock = Clock { arrived: now, leased: now, first: None };
        let translator = Translator::new(&asked, clock, Arc::new(Facts::default()));
        let pieces = pieces.iter().map(|piece| match *piece {
            "gone" => Err(EngineGone::HungUp),
            piece => Ok(Bytes::copy_from_slice(piece.as_bytes())),
        });
        Lines::open(Recorded(pieces.collect()), lease, translator).await
    }

    async fn read(lines: Lines<Recorded, Arc<()>>) -> String {
        let bytes = lines.collect().await.expect("infallible").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("lines are UTF-8")
    }

    #[tokio::test]
    async fn an_error_before_the_first_token_keeps_its_status() {
        for pieces in [vec![ERROR], vec![ROLE, ERROR]] {
            let error = open(&pieces, Arc::default()).await.err().expect("an error");
            assert_eq!((error.status().as_u16(), error.to_string().as_str()), (400, "bad"));
        }
        for pieces in [vec![], vec![ROLE], vec!["gone"], vec![ROLE, "gone"]] {
            let error = open(&pieces, Arc::default()).await.err().expect("an error");
            assert_eq!(error, ApiError::Gone);
        }
    }

    #[tokio::test]
    async fn an_error_after_the_first_token_is_the_last_line() {
        for (pieces, text) in [
            (vec![ROLE, TEXT, ERROR], "bad"),
            (vec![ROLE, TEXT], "model runner has unexpectedly stopped"),
            (vec![ROLE, TEXT, STOP], "model runner has unexpectedly stopped"),
            (vec![ROLE, TEXT, "gone"], "model runner has unexpectedly stopped"),
            (vec![TEXT, "data: {nonsense\n\n"], "does not understand"),
        ] {
            let text_of_stream = read(open(&pieces, Arc::default()).await.expect("a begun stream")).await;
            let lines: Vec<&str> = text_of_stream.lines().collect();
            assert_eq!(lines.len(), 2, "{text_of_stream}");
            assert!(lines[1].starts_with("{\"error\":\"") && lines[1].contains(text), "{}", lines[1]);
        }
    }

    #[tokio::test]
    async fn the_lease_is_free_when_the_last_line_is_made_or_the_client_is_gone() {
        let lease = Arc::new(());
        let whole = [ROLE, TEXT, STOP, DONE].concat();
        let mut lines = open(&[&whole], lease.clone()).await.expect("a stream");
        assert_eq!(Arc::strong_count(&lease), 1, "the last line is made");
        let frame = lines.frame().await.expect("one frame").expect("infallible").into_data().expect("data");
        assert_eq!(frame.iter().filter(|byte| **byte == b'\n').count(), 2, "events of one read leave together");
        assert!(lines.frame().await.is_none() && lines.is_end_stream());
        let lines = open(&[ROLE, TEXT, STOP, DONE], lease.clone()).await.expect("a stream");
        assert_eq!(Arc::strong_count(&lease), 2);
        drop(lines);
        assert_eq!(Arc::strong_count(&lease), 1);
    }
}
