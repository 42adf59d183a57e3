//! Answers, as uvicorn sends them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Response;
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::openai::Refusal;

/// The connection ends in the middle of an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut off")]
pub struct CutOff;

impl From<Infallible> for CutOff {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// What is no answer in any language.
pub const GARBAGE: &[u8] = b"data: {\"id\": \xff\xfe\x00\x1b[31m\xc3\x28, \"choices\
\n";

/// Body of an answer.
pub enum Body {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Result<Bytes, CutOff>>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => {
                hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// A stream of events.
pub fn event_stream(pieces: mpsc::Receiver<Result<Bytes, CutOff>>) -> Response<Body> {
    response(200, Some("text/event-stream; charset=utf-8"), Body::Stream(pieces))
}

/// A refusal in OpenAI's words.
pub fn refused(refusal: &Refusal) -> Response<Body> {
    json_answer(refusal.status, &refusal.body())
}

/// JSON.
pub fn json_answer(status: u16, value: &Value) -> Response<Body> {
    typed(status, "application/json", value.to_string())
}

/// Text of a kind.
pub fn typed(status: u16, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    response(status, Some(kind), Body::Whole(Some(text.into())))
}

/// Nothing but a status.
pub fn empty(status: u16) -> Response<Body> {
    response(status, None, Body::Whole(None))
}

fn response(status: u16, kind: Option<&'static str>, body: Body) -> Response<Body> {
    let mut response = Response::builder().status(status).header("server", "uvicorn").header("vary", "Origin");
    if let Some(kind) = kind {
        response = response.header("content-type", kind);
    }
    response.body(body).expect("a valid response")
}
