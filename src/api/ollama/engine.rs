//! Answers of the engine as they come over the wire (vllm-engine §3.3). One shape covers chat and completions, pieces
//! of a stream and whole answers: what is absent is simply not there. Strings are borrowed from the bytes read.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{First, Text};

/// One event of a stream, or a whole answer.
#[derive(Debug, Default, Deserialize)]
pub struct Piece<'a> {
    /// The one answer asked for; none in the last event, which carries the counters.
    #[serde(borrow, default)]
    pub choices: First<Choice<'a>>,
    /// Token counters.
    pub usage: Option<Usage>,
    /// Times of the request, where the engine was started with them.
    pub metrics: Option<Metrics>,
    /// Tokens of the prompt, where asked for, as a list of numbers; chat says it here.
    #[serde(borrow)]
    pub prompt_token_ids: Option<&'a RawValue>,
    /// What went wrong, in any of the engine's shapes.
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

/// The answer, or a piece of it.
#[derive(Debug, Default, Deserialize)]
pub struct Choice<'a> {
    /// New text of a chat; a whole answer calls it `message`.
    #[serde(borrow, default, alias = "message")]
    pub delta: Delta<'a>,
    /// New text of a completion.
    #[serde(borrow)]
    pub text: Option<Text<'a>>,
    /// Log-probabilities, in one of two shapes.
    #[serde(borrow)]
    pub logprobs: Option<&'a RawValue>,
    /// Why it ended.
    #[serde(borrow)]
    pub finish_reason: Option<Text<'a>>,
    /// Tokens of this piece, where asked for, as a list of numbers.
    #[serde(borrow)]
    pub token_ids: Option<&'a RawValue>,
    /// Tokens of the prompt, where asked for; completions say it here.
    #[serde(borrow)]
    pub prompt_token_ids: Option<&'a RawValue>,
}

/// What is new in a chat.
#[derive(Debug, Default, Deserialize)]
pub struct Delta<'a> {
    /// Text of the answer.
    #[serde(borrow)]
    pub content: Option<Text<'a>>,
    /// Text of the thoughts before it.
    #[serde(borrow)]
    pub reasoning: Option<Text<'a>>,
    /// Calls, or pieces of them.
    #[serde(borrow)]
    pub tool_calls: Option<Vec<CallPiece<'a>>>,
}

/// A call, or a piece of one.
#[derive(Debug, Deserialize)]
pub struct CallPiece<'a> {
    /// Which call of the answer; whole answers count by position.
    pub index: Option<usize>,
    /// Its id, in its first piece.
    #[serde(borrow)]
    pub id: Option<Text<'a>>,
    /// The function.
    #[serde(borrow)]
    pub function: Option<FunctionPiece<'a>>,
}

/// A function call, or a piece of one.
#[derive(Debug, Deserialize)]
pub struct FunctionPiece<'a> {
    /// Name, in the first piece.
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    /// Some of the JSON of the arguments.
    #[serde(borrow)]
    pub arguments: Option<Text<'a>>,
}

/// Token counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens generated, thoughts and calls included.
    #[serde(default)]
    pub completion_tokens: u64,
}

/// Times of a request in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Metrics {
    /// From its turn to the first token.
    pub time_to_first_token_ms: Option<f64>,
    /// From the first token to the last.
    pub generation_time_ms: Option<f64>,
}
