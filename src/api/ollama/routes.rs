//! The routes of the native API, and the handlers that need no engine (ollama-api §2).

use std::future::{Future, ready};
use std::sync::Arc;

use http::{Method, StatusCode};
use serde::Serialize;

use super::change::blocking;
use super::error::{self, ApiError};
use super::names::Wanted;
use super::types::ShowRequest;
use super::{
    JSON, OLLAMA_VERSION, blobs, cloud, copy, create, delete, embed, generate, inference, json, listing, pull, push,
    show,
};
use crate::access::{Access, Grant};
use crate::api::{self, Answering, App, Call, Reply, Route};
use crate::model::safetensors;

/// Every native route; `HEAD` is answered wherever Ollama answers it (§13.7).
pub static ROUTES: &[Route] = &[
    Route { methods: GET, path: "/", access: Access::Open, handler: |_, _| now(root()), refuse },
    Route { methods: GET, path: "/api/version", access: Access::ANY, handler: |_, _| now(version()), refuse },
    Route {
        methods: GET,
        path: "/api/tags",
        access: Access::READ,
        handler: |app, call| now(tags(&app, &call.grant)),
        refuse,
    },
    Route {
        methods: GET_ONLY,
        path: "/api/ps",
        access: Access::READ,
        handler: |app, call| now(running(&app, &call.grant)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/show",
        access: Access::READ,
        handler: |app, call| later(shown(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/create",
        access: Access::MANAGE,
        handler: |app, call| later(create::create(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/copy",
        access: Access::MANAGE,
        handler: |app, call| later(copy::copy(app, call)),
        refuse,
    },
    Route {
        methods: DELETE,
        path: "/api/delete",
        access: Access::MANAGE,
        handler: |app, call| later(delete::delete(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/pull",
        access: Access::MANAGE,
        handler: |app, call| later(pull::pull(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/generate",
        access: Access::INFER,
        handler: |app, call| later(generate::generate(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/chat",
        access: Access::INFER,
        handler: |app, call| later(inference::chat(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/embed",
        access: Access::INFER,
        handler: |app, call| later(embed::embed(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/embeddings",
        access: Access::INFER,
        handler: |app, call| later(embed::embeddings(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/push",
        access: Access::MANAGE,
        handler: |app, call| later(push::push(app, call)),
        refuse,
    },
    Route { methods: GET_ONLY, path: "/api/status", access: Access::ANY, handler: |_, _| now(cloud::status()), refuse },
    Route {
        methods: POST,
        path: "/api/me",
        access: Access::ANY,
        handler: |app, call| later(cloud::me(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: "/api/signout",
        access: Access::ANY,
        handler: |app, call| later(cloud::sign_out(app, call)),
        refuse,
    },
    Route {
        methods: DELETE,
        path: "/api/user/keys/{key}",
        access: Access::ANY,
        handler: |app, call| later(cloud::sign_out(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: WEB_SEARCH,
        access: Access::READ,
        handler: |app, call| later(cloud::web_search(app, call)),
        refuse,
    },
    Route {
        methods: POST,
        path: WEB_FETCH,
        access: Access::READ,
        handler: |app, call| later(cloud::web_fetch(app, call)),
        refuse,
    },
    Route {
        methods: GET_ONLY,
        path: RECOMMENDATIONS,
        access: Access::READ,
        handler: |app, call| now(recommendations(&app, &call.grant)),
        refuse,
    },
    Route { methods: GET, path: "/openapi.yaml", access: Access::ANY, handler: |_, _| now(openapi()), refuse },
];

/// Native routes that take their body as it comes.
pub static UPLOADS: &[Route] = &[Route {
    methods: HEAD_POST,
    path: "/api/blobs/{digest}",
    access: Access::MANAGE,
    handler: |app, call| later(blobs::blob(app, call)),
    refuse,
}];

const WEB_SEARCH: &str = "/api/experimental/web_search";
const WEB_FETCH: &str = "/api/experimental/web_fetch";
const RECOMMENDATIONS: &str = "/api/experimental/model-recommendations";

const HEAD_POST: &[Method] = &[Method::HEAD, Method::POST];
const GET: &[Method] = &[Method::GET, Method::HEAD];
const GET_ONLY: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const DELETE: &[Method] = &[Method::DELETE];

fn refuse(status: StatusCode, text: &str, _request_id: &str) -> Reply {
    error::refuse(status, text)
}

fn now(reply: Reply) -> Answering {
    Box::pin(ready(reply))
}

fn later(answer: impl Future<Output = Result<Reply, ApiError>> + Send + 'static) -> Answering {
    Box::pin(async { settle(answer.await) })
}

fn settle(result: Result<Reply, ApiError>) -> Reply {
    result.unwrap_or_else(|error| error.reply())
}

/// Health checks look for exactly this text.
fn root() -> Reply {
    api::whole(StatusCode::OK, "text/plain; charset=utf-8", "Ollama is running")
}

/// The document of the native API; `tests/reference.rs` holds it against this file and the request types.
fn openapi() -> Reply {
    api::whole(StatusCode::OK, "application/yaml", include_str!("openapi.yaml"))
}

fn version() -> Reply {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
    }
    // One string always becomes JSON.
    let body = serde_json::to_vec(&Version { version: OLLAMA_VERSION }).unwrap_or_default();
    api::whole(StatusCode::OK, JSON, body)
}

fn tags(app: &App, grant: &Grant) -> Reply {
    let installed = app.visible(grant);
    api::whole(StatusCode::OK, JSON, listing::tags(installed.iter().map(|model| &**model)))
}

fn recommendations(app: &App, grant: &Grant) -> Reply {
    let installed = app.visible(grant);
    cloud::recommendations(installed.iter().map(|model| &**model))
}

fn running(app: &App, grant: &Grant) -> Reply {
    let installed = app.visible(grant);
    // The name an engine was asked by last may be deleted, or mean other weights, while another one shares the engine.
    let find = |engine: &crate::scheduler::EngineSnapshot| {
        let mut sharing = installed.iter().filter(|model| model.engine_key() == engine.key);
        let first = sharing.clone().next();
        sharing.find(|model| model.name == engine.model).or(first).map(|model| &**model)
    };
    api::whole(StatusCode::OK, JSON, listing::running(&app.scheduler.measured(), find))
}

/// `POST /api/show`, which must answer while the engine is still loading (§13.24).
async fn shown(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let text = json::text(&call.body)?;
    let request: ShowRequest = json::decode(&text)?;
    let asked = if request.model.trim().is_empty() { request.name.trim() } else { request.model.trim() };
    if asked.is_empty() {
        return Err(ApiError::ModelRequired);
    }
    let wanted = Wanted::parse(asked)?;
    let model = wanted.find(&app, &call, &wanted.name.display(), "remote model details are unavailable")?;
    let snapshot = app.scheduler.snapshot();
    let context_length = snapshot.engines.iter().find(|engine| engine.key == model.engine_key());
    let context_length = context_length.and_then(|engine| engine.context_length);
    let tensors = if request.verbose {
        let directory = model.directory.clone();
        let tensors = blocking(move || safetensors::tensors(&directory)).await;
        // The rest can be shown all the same.
        Some(tensors.inspect_err(|error| tracing::warn!(%error, "the tensors cannot be read")).unwrap_or_default())
    } else {
        None
    };
    let shown = show::Asked { name: asked, system: &request.system, context_length, tensors: tensors.as_deref() };
    Ok(api::whole(StatusCode::OK, JSON, show::show(&model, &shown)))
}
