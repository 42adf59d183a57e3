//! A streamed answer in Ollama's words: lines, made from the events of the engine.

use bytes::{Bytes, BytesMut};
use http_body::Body;

use super::error::ApiError;
use super::response::Translator;
use super::sse::Events;
use crate::api::stream::{Progress, Streamed, Telling};

/// Lines of an answer, made from the events of an engine's body `B`. Holds `L`, the lease, until the last line is made.
pub type Lines<B, L> = Streamed<B, L, Translation>;

impl<B, L> Lines<B, L>
where
    B: Body<Data = Bytes>,
    ApiError: From<B::Error>,
{
    /// Reads until the engine shows that it is at work.
    ///
    /// # Errors
    /// What went wrong before.
    pub async fn open(engine: B, lease: L, translator: Translator) -> Result<Self, ApiError> {
        Self::begun(engine, lease, Translation { events: Events::default(), translator, progress: Progress::Waiting })
            .await
    }
}

/// Events on their way to become lines.
pub struct Translation {
    events: Events,
    translator: Translator,
    progress: Progress,
}

impl Telling for Translation {
    type Error = ApiError;

    fn read(&mut self, bytes: &[u8], out: &mut BytesMut) -> Result<(), ApiError> {
        let Self { events, translator, progress } = self;
        let mut outcome = Ok(());
        if *progress == Progress::Done {
            return outcome;
        }
        events.read(bytes, |data| match translator.event(data, out) {
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

    fn progress(&self) -> Progress {
        self.progress
    }

    fn begin(&mut self) {
        self.translator.begin();
    }

    /// The last line says what happened (ollama-api §1.2).
    fn fail(&mut self, error: ApiError, out: &mut BytesMut) {
        out.extend_from_slice(&error.line());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use http_body_util::BodyExt;

    use super::*;
    use crate::api::ollama::response::{Asked, Clock, Shape};
    use crate::api::stream::Recorded;
    use crate::telemetry::Facts;

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
        Lines::open(Recorded::new(pieces), lease, translator).await
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
        let at_once = [ROLE, TEXT, ERROR].concat();
        for (pieces, text) in [
            (vec![ROLE, TEXT, ERROR], "bad"),
            (vec![&*at_once], "bad"),
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
