//! The routes of Anthropic's API (ollama-api §11), and counting tokens, which Ollama does not have.

use std::future::Future;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::error::{self, refuse, request_id};
use super::messages;
use crate::access::Access;
use crate::api::pass::PassError;
use crate::api::{Answering, Reply, Route};

/// Every route of this dialect.
pub static ROUTES: &[Route] = &[
    Route {
        methods: POST,
        path: MESSAGES,
        access: Access::INFER,
        handler: |app, call| answered(call.request_id.clone(), messages::messages(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: COUNT_TOKENS,
        access: Access::INFER,
        handler: |app, call| answered(call.request_id.clone(), messages::count_tokens(app, call)),
        refuse,
    },
];

/// The route of messages, here and in the engine.
pub const MESSAGES: &str = "/v1/messages";
/// The route that counts tokens, here and in the engine.
pub const COUNT_TOKENS: &str = "/v1/messages/count_tokens";

const POST: &[Method] = &[Method::POST];

/// Where Anthropic's clients look for the identity of a request, and what support asks for.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Whether nobody but this dialect answers at a path, if only to say that there is nothing.
#[must_use]
pub fn owns(path: &str) -> bool {
    path.strip_prefix(MESSAGES).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn answered(id: Arc<str>, answer: impl Future<Output = Result<Reply, PassError>> + Send + 'static) -> Answering {
    Box::pin(async move {
        let mut reply = answer.await.unwrap_or_else(|error| error::reply(&error, &id));
        if let Ok(id) = HeaderValue::from_str(&request_id(&id)) {
            reply.headers_mut().insert(REQUEST_ID, id);
        }
        reply
    })
}

#[cfg(test)]
mod tests {
    use super::owns;

    #[test]
    fn only_paths_below_messages_are_the_dialects_own() {
        for (path, own) in [
            ("/v1/messages", true),
            ("/v1/messages/", true),
            ("/v1/messages/batches", true),
            ("/v1/messagesx", false),
            ("/v1", false),
            ("/api/chat", false),
        ] {
            assert_eq!(owns(path), own, "{path}");
        }
    }
}
