//! A conversation in the engine's words: images as parts, calls with ids and their results paired (ollama-api §6.8),
//! old thoughts left out (§6.5).

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Serialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::images::Part;
use super::json::{self, Text};
use super::types::Message;
use crate::model::{Capability, Card};

/// One turn, as the engine wants it.
#[derive(Clone, Debug, Serialize)]
pub struct Turn<'a> {
    role: Cow<'a, str>,
    content: Content<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Called<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<Part<'a>>),
}

#[derive(Clone, Debug, Serialize)]
struct Called<'a> {
    id: Cow<'a, str>,
    r#type: &'static str,
    function: CalledFunction<'a>,
}

#[derive(Clone, Debug, Serialize)]
struct CalledFunction<'a> {
    name: &'a str,
    /// JSON in a string.
    arguments: Cow<'a, str>,
}

/// A call whose result has not been seen yet.
struct Open<'a> {
    /// Its id as the client wrote it, perhaps not at all.
    told: &'a str,
    /// Its id for the engine.
    id: Cow<'a, str>,
    name: &'a str,
}

/// What the ids of calls must look like, because the chat template reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallIds {
    /// Anything.
    Any,
    /// Nine letters and digits; Mistral's templates refuse all others.
    Nine,
    /// `functions.name:number`; Kimi's templates write them into the prompt, and the model learnt no others.
    Numbered,
}

impl CallIds {
    fn of(card: &Card) -> Self {
        let family = |names: &[&str]| names.iter().any(|name| card.family.starts_with(name));
        if family(&["mistral", "ministral", "mixtral"]) {
            Self::Nine
        } else if family(&["kimi"]) {
            Self::Numbered
        } else {
            Self::Any
        }
    }

    /// The id for the engine of the `number`th call of a conversation, counted from 0.
    ///
    /// Counted, not random: the same history must always make the same prompt, or no prefix is ever cached.
    fn id<'a>(self, told: &'a str, name: &str, number: usize) -> Cow<'a, str> {
        let fits = match self {
            Self::Any => !told.is_empty(),
            Self::Nine => told.len() == 9 && told.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            Self::Numbered => told.starts_with("functions."),
        };
        match self {
            _ if fits => Cow::Borrowed(told),
            Self::Any => Cow::Owned(format!("call_{:08}", number + 1)),
            Self::Nine => Cow::Owned(format!("{:09}", number + 1)),
            Self::Numbered => Cow::Owned(format!("functions.{name}:{number}")),
        }
    }
}

impl<'a> Turn<'a> {
    /// A turn of text, with the images that belong to it after the text.
    #[must_use]
    pub fn new(role: &'a str, text: &'a str, images: &'a [Text<'a>]) -> Self {
        Self {
            role: Cow::Borrowed(role),
            content: content(text, images),
            reasoning: "",
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: "",
        }
    }

    /// Whether the model is to go on with this turn instead of answering it: an assistant's unfinished text.
    #[must_use]
    pub fn is_begun_answer(&self) -> bool {
        self.role == "assistant"
            && self.tool_calls.is_empty()
            && matches!(self.content, Content::Text(text) if !text.is_empty())
    }
}

impl Turn<'_> {
    /// `system`, `user`, `assistant`, `tool`, or what the template knows.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Bytes of its text, its thoughts and its calls.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Text(text) => text.len(),
            Content::Parts(parts) => parts.iter().map(|part| part.text().map_or(0, str::len)).sum(),
        };
        let calls = self.tool_calls.iter().map(|call| call.function.name.len() + call.function.arguments.len());
        content + self.reasoning.len() + calls.sum::<usize>()
    }

    /// Number of its images and sounds.
    #[must_use]
    pub fn images(&self) -> usize {
        match &self.content {
            Content::Text(_) => 0,
            Content::Parts(parts) => parts.iter().filter(|part| part.text().is_none()).count(),
        }
    }
}

fn content<'a>(text: &'a str, images: &'a [Text<'a>]) -> Content<'a> {
    if images.is_empty() {
        return Content::Text(text);
    }
    let text = (!text.is_empty()).then_some(Part::Text { text });
    Content::Parts(text.into_iter().chain(images.iter().map(|image| Part::of(image))).collect())
}

/// Puts a whole conversation in the words of the engine of a model with this card.
///
/// # Errors
/// [`ApiError::BadArguments`] when a call in the history has arguments that are no object.
pub fn turns<'a>(messages: impl IntoIterator<Item = &'a Message<'a>>, card: &Card) -> Result<Vec<Turn<'a>>, ApiError> {
    let mut open: VecDeque<Open<'a>> = VecDeque::new();
    let mut calls_so_far = 0;
    let ids = CallIds::of(card);
    let messages = messages.into_iter();
    let mut turns = Vec::with_capacity(messages.size_hint().0);
    for message in messages {
        let mut turn = Turn::new(&message.role, &message.content, &message.images);
        if message.role.bytes().any(|byte| byte.is_ascii_uppercase()) {
            turn.role = Cow::Owned(message.role.to_ascii_lowercase());
        }
        turn.reasoning = &message.thinking;
        if !message.tool_calls.is_empty() {
            // Results follow their calls: what was not answered before these calls never will be.
            open.clear();
        }
        for call in &message.tool_calls {
            let (told, name) = (&*call.id, &*call.function.name);
            let id = ids.id(told, name, calls_so_far);
            calls_so_far += 1;
            let arguments = arguments(call.function.arguments)?;
            open.push_back(Open { told, id: id.clone(), name });
            turn.tool_calls.push(Called { id, r#type: "function", function: CalledFunction { name, arguments } });
        }
        if turn.role == "tool" {
            let (id, name) = pair(message, &mut open);
            turn.tool_call_id = Some(id);
            turn.name = name;
        }
        turns.push(turn);
    }
    if card.can(Capability::Thinking) {
        forget_old_thoughts(&mut turns);
    }
    Ok(turns)
}

/// Takes thoughts that stand in the text of earlier answers out of it, as the models learnt their conversations: those
/// before the last question (ollama-api §6.5).
fn forget_old_thoughts(turns: &mut [Turn<'_>]) {
    let last_question = turns.iter().rposition(|turn| turn.role == "user").unwrap_or_default();
    for turn in &mut turns[..last_question] {
        if turn.role == "assistant"
            && let Content::Text(text) = &mut turn.content
            && text.trim_start().starts_with("<think>")
            && let Some((_thought, answer)) = text.split_once("</think>")
        {
            *text = answer.trim_start();
        }
    }
}

/// Arguments as JSON in a string. Clients send an object; an object in a string is understood too.
fn arguments(raw: Option<&RawValue>) -> Result<Cow<'_, str>, ApiError> {
    let Some(raw) = raw else { return Ok(Cow::Borrowed("{}")) };
    if raw.get().starts_with('{') {
        return Ok(Cow::Borrowed(raw.get()));
    }
    let text: Text = json::read(raw).map_err(|_| ApiError::BadArguments)?;
    if text.trim().is_empty() {
        return Ok(Cow::Borrowed("{}"));
    }
    json::compact_object(&text).map(Cow::Owned).ok_or(ApiError::BadArguments)
}

/// Finds the call a result belongs to: by id, else by the function's name, else the oldest open one (§13.13).
fn pair<'a>(message: &'a Message<'a>, open: &mut VecDeque<Open<'a>>) -> (Cow<'a, str>, &'a str) {
    let (id, name) = (&*message.tool_call_id, &*message.tool_name);
    // Some clients give their results ids and their calls none.
    let candidate = |call: &Open<'_>| id.is_empty() || call.told.is_empty();
    let place = open
        .iter()
        .position(|call| !id.is_empty() && call.told == id)
        .or_else(|| open.iter().position(|call| candidate(call) && !name.is_empty() && call.name == name))
        .or_else(|| open.iter().position(candidate));
    match place.and_then(|place| open.remove(place)) {
        Some(call) => (call.id, if name.is_empty() { call.name } else { name }),
        None if id.is_empty() => (Cow::Borrowed("call_00000000"), name),
        None => (Cow::Borrowed(id), name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ollama::types::ChatRequest;

    fn translated(messages: &str) -> Result<String, ApiError> {
        translated_for(messages, &Card::default())
    }

    fn translated_for(messages: &str, card: &Card) -> Result<String, ApiError> {
        let body = format!(r#"{{"messages":{messages}}}"#);
        let request: ChatRequest = json::decode(&body).expect("the test's JSON");
        turns(&request.messages, card).map(|turns| serde_json::to_string(&turns).expect("turns are JSON"))
    }

    #[test]
    fn turns_keep_their_text_and_their_thoughts() {
        let turns = translated(
            r#"[{"role":"System","content":"s"},{"role":"user","content":"hi","images":[]},
                {"role":"assistant","content":"x","thinking":"t"},{"role":"alien","content":"a"}]"#,
        );
        let expected = r#"[{"role":"system","content":"s"},{"role":"user","content":"hi"},{"role":"assistant","content":"x","reasoning":"t"},{"role":"alien","content":"a"}]"#;
        assert_eq!(turns.as_deref(), Ok(expected));
    }

    #[test]
    fn images_follow_the_text_they_belong_to() {
        let turns = translated(r#"[{"role":"user","content":"what?","images":["iVBORw0KGgo="]}]"#);
        let expected = r#"[{"role":"user","content":[{"type":"text","text":"what?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]"#;
        assert_eq!(turns.as_deref(), Ok(expected));
    }

    #[test]
    fn results_find_their_calls_by_id_by_name_and_by_order() {
        let turns = translated(
            r#"[{"role":"assistant","content":"","tool_calls":[
                  {"function":{"name":"f","arguments":{"a":1}}},
                  {"function":{"name":"g","arguments":"{ \"b\": 2 }"}},
                  {"id":"call_mine","function":{"name":"h"}},
                  {"function":{"name":"f","arguments":""}}]},
                {"role":"tool","content":"3","tool_call_id":"call_mine"},
                {"role":"tool","content":"2","tool_name":"g"},
                {"role":"tool","content":"1"},
                {"role":"tool","content":"4"},
                {"role":"tool","content":"0"}]"#,
        )
        .expect("a good history");
        let turns: serde_json::Value = serde_json::from_str(&turns).expect("turns are JSON");
        let call = |number: usize| turns[0]["tool_calls"][number].clone();
        assert_eq!(call(0)["id"], "call_00000001");
        assert_eq!(call(0)["function"]["arguments"], r#"{"a":1}"#);
        assert_eq!(call(1)["function"]["arguments"], r#"{"b":2}"#);
        assert_eq!(call(3)["function"]["arguments"], "{}");
        let paired: Vec<_> = (1..=5).map(|turn| [&turns[turn]["tool_call_id"], &turns[turn]["name"]]).collect();
        let expected = [["call_mine", "h"], ["call_00000002", "g"], ["call_00000001", "f"], ["call_00000004", "f"]];
        for (paired, expected) in paired.iter().zip(expected) {
            assert_eq!([paired[0].as_str(), paired[1].as_str()], expected.map(Some));
        }
        assert_eq!(paired[4][0], "call_00000000");
    }

    #[test]
    fn arguments_that_are_no_object_are_refused() {
        for arguments in ["[1]", "3", r#""x""#] {
            let messages = format!(
                r#"[{{"role":"assistant","tool_calls":[{{"function":{{"name":"f","arguments":{arguments}}}}}]}}]"#
            );
            assert_eq!(translated(&messages), Err(ApiError::BadArguments), "{arguments}");
        }
    }

    #[test]
    fn results_with_ids_find_calls_without() {
        let turns = translated(
            r#"[{"role":"assistant","tool_calls":[{"function":{"name":"f"}},{"id":"b","function":{"name":"f"}}]},
                {"role":"tool","content":"1","tool_call_id":"made-up"},
                {"role":"tool","content":"2","tool_call_id":"b"},
                {"role":"assistant","tool_calls":[{"function":{"name":"g"}},{"function":{"name":"h"}}]},
                {"role":"tool","content":"3"},
                {"role":"assistant","tool_calls":[{"function":{"name":"f"}}]},
                {"role":"tool","content":"4"},
                {"role":"tool","content":"5","tool_call_id":"nobodys"}]"#,
        );
        let turns: serde_json::Value = serde_json::from_str(&turns.expect("a good history")).expect("JSON");
        let ids: Vec<_> = [1, 2, 4, 6, 7].map(|turn: usize| turns[turn]["tool_call_id"].as_str()).into();
        let expected = ["call_00000001", "b", "call_00000003", "call_00000005", "nobodys"].map(Some);
        assert_eq!(ids, expected, "the call that was never answered is no call of the next round");
    }

    #[test]
    fn ids_look_as_the_template_wants_them() {
        let history = r#"[{"role":"assistant","tool_calls":[{"id":"call_ab12cd34","function":{"name":"f"}},
                {"id":"functions.g:1","function":{"name":"g"}},{"id":"abcDEF123","function":{"name":"h"}}]},
                {"role":"tool","tool_call_id":"functions.g:1"},{"role":"tool","tool_call_id":"call_ab12cd34"}]"#;
        for (family, expected) in [
            ("llama", ["call_ab12cd34", "functions.g:1", "abcDEF123"]),
            ("mistral3", ["000000001", "000000002", "abcDEF123"]),
            ("kimi_k2", ["functions.f:0", "functions.g:1", "functions.h:2"]),
        ] {
            let card = Card { family: family.into(), ..Card::default() };
            let turns = translated_for(history, &card).expect("a good history");
            let turns: serde_json::Value = serde_json::from_str(&turns).expect("JSON");
            let ids = [0, 1, 2].map(|call| turns[0]["tool_calls"][call]["id"].as_str().expect("an id"));
            assert_eq!(ids, expected, "{family}");
            assert_eq!([&turns[1]["tool_call_id"], &turns[2]["tool_call_id"]], [expected[1], expected[0]], "{family}");
        }
    }

    #[test]
    fn thoughts_in_the_text_of_earlier_answers_are_forgotten() {
        let history = r#"[{"role":"user","content":"<think>mine</think>"},
            {"role":"assistant","content":"\n<think>\nhm\n</think>\n\nYes."},
            {"role":"assistant","content":"<think>no end"},{"role":"user","content":"and?"},
            {"role":"assistant","content":"<think>new</think>No."}]"#;
        let texts = |card: &Card| {
            let turns = translated_for(history, card).expect("a good history");
            let turns: Vec<serde_json::Value> = serde_json::from_str(&turns).expect("JSON");
            turns.iter().map(|turn| turn["content"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
        };
        let thinker = Card { capabilities: vec![Capability::Thinking], ..Card::default() };
        let kept = ["<think>mine</think>", "Yes.", "<think>no end", "and?", "<think>new</think>No."];
        assert_eq!(texts(&thinker), kept);
        assert_eq!(texts(&Card::default())[1], "\n<think>\nhm\n</think>\n\nYes.");
    }
}
