//! `/v1/responses`: a chat in other words. What is asked becomes a request for a chat; what that says is told as a response.

use serde_json::{Value, json};

use crate::openai::{Job, Refusal, invalid};

/// The same request as a chat.
pub fn as_chat(body: &Value) -> Result<Value, Refusal> {
    if body["background"] == json!(true) {
        let message =
            "This vLLM engine does not support `store=True` and therefore does not support the background mode.";
        return Err(Refusal::new(400, "invalid_request_error", message).about("background"));
    }
    if let Some(id) = body["previous_response_id"].as_str() {
        let message = format!("Response with id '{id}' not found.");
        return Err(Refusal::new(404, "invalid_request_error", message).about("response_id"));
    }
    let mut messages = Vec::new();
    if let Some(instructions) = body["instructions"].as_str() {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    match &body["input"] {
        Value::String(text) => messages.push(json!({"role": "user", "content": text})),
        Value::Array(items) => messages.extend(items.iter().cloned()),
        _ => return Err(invalid("body.input", "Input should be a valid string")),
    }
    Ok(json!({
        "model": body["model"], "messages": messages, "stream": body["stream"].as_bool().unwrap_or(false),
        "max_tokens": body["max_output_tokens"], "temperature": body["temperature"],
    }))
}

/// The response object.
pub fn response(job: &Job, status: &str, text: Option<&str>) -> Value {
    let output = text.map(|text| vec![message(job, "completed", vec![part(text)])]).unwrap_or_default();
    let tokens = if text.is_some() { job.tokens.len() } else { 0 };
    let usage = text.map(|_| {
        let prompt = job.prompt.len();
        json!({
            "input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": prompt + tokens,
        })
    });
    json!({
        "id": id(job, "resp"), "created_at": job.created(), "incomplete_details": null, "instructions": null,
        "metadata": null, "model": job.model, "object": "response", "output": output, "parallel_tool_calls": true,
        "temperature": 1.0, "tool_choice": "none", "tools": [], "top_p": 1.0, "background": false,
        "status": status, "text": null, "truncation": "disabled", "usage": usage, "user": null,
    })
}

/// The events before the first token.
pub fn opening(job: &Job) -> Vec<Value> {
    let begun = response(job, "in_progress", None);
    vec![
        json!({"response": begun, "type": "response.created"}),
        json!({"response": begun, "type": "response.in_progress"}),
        json!({"item": message(job, "in_progress", vec![]), "output_index": 0, "type": "response.output_item.added"}),
        json!({
            "content_index": 0, "item_id": id(job, "msg"), "output_index": 0, "part": part(""),
            "type": "response.content_part.added",
        }),
    ]
}

/// The event of a token.
pub fn delta(job: &Job, text: &str) -> Value {
    json!({
        "content_index": 0, "delta": text, "item_id": id(job, "msg"), "logprobs": [], "output_index": 0,
        "type": "response.output_text.delta",
    })
}

/// The events after the last token.
pub fn closing(job: &Job) -> Vec<Value> {
    let text: String = job.tokens.iter().map(|token| token.text.as_str()).collect();
    let whole = message(job, "completed", vec![part(&text)]);
    vec![
        json!({
            "content_index": 0, "item_id": id(job, "msg"), "logprobs": [], "output_index": 0, "text": text,
            "type": "response.output_text.done",
        }),
        json!({
            "content_index": 0, "item_id": id(job, "msg"), "output_index": 0, "part": part(&text),
            "type": "response.content_part.done",
        }),
        json!({"item": whole, "output_index": 0, "type": "response.output_item.done"}),
        json!({"response": response(job, "completed", Some(&text)), "type": "response.completed"}),
    ]
}

fn message(job: &Job, status: &str, content: Vec<Value>) -> Value {
    json!({"id": id(job, "msg"), "content": content, "role": "assistant", "status": status, "type": "message", "phase": null})
}

fn part(text: &str) -> Value {
    json!({"annotations": [], "text": text, "type": "output_text", "logprobs": null})
}

fn id(job: &Job, prefix: &str) -> String {
    format!("{prefix}_{}", job.id.split_once('-').map_or(&*job.id, |(_, own)| own))
}
