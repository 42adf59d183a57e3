//! What a model brings to a conversation before the client says anything: its system prompt and its messages
//! (ollama-api §4.7, §6.7).

use super::error::ApiError;
use super::json;
use super::messages::{Turn, turns};
use super::types::{ChatRequest, GenerateRequest, Message};
use crate::model::{Card, Installed};

/// A model's own part, kept while the turns that borrow from it are put together.
pub struct Prelude<'m> {
    system: &'m str,
    card: &'m Card,
    /// The messages as JSON; empty when there are none, which costs nothing.
    text: String,
}

impl<'m> Prelude<'m> {
    /// The part of this model.
    #[must_use]
    pub fn of(model: &'m Installed) -> Self {
        let overlay = model.overlay();
        let text = match overlay.messages.as_slice() {
            [] => String::new(),
            // JSON always becomes text.
            messages => serde_json::to_string(messages).unwrap_or_default(),
        };
        Self { system: &overlay.system, card: &model.card, text }
    }

    /// Its messages; they were checked when the model was made.
    #[must_use]
    pub fn messages(&self) -> Vec<Message<'_>> {
        if self.text.is_empty() { Vec::new() } else { json::decode(&self.text).unwrap_or_default() }
    }

    /// The turns of a chat: the system prompt, unless the client begins with one, the model's messages, the client's.
    ///
    /// # Errors
    /// As [`turns`].
    pub fn chat<'a>(&'a self, own: &'a [Message<'a>], request: &'a ChatRequest<'a>) -> Result<Vec<Turn<'a>>, ApiError> {
        let first = request.messages.first();
        let begun = first.is_some_and(|message| message.role.eq_ignore_ascii_case("system"));
        self.before(own.iter().chain(&request.messages), begun)
    }

    /// The turns of a conversation after the system prompt, which it has already where it is `begun`.
    ///
    /// # Errors
    /// As [`turns`].
    pub fn before<'a>(
        &'a self,
        messages: impl IntoIterator<Item = &'a Message<'a>>,
        begun: bool,
    ) -> Result<Vec<Turn<'a>>, ApiError> {
        let system = if begun { "" } else { self.system };
        Ok(spoken("system", system).into_iter().chain(turns(messages, self.card)?).collect())
    }

    /// The system prompt; empty when there is none.
    #[must_use]
    pub fn system(&self) -> &str {
        self.system
    }

    /// The system prompt of a generation: the client's, or the model's where it brings none.
    #[must_use]
    pub fn system_of<'a>(&'a self, request: &'a GenerateRequest<'a>) -> &'a str {
        if request.system.is_empty() { self.system } else { &request.system }
    }

    /// The turns of a generation: the client's system prompt or the model's, the model's messages unless the client goes
    /// on with an earlier exchange, the prompt.
    ///
    /// # Errors
    /// As [`turns`].
    pub fn generation<'a>(
        &'a self,
        own: &'a [Message<'a>],
        request: &'a GenerateRequest<'a>,
    ) -> Result<Vec<Turn<'a>>, ApiError> {
        let system = self.system_of(request);
        let own = if request.context.is_empty() { own } else { &[] };
        let prompt = Turn::new("user", &request.prompt, &request.images);
        Ok(spoken("system", system).into_iter().chain(turns(own, self.card)?).chain([prompt]).collect())
    }
}

fn spoken<'a>(role: &'a str, text: &'a str) -> Option<Turn<'a>> {
    (!text.is_empty()).then(|| Turn::new(role, text, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ollama::listing::tests::smollm2;

    fn model() -> Installed {
        let mut model = smollm2();
        model.manifest.overlay.system = "You are Mario.".into();
        model.manifest.overlay.messages =
            serde_json::from_str(r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#)
                .expect("messages");
        model
    }

    fn said(turns: &[Turn<'_>]) -> String {
        let turns = serde_json::to_value(turns).expect("turns are JSON");
        let turns = turns.as_array().expect("a list").iter();
        turns.map(|turn| turn["content"].as_str().unwrap_or("?")).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn a_chat_gets_the_system_prompt_unless_it_brings_one() {
        let model = model();
        let prelude = Prelude::of(&model);
        let own = prelude.messages();
        for (messages, expected) in [
            (r#"[{"role":"user","content":"hi"}]"#, "You are Mario.|a|b|hi"),
            (r#"[{"role":"System","content":"s"},{"role":"user","content":"hi"}]"#, "a|b|s|hi"),
        ] {
            let body = format!(r#"{{"messages":{messages}}}"#);
            let request: ChatRequest = json::decode(&body).expect("the test's JSON");
            assert_eq!(said(&prelude.chat(&own, &request).expect("turns")), expected);
        }
    }

    #[test]
    fn a_generation_may_replace_the_system_prompt_and_a_context_leaves_the_messages_out() {
        let model = model();
        let prelude = Prelude::of(&model);
        let own = prelude.messages();
        for (body, expected) in [
            (r#"{"prompt":"hi"}"#, "You are Mario.|a|b|hi"),
            (r#"{"prompt":"hi","system":"s"}"#, "s|a|b|hi"),
            (r#"{"prompt":"hi","context":[1]}"#, "You are Mario.|hi"),
        ] {
            let request: GenerateRequest = json::decode(body).expect("the test's JSON");
            assert_eq!(said(&prelude.generation(&own, &request).expect("turns")), expected);
        }
    }

    #[test]
    fn a_model_without_an_overlay_adds_nothing() {
        let model = smollm2();
        let prelude = Prelude::of(&model);
        let request: GenerateRequest = json::decode(r#"{"prompt":"hi"}"#).expect("the test's JSON");
        assert_eq!(said(&prelude.generation(&prelude.messages(), &request).expect("turns")), "hi");
    }
}
