//! Answers that tell how far a long piece of work is (ollama-api §4.5, §4.7): one object a line, `success` at the end.
//! The work is done by whoever reads the answer: a client that goes away ends it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Body, Frame};
use serde::Serialize;
use tokio::sync::mpsc;

use super::error::ApiError;
use super::{JSON, NDJSON};
use crate::api::{self, Reply};

/// One line.
#[derive(Serialize)]
struct Event<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// Left out while nothing is done, as Ollama has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<u64>,
}

impl<'a> Event<'a> {
    fn line(&self) -> Vec<u8> {
        // Strings and numbers always become JSON.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    fn of(status: &'a str) -> Self {
        Event { status, digest: None, total: None, completed: None }
    }
}

/// Tells what is being done.
#[derive(Clone, Debug)]
pub struct Teller(mpsc::UnboundedSender<Vec<u8>>);

impl Teller {
    /// A step.
    pub fn say(&self, status: &str) {
        self.send(&Event::of(status));
    }

    /// How far a step is: `completed` of `total` units of the thing with that digest, `sha256:` and 64 hex characters.
    pub fn part(&self, status: &str, digest: &str, completed: u64, total: u64) {
        let completed = Some(completed).filter(|completed| *completed > 0);
        self.send(&Event { status, digest: Some(digest), total: Some(total), completed });
    }

    fn send(&self, event: &Event<'_>) {
        // Without a reader nobody wants to know.
        let _ = self.0.send(event.line());
    }
}

/// Answers with what `work` tells, as a stream or as its end alone. An error before the first line keeps its status.
pub async fn answer<F>(stream: bool, work: impl FnOnce(Teller) -> F) -> Result<Reply, ApiError>
where
    F: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    // Unbounded, but the work goes on only while its lines are taken away: both are polled by the same reader.
    let (sender, lines) = mpsc::unbounded_channel();
    let work = work(Teller(sender));
    if !stream {
        work.await?;
        let mut end = Event::of("success").line();
        end.pop();
        return Ok(api::whole(StatusCode::OK, JSON, end));
    }
    let mut told = Told { work: Some(Box::pin(work)), lines, ready: BytesMut::new() };
    poll_fn(|context| told.poll_first(context)).await?;
    let mut reply = Reply::new(api::Body::Stream(Box::pin(told)));
    reply.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(NDJSON));
    Ok(reply)
}

/// The body of such an answer.
struct Told<F> {
    /// `None` when it has ended.
    work: Option<Pin<Box<F>>>,
    lines: mpsc::UnboundedReceiver<Vec<u8>>,
    /// Lines not yet handed on.
    ready: BytesMut,
}

impl<F: Future<Output = Result<(), ApiError>>> Told<F> {
    /// Works until there is a line, or until it fails without one.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        let outcome = self.poll_work(context);
        match outcome {
            Poll::Ready(Err(error)) if self.ready.is_empty() => Poll::Ready(Err(error)),
            Poll::Ready(outcome) => {
                self.end(outcome);
                Poll::Ready(Ok(()))
            }
            Poll::Pending if self.ready.is_empty() => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// Works, and takes in the lines this makes. `Ready` when the work is done.
    fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        let Some(work) = &mut self.work else { return Poll::Ready(Ok(())) };
        let outcome = work.as_mut().poll(context);
        // Asked after the work, so that its wake-up is the only one needed: nobody else sends.
        while let Ok(line) = self.lines.try_recv() {
            self.ready.extend_from_slice(&line);
        }
        outcome
    }

    fn end(&mut self, outcome: Result<(), ApiError>) {
        self.work = None;
        match outcome {
            Ok(()) => self.ready.extend_from_slice(&Event::of("success").line()),
            // The status has been sent; the last line says what happened (§1.2).
            Err(error) => self.ready.extend_from_slice(&error.line()),
        }
    }
}

impl<F: Future<Output = Result<(), ApiError>>> Body for Told<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let told = self.get_mut();
        if told.ready.is_empty() {
            if told.work.is_none() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(outcome) = told.poll_work(context) {
                told.end(outcome);
            }
        }
        if told.ready.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(told.ready.split().freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.work.is_none() && self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(reply: Reply) -> String {
        let bytes = reply.into_body().collect().await.expect("infallible").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("lines are UTF-8")
    }

    async fn work(teller: Teller, steps: &[&str], error: Option<ApiError>) -> Result<(), ApiError> {
        for step in steps {
            teller.say(step);
            tokio::task::yield_now().await;
        }
        error.map_or(Ok(()), Err)
    }

    #[tokio::test]
    async fn every_step_is_a_line_and_success_is_the_last() {
        let reply = answer(true, |teller| work(teller, &["a", "b"], None)).await.expect("a stream");
        assert_eq!(text(reply).await, "{\"status\":\"a\"}\n{\"status\":\"b\"}\n{\"status\":\"success\"}\n");
        let reply = answer(true, |teller| work(teller, &[], None)).await.expect("a stream");
        assert_eq!(text(reply).await, "{\"status\":\"success\"}\n");
        let reply = answer(false, |teller| work(teller, &["a"], None)).await.expect("an object");
        assert_eq!(text(reply).await, "{\"status\":\"success\"}");
    }

    #[tokio::test]
    async fn an_error_keeps_its_status_until_the_first_line_has_left() {
        let error = Some(ApiError::InvalidName);
        for stream in [false, true] {
            let early = answer(stream, |teller| work(teller, &[], error.clone())).await.err();
            assert_eq!(early, error);
        }
        let late = answer(true, |teller| work(teller, &["a"], error.clone())).await.expect("a stream");
        assert_eq!(text(late).await, "{\"status\":\"a\"}\n{\"error\":\"invalid model name\"}\n");
        let whole = answer(false, |teller| work(teller, &["a"], error.clone())).await.err();
        assert_eq!(whole, error);
    }

    #[tokio::test]
    async fn parts_say_how_far_they_are() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let reply = answer(true, |teller| async move {
            teller.part("converting model", digest, 0, 7);
            teller.part("converting model", digest, 7, 7);
            Ok(())
        });
        let text = text(reply.await.expect("a stream")).await;
        let start = format!("{{\"status\":\"converting model\",\"digest\":\"{digest}\",\"total\":7");
        assert!(text.starts_with(&format!("{start}}}\n{start},\"completed\":7}}\n")), "{text}");
    }
}
