//! A request that may be answered: its body is read as its route takes it, and its handler called.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::StatusCode;
use http::header::{ACCEPT_ENCODING, CONNECTION, RETRY_AFTER};

use super::asked::{Asked, CLOSE, SOON};
use super::bounded::Bounded;
use super::crowd::Crowd;
use super::router::{Entry, Intake};
use super::{Settings, body, encoding};
use crate::api::{self, Answering, Reply, Upload};

/// Lets the handler of a route answer.
pub(super) async fn handle(entry: &Entry, asked: Asked<'_>, crowd: &Arc<Crowd>) -> Reply {
    let has_body = asked.has_body();
    let asks_first = asked.asks_first();
    let Asked { head, body, mut call, settings, patience, .. } = asked;
    call.parameter = entry.parameter(head.uri.path()).unwrap_or_default().to_owned();
    let Settings { body_limit, upload_limit, body_timeout, .. } = *settings;
    // Counts until the handler has made of it what it needs.
    let mut held = crowd.body(body_limit);
    match entry.intake {
        Intake::Whole | Intake::Unpacked if has_body => {
            match body::read(body, asks_first, (body_limit, &mut held), body_timeout).await {
                Ok(bytes) => call.body = bytes,
                Err(refused) => {
                    let mut reply = (entry.refuse)(refused.status, &refused.text, &call.request_id);
                    if refused.status == StatusCode::SERVICE_UNAVAILABLE {
                        reply.headers_mut().insert(RETRY_AFTER, SOON);
                    }
                    reply.headers_mut().insert(CONNECTION, CLOSE);
                    return reply;
                }
            }
        }
        Intake::Stream if has_body => {
            call.upload = Upload::new(Bounded::new(body, upload_limit, body_timeout), asks_first);
        }
        Intake::Whole | Intake::Unpacked | Intake::Stream => {}
    }
    if entry.intake != Intake::Stream && !api::ends_with_its_client(entry.path) {
        patience.outlast();
    }
    if entry.intake == Intake::Unpacked {
        match encoding::unpacked(&head.headers, std::mem::take(&mut call.body)).await {
            Ok(bytes) => call.body = bytes,
            Err(refused) => {
                let mut reply = (entry.refuse)(refused.status, &refused.text, &call.request_id);
                if refused.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
                    reply.headers_mut().insert(ACCEPT_ENCODING, encoding::TAKEN);
                }
                return reply;
            }
        }
    }
    let request_id = call.request_id.clone();
    // A bug met before the handler's future exists must not end the connection either.
    let answering = catch_unwind(AssertUnwindSafe(|| (entry.handler)(call)));
    let reply = match answering {
        Ok(answering) => Caught(answering).await,
        Err(_) => None,
    };
    // The panic has been logged with its place; the client need not know it.
    let mut reply = reply.unwrap_or_else(|| {
        let text = "vllama met a bug while it answered this request; its log says where";
        (entry.refuse)(StatusCode::INTERNAL_SERVER_ERROR, text, &request_id)
    });
    if entry.intake == Intake::Stream && has_body && !reply.status().is_success() {
        // The rest of the body may still be on its way.
        reply.headers_mut().insert(CONNECTION, CLOSE);
    }
    reply
}

/// A handler whose panics end nothing but itself: `None`.
struct Caught(Answering);

impl Future for Caught {
    type Output = Option<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The future is never polled again after a panic, so nobody sees what it left half done.
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }
}
