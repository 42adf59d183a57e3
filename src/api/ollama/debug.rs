//! `_debug_render_only`: the prompt instead of an answer to it (ollama-api §6.10).

use http::StatusCode;
use serde::Serialize;

use super::JSON;
use super::response::{Asked, Shape};
use crate::api::{self, Reply};
use crate::telemetry::Timestamp;

#[derive(Serialize)]
struct Rendered<'a> {
    model: &'a str,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    done: bool,
    #[serde(rename = "_debug_info")]
    debug_info: Info<'a>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: &'static str,
}

#[derive(Serialize)]
struct Info<'a> {
    rendered_template: &'a str,
    image_count: usize,
}

/// Tells a prompt, and the number of images that go with it.
#[must_use]
pub fn reply(asked: &Asked<'_>, prompt: &str, image_count: usize) -> Reply {
    let chat = asked.shape == Shape::Chat;
    let rendered = Rendered {
        model: asked.model,
        created_at: Timestamp::now(),
        response: (!chat).then_some(""),
        message: chat.then_some(Message { role: "", content: "" }),
        done: false,
        debug_info: Info { rendered_template: prompt, image_count },
    };
    // Strings and numbers always become JSON.
    api::whole(StatusCode::OK, JSON, serde_json::to_vec(&rendered).unwrap_or_default())
}
