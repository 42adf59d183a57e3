//! The routes of OpenAI's API (ollama-api §10).

use std::future::Future;

use http::{Method, StatusCode};

use super::{chat, completions, embeddings, error, models, responses};
use crate::api::pass::PassError;
use crate::api::{Answering, Reply, Route};

/// Every route of this dialect.
pub static ROUTES: &[Route] = &[
    Route { methods: POST, path: "/v1/chat/completions", handler: |app, call| answered(chat::chat(app, call)), refuse },
    Route {
        methods: POST,
        path: "/v1/completions",
        handler: |app, call| answered(completions::completions(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/v1/embeddings",
        handler: |app, call| answered(embeddings::embeddings(app, call)),
        refuse,
    },
    Route { methods: POST, path: "/v1/responses", handler: |app, call| answered(responses::create(app, call)), refuse },
    Route {
        methods: GET,
        path: "/v1/responses/{id}",
        handler: |app, call| answered(responses::stored(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/v1/responses/{id}/cancel",
        handler: |app, call| answered(responses::stored(app, call)),
        refuse,
    },
    Route { methods: GET, path: "/v1/models", handler: |app, call| answered(models::list(app, call)), refuse },
    Route {
        methods: GET,
        path: "/v1/models/{*id}",
        handler: |app, call| answered(models::retrieve(app, call)),
        refuse,
    },
];

const GET: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];

fn refuse(status: StatusCode, text: &str) -> Reply {
    error::refuse(status, text)
}

fn answered(answer: impl Future<Output = Result<Reply, PassError>> + Send + 'static) -> Answering {
    Box::pin(async { answer.await.unwrap_or_else(|error| error::reply(&error)) })
}
