//! A request with its lease: asks the engine and answers the client.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;

use super::error::ApiError;
use super::request::{self, Endpoint};
use super::response::{Asked, Clock, Translator};
use super::stream::Lines;
use super::thoughts::Splitter;
use super::{JSON, NDJSON};
use crate::access::Scope;
use crate::api::{self, App, Body, Call, Reply, Trace};
use crate::model::Installed;
use crate::scheduler::{Content, EngineBody, KeepAlive, Lease, Origin};
use crate::telemetry::Facts;

/// A request whose lease is here.
pub struct Run {
    model: Arc<Installed>,
    lease: Lease,
    request_id: Arc<str>,
    trace: Option<Arc<Trace>>,
    facts: Arc<Facts>,
    /// Which requests the engine takes first; `None` = as they come.
    priority: Option<i32>,
    clock: Clock,
}

/// Where in an answer thoughts may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thoughts {
    /// Where the chat template has them; it may have opened them itself.
    Templated,
    /// Between tags that the answer writes.
    Tagged,
    /// Nowhere: the answer is told as it comes.
    Nowhere,
}

/// What the engine is asked, and how its answer is to be told.
pub struct Question {
    endpoint: Endpoint,
    stream: bool,
    body: Bytes,
    translator: Translator,
}

impl Run {
    /// Waits for a lease. How long a model stays is no business of a key that may not unload it: its `keep_alive` is not
    /// heeded (decision 0045).
    ///
    /// # Errors
    /// [`ApiError::NoLease`].
    pub async fn begin(
        app: &App,
        call: &Call,
        model: &Arc<Installed>,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Self, ApiError> {
        let keep_alive = keep_alive.filter(|_| call.grant.may(Scope::Manage));
        let lease = app.lease(call, model, keep_alive).await?;
        call.facts.set_asked(call.body.len(), lease.max_model_len());
        let clock = Clock { arrived: call.arrived, leased: Instant::now(), first: None };
        let (request_id, trace, facts) = (call.request_id.clone(), call.trace.clone(), call.facts.clone());
        let priority = call.grant.priority();
        // It may have failed on its parsers while the request waited.
        let model = model.clone().read_like(lease.given_up());
        Ok(Self { model, lease, request_id, trace, facts, priority, clock })
    }

    fn origin(&self) -> Origin<'_> {
        Origin { request_id: &self.request_id, trace: self.trace.as_deref() }
    }

    /// The engine's name for the model.
    pub fn served_name(&self) -> &str {
        self.lease.served_name()
    }

    /// Longest sequence the engine takes, in tokens.
    pub fn max_model_len(&self) -> u64 {
        self.lease.max_model_len()
    }

    /// Nanoseconds since the request came, and those it waited for the model; never zero (ollama-api §7).
    pub fn durations(&self) -> (u64, u64) {
        let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let Clock { arrived, leased, .. } = self.clock;
        (nanoseconds(arrived.elapsed()), nanoseconds(leased.saturating_duration_since(arrived)))
    }

    /// The model whose lease this is.
    pub fn model(&self) -> &Installed {
        &self.model
    }

    /// Puts a request for the engine together with the way back.
    pub fn question(
        &self,
        asked: &Asked<'_>,
        (endpoint, thoughts): (Endpoint, Thoughts),
        stream: bool,
        body: Bytes,
    ) -> Question {
        let translator =
            Translator::new(asked, self.clock, self.facts.clone()).splitting(self.splitter(endpoint, thoughts));
        Question { endpoint, stream, body, translator }
    }

    /// What looks for thoughts in the answer. The engine reads them in chats only, and only where it has a parser.
    fn splitter(&self, endpoint: Endpoint, thoughts: Thoughts) -> Option<Splitter> {
        let tags = self.model.card.thought_tags?;
        match (thoughts, endpoint) {
            (Thoughts::Nowhere, _) => None,
            (Thoughts::Tagged, _) => Some(Splitter::new(false)),
            (Thoughts::Templated, Endpoint::Chat) => Some(Splitter::new(tags.opened_by_prompt && !tags.read_by_engine)),
            (Thoughts::Templated, Endpoint::Completions) => Some(Splitter::new(tags.opened_by_prompt)),
        }
    }

    /// Posts and waits for a whole answer.
    ///
    /// # Errors
    /// What the engine says, or that it is gone.
    pub async fn fetch(&self, path: &'static str, body: Bytes) -> Result<Bytes, ApiError> {
        let answer = self.lease.post(path, self.content(body), self.origin()).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(ApiError::from_engine(status, &body)) }
    }

    /// The text of these tokens, special ones included.
    ///
    /// # Errors
    /// As [`Run::fetch`].
    pub async fn text_of(&self, tokens: &[u32]) -> Result<String, ApiError> {
        let body = request::detokenize(self.served_name(), tokens);
        request::text(&self.fetch("/detokenize", body).await?)
    }

    /// Asks the engine and waits for the head of its answer.
    ///
    /// # Errors
    /// What the engine says against the request, or that it is gone.
    pub async fn open(&self, question: &Question) -> Result<Opened, ApiError> {
        let content = self.content(question.body.clone());
        let answer = self.lease.post(question.endpoint.path(), content, self.origin()).await?;
        if answer.status().is_success() {
            return Ok(Opened(answer));
        }
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Err(ApiError::from_engine(status, &body))
    }

    /// Which requests the engine takes first: the lower number; `None` = as they come.
    pub fn priority(&self) -> Option<i32> {
        self.priority
    }

    fn content(&self, body: Bytes) -> Content {
        Content { priority: self.priority, ..body.into() }
    }

    /// Tells the client what the engine answers.
    ///
    /// # Errors
    /// What went wrong before the answer had begun.
    pub async fn tell(self, question: Question, Opened(answer): Opened) -> Result<Reply, ApiError> {
        let Question { stream, mut translator, .. } = question;
        if !stream {
            let answer = answer.into_body().collect().await?.to_bytes();
            let mut out = BytesMut::with_capacity(answer.len());
            translator.whole(&answer, &mut out)?;
            return Ok(api::whole(StatusCode::OK, JSON, out));
        }
        let lines = Lines::open(answer.into_body(), self.lease, translator).await?;
        let mut reply = Reply::new(Body::Stream(Box::pin(lines)));
        reply.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(NDJSON));
        Ok(reply)
    }
}

/// An answer of the engine whose head has come and is good.
pub struct Opened(http::Response<EngineBody>);
