//! `/v1/chat/completions` and `/v1/completions`: what is asked, what vLLM refuses, and the shapes of answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::answer;
use crate::engine::Engine;
use crate::fault::Planned;
use crate::vocabulary::Token;

/// Which of the two routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

/// A refusal: status, type, parameter, message.
#[derive(Debug)]
pub struct Refusal {
    /// The HTTP status, and `code`.
    pub status: u16,
    kind: &'static str,
    param: Option<String>,
    message: String,
}

impl Refusal {
    /// A refusal without a parameter.
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            param: None,
            message: message.into(),
        }
    }

    fn about(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// The answer when the engine's core is gone.
    pub fn engine_dead() -> Self {
        let message = "EngineCore encountered an issue. See stack trace (above) for the root cause.";
        Self::new(500, "InternalServerError", message)
    }

    /// vLLM's error object.
    pub fn body(&self) -> Value {
        let Self {
            status,
            kind,
            param,
            message,
        } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": status}})
    }
}

/// A request that was accepted, and the answer it will get.
#[derive(Debug)]
pub struct Job {
    /// Which route.
    pub kind: Kind,
    /// Whether the answer is an event stream.
    pub stream: bool,
    /// The fault the prompt or the environment asks for.
    pub fault: Option<Planned>,
    /// The recorded stream the prompt asks for.
    pub replay: Option<(String, usize)>,
    /// The answer's tokens; the end-of-sequence token is not among them.
    pub tokens: Vec<Token>,
    id: String,
    created: u64,
    model: String,
    prompt: Vec<Token>,
    finish: &'static str,
    stop_reason: Value,
    usage: bool,
    continuous_usage: bool,
    token_ids: bool,
    logprobs: Option<usize>,
    request_metrics: bool,
    prompt_token_details: bool,
}

impl Job {
    /// Reads a request as vLLM does.
    pub fn new(engine: &Arc<Engine>, kind: Kind, body: &Value, request_id: Option<&str>) -> Result<Self, Refusal> {
        let bad = |message: String, param: &str| Refusal::new(400, "BadRequestError", message).about(param);
        let model = known_model(engine, body)?;
        let stream = body["stream"].as_bool().unwrap_or(false);
        if !stream && !body["stream_options"].is_null() {
            return Err(bad(
                "Stream options can only be defined when `stream=True`.".into(),
                "stream_options",
            ));
        }
        let (prompt, last_message) = prompt(engine, kind, body)?;
        let limit = engine.max_model_len;
        let max_tokens = match body["max_completion_tokens"].as_u64().or(body["max_tokens"].as_u64()) {
            Some(0) => return Err(bad("max_tokens must be at least 1, got 0.".into(), "max_tokens")),
            Some(tokens) if tokens > limit => {
                let message = format!(
                    "max_tokens={tokens} cannot be greater than max_model_len=max_total_tokens={limit}. \
                     Please request fewer output tokens."
                );
                return Err(bad(message, "max_tokens"));
            }
            Some(tokens) => tokens,
            None if kind == Kind::Text => 16,
            None => limit,
        };
        let length = prompt.len() as u64;
        if length >= limit {
            let message = format!(
                "This model's maximum context length is {limit} tokens. However, you requested 0 output tokens and your \
                 prompt contains at least {length} input tokens, for a total of at least {length} tokens. Please reduce the \
                 length of the input prompt or the number of requested output tokens."
            );
            return Err(bad(message, "input_tokens"));
        }
        let stops = stop_strings(&body["stop"]);
        if stops.len() > engine.settings.max_stop_strings {
            return Err(bad(
                format!("At most {} stop strings are allowed.", engine.settings.max_stop_strings),
                "stop",
            ));
        }
        if let Some(tools) = body["tools"].as_array() {
            if tools.is_empty() {
                return Err(bad("`tools` must not be an empty list.".into(), "tools"));
            }
            if !engine.arguments.tools {
                let message =
                    "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set";
                return Err(Refusal::new(400, "BadRequestError", message));
            }
        }

        let text = prompt.iter().map(|token| token.text.as_str()).collect::<String>();
        let answer = answer::text(&text, &last_message, Some(&body["response_format"]));
        let max_tokens = usize::try_from(max_tokens.min(limit - length)).unwrap_or(usize::MAX);
        let cut = cut(
            engine,
            &answer,
            &stops,
            max_tokens,
            body["ignore_eos"].as_bool().unwrap_or(false),
        );
        engine.prompt_tokens.fetch_add(length, Ordering::Relaxed);
        let logprobs = match kind {
            Kind::Chat if body["logprobs"] == json!(true) => Some(number(&body["top_logprobs"])),
            Kind::Text if body["logprobs"].is_u64() => Some(number(&body["logprobs"])),
            _ => None,
        };
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let id = request_id.map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned);
        Ok(Self {
            kind,
            stream,
            fault: Planned::in_prompt(&last_message).or(engine.settings.fault),
            replay: replay(&last_message),
            tokens: cut.tokens,
            id: format!("{prefix}-{id}"),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            model,
            prompt,
            finish: cut.finish,
            stop_reason: cut.stop_reason,
            usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            continuous_usage: body["stream_options"]["continuous_usage_stats"]
                .as_bool()
                .unwrap_or(false),
            token_ids: body["return_token_ids"].as_bool().unwrap_or(false),
            logprobs,
            request_metrics: engine.arguments.request_metrics,
            prompt_token_details: engine.arguments.prompt_token_details,
        })
    }

    /// Writes down in the engine's counters that the answer is complete.
    pub fn count(&self, engine: &Engine) {
        engine.finished[usize::from(self.finish == "length")].fetch_add(1, Ordering::Relaxed);
    }

    /// The answer in one piece. `aborted` after `sent` tokens, where it was.
    pub fn whole(&self, sent: usize, aborted: bool, times: (Duration, Duration)) -> Value {
        let tokens = &self.tokens[..sent];
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        let finish = if aborted { "abort" } else { self.finish };
        let stop_reason = if aborted { Value::Null } else { self.stop_reason.clone() };
        let ids = self.ids(tokens);
        let mut answer = self.head(if self.kind == Kind::Chat {
            "chat.completion"
        } else {
            "text_completion"
        });
        let choice = match self.kind {
            Kind::Chat => json!({
                "index": 0,
                "message": {
                    "role": "assistant", "content": text, "refusal": null, "annotations": null, "audio": null,
                    "function_call": null, "tool_calls": [], "reasoning": null,
                },
                "logprobs": self.chat_logprobs(tokens),
                "finish_reason": finish, "stop_reason": stop_reason, "token_ids": ids,
            }),
            Kind::Text => json!({
                "index": 0, "text": text, "logprobs": self.text_logprobs(tokens, 0),
                "finish_reason": finish, "stop_reason": stop_reason, "token_ids": ids,
                "prompt_logprobs": null, "prompt_token_ids": self.prompt_ids(),
            }),
        };
        answer.insert("choices".into(), json!([choice]));
        answer.insert("service_tier".into(), Value::Null);
        answer.insert("system_fingerprint".into(), Value::Null);
        answer.insert("usage".into(), self.usage(sent, self.completion_tokens(sent)));
        if self.kind == Kind::Chat {
            answer.insert("prompt_logprobs".into(), Value::Null);
            answer.insert("prompt_token_ids".into(), self.prompt_ids());
        }
        answer.insert("kv_transfer_params".into(), Value::Null);
        if self.request_metrics {
            answer.insert("metrics".into(), self.metrics(sent, times));
        }
        Value::Object(answer)
    }

    /// The first event of a chat's stream.
    pub fn opening(&self) -> Option<Value> {
        (self.kind == Kind::Chat).then(|| {
            let mut event = self.head("chat.completion.chunk");
            let delta = json!({"role": "assistant", "content": ""});
            event.insert(
                "choices".into(),
                json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]),
            );
            event.insert("prompt_token_ids".into(), self.prompt_ids());
            self.with_usage(event, 0)
        })
    }

    /// The event that carries token `index`, or the finish after all tokens.
    pub fn event(&self, index: Option<usize>, aborted: bool, sent: usize) -> Value {
        let tokens = index.map_or(&[][..], |index| &self.tokens[index..=index]);
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        let finish = match index {
            Some(_) => Value::Null,
            None if aborted => json!("abort"),
            None => json!(self.finish),
        };
        let stop_reason = if index.is_none() && !aborted {
            self.stop_reason.clone()
        } else {
            Value::Null
        };
        let ids = self.ids(tokens);
        let mut choice = match self.kind {
            Kind::Chat => json!({
                "index": 0, "delta": {"content": text}, "logprobs": self.chat_logprobs(tokens),
                "finish_reason": finish, "token_ids": ids,
            }),
            Kind::Text => json!({
                "index": 0, "text": text, "logprobs": self.text_logprobs(tokens, sent), "finish_reason": finish,
                "stop_reason": stop_reason, "prompt_token_ids": if sent <= 1 { self.prompt_ids() } else { Value::Null },
                "token_ids": ids,
            }),
        };
        if self.kind == Kind::Chat && index.is_none() {
            choice["stop_reason"] = stop_reason;
        }
        let mut event = self.head(if self.kind == Kind::Chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        });
        event.insert("choices".into(), json!([choice]));
        self.with_usage(event, sent)
    }

    /// The last event before `[DONE]`, where usage was asked for.
    pub fn closing(&self, sent: usize, times: (Duration, Duration)) -> Option<Value> {
        self.usage.then(|| {
            let mut event = self.head(if self.kind == Kind::Chat {
                "chat.completion.chunk"
            } else {
                "text_completion"
            });
            event.insert("choices".into(), json!([]));
            event.insert("usage".into(), self.usage(sent, self.completion_tokens(sent)));
            if self.request_metrics {
                event.insert("metrics".into(), self.metrics(sent, times));
            }
            Value::Object(event)
        })
    }

    fn head(&self, object: &str) -> Map<String, Value> {
        let head = json!({"id": self.id, "object": object, "created": self.created, "model": self.model});
        match head {
            Value::Object(head) => head,
            _ => Map::new(),
        }
    }

    fn with_usage(&self, mut event: Map<String, Value>, sent: usize) -> Value {
        if self.continuous_usage {
            event.insert("usage".into(), self.usage(sent, sent));
        }
        Value::Object(event)
    }

    /// vLLM counts the end-of-sequence token too.
    fn completion_tokens(&self, sent: usize) -> usize {
        sent + usize::from(self.finish == "stop" && sent == self.tokens.len())
    }

    fn usage(&self, _sent: usize, completion: usize) -> Value {
        let prompt = self.prompt.len();
        let details = if self.prompt_token_details {
            json!({"cached_tokens": 0})
        } else {
            Value::Null
        };
        json!({
            "prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion,
            "prompt_tokens_details": details,
        })
    }

    fn metrics(&self, sent: usize, (first, rest): (Duration, Duration)) -> Value {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let gaps = sent.saturating_sub(1).max(1) as f64;
        json!({
            "time_to_first_token_ms": milliseconds(first), "generation_time_ms": milliseconds(rest),
            "queue_time_ms": 0.01, "mean_itl_ms": milliseconds(rest) / gaps,
            "tokens_per_second": sent as f64 / (first + rest).as_secs_f64().max(1e-9),
        })
    }

    fn ids(&self, tokens: &[Token]) -> Value {
        if self.token_ids {
            tokens.iter().map(|token| token.id).collect()
        } else {
            Value::Null
        }
    }

    fn prompt_ids(&self) -> Value {
        self.ids(&self.prompt)
    }

    fn chat_logprobs(&self, tokens: &[Token]) -> Value {
        let Some(top) = self.logprobs else { return Value::Null };
        let entry = |token: &str, logprob: f64| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
        let content: Vec<Value> = tokens
            .iter()
            .map(|token| {
                let mut chosen = entry(&token.text, -0.1);
                let top: Vec<Value> = alternatives(&token.text, top)
                    .map(|(text, logprob)| entry(&text, logprob))
                    .collect();
                chosen["top_logprobs"] = Value::Array(top);
                chosen
            })
            .collect();
        json!({"content": content})
    }

    fn text_logprobs(&self, tokens: &[Token], sent: usize) -> Value {
        let Some(top) = self.logprobs else { return Value::Null };
        let tops: Vec<Map<String, Value>> = tokens
            .iter()
            .map(|token| {
                alternatives(&token.text, top.max(1))
                    .map(|(text, logprob)| (text, json!(logprob)))
                    .collect()
            })
            .collect();
        json!({
            "text_offset": vec![sent; tokens.len()],
            "token_logprobs": vec![-0.1; tokens.len()],
            "tokens": tokens.iter().map(|token| token.text.as_str()).collect::<Vec<_>>(),
            "top_logprobs": tops,
        })
    }
}

/// The most likely tokens at one place, the chosen one first.
fn alternatives(chosen: &str, number: usize) -> impl Iterator<Item = (String, f64)> {
    let others = (1..).map(|rank: u32| (format!(" other{rank}"), -0.1 - 2.0 * f64::from(rank)));
    std::iter::once((chosen.to_owned(), -0.1)).chain(others).take(number)
}

/// The model of a request, by the name it was asked for.
pub fn known_model(engine: &Engine, body: &Value) -> Result<String, Refusal> {
    let names = &engine.arguments.served_names;
    match &body["model"] {
        Value::Null => Ok(names[0].clone()),
        Value::String(name) if names.contains(name) => Ok(name.clone()),
        Value::String(name) => {
            let message = format!("The model `{name}` does not exist.");
            Err(Refusal::new(404, "NotFoundError", message).about("model"))
        }
        other => Err(invalid(
            "body.model",
            &format!("Input should be a valid string, got {other}"),
        )),
    }
}

fn invalid(param: &str, message: &str) -> Refusal {
    Refusal::new(400, "Bad Request", format!("1 validation error: {message}")).about(param)
}

/// The prompt as tokens, and the user's last words.
pub fn prompt(engine: &Engine, kind: Kind, body: &Value) -> Result<(Vec<Token>, String), Refusal> {
    let vocabulary = &engine.vocabulary;
    let (mut tokens, last) = if kind == Kind::Chat {
        let messages = body["messages"]
            .as_array()
            .ok_or_else(|| invalid("body.messages", "Field required"))?;
        let last = messages
            .iter()
            .rev()
            .find(|message| message["role"] == "user")
            .map(answer::content);
        let generation = body["add_generation_prompt"].as_bool().unwrap_or(true);
        (
            vocabulary.tokens(&answer::render_chat(messages, generation)),
            last.unwrap_or_default(),
        )
    } else {
        let prompt = match &body["prompt"] {
            Value::Array(list) if list.first().is_some_and(|first| !first.is_u64()) => &list[0],
            prompt => prompt,
        };
        match prompt {
            Value::String(text) => (vocabulary.tokens(text), last_user_words(text)),
            Value::Array(ids) => {
                let ids = ids
                    .iter()
                    .filter_map(Value::as_u64)
                    .filter_map(|id| u32::try_from(id).ok());
                let tokens: Vec<Token> = ids
                    .map(|id| Token {
                        id,
                        text: vocabulary.text(&[id]),
                    })
                    .collect();
                let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
                let last = last_user_words(&text);
                (tokens, last)
            }
            _ => {
                return Err(invalid(
                    "body.prompt",
                    "Either prompt or prompt_embeds must be provided",
                ));
            }
        }
    };
    if let Some(most) = body["truncate_prompt_tokens"]
        .as_u64()
        .and_then(|most| usize::try_from(most).ok())
    {
        let over = tokens.len().saturating_sub(most);
        tokens.drain(..over);
    }
    Ok((tokens, last))
}

/// What the user said last in a rendered chat; the whole text where it is none.
fn last_user_words(prompt: &str) -> String {
    let after = prompt
        .rsplit_once("<|im_start|>user\n")
        .map_or(prompt, |(_, after)| after);
    after.split("<|im_end|>").next().unwrap_or(after).to_owned()
}

fn replay(last_message: &str) -> Option<(String, usize)> {
    let (_, order) = last_message.rsplit_once("FAKE:replay ")?;
    let mut words = order.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

fn stop_strings(stop: &Value) -> Vec<String> {
    match stop {
        Value::String(stop) => vec![stop.clone()],
        Value::Array(stops) => stops.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn number(value: &Value) -> usize {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(0)
}

struct Cut {
    tokens: Vec<Token>,
    finish: &'static str,
    stop_reason: Value,
}

/// Cuts an answer at the first stop string or at the limit, whichever comes first.
fn cut(engine: &Engine, answer: &str, stops: &[String], max_tokens: usize, ignore_eos: bool) -> Cut {
    let stop = stops
        .iter()
        .filter_map(|stop| answer.find(stop.as_str()).map(|at| (at, stop)))
        .min();
    let mut tokens = engine.vocabulary.tokens(stop.map_or(answer, |(at, _)| &answer[..at]));
    if ignore_eos && stop.is_none() && !tokens.is_empty() {
        tokens = tokens.iter().cycle().take(max_tokens).cloned().collect();
    }
    // The end of the sequence is a token too, so an answer that just fits is cut for its length as well.
    if tokens.len() >= max_tokens {
        tokens.truncate(max_tokens);
        return Cut {
            tokens,
            finish: "length",
            stop_reason: Value::Null,
        };
    }
    Cut {
        tokens,
        finish: "stop",
        stop_reason: stop.map_or(Value::Null, |(_, stop)| json!(stop)),
    }
}
