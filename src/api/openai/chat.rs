//! `/v1/chat/completions` (ollama-api §10.1): vLLM's own route, with what the model was made with.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::stream::{self, DIALECT};
use super::{defaults, reasoning};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::json::{First, Text};
use crate::api::ollama::options::Limit;
use crate::api::ollama::prelude::Prelude;
use crate::api::pass::{PassError, Request, find, media};
use crate::api::{App, Call, Reply};
use crate::model::{Capability, Installed};

/// `POST /v1/chat/completions`.
///
/// # Errors
/// [`PassError`].
pub async fn chat(app: Arc<App>, mut call: Call) -> Result<Reply, PassError> {
    let mut request = Request::read(&mut call)?;
    let model = find(&app, &call, request.asked())?;
    prepare(&mut request, &model)?;
    let lease = app.scheduler.lease(&model, None).await.map_err(ApiError::from)?;
    let limit = Limit { max_model_len: lease.max_model_len(), answer: None, always: false };
    defaults::complete(&mut request, &model, limit, &["max_completion_tokens", "max_tokens"]);
    request.pass_over(lease, call, "/v1/chat/completions", &DIALECT).await
}

/// Checks a request, and puts into it what the model brings along.
fn prepare(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{:?}", request.asked()), "chat"));
    }
    request.member("messages").map_or(Ok(()), media::check)?;
    tools(request, model)?;
    reasoning::put(request, reasoning::of_chat(request)?, model)?;
    stream::leave_out_options(request);
    begin(request, model)
}

/// Tools for a model that cannot choose among them are refused as in Ollama. One that is told to use them can: the engine
/// makes it keep to their form.
fn tools(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    let Some(tools) = request.member("tools") else { return Ok(()) };
    if is_empty_list(tools) {
        // Nothing to the clients that send it, and an error to the engine.
        request.set("tools", b"null");
        if request.member("tool_choice").is_some() {
            request.set("tool_choice", b"null");
        }
        return Ok(());
    }
    can_choose(request, model)
}

/// Whether a model can choose among the tools of a request, where it is free to.
///
/// # Errors
/// [`ApiError::Unable`].
pub(super) fn can_choose(request: &Request, model: &Installed) -> Result<(), ApiError> {
    let chooses = matches!(request.member("tool_choice"), None | Some("\"auto\""));
    if chooses && !model.card.can(Capability::Tools) {
        return Err(ApiError::Unable(model.name.full(), "tools"));
    }
    Ok(())
}

/// Whether this JSON is a list of nothing.
pub(super) fn is_empty_list(json: &str) -> bool {
    json.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|inside| inside.trim().is_empty())
}

/// Puts the model's own turns before the client's.
fn begin(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    let prelude = Prelude::of(model);
    let own = prelude.messages();
    // What is no conversation is left to the engine to refuse.
    let Some(First(Some(first))) = request.member("messages").and_then(|text| serde_json::from_str(text).ok()) else {
        return Ok(());
    };
    let turns = prelude.before(&own, is_system(&first))?;
    if turns.is_empty() {
        return Ok(());
    }
    request.put_first("messages", elements(&turns).as_bytes());
    Ok(())
}

/// The elements of a list as JSON, with commas between them.
pub(super) fn elements<T: Serialize>(list: &[T]) -> String {
    // Turns always become JSON.
    let list = serde_json::to_string(list).unwrap_or_default();
    list.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default().to_owned()
}

/// As much of a message as has to be known.
#[derive(Debug, Deserialize)]
pub(super) struct Speaker<'a> {
    #[serde(borrow, default)]
    role: Option<Text<'a>>,
}

/// Whether it is a system prompt; OpenAI's newer name for it counts too.
pub(super) fn is_system(message: &Speaker<'_>) -> bool {
    let role = message.role.as_deref().unwrap_or_default();
    role.eq_ignore_ascii_case("system") || role.eq_ignore_ascii_case("developer")
}
