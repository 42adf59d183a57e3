//! What is changed in a request before vLLM gets it: what vLLM would refuse although clients send it, and what the model
//! was made with. Everything else passes as it came (decision 0025).

use serde::Serialize;
use serde_json::Value;

use super::content::Messages;
use super::json::json;
use super::thinking;
use super::tools::{Tools, may_call};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::options::{Limit, Options};
use crate::api::pass::Request;
use crate::model::Installed;

/// Which of the two routes; they take the same messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Makes an answer.
    Messages,
    /// Counts the tokens of the prompt.
    CountTokens,
}

/// Checks that what every request must say is there, in the words of Ollama.
///
/// # Errors
/// [`ApiError::Required`].
pub fn check(request: &Request, route: Route) -> Result<(), ApiError> {
    if route == Route::Messages {
        let max_tokens = request.member("max_tokens").and_then(|json| serde_json::from_str::<Value>(json).ok());
        if max_tokens.is_none_or(|value| value.as_f64().is_some_and(|value| value <= 0.0)) {
            return Err(ApiError::Required("max_tokens is required and must be positive"));
        }
    }
    match request.member("messages") {
        None => Err(ApiError::Required("messages is required")),
        Some(_) => Ok(()),
    }
}

/// Puts a request right for `model`.
///
/// # Errors
/// What the model cannot do ([`ApiError::Unable`]) or vllama does not ([`ApiError::NotSupported`]), and
/// [`ApiError::BadJson`] for what is no request.
pub fn shape(request: &mut Request, model: &Installed, route: Route) -> Result<(), ApiError> {
    match Tools::of(request.member("tools"))? {
        // vLLM takes an empty list, or a choice alone, for a wish to call what there is not.
        Tools::Absent => {
            for name in ["tools", "tool_choice"] {
                if request.member(name).is_some() {
                    request.set(name, b"null");
                }
            }
        }
        tools => {
            if may_call(request.member("tool_choice")) {
                request.call_tools(model)?;
            }
            if let Tools::Others(tools) = tools {
                request.set("tools", tools.as_bytes());
            }
        }
    }
    thinking::put(request, &model.card);
    messages(request, model)?;
    if route == Route::Messages {
        sampling(request, model);
    }
    Ok(())
}

/// Asks for no more tokens than the engine takes in all, in the place of more, which vLLM refuses. Claude Code asks for
/// 32,000 and more, whatever the model.
pub fn limit(request: &mut Request, max_model_len: u64) {
    let asked = request.member("max_tokens").and_then(|json| json.parse::<u64>().ok());
    if asked.is_some_and(|tokens| tokens > max_model_len) {
        request.set("max_tokens", max_model_len.to_string().as_bytes());
    }
}

/// Leaves out what vLLM would refuse, and puts in what the model brings to a conversation: its system prompt, unless the
/// client has one, and its messages.
fn messages(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    #[derive(Serialize)]
    struct Message<'a> {
        role: &'a str,
        content: &'a str,
    }
    let overlay = model.overlay();
    let theirs = Messages::read(request.member("messages"))?;
    let begun = request.member("system").is_some_and(|json| !matches!(json, r#""""# | "[]"));
    let system = !overlay.system.is_empty() && !begun && !theirs.begin_with_system();
    let changed = theirs.without_unknown()?;
    // vLLM's route knows no other roles; Ollama's Modelfiles neither.
    let known = |message: &&Value| matches!(message["role"].as_str(), Some("system" | "user" | "assistant"));
    let text = |message: &Value| {
        let member = |name: &str| message[name].as_str().unwrap_or_default();
        json(&Message { role: member("role"), content: member("content") })
    };
    let own = overlay.messages.iter().filter(known).map(text).collect::<Vec<_>>().join(",");
    match changed {
        // It has at least one element.
        Some(list) if !own.is_empty() => request.set("messages", format!("[{own},{}", &list[1..]).as_bytes()),
        Some(list) => request.set("messages", list.as_bytes()),
        None if !own.is_empty() => request.put_first("messages", own.as_bytes()),
        None => {}
    }
    if system {
        request.set("system", json(&overlay.system).as_bytes());
    }
    Ok(())
}

/// The model's parameters where the request is silent. vLLM's route has no members for the others.
fn sampling(request: &mut Request, model: &Installed) {
    let options = Options::of(model);
    let given = options.given(Limit { max_model_len: u64::MAX, answer: None, always: false });
    for (name, value) in [
        ("temperature", given.temperature.map(|value| json(&value))),
        ("top_k", given.top_k.map(|value| json(&value))),
        ("top_p", given.top_p.map(|value| json(&value))),
        ("stop_sequences", Some(given.stop).filter(|stop| !stop.is_empty()).map(json)),
    ] {
        if let Some(value) = value.filter(|_| request.member(name).is_none()) {
            request.set(name, value.as_bytes());
        }
    }
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
