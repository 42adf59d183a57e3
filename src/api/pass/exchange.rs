//! One question to an engine and its answer on the way back, whatever was asked.

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;

use super::error::{EngineError, PassError};
use super::events::Events;
use super::stream::Passed;
use super::{Dialect, model_name, usage};
use crate::api::ollama::error::ApiError;
use crate::api::{Body, Call, Reply};
use crate::scheduler::{Content, Lease};
use crate::telemetry::Facts;

/// What an engine is asked, and how its answer is told.
#[derive(Debug)]
pub struct Question {
    /// The body, with the engine's name for the model.
    pub content: Content,
    /// The client's name for it.
    pub asked: String,
    /// Whether the token counts of a stream are not the client's.
    pub hides_usage: bool,
    /// Where the engine is asked.
    pub path: &'static str,
    /// The dialect of the answer.
    pub dialect: &'static Dialect,
}

impl Question {
    /// Asks the engine, and answers with what it says: one piece, or a stream of events.
    ///
    /// # Errors
    /// What goes wrong before the answer has begun.
    pub async fn ask(self, lease: Lease, call: Call) -> Result<Reply, PassError> {
        let served = lease.served_name().to_owned();
        let Self { content, asked, hides_usage, path, dialect } = self;
        let content = Content { priority: call.grant.priority(), ..content };
        let answer = lease.post(path, content, call.origin()).await.map_err(ApiError::from)?;
        let (mut head, body) = answer.into_parts();
        let content_type = head.headers.remove(CONTENT_TYPE);
        if !head.status.is_success() {
            let (status, body) = (head.status, whole(body).await?);
            return Err(PassError::Engine(EngineError { status, body, served, asked }));
        }
        let body = if content_type.as_ref().is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            let events = Events::new(dialect, &served, &asked).hiding_usage(hides_usage);
            let passed = Passed::open(body, lease, events, (served, asked), dialect, call.facts).await?;
            Body::Stream(Box::pin(passed))
        } else {
            Body::from(renamed(whole(body).await?, dialect, &asked, &call.facts))
        };
        let mut reply = Reply::new(body);
        *reply.status_mut() = StatusCode::OK;
        reply.headers_mut().extend(content_type.map(|kind| (CONTENT_TYPE, kind)));
        Ok(reply)
    }
}

/// All of an answer.
async fn whole<B>(body: B) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    ApiError: From<B::Error>,
{
    Ok(body.collect().await?.to_bytes())
}

/// A whole answer with the client's name for the model. vLLM has formats that are no JSON; they name no model.
fn renamed(answer: Bytes, dialect: &Dialect, asked: &str, facts: &Facts) -> Bytes {
    usage::note_answer(&answer, facts);
    match model_name::find_early(&answer, dialect.names) {
        Some(place) => model_name::replaced(&answer, &place, asked),
        None => answer,
    }
}
