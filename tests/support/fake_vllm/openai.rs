//! `/v1/chat/completions` and `/v1/completions`: what is asked, what vLLM refuses, and the shapes of answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::answer;
use crate::engine::Engine;
use crate::fault::Planned;
use crate::vocabulary::{self, Token};

/// Tokens of an image.
const IMAGE: usize = 200;

/// SmolLM2's.
const VOCABULARY_SIZE: u32 = 49_152;

/// What vLLM calls itself in answers.
const FINGERPRINT: &str = "vllm-0.32.0-0fa94de8";

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
        Self { status, kind, param: None, message: message.into() }
    }

    /// Names the parameter.
    pub fn about(mut self, param: &str) -> Self {
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
        let Self { status, kind, param, message } = self;
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
    /// Whether the prompt asks for all tokens at once.
    pub rush: bool,
    /// The answer's tokens; where it stops by itself, the last one ends the sequence and has no text.
    pub tokens: Vec<Token>,
    /// Identity of the answer.
    pub id: String,
    created: u64,
    /// The model as it was asked for.
    pub model: String,
    /// The prompt's tokens.
    pub prompt: Vec<Token>,
    /// Why it ends.
    pub finish: &'static str,
    /// The stop string it ends at.
    pub stop_reason: Value,
    usage: bool,
    continuous_usage: bool,
    token_ids: bool,
    logprobs: Option<usize>,
    request_metrics: bool,
    /// Whether usage tells what came from the cache.
    pub prompt_token_details: bool,
}

impl Job {
    /// Reads a request as vLLM does.
    pub fn new(engine: &Arc<Engine>, kind: Kind, body: &Value, request_id: Option<&str>) -> Result<Self, Refusal> {
        let bad = |message: String, param: &str| Refusal::new(400, "BadRequestError", message).about(param);
        let model = known_model(engine, body)?;
        let stream = body["stream"].as_bool().unwrap_or(false);
        if !stream && !body["stream_options"].is_null() {
            return Err(bad("Stream options can only be defined when `stream=True`.".into(), "stream_options"));
        }
        let (prompt, last_message) = prompt(engine, kind, body)?;
        let limit = engine.max_model_len;
        let max_tokens = match body["max_completion_tokens"].as_u64().or(body["max_tokens"].as_u64()) {
            Some(0) => {
                let message = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)";
                return Err(bad(message.into(), "max_tokens"));
            }
            Some(tokens) if tokens > limit => {
                let message = format!(
                    "max_tokens={tokens} cannot be greater than max_model_len={limit}. Please request fewer output tokens. \
                     (parameter=max_tokens, value={tokens})"
                );
                return Err(bad(message, "max_tokens"));
            }
            Some(tokens) => tokens,
            None if kind == Kind::Text => 16,
            None => limit,
        };
        let length = prompt.len() as u64;
        if length >= limit {
            let least = limit + 1;
            let message = format!(
                "This model's maximum context length is {limit} tokens. However, your prompt contains at least {least} input \
                 tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input \
                 prompt. (parameter=input_tokens, value={least})"
            );
            return Err(bad(message, "input_tokens"));
        }
        if let Some(temperature) = body["temperature"].as_f64().filter(|temperature| *temperature < 0.0) {
            let message = format!(
                "temperature must be non-negative, got {temperature:?}. (parameter=temperature, value={temperature:?})"
            );
            return Err(bad(message, "temperature"));
        }
        if !matches!(body["temperature"], Value::Null | Value::Number(_)) {
            return Err(invalid("body.temperature", "Input should be a valid number"));
        }
        let stops = stop_strings(&body["stop"]);
        let most = engine.settings.max_stop_strings;
        if stops.len() > most {
            let message = format!("List should have at most {most} items after validation, not {}", stops.len());
            return Err(invalid("body.stop", &message));
        }
        if let Some(tools) = body["tools"].as_array() {
            if tools.is_empty() {
                return Err(bad("`tools` must not be an empty list.".into(), "tools"));
            }
            let chooses =
                matches!(body["tool_choice"].as_str(), None | Some("auto")) && !body["tool_choice"].is_object();
            if chooses && !engine.arguments.tools {
                let message =
                    "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set";
                return Err(Refusal::new(400, "BadRequestError", message));
            }
        }

        let text = prompt.iter().map(|token| token.text.as_str()).collect::<String>();
        let answer = answer::text(&text, &last_message, Some(&body["response_format"]));
        let max_tokens = usize::try_from(max_tokens.min(limit - length)).unwrap_or(usize::MAX);
        let cut = cut(engine, &answer, &stops, max_tokens, body["ignore_eos"].as_bool().unwrap_or(false));
        engine.prompt_tokens.fetch_add(length, Ordering::Relaxed);
        let logprobs = match kind {
            Kind::Chat if body["logprobs"] == json!(true) => Some(number(&body["top_logprobs"])),
            Kind::Text if body["logprobs"].is_u64() => Some(number(&body["logprobs"])),
            _ => None,
        };
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let id = request_id.map_or_else(|| uuid::Uuid::new_v4().simple().to_string()[..16].to_owned(), str::to_owned);
        Ok(Self {
            kind,
            stream,
            fault: Planned::in_prompt(&last_message).or(engine.settings.fault),
            replay: replay(&last_message),
            rush: answer::rush(&last_message).is_some(),
            tokens: cut.tokens,
            id: format!("{prefix}-{id}"),
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            model,
            prompt,
            finish: cut.finish,
            stop_reason: cut.stop_reason,
            usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            continuous_usage: body["stream_options"]["continuous_usage_stats"].as_bool().unwrap_or(false),
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

    /// When it came, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// Whether all events of tokens but the last differ in nothing but the text.
    pub fn is_plain(&self) -> bool {
        !self.token_ids && self.logprobs.is_none() && !self.continuous_usage
    }

    /// The answer in one piece. `aborted` after `sent` tokens, where it was.
    pub fn whole(&self, sent: usize, aborted: bool, times: (Duration, Duration)) -> Value {
        let tokens = &self.tokens[..sent];
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        let (finish, stop_reason) = self.finish(aborted);
        let ids = self.ids(tokens);
        let mut answer = self.head("chat.completion");
        let choice = match self.kind {
            Kind::Chat => json!({
                "index": 0,
                "message": {
                    "role": "assistant", "content": text, "refusal": null, "annotations": null, "audio": null,
                    "function_call": null, "reasoning": null,
                },
                "logprobs": self.chat_logprobs(tokens),
                "finish_reason": finish, "stop_reason": stop_reason, "token_ids": ids, "routed_experts": null,
            }),
            Kind::Text => json!({
                "index": 0, "text": text, "logprobs": self.text_logprobs(tokens, 0),
                "finish_reason": finish, "stop_reason": stop_reason, "token_ids": ids,
                "prompt_logprobs": null, "prompt_token_ids": self.prompt_ids(), "routed_experts": null,
            }),
        };
        answer.insert("choices".into(), json!([choice]));
        answer.insert("service_tier".into(), Value::Null);
        answer.insert("system_fingerprint".into(), json!(FINGERPRINT));
        let mut usage = self.usage(sent);
        usage["prompt_tokens_details"] = if self.prompt_token_details {
            let created = if self.kind == Kind::Chat { json!(0) } else { Value::Null };
            json!({"cached_tokens": 0, "created_cache_tokens": created, "multimodal_tokens": null})
        } else {
            Value::Null
        };
        usage["completion_tokens_details"] = Value::Null;
        answer.insert("usage".into(), usage);
        if self.kind == Kind::Chat {
            answer.insert("prompt_logprobs".into(), Value::Null);
            answer.insert("prompt_token_ids".into(), self.prompt_ids());
            answer.insert("prompt_text".into(), Value::Null);
        }
        answer.insert("kv_transfer_params".into(), Value::Null);
        answer.insert("ec_transfer_params".into(), Value::Null);
        if self.request_metrics {
            let mut metrics = self.metrics(sent, times);
            metrics["speculative_decoding"] = Value::Null;
            answer.insert("metrics".into(), metrics);
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
            self.continuous_usage(&mut event, 0);
            event.insert("prompt_token_ids".into(), self.prompt_ids());
            event.insert("prompt_text".into(), Value::Null);
            Value::Object(event)
        })
    }

    /// The event of token `index`; the last one carries the finish reason.
    pub fn event(&self, index: usize) -> Value {
        let last = index + 1 == self.tokens.len();
        let finish = if last { self.finish(false) } else { (Value::Null, Value::Null) };
        self.delta(&self.tokens[index].text, index, finish)
    }

    /// The event of a plain token with this text in place of its own.
    pub fn plain_event(&self, text: &str) -> Value {
        self.delta(text, 1, (Value::Null, Value::Null))
    }

    /// The event that ends an answer the engine gave up.
    pub fn abort(&self) -> Value {
        self.delta("", self.tokens.len(), self.finish(true))
    }

    fn delta(&self, text: &str, index: usize, (finish, stop_reason): (Value, Value)) -> Value {
        let tokens = self.tokens.get(index).map_or(&[][..], std::slice::from_ref);
        let choice = match self.kind {
            Kind::Chat => {
                let mut choice = json!({
                    "index": 0, "delta": {"content": text}, "logprobs": self.chat_logprobs(tokens), "finish_reason": finish,
                });
                if !choice["finish_reason"].is_null() {
                    choice["stop_reason"] = stop_reason;
                }
                choice["token_ids"] = self.ids(tokens);
                choice
            }
            Kind::Text => {
                let offset = self.tokens[..index.min(self.tokens.len())].iter().map(|token| token.text.len()).sum();
                json!({
                    "index": 0, "text": text, "logprobs": self.text_logprobs(tokens, offset), "finish_reason": finish,
                    "stop_reason": stop_reason,
                    "prompt_token_ids": if index == 0 { self.prompt_ids() } else { Value::Null },
                    "token_ids": self.ids(tokens),
                })
            }
        };
        let mut event = self.head("chat.completion.chunk");
        let finished = !choice["finish_reason"].is_null();
        event.insert("choices".into(), json!([choice]));
        // It rides on the last event, whichever that is.
        if finished && !self.usage && self.kind == Kind::Chat {
            event.insert("system_fingerprint".into(), json!(FINGERPRINT));
        }
        self.continuous_usage(&mut event, index + 1);
        Value::Object(event)
    }

    /// The last event before `[DONE]`, where usage was asked for.
    pub fn closing(&self, sent: usize, times: (Duration, Duration)) -> Option<Value> {
        self.usage.then(|| {
            let mut event = self.head("chat.completion.chunk");
            event.insert("choices".into(), json!([]));
            let mut usage = self.usage(sent);
            if self.prompt_token_details {
                usage["prompt_tokens_details"] = json!({"cached_tokens": 0});
                if self.kind == Kind::Chat {
                    usage["prompt_tokens_details"]["created_cache_tokens"] = json!(0);
                }
            }
            event.insert("usage".into(), usage);
            event.insert("system_fingerprint".into(), json!(FINGERPRINT));
            if self.request_metrics {
                event.insert("metrics".into(), self.metrics(sent, times));
            }
            Value::Object(event)
        })
    }

    fn head(&self, chat: &str) -> Map<String, Value> {
        let object = if self.kind == Kind::Chat { chat } else { "text_completion" };
        let mut head = Map::new();
        head.insert("id".into(), json!(self.id));
        head.insert("object".into(), json!(object));
        head.insert("created".into(), json!(self.created));
        head.insert("model".into(), json!(self.model));
        head
    }

    /// Finish reason and stop reason.
    fn finish(&self, aborted: bool) -> (Value, Value) {
        if aborted { (json!("abort"), Value::Null) } else { (json!(self.finish), self.stop_reason.clone()) }
    }

    fn continuous_usage(&self, event: &mut Map<String, Value>, sent: usize) {
        if self.continuous_usage {
            let mut usage = self.usage(sent);
            usage["completion_tokens_details"] = Value::Null;
            event.insert("usage".into(), usage);
        }
    }

    fn usage(&self, sent: usize) -> Value {
        let prompt = self.prompt.len();
        json!({"prompt_tokens": prompt, "total_tokens": prompt + sent, "completion_tokens": sent})
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers of tokens are small")]
    fn metrics(&self, sent: usize, (first, rest): (Duration, Duration)) -> Value {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let mut metrics = json!({
            "time_to_first_token_ms": milliseconds(first),
            "generation_time_ms": if sent > 1 { milliseconds(rest) } else { 0.0 },
            "queue_time_ms": 0.03,
        });
        if sent > 1 {
            metrics["mean_itl_ms"] = json!(milliseconds(rest) / (sent - 1) as f64);
        }
        metrics["tokens_per_second"] = json!(sent as f64 / (first + rest).as_secs_f64().max(1e-9));
        metrics
    }

    fn ids(&self, tokens: &[Token]) -> Value {
        if self.token_ids { tokens.iter().map(|token| token.id).collect() } else { Value::Null }
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
                let top: Vec<Value> =
                    alternatives(&token.text, top).map(|(text, logprob)| entry(&text, logprob)).collect();
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
            .map(|token| alternatives(&token.text, top.max(1)).map(|(text, logprob)| (text, json!(logprob))).collect())
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
        Value::String(name) if engine.arguments.serves(name) => Ok(name.clone()),
        Value::String(name) => {
            let message = format!("The model `{name}` does not exist. Valid aliases: {}.", names.join(", "));
            Err(Refusal::new(404, "NotFoundError", message).about("model"))
        }
        other => Err(invalid("body.model", &format!("Input should be a valid string, got {other}"))),
    }
}

/// A body that is no request: vLLM's validation error.
pub fn invalid(param: &str, message: &str) -> Refusal {
    Refusal::new(400, "Bad Request", format!("1 validation error:\n  {{'loc': '{param}', 'msg': '{message}'}}"))
        .about(param)
}

/// The prompt as tokens, and the user's last words.
pub fn prompt(engine: &Engine, kind: Kind, body: &Value) -> Result<(Vec<Token>, String), Refusal> {
    let vocabulary = &engine.vocabulary;
    let (mut tokens, last) = if kind == Kind::Chat {
        let messages = body["messages"].as_array();
        let messages = messages.ok_or_else(|| invalid("body.messages", "Field required"))?;
        if messages.is_empty() {
            let message = "Cannot apply chat template to an empty conversation. Provide at least one message.";
            return Err(Refusal::new(400, "BadRequestError", message));
        }
        let said = |message: &&Value| message["role"] == "user" || message["role"] == "tool";
        let last = messages.iter().rev().find(said).map(answer::content);
        let parts = messages.iter().filter_map(|message| message["content"].as_array()).flatten();
        let images = parts.into_iter().filter(|part| part["type"] != "text").count();
        if images > 0 && !engine.arguments.reads_images() {
            let message = format!("{} is not a multimodal model", engine.arguments.served_names[0]);
            return Err(Refusal::new(400, "BadRequestError", message));
        }
        let generation = body["add_generation_prompt"].as_bool().unwrap_or(true);
        if images > 0 && !body["truncate_prompt_tokens"].is_null() {
            let most = &body["truncate_prompt_tokens"];
            let message = format!("truncate_prompt_tokens={most} would split or drop a(n) image item");
            return Err(Refusal::new(400, "BadRequestError", message).about("truncate_prompt_tokens"));
        }
        let mut tokens = vocabulary.tokens(&answer::render_chat(messages, generation));
        let image = vocabulary.tokens("image").into_iter().take(1).cycle().take(images * IMAGE);
        tokens.splice(0..0, image);
        (tokens, last.unwrap_or_default())
    } else {
        let prompt = match &body["prompt"] {
            Value::Array(list) if list.first().is_some_and(|first| !first.is_u64()) => &list[0],
            prompt => prompt,
        };
        match prompt {
            Value::String(text) => (vocabulary.tokens(text), last_user_words(text)),
            Value::Array(ids) => {
                let ids = ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok());
                let ids: Vec<u32> = ids.collect();
                if let Some(id) = ids.iter().find(|id| **id >= VOCABULARY_SIZE) {
                    let message = format!("Token id {id} is out of vocabulary");
                    return Err(Refusal::new(400, "BadRequestError", message));
                }
                let text = vocabulary.text(&ids);
                let token = |id| Token { id, text: vocabulary.text(&[id]) };
                (ids.into_iter().map(token).collect(), last_user_words(&text))
            }
            _ => return Err(empty_prompt()),
        }
    };
    if tokens.is_empty() {
        return Err(empty_prompt());
    }
    if let Some(most) = body["truncate_prompt_tokens"].as_u64() {
        if most > engine.max_model_len {
            let message = format!(
                "truncate_prompt_tokens={most} cannot be greater than max_model_len = {}. Please request a smaller \
                 truncation size. (parameter=truncate_prompt_tokens, value={most})",
                engine.max_model_len
            );
            return Err(Refusal::new(400, "BadRequestError", message).about("truncate_prompt_tokens"));
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        // The tokenizer's own side is the right one: what is left is the beginning.
        if body["truncation_side"] == "left" {
            tokens.drain(..tokens.len().saturating_sub(most));
        } else {
            tokens.truncate(most);
        }
    }
    Ok((tokens, last))
}

fn empty_prompt() -> Refusal {
    let message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)";
    Refusal::new(400, "BadRequestError", message).about("prompt")
}

/// What the user said last in a rendered chat; the whole text where it is none.
fn last_user_words(prompt: &str) -> String {
    let after = prompt.rsplit_once("<|im_start|>user\n").map_or(prompt, |(_, after)| after);
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
    value.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
}

struct Cut {
    tokens: Vec<Token>,
    finish: &'static str,
    stop_reason: Value,
}

/// Cuts an answer at the first stop string or at the limit, whichever comes first.
fn cut(engine: &Engine, answer: &str, stops: &[String], max_tokens: usize, ignore_eos: bool) -> Cut {
    let stop = stops.iter().filter_map(|stop| answer.find(stop.as_str()).map(|at| (at, stop))).min();
    let mut tokens = engine.vocabulary.tokens(answer);
    // The token that ends the answer: the one that completed the stop string, or the end of the sequence.
    let mut end = Token { id: vocabulary::END, text: String::new() };
    if let Some((at, stop)) = stop {
        let mut begin = 0;
        let complete = tokens.iter().take_while(|token| {
            begin += token.text.len();
            begin < at + stop.len() && begin <= at
        });
        let complete = complete.count();
        let begin: usize = tokens[..complete].iter().map(|token| token.text.len()).sum();
        end = Token { id: tokens[complete].id, text: answer[begin..at].to_owned() };
        tokens.truncate(complete);
    }
    if ignore_eos && stop.is_none() && !tokens.is_empty() {
        tokens = tokens.iter().cycle().take(max_tokens).cloned().collect();
        return Cut { tokens, finish: "length", stop_reason: Value::Null };
    }
    tokens.push(end);
    if tokens.len() > max_tokens {
        tokens.truncate(max_tokens);
        return Cut { tokens, finish: "length", stop_reason: Value::Null };
    }
    Cut { tokens, finish: "stop", stop_reason: stop.map_or(Value::Null, |(_, stop)| json!(stop)) }
}
