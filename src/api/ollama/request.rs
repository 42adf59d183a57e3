//! Engine requests as bytes (vllm-engine §3.2). Fields the engine should decide about itself are left out.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::format::Format;
use super::messages::Turn;
use super::options::Sampling;
use super::think::{Switch, Thinking};

/// Where an engine request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Turns, put through the chat template.
    Chat,
    /// Text or token ids as they are.
    Completions,
}

impl Endpoint {
    /// Its path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// What all inference requests have in common.
#[derive(Debug, Serialize)]
pub struct Common<'a> {
    /// The engine's name for the model.
    pub model: &'a str,
    /// Whether to stream.
    pub stream: bool,
    /// Sampling fields.
    #[serde(flatten)]
    pub sampling: Sampling<'a>,
    /// `response_format`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Format<'a>>,
    /// Whether the answer names the tokens of prompt and answer, for `context` (§6.3).
    #[serde(skip_serializing_if = "is_false")]
    pub return_token_ids: bool,
}

/// Log-probabilities a request asks for: with how many alternatives each.
pub type Logprobs = Option<u8>;

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

fn stream_options(stream: bool) -> Option<StreamOptions> {
    stream.then_some(StreamOptions { include_usage: true })
}

#[derive(Serialize)]
struct ChatBody<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    messages: &'a [Turn<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "is_false")]
    logprobs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u8>,
    #[serde(flatten)]
    template: TemplateBody,
}

#[derive(Serialize)]
struct TemplateBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_template_kwargs: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
    #[serde(skip_serializing_if = "is_false")]
    continue_final_message: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    add_generation_prompt: Option<bool>,
}

impl TemplateBody {
    fn new(turns: &[Turn<'_>], thinking: Thinking) -> Self {
        // An answer the client has begun is gone on with, as in Ollama (vllm-engine §3.2: the two fields exclude each other).
        let begun = turns.last().is_some_and(Turn::is_begun_answer);
        Self {
            chat_template_kwargs: thinking.template,
            reasoning_effort: thinking.effort,
            continue_final_message: begun,
            add_generation_prompt: begun.then_some(false),
        }
    }
}

/// A request to `/v1/chat/completions`.
#[must_use]
pub fn chat(
    common: Common<'_>,
    turns: &[Turn<'_>],
    tools: Option<&RawValue>,
    thinking: Thinking,
    logprobs: Logprobs,
) -> Bytes {
    bytes(&ChatBody {
        stream_options: stream_options(common.stream),
        common,
        messages: turns,
        tools,
        logprobs: logprobs.is_some(),
        top_logprobs: logprobs,
        template: TemplateBody::new(turns, thinking),
    })
}

/// What a completion goes on from.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Prompt<'a> {
    /// Text, as it is.
    Text(&'a str),
    /// Token ids.
    Tokens(&'a [u32]),
}

#[derive(Serialize)]
struct CompletionBody<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    prompt: Prompt<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<u8>,
}

/// A request to `/v1/completions`. The sampling in `common` must name a limit.
#[must_use]
pub fn completion(common: Common<'_>, prompt: Prompt<'_>, logprobs: Logprobs) -> Bytes {
    bytes(&CompletionBody { stream_options: stream_options(common.stream), common, prompt, logprobs })
}

#[derive(Serialize)]
struct TokenizeBody<'a> {
    model: &'a str,
    messages: &'a [Turn<'a>],
    #[serde(flatten)]
    template: TemplateBody,
}

/// A request to `/tokenize`: the turns through the chat template, as token ids.
#[must_use]
pub fn tokenize(model: &str, turns: &[Turn<'_>], thinking: Thinking) -> Bytes {
    bytes(&TokenizeBody { model, messages: turns, template: TemplateBody::new(turns, thinking) })
}

/// Reads the answer of `/tokenize`.
///
/// # Errors
/// [`ApiError::Failed`] when it is not understood.
pub fn tokens(answer: &[u8]) -> Result<Vec<u32>, ApiError> {
    #[derive(serde::Deserialize)]
    struct Tokens {
        tokens: Vec<u32>,
    }
    let answer: Tokens = serde_json::from_slice(answer)
        .map_err(|_| ApiError::Failed("the engine's answer to a tokenize request was not understood".to_owned()))?;
    Ok(answer.tokens)
}

fn bytes<T: Serialize>(body: &T) -> Bytes {
    // Keys are strings and nothing here fails to serialise; an empty body would be refused by the engine.
    serde_json::to_vec(body).unwrap_or_default().into()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ollama::json;
    use crate::api::ollama::messages::turns;
    use crate::api::ollama::options::{Limit, Options};
    use crate::api::ollama::types::ChatRequest;
    use crate::model::{Card, GenerationDefaults};

    fn common<'a>(options: &'a Options, stream: bool, always: bool) -> Common<'a> {
        let limit = Limit { max_model_len: 2048, always };
        let sampling = options.sampling(&GenerationDefaults::default(), limit);
        Common { model: "m", stream, sampling, response_format: None, return_token_ids: false }
    }

    fn chat_of(body: &str, thinking: Thinking, logprobs: Logprobs) -> String {
        let request: ChatRequest = json::decode(body).expect("the test's JSON");
        let options = Options::parse(request.options).expect("good options");
        let turns = turns(&request.messages, &Card::default()).expect("a good history");
        let stream = request.stream.unwrap_or(true);
        let bytes = chat(common(&options, stream, false), &turns, request.tools, thinking, logprobs);
        String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8")
    }

    #[test]
    fn a_chat_becomes_an_engine_request() {
        for (body, engine) in [
            (
                r#"{"model":"x","messages":[{"role":"user","content":"Hi"}],"options":{"temperature":0,"num_predict":6}}"#,
                r#"{"model":"m","stream":true,"temperature":0.0,"top_k":40,"top_p":0.9,"max_tokens":6,"messages":[{"role":"user","content":"Hi"}],"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"model":"x","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"The"}],"stream":false,"tools":[ {"type":"function"} ]}"#,
                r#"{"model":"m","stream":false,"temperature":0.8,"top_k":40,"top_p":0.9,"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"The"}],"tools":[ {"type":"function"} ],"continue_final_message":true,"add_generation_prompt":false}"#,
            ),
        ] {
            assert_eq!(chat_of(body, Thinking::default(), None), engine, "{body}");
        }
    }

    #[test]
    fn thinking_and_logprobs_are_asked_for() {
        let thinking = Thinking {
            template: Some(Switch { enable_thinking: true, thinking: true, thinking_budget: None }),
            effort: Some("low"),
        };
        let body = r#"{"model":"x","messages":[{"role":"user","content":"Hi"}]}"#;
        let request = chat_of(body, thinking, Some(3));
        let end = r#""logprobs":true,"top_logprobs":3,"chat_template_kwargs":{"enable_thinking":true,"thinking":true},"reasoning_effort":"low"}"#;
        assert!(request.ends_with(end), "{request}");
    }

    #[test]
    fn completions_take_text_and_tokens() {
        let options = Options::default();
        for (prompt, field) in
            [(Prompt::Text("a\"b"), r#""prompt":"a\"b""#), (Prompt::Tokens(&[1, 2]), r#""prompt":[1,2]"#)]
        {
            let bytes = completion(common(&options, false, true), prompt, Some(0));
            let request = String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8");
            let expected = format!(
                r#"{{"model":"m","stream":false,"temperature":0.8,"top_k":40,"top_p":0.9,"max_tokens":2048,{field},"logprobs":0}}"#
            );
            assert_eq!(request, expected);
        }
    }

    #[test]
    fn the_answer_of_tokenize_is_read() {
        assert_eq!(
            tokens(br#"{"count":2,"max_model_len":8192,"tokens":[1,9690],"token_strs":null}"#),
            Ok(vec![1, 9690])
        );
        assert!(tokens(b"{}").is_err());
    }
}
