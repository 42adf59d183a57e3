//! The routes of OpenAI's API (ollama-api §10).

use std::future::Future;

use http::{Method, StatusCode};

use super::{chat, completions, embeddings, error, models, responses, scores, tokens, transcriptions};
use crate::access::Access;
use crate::api::pass::PassError;
use crate::api::{Answering, Reply, Route};

/// Every route of this dialect, and those of vLLM's own that are like them.
pub static ROUTES: &[Route] = &[
    Route {
        methods: POST,
        path: "/v1/chat/completions",
        access: Access::INFER,
        handler: |app, call| answered(chat::chat(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/v1/completions",
        access: Access::INFER,
        handler: |app, call| answered(completions::completions(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/v1/embeddings",
        access: Access::INFER,
        handler: |app, call| answered(embeddings::embeddings(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/v1/responses",
        access: Access::INFER,
        handler: |app, call| answered(responses::create(app, call)),
        refuse,
    },
    Route {
        methods: GET,
        path: "/v1/responses/{id}",
        access: Access::INFER,
        handler: |app, call| answered(responses::stored(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/v1/responses/{id}/cancel",
        access: Access::INFER,
        handler: |app, call| answered(responses::stored(app, call)),
        refuse,
    },
    Route {
        methods: GET,
        path: "/v1/models",
        access: Access::READ,
        handler: |app, call| answered(models::list(app, call)),
        refuse,
    },
    Route {
        methods: GET,
        path: "/v1/models/{*id}",
        access: Access::READ,
        handler: |app, call| answered(models::retrieve(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/v1/audio/transcriptions",
        access: Access::INFER,
        handler: |app, call| answered(transcriptions::transcribe(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/v1/score",
        access: Access::INFER,
        handler: |app, call| answered(scores::score(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/v1/rerank",
        access: Access::INFER,
        handler: |app, call| answered(scores::rerank(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/pooling",
        access: Access::INFER,
        handler: |app, call| answered(scores::pooling(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/tokenize",
        access: Access::INFER,
        handler: |app, call| answered(tokens::tokenize(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/detokenize",
        access: Access::INFER,
        handler: |app, call| answered(tokens::detokenize(app, call)),
        refuse,
    },
];

const GET: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];

fn refuse(status: StatusCode, text: &str, _request_id: &str) -> Reply {
    error::refuse(status, text)
}

fn answered(answer: impl Future<Output = Result<Reply, PassError>> + Send + 'static) -> Answering {
    Box::pin(async { answer.await.unwrap_or_else(|error| error::reply(&error)) })
}
