//! A request on its way to its handler, and how it is refused before it gets there.

use http::header::{CONNECTION, EXPECT, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode, request};
use hyper::body::Incoming;

use super::Settings;
use super::front::Visitor;
use super::patience::Patience;
use super::router::Entry;
use crate::api::{self, Call, Reply};

/// Ends the connection after the answer.
pub(super) const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// When it may be worth to try again where there is no place, in seconds: some client's request ends all the time.
pub(super) const SOON: HeaderValue = HeaderValue::from_static("1");

/// A request on its way to its route.
pub(super) struct Asked<'a> {
    /// Its head.
    pub head: &'a request::Parts,
    /// Its body, of which nothing has been read.
    pub body: Incoming,
    /// What the handler gets of it, as far as it is known.
    pub call: Call,
    /// The settings as they were when it came: they may change meanwhile.
    pub settings: &'a Settings,
    /// Whose it is.
    pub visitor: Visitor,
    pub patience: &'a Patience,
}

impl Asked<'_> {
    /// Whether its method is one with a body.
    pub fn has_body(&self) -> bool {
        !matches!(self.head.method, Method::GET | Method::HEAD)
    }

    /// Whether the client waits for leave to send the body.
    pub fn asks_first(&self) -> bool {
        self.head.headers.contains_key(EXPECT)
    }

    /// A refusal before the body has been read, for now.
    pub fn refuse(&self, entry: &Entry, status: StatusCode, text: &str) -> Reply {
        let mut reply = (entry.refuse)(status, text, &self.call.request_id);
        reply.headers_mut().insert(RETRY_AFTER, SOON);
        if self.has_body() {
            // It may still be on its way.
            reply.headers_mut().insert(CONNECTION, CLOSE);
        }
        reply
    }
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Reply::new(api::Body::Whole(None));
    *reply.status_mut() = status;
    reply
}
