//! An answer that passes through as a stream of events, in the dialect the engine speaks.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body::Body;

use super::Dialect;
use super::error::{EngineError, PassError};
use super::events::Events;
use crate::api::ollama::error::ApiError;
use crate::api::stream::{Progress, Streamed, Telling};
use crate::telemetry::Facts;

/// Events of an engine's body `B`, rewritten. Holds `L`, the lease, until the last event has come.
pub type Passed<B, L> = Streamed<B, L, Passing>;

impl<B, L> Passed<B, L>
where
    B: Body<Data = Bytes>,
    ApiError: From<B::Error>,
{
    /// Reads until the engine shows that it is at work. `names` are the engine's for the model and the client's, for errors.
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
        Self::begun(engine, lease, Passing { events, dialect, names, facts }).await
    }
}

/// Events on their way through.
pub struct Passing {
    events: Events,
    dialect: &'static Dialect,
    names: (String, String),
    facts: Arc<Facts>,
}

impl Telling for Passing {
    type Error = PassError;

    fn read(&mut self, bytes: &[u8], out: &mut BytesMut) -> Result<(), PassError> {
        self.events.read(bytes, out, &self.facts).map_err(|data| {
            let (served, asked) = self.names.clone();
            PassError::Engine(EngineError::in_stream(data, served, asked))
        })
    }

    fn progress(&self) -> Progress {
        self.events.progress()
    }

    fn begin(&mut self) {
        self.facts.set_first_token();
    }

    fn end(&mut self) {
        self.facts.set_complete();
    }

    /// The last event says what happened.
    fn fail(&mut self, error: PassError, out: &mut BytesMut) {
        out.extend_from_slice(&(self.dialect.error)(&error.told(), self.events.count()));
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::api::openai::stream::DIALECT;
    use crate::api::stream::Recorded;

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
        let events = Events::new(&DIALECT, &names.0, &names.1);
        Passed::open(Recorded::new(pieces), lease.clone(), events, names, &DIALECT, facts.clone()).await
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
        let at_once = [TEXT, ERROR].concat();
        for (pieces, end) in [
            (vec![&*at_once], "data: {\"error\":{\"message\":\"M is bad\",\"type\":\"invalid_request_error\","),
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
