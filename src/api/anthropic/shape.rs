//! What is changed in a request before vLLM gets it: what vLLM would refuse although clients send it, and what the model
//! was made with. Everything else passes as it came (decision 0025).

use std::ops::Range;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::content::Messages;
use super::members::{Members, place, said};
use super::thinking;
use super::tools::{Tools, free_choice};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::options::{Limit, Options};
use crate::api::pass::Request;
use crate::model::{Capability, GenerationDefaults, Installed, Overlay};

/// Which of the two routes; they take the same messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Makes an answer.
    Messages,
    /// Counts the tokens of the prompt.
    CountTokens,
}

/// Keeps Ollama's own numbers out: where neither request nor model says anything, vLLM decides.
const SAID: GenerationDefaults = GenerationDefaults {
    temperature: Some(1.0),
    top_k: Some(0),
    top_p: Some(1.0),
    min_p: None,
    repetition_penalty: None,
};

/// A request that says what it must, as far as it is looked at.
#[derive(Debug)]
pub struct Asked<'a> {
    body: &'a [u8],
    route: Route,
    members: Members<'a>,
    messages: Messages<'a>,
}

impl<'a> Asked<'a> {
    /// Reads a body and checks that what every request must say is there, in the words of Ollama.
    ///
    /// # Errors
    /// [`ApiError::Required`], [`ApiError::BadJson`].
    pub fn read(body: &'a [u8], route: Route) -> Result<Self, ApiError> {
        let members = Members::read(body)?;
        if route == Route::Messages {
            let max_tokens = said(members.max_tokens).and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
            if max_tokens.is_none_or(|value| value.as_f64().is_some_and(|value| value <= 0.0)) {
                return Err(ApiError::Required("max_tokens is required and must be positive"));
            }
        }
        let messages = Messages::read(body, members.messages)?;
        Ok(Self { body, route, members, messages })
    }

    /// Puts the request right for `model`.
    ///
    /// # Errors
    /// What the model cannot do ([`ApiError::Unable`]) or vllama does not ([`ApiError::NotSupported`]), and
    /// [`ApiError::BadJson`] for what is no request.
    pub fn shape(&self, request: &mut Request, model: &Installed) -> Result<(), ApiError> {
        let Self { body, route, members, messages } = self;
        let mut edits = Edits { body, request };
        for (range, blocks) in messages.edits()? {
            edits.request.replace(range, blocks);
        }
        match Tools::of(members.tools)? {
            Tools::Absent => edits.silence(members.tools),
            Tools::Same | Tools::Others(_) if free_choice(members) && !model.card.can(Capability::Tools) => {
                return Err(ApiError::Unable(model.name.full(), "tools"));
            }
            Tools::Same => {}
            Tools::Others(tools) => edits.put("tools", members.tools, &tools),
        }
        let thinking::Change { silenced, template, effort } = thinking::change(members, &model.card);
        if silenced {
            edits.silence(members.thinking);
        }
        if let Some(template) = template {
            edits.put("chat_template_kwargs", members.chat_template_kwargs, &template);
        }
        if let Some((effort, known)) = effort {
            edits.request.replace(place(body, effort), known);
        }
        prelude(&mut edits, members, messages, model.overlay());
        if *route == Route::Messages {
            sampling(&mut edits, members, &Options::of(model));
        }
        Ok(())
    }

    /// Asks for no more tokens than the engine takes in all, in the place of more, which vLLM refuses. Claude Code asks for
    /// 32,000 and more, whatever the model.
    pub fn limit(&self, request: &mut Request, max_model_len: u64) {
        let max_tokens = said(self.members.max_tokens).filter(|_| self.route == Route::Messages);
        if let Some(raw) = max_tokens
            && serde_json::from_str(raw.get()).is_ok_and(|tokens: u64| tokens > max_model_len)
        {
            request.replace(place(self.body, raw), max_model_len.to_string());
        }
    }
}

/// Changes of a body.
struct Edits<'r, 'b> {
    body: &'b [u8],
    request: &'r mut Request,
}

impl Edits<'_, '_> {
    /// Puts JSON in the place of a member, or adds it.
    fn put(&mut self, name: &str, member: Option<&RawValue>, json: &[u8]) {
        match member {
            Some(raw) => self.request.replace(self.place(raw), json),
            None => self.request.add(name, json),
        }
    }

    /// Makes a member that is there `null`, which is as good as nothing to vLLM.
    fn silence(&mut self, member: Option<&RawValue>) {
        if let Some(raw) = member {
            self.request.replace(self.place(raw), *b"null");
        }
    }

    fn place(&self, raw: &RawValue) -> Range<usize> {
        place(self.body, raw)
    }
}

/// What the model brings to a conversation: its system prompt, unless the client has one, and its messages.
fn prelude(edits: &mut Edits<'_, '_>, members: &Members<'_>, messages: &Messages<'_>, overlay: &Overlay) {
    #[derive(Serialize)]
    struct Message<'a> {
        role: &'a str,
        content: &'a str,
    }
    let silent = said(members.system).is_none_or(|raw| matches!(raw.get(), r#""""# | "[]"));
    if !overlay.system.is_empty() && silent && !messages.begin_with_system() {
        edits.put("system", members.system, &json(&overlay.system));
    }
    // vLLM's route knows no other roles; Ollama's Modelfiles neither.
    let known = |message: &&Value| matches!(message["role"].as_str(), Some("system" | "user" | "assistant"));
    for message in overlay.messages.iter().filter(known) {
        let text = |member: &str| message[member].as_str().unwrap_or_default();
        let message = [&json(&Message { role: text("role"), content: text("content") })[..], b","].concat();
        edits.request.replace(messages.start()..messages.start(), message);
    }
}

/// The model's parameters where the request is silent. vLLM's route has no members for the others.
fn sampling(edits: &mut Edits<'_, '_>, members: &Members<'_>, options: &Options) {
    let sampling = options.sampling(&SAID, Limit { max_model_len: u64::MAX, always: false });
    let stop = Some(sampling.stop).filter(|stop| !stop.is_empty());
    for (name, member, value) in [
        ("temperature", members.temperature, sampling.temperature.map(|value| json(&value))),
        ("top_k", members.top_k, sampling.top_k.map(|value| json(&value))),
        ("top_p", members.top_p, sampling.top_p.map(|value| json(&value))),
        ("stop_sequences", members.stop_sequences, stop.map(|value| json(&value))),
    ] {
        if let Some(value) = value.filter(|_| said(member).is_none()) {
            edits.put(name, member, &value);
        }
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    // Strings, lists and finite numbers always become JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
