//! `/v1/messages` and `/v1/messages/count_tokens`: the chat such a request means to vLLM, what vLLM refuses, and the
//! shapes of answers.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::body::CutOff;
use crate::engine::Engine;
use crate::openai::{Job, Kind, Refusal, invalid, known_model, prompt};
use crate::run::{Run, Step};
use crate::stream::Pieces;

/// Kinds of blocks that vLLM knows.
const BLOCKS: [&str; 9] = [
    "text",
    "image",
    "tool_use",
    "tool_result",
    "tool_reference",
    "thinking",
    "redacted_thinking",
    "tool_addition",
    "tool_removal",
];

const NO_PARSER: &str = "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set";

/// A request that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// What is to be generated.
    pub job: Job,
    /// The tool whose call the answer is, and the call's id.
    tool: Option<(String, String)>,
}

impl Accepted {
    /// Reads a request as vLLM does.
    pub fn new(engine: &Arc<Engine>, body: &Value, request_id: Option<&str>) -> Result<Self, Refusal> {
        match body["max_tokens"].as_i64() {
            None => return Err(invalid("body.max_tokens", "Field required")),
            Some(..=0) => return Err(invalid("body.max_tokens", "Value error, max_tokens must be positive")),
            Some(_) => {}
        }
        let (mut chat, tool) = chat(engine, body)?;
        chat["max_tokens"] = body["max_tokens"].clone();
        chat["stop"] = body["stop_sequences"].clone();
        chat["temperature"] = body["temperature"].clone();
        chat["stream"] = body["stream"].clone();
        let job = Job::new(engine, Kind::Chat, &chat, request_id)?;
        let tool =
            tool.map(|name| (name, format!("chatcmpl-tool-{}", &uuid::Uuid::new_v4().simple().to_string()[..16])));
        Ok(Self { job, tool })
    }

    /// The answer in one piece. `aborted` after `sent` tokens, where it was.
    pub fn whole(&self, sent: usize, aborted: bool) -> Value {
        let text: String = self.job.tokens[..sent].iter().map(|token| token.text.as_str()).collect();
        let block = match &self.tool {
            Some((name, id)) => {
                let input: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!({}));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
            None => json!({"type": "text", "text": text}),
        };
        let mut answer = json!({
            "id": self.job.id, "type": "message", "role": "assistant", "content": [block], "model": self.job.model,
            "usage": self.usage(sent),
        });
        // What is nothing is left out.
        let (reason, sequence) = self.stop_reason(aborted);
        for (name, value) in [("stop_reason", reason), ("stop_sequence", sequence)] {
            if !value.is_null() {
                answer[name] = value;
            }
        }
        answer
    }

    /// Sends the answer as events, each when its token comes.
    pub async fn events(&self, mut run: Run, engine: &Engine, sender: &Pieces) -> Option<()> {
        let mut opened = false;
        let mut sent = 0;
        loop {
            let step = run.step().await;
            if !opened && !matches!(step, Step::Cut | Step::Garbage | Step::EngineError) {
                opened = true;
                let mut usage = self.usage(0);
                let members = usage.as_object_mut()?;
                members.retain(|name, _| matches!(name.as_str(), "input_tokens" | "output_tokens"));
                let message = json!({
                    "id": self.job.id, "type": "message", "role": "assistant", "content": [], "model": self.job.model,
                    "stop_reason": null, "stop_sequence": null, "usage": usage,
                });
                sender.send(event(&json!({"type": "message_start", "message": message}))).await.ok()?;
                let block = match &self.tool {
                    Some((name, id)) => json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
                    None => json!({"type": "text", "text": ""}),
                };
                sender
                    .send(event(&json!({"type": "content_block_start", "content_block": block, "index": 0})))
                    .await
                    .ok()?;
            }
            let aborted = match step {
                Step::Token(index) => {
                    sent = index + 1;
                    let text = &self.job.tokens[index].text;
                    if !text.is_empty() {
                        let delta = match &self.tool {
                            Some(_) => json!({"type": "input_json_delta", "partial_json": text}),
                            None => json!({"type": "text_delta", "text": text}),
                        };
                        sender
                            .send(event(&json!({"type": "content_block_delta", "delta": delta, "index": 0})))
                            .await
                            .ok()?;
                    }
                    continue;
                }
                Step::EngineError => return sender.send(event(&failure())).await.ok(),
                Step::Cut | Step::Garbage => return sender.send(Err(CutOff)).await.ok(),
                Step::NoDone => return None,
                Step::Aborted => true,
                Step::Finished => {
                    self.job.count(engine);
                    false
                }
            };
            let (reason, sequence) = self.stop_reason(aborted);
            let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
            sender.send(event(&json!({"type": "content_block_stop", "index": 0}))).await.ok()?;
            let ended = json!({"type": "message_delta", "delta": delta, "usage": self.usage(sent)});
            sender.send(event(&ended)).await.ok()?;
            return sender.send(event(&json!({"type": "message_stop"}))).await.ok();
        }
    }

    fn usage(&self, sent: usize) -> Value {
        let mut usage = json!({"input_tokens": self.job.prompt.len(), "output_tokens": sent});
        if self.job.prompt_token_details {
            usage["cache_creation_input_tokens"] = json!(0);
            usage["cache_read_input_tokens"] = json!(0);
        }
        usage
    }

    fn stop_reason(&self, aborted: bool) -> (Value, Value) {
        match (self.job.finish, &self.job.stop_reason) {
            _ if aborted => (Value::Null, Value::Null),
            ("length", _) => (json!("max_tokens"), Value::Null),
            _ if self.tool.is_some() => (json!("tool_use"), Value::Null),
            (_, Value::String(stop)) => (json!("stop_sequence"), json!(stop)),
            _ => (json!("end_turn"), Value::Null),
        }
    }
}

/// Counts the tokens of the prompt.
pub fn count(engine: &Engine, body: &Value) -> Result<Value, Refusal> {
    let (chat, _) = chat(engine, body)?;
    known_model(engine, &chat)?;
    let (tokens, _) = prompt(engine, Kind::Chat, &chat)?;
    Ok(json!({"input_tokens": tokens.len(), "context_management": {"original_input_tokens": tokens.len()}}))
}

/// A refusal in this route's shape. What breaks the schema vLLM tells in OpenAI's.
pub fn refused(refusal: &Refusal) -> Value {
    let Value::Object(mut body) = refusal.body() else { return Value::Null };
    let error = body.remove("error").unwrap_or_default();
    if error["type"] == "Bad Request" {
        return json!({"error": error});
    }
    json!({"type": "error", "error": {"type": error["type"], "message": error["message"]}})
}

/// What the stream ends with when the engine's core is gone: vLLM cannot read its own error.
fn failure() -> Value {
    let message = "2 validation errors for ChatCompletionStreamResponse\nmodel\n  Field required [type=missing, \
                   input_value={'error': {'message': 'En...am': None, 'code': 500}}, input_type=dict]\n";
    json!({"type": "error", "error": {"type": "internal_error", "message": message}})
}

fn event(data: &Value) -> Result<Bytes, CutOff> {
    let name = data["type"].as_str().unwrap_or_default();
    Ok(Bytes::from(format!("event: {name}\ndata: {data}\n\n")))
}

/// The chat a request means, and the tool that is to be called.
fn chat(engine: &Engine, body: &Value) -> Result<(Value, Option<String>), Refusal> {
    let bad = |message: &str| Refusal::new(400, "BadRequestError", message);
    let messages = body["messages"].as_array().ok_or_else(|| invalid("body.messages", "Field required"))?;
    let mut turns = Vec::new();
    let system = text(&body["system"]);
    if !system.is_empty() {
        turns.push(json!({"role": "system", "content": system}));
    }
    for message in messages {
        let role = message["role"].as_str().unwrap_or_default();
        if !["user", "assistant", "system"].contains(&role) {
            return Err(invalid("body.messages.role", "Input should be 'user', 'assistant' or 'system'"));
        }
        if message["content"].is_null() {
            return Err(invalid("body.messages.content", "Input should be a valid string"));
        }
        for block in message["content"].as_array().into_iter().flatten() {
            match block["type"].as_str() {
                Some("image") => return Err(bad("m is not a multimodal model")),
                Some("tool_result") => turns.push(json!({"role": "tool", "content": text(&block["content"])})),
                Some(kind) if BLOCKS.contains(&kind) => {}
                _ => return Err(invalid("body.messages.content.type", "Input should be 'text', 'image', …")),
            }
        }
        let text = text(&message["content"]);
        if !text.is_empty() || role != "user" {
            turns.push(json!({"role": role, "content": text}));
        }
    }
    thinking(engine, body)?;
    let mut chat = json!({"model": body["model"], "messages": turns});
    let mut forced = None;
    let none = body["tools"].as_array().is_none_or(Vec::is_empty);
    let asked = body["tools"].is_array() || body["tool_choice"]["type"] == "auto";
    if none && asked && !engine.arguments.tools {
        return Err(bad(NO_PARSER));
    }
    for tool in body["tools"].as_array().into_iter().flatten() {
        if !tool["input_schema"].is_object() {
            return Err(invalid("body.tools.input_schema", "Field required"));
        }
        let wanted = match body["tool_choice"]["type"].as_str() {
            Some("none") => false,
            Some("any" | "tool") if !engine.arguments.tools => {
                return Err(bad("tool_choice=\"required\" requires --tool-call-parser to be set"));
            }
            _ if !engine.arguments.tools => return Err(bad(NO_PARSER)),
            Some("any") => forced.is_none(),
            Some("tool") => tool["name"] == body["tool_choice"]["name"],
            _ => false,
        };
        if wanted {
            forced = tool["name"].as_str().map(str::to_owned);
            chat["response_format"] = json!({"type": "json_schema", "json_schema": {"schema": tool["input_schema"]}});
        }
    }
    Ok((chat, forced))
}

/// Budgets are refused where there is no parser for thoughts, and where they are out of bounds.
fn thinking(engine: &Engine, body: &Value) -> Result<(), Refusal> {
    let thinking = &body["thinking"];
    match thinking["type"].as_str() {
        None if thinking.is_null() => Ok(()),
        Some("disabled" | "adaptive") => Ok(()),
        Some("enabled") => {
            let budget = thinking["budget_tokens"].as_i64().unwrap_or(0);
            if budget < 1024 {
                let message = "Input should be greater than or equal to 1024";
                return Err(invalid("body.thinking.enabled.budget_tokens", message));
            }
            if budget >= body["max_tokens"].as_i64().unwrap_or(i64::MAX) {
                return Err(invalid("body", "Value error, thinking.budget_tokens must be less than max_tokens"));
            }
            if engine.arguments.reasoning {
                return Ok(());
            }
            let message = "thinking_token_budget is set but reasoning_config is not configured. Please set \
                           --reasoning-parser and/or --reasoning-config to use thinking_token_budget.";
            Err(Refusal::new(400, "BadRequestError", message))
        }
        _ => Err(invalid("body.thinking", "Input tag does not match any of the expected tags")),
    }
}

/// The texts of a string or of blocks.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect(),
        _ => String::new(),
    }
}
