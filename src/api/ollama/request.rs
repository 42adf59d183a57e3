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
    /// The prompt's beginning is cut off where it is longer.
    #[serde(flatten)]
    pub cut: Option<Cut>,
}

/// Cuts a prompt to its last tokens. Left to itself the engine cuts at the tokenizer's side, which is mostly the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    truncate_prompt_tokens: u64,
    truncation_side: &'static str,
}

impl Cut {
    /// To at most this many tokens.
    #[must_use]
    pub fn to(tokens: u64) -> Self {
        Self { truncate_prompt_tokens: tokens, truncation_side: "left" }
    }
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

/// What the engine does with special tokens of a completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Specials {
    /// `false`: the prompt begins with the token the engine would put before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_special_tokens: Option<bool>,
    /// `false`: special tokens are told, so that they can be stop texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_special_tokens: Option<bool>,
}

#[derive(Serialize)]
struct CompletionBody<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    prompt: Prompt<'a>,
    #[serde(flatten)]
    specials: Specials,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<u8>,
}

/// A request to `/v1/completions`. The sampling in `common` must name a limit.
#[must_use]
pub fn completion(common: Common<'_>, prompt: Prompt<'_>, specials: Specials, logprobs: Logprobs) -> Bytes {
    bytes(&CompletionBody { stream_options: stream_options(common.stream), common, prompt, specials, logprobs })
}

#[derive(Serialize)]
struct TokenizeBody<'a> {
    model: &'a str,
    messages: &'a [Turn<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
    #[serde(flatten)]
    template: TemplateBody,
}

/// A request to `/tokenize`: the turns through the chat template, as token ids.
#[must_use]
pub fn tokenize(model: &str, turns: &[Turn<'_>], tools: Option<&RawValue>, thinking: Thinking) -> Bytes {
    bytes(&TokenizeBody { model, messages: turns, tools, template: TemplateBody::new(turns, thinking) })
}

/// A request to `/tokenize`: a text, as token ids.
#[must_use]
pub fn tokenize_text(model: &str, text: &str, specials: Specials) -> Bytes {
    #[derive(Serialize)]
    struct Body<'a> {
        model: &'a str,
        prompt: &'a str,
        #[serde(flatten)]
        specials: Specials,
    }
    bytes(&Body { model, prompt: text, specials })
}

/// A request to `/detokenize`: token ids, as text.
#[must_use]
pub fn detokenize(model: &str, tokens: &[u32]) -> Bytes {
    #[derive(Serialize)]
    struct Body<'a> {
        model: &'a str,
        tokens: &'a [u32],
    }
    bytes(&Body { model, tokens })
}

/// Reads the token ids in the answer of `/tokenize`.
///
/// # Errors
/// [`ApiError::Failed`] when it is not understood.
pub fn tokens(answer: &[u8]) -> Result<Vec<u32>, ApiError> {
    #[derive(serde::Deserialize)]
    struct Tokens {
        tokens: Vec<u32>,
    }
    understood(answer, "tokenize").map(|answer: Tokens| answer.tokens)
}

/// Reads the number of tokens in the answer of `/tokenize`.
///
/// # Errors
/// As [`tokens`].
pub fn count(answer: &[u8]) -> Result<u64, ApiError> {
    #[derive(serde::Deserialize)]
    struct Count {
        count: u64,
    }
    understood(answer, "tokenize").map(|answer: Count| answer.count)
}

/// Reads the text in the answer of `/detokenize`.
///
/// # Errors
/// As [`tokens`].
pub fn text(answer: &[u8]) -> Result<String, ApiError> {
    #[derive(serde::Deserialize)]
    struct Detokenized {
        prompt: String,
    }
    understood(answer, "detokenize").map(|answer: Detokenized| answer.prompt)
}

fn understood<'a, T: serde::Deserialize<'a>>(answer: &'a [u8], route: &str) -> Result<T, ApiError> {
    serde_json::from_slice(answer)
        .map_err(|_| ApiError::Failed(format!("the engine's answer to a {route} request was not understood")))
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
        let limit = Limit { max_model_len: 2048, answer: None, always };
        let sampling = options.sampling(&GenerationDefaults::default(), limit);
        Common { model: "m", stream, sampling, response_format: None, return_token_ids: false, cut: None }
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
        let thinking = Thinking { template: Some(Switch::new(true, "")), effort: Some("low") };
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
            let bytes = completion(common(&options, false, true), prompt, Specials::default(), Some(0));
            let request = String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8");
            let expected = format!(
                r#"{{"model":"m","stream":false,"temperature":0.8,"top_k":40,"top_p":0.9,"max_tokens":2048,{field},"logprobs":0}}"#
            );
            assert_eq!(request, expected);
        }
    }

    #[test]
    fn a_prompt_is_cut_at_its_beginning_and_special_tokens_are_told() {
        let options = Options::default();
        let common = Common { cut: Some(Cut::to(96)), ..common(&options, false, true) };
        let specials = Specials { add_special_tokens: Some(false), skip_special_tokens: Some(false) };
        let bytes = completion(common, Prompt::Text("a"), specials, None);
        let request = String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8");
        let end = r#""truncate_prompt_tokens":96,"truncation_side":"left","prompt":"a","add_special_tokens":false,"skip_special_tokens":false}"#;
        assert!(request.ends_with(end), "{request}");
    }

    #[test]
    fn the_answers_of_tokenize_and_detokenize_are_read() {
        assert_eq!(count(br#"{"count":2,"max_model_len":8192,"tokens":[1,9690],"token_strs":null}"#), Ok(2));
        assert_eq!(text(br#"{"prompt":"<s>Hi"}"#).as_deref(), Ok("<s>Hi"));
        assert!(count(b"[]").is_err() && text(b"{}").is_err());
        assert_eq!(
            tokens(br#"{"count":2,"max_model_len":8192,"tokens":[1,9690],"token_strs":null}"#),
            Ok(vec![1, 9690])
        );
        assert!(tokens(b"{}").is_err());
    }
}
