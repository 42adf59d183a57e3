//! The body of an answer that passes through as a stream: polls the engine's body directly, so that a client that goes
//! away takes the lease and the engine's work with it. No task and no channel stand between the two.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};

use super::Dialect;
use super::error::{EngineError, PassError};
use super::events::{Events, Progress};
use crate::api::ollama::error::ApiError;
use crate::telemetry::Facts;

/// Events of an engine's body `B`, rewritten. Holds `L`, the lease, until the last event has come.
pub struct Passed<B, L> {
    engine: Option<Pin<Box<B>>>,
    lease: Option<L>,
    events: Events,
    dialect: &'static Dialect,
    /// The engine's name for the model and the client's, for errors.
    names: (String, String),
    facts: Arc<Facts>,
    /// Lines rewritten but not yet handed on.
    ready: BytesMut,
}

impl<B, L> Passed<B, L>
where
    B: Body<Data = Bytes>,
    ApiError: From<B::Error>,
{
    /// Reads until the engine shows that it is at work. Only then is it safe to answer 200 (ollama-api §13.34).
    ///
    /// # Errors
    /// What went wrong before.
    pub async fn open(
        engine: B,
        lease: L,
        events: Events,
        names: (String, String),
        dialect: &'static Dialect,
        facts: Arc<Facts>,
    ) -> Result<Self, PassError> {
        let (engine, lease) = (Some(Box::pin(engine)), Some(lease));
        let mut passed = Self { engine, lease, events, dialect, names, facts, ready: BytesMut::with_capacity(4096) };
        while passed.events.progress() == Progress::Waiting {
            poll_fn(|context| passed.poll_read(context)).await?;
        }
        passed.facts.set_first_token();
        Ok(passed)
    }

    /// Reads once from the engine. All events that come in one read leave as one frame.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PassError>> {
        let Some(engine) = &mut self.engine else {
            return Poll::Ready(Ok(()));
        };
        let outcome = match ready!(engine.as_mut().poll_frame(context)) {
            Some(Ok(frame)) => frame.into_data().map_or(Ok(()), |bytes| self.absorb(&bytes)),
            // After the last event this is the end, one way or another. Before it, it is none.
            Some(Err(_)) | None if self.events.progress() == Progress::Done => {
                self.engine = None;
                Ok(())
            }
            Some(Err(error)) => Err(ApiError::from(error).into()),
            None => Err(ApiError::Gone.into()),
        };
        if outcome.is_err() {
            self.engine = None;
        }
        if outcome.is_err() || self.events.progress() == Progress::Done {
            // The place is free before the client has read the last event. The body is read on to its end, which is
            // near, so that its connection can be used again.
            self.lease = None;
            self.facts.set_complete();
        }
        Poll::Ready(outcome)
    }

    fn absorb(&mut self, bytes: &[u8]) -> Result<(), PassError> {
        self.events.read(bytes, &mut self.ready, &self.facts).map_err(|data| {
            let (served, asked) = self.names.clone();
            PassError::Engine(EngineError::in_stream(data, served, asked))
        })
    }
}

impl<B, L> Body for Passed<B, L>
where
    B: Body<Data = Bytes>,
    ApiError: From<B::Error>,
    L: Unpin,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let passed = self.get_mut();
        loop {
            if !passed.ready.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(passed.ready.split().freeze()))));
            }
            if passed.engine.is_none() {
                return Poll::Ready(None);
            }
            if let Err(error) = ready!(passed.poll_read(context)) {
                // The status has been sent; the last event says what happened.
                passed.ready.extend_from_slice(&(passed.dialect.error)(&error.told(), passed.events.count()));
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

    use http_body_util::BodyExt;

    use super::*;
    use crate::api::openai::stream::DIALECT;
    use crate::scheduler::EngineGone;

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

    const TEXT: &str = "data: {\"id\":\"1\",\"model\":\"m:latest\",\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n";
    const USAGE: &str =
        "data: {\"id\":\"1\",\"model\":\"m:latest\",\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}\n\n";
    const ERROR: &str = "data: {\"error\": {\"message\": \"m:latest is bad\", \"code\": 400}}\n\ndata: [DONE]\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    async fn open(
        pieces: &[&str],
        lease: &Arc<()>,
        facts: &Arc<Facts>,
    ) -> Result<Passed<Recorded, Arc<()>>, PassError> {
        let names = ("m:latest".to_owned(), "M".to_owned());
        let pieces = pieces.iter().map(|piece| match *piece {
            "gone" => Err(EngineGone::HungUp),
            piece => Ok(Bytes::copy_from_slice(piece.as_bytes())),
        });
        let events = Events::new(&DIALECT, &names.0, &names.1);
        Passed::open(Recorded(pieces.collect()), lease.clone(), events, names, &DIALECT, facts.clone()).await
    }

    async fn read(pieces: &[&str]) -> String {
        let passed = open(pieces, &Arc::default(), &Arc::default()).await.expect("a begun stream");
        let bytes = passed.collect().await.expect("infallible").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("events are UTF-8")
    }

    #[tokio::test]
    async fn an_error_before_the_first_event_keeps_its_status() {
        for (pieces, status, text) in [
            (vec![ERROR], 400, "M is bad"),
            (vec![": keep-alive\n\n", ERROR], 400, "M is bad"),
            (vec![], 500, "model runner has unexpectedly stopped"),
            (vec!["gone"], 500, "model runner has unexpectedly stopped"),
            (vec![&TEXT[..20], "gone"], 500, "model runner has unexpectedly stopped"),
        ] {
            let error = open(&pieces, &Arc::default(), &Arc::default()).await.err().expect("an error").told();
            assert_eq!(error.status, status, "{pieces:?}");
            assert!(error.message.starts_with(text), "{}", error.message);
        }
    }

    #[tokio::test]
    async fn an_error_after_the_first_event_is_told_in_the_dialect() {
        let text = TEXT.replace("m:latest", "M");
        let gone = "data: {\"error\":{\"message\":\"model runner has unexpectedly stopped, ";
        for (pieces, end) in [
            (vec![TEXT, ERROR], "data: {\"error\":{\"message\":\"M is bad\",\"type\":\"invalid_request_error\","),
            (vec![TEXT], gone),
            (vec![TEXT, "gone"], gone),
            (vec![TEXT, &DONE[..9], "gone"], gone),
        ] {
            let read = read(&pieces).await;
            let rest = read.strip_prefix(&text).expect("the text before");
            assert!(rest.starts_with(end) && rest.ends_with(&format!("}}}}\n\n{DONE}")), "{rest}");
        }
    }

    #[tokio::test]
    async fn the_lease_is_free_when_the_last_event_has_come_or_the_client_is_gone() {
        let lease = Arc::new(());
        let facts = Arc::new(Facts::default());
        let whole = [TEXT, USAGE, DONE].concat();
        let mut passed = open(&[&whole], &lease, &facts).await.expect("a stream");
        assert_eq!(Arc::strong_count(&lease), 1, "the last event has come");
        assert!(facts.complete());
        assert_eq!(facts.tokens(), (5, 7));
        let frame = passed.frame().await.expect("one frame").expect("infallible").into_data().expect("data");
        assert_eq!(frame, whole.replace("m:latest", "M"), "events of one read leave together");
        assert!(passed.frame().await.is_none() && passed.is_end_stream());
        let passed = open(&[TEXT, DONE], &lease, &facts).await.expect("a stream");
        assert_eq!(Arc::strong_count(&lease), 2);
        drop(passed);
        assert_eq!(Arc::strong_count(&lease), 1);
    }
}
