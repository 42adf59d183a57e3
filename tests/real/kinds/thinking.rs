//! Thoughts that vLLM's parsers read: a template that leaves the opening to the model (Qwen 3), and one that opens every
//! answer itself (DeepSeek R1).

use serde_json::{Value, json};

use super::sight::SEER;
use super::{asked, capabilities, chat, events, import, load};
use crate::harness::{Request, Vllama};
use crate::{Ground, Runner};

pub(super) const CODER: &str = "coder";

pub(super) fn run(runner: &mut Runner, ground: &Ground, vllama: &Vllama) {
    runner.test("a model that opens its thoughts itself is read by qwen3's parser", thoughts(vllama, SEER));
    runner.test("a model that opens its thoughts can be kept from thinking", without(vllama));
    runner.test("a model that always thinks is imported", async { import(ground, "coder", CODER) });
    runner.test("a model whose prompt opens the thought is read by deepseek_r1's parser", opened(vllama));
    runner.test("what the two parsers tell reaches OpenAI's and Anthropic's clients", dialects(vllama, CODER));
    runner.test("a schema binds the answer behind a thought", schema(vllama));
    runner.test("an earlier exchange is gone on with, and thought about", context(vllama));
}

fn question(model: &str) -> Value {
    chat(model, json!({"role": "user", "content": "What is it?"}))
}

/// The thought and the answer, streamed and whole, on both routes.
async fn thoughts(vllama: &Vllama, model: &str) {
    for think in [Value::Null, json!(true)] {
        let mut body = question(model);
        body["think"] = think;
        let whole = asked(vllama, &Request::post("/api/chat", &body)).await.json();
        let message = json!({"role": "assistant", "content": "It is small", "thinking": "Let me look"});
        assert_eq!((&whole["message"], &whole["done_reason"]), (&message, &json!("stop")), "{whole}");
        body["stream"] = json!(true);
        let lines = vllama.post("/api/chat", &body).await.lines();
        let text =
            |field: &str| -> String { lines.iter().filter_map(|line| line["message"][field].as_str()).collect() };
        assert_eq!((text("thinking").as_str(), text("content").as_str()), ("Let me look", "It is small"), "{lines:?}");
        // On a busy machine several tokens come together; a thought and an answer never do.
        assert!(lines.len() >= 3, "{lines:?}");
        let count = lines.last().expect("lines")["eval_count"].clone();
        assert_eq!(count, whole["eval_count"]);
        let mut body = json!({"model": model, "prompt": "What is it?", "stream": false, "options": {"temperature": 0}});
        body["think"] = json!(true);
        let generated = vllama.post("/api/generate", &body).await.json();
        assert_eq!((&generated["thinking"], &generated["response"]), (&json!("Let me look"), &json!("It is small")));
    }
}

async fn without(vllama: &Vllama) {
    let mut body = question(SEER);
    body["think"] = json!(false);
    let answer = vllama.post("/api/chat", &body).await.json();
    assert_eq!(answer["message"], json!({"role": "assistant", "content": "It is small"}));
    let openai = json!({"model": SEER, "temperature": 0, "reasoning_effort": "none",
        "messages": [{"role": "user", "content": "What is it?"}]});
    let answer = vllama.post("/v1/chat/completions", &openai).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["content"], &message["reasoning"]), (&json!("It is small"), &Value::Null));
}

async fn opened(vllama: &Vllama) {
    load(vllama, CODER).await;
    assert_eq!(capabilities(vllama, CODER).await, json!(["completion", "insert", "thinking"]));
    thoughts(vllama, CODER).await;
}

async fn dialects(vllama: &Vllama, model: &str) {
    let mut body = json!({"model": model, "temperature": 0, "messages": [{"role": "user", "content": "What is it?"}]});
    let answer = vllama.post("/v1/chat/completions", &body).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning"], "Let me look", "{answer}");
    assert_eq!(message["content"].as_str().map(str::trim), Some("It is small"));
    body["stream"] = json!(true);
    let events = events(&vllama.post("/v1/chat/completions", &body).await);
    let text = |field: &str| -> String {
        events.iter().filter_map(|event| event["choices"][0]["delta"][field].as_str()).collect()
    };
    assert_eq!((text("reasoning").as_str(), text("content").trim()), ("Let me look", "It is small"));
    let answer = vllama.post("/v1/responses", &json!({"model": model, "temperature": 0, "input": "What is it?"})).await;
    let output = answer.json()["output"].clone();
    assert_eq!((&output[0]["type"], &output[0]["content"][0]["text"]), (&json!("reasoning"), &json!("Let me look")));
    let mut body = json!({"model": model, "max_tokens": 2000, "temperature": 0,
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "messages": [{"role": "user", "content": "What is it?"}]});
    let blocks = vllama.post("/v1/messages", &body).await.json()["content"].clone();
    assert_eq!((&blocks[0]["type"], &blocks[0]["thinking"]), (&json!("thinking"), &json!("Let me look")), "{blocks}");
    assert_eq!(blocks[1]["text"].as_str().map(str::trim), Some("It is small"));
    body["stream"] = json!(true);
    let events = super::events(&vllama.post("/v1/messages", &body).await);
    let deltas = |field: &str| -> String { events.iter().filter_map(|event| event["delta"][field].as_str()).collect() };
    assert_eq!((deltas("thinking").as_str(), deltas("text").trim()), ("Let me look", "It is small"), "{events:?}");
}

async fn schema(vllama: &Vllama) {
    let mut body = question(CODER);
    body["format"] = json!({"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"],
        "additionalProperties": false});
    let answer = vllama.post("/api/chat", &body).await.json();
    assert_eq!(answer["message"]["thinking"], "Let me look", "{answer}");
    assert!(answer["message"]["content"].as_str().is_some_and(|text| text.trim_start().starts_with('{')), "{answer}");
}

async fn context(vllama: &Vllama) {
    let mut body = json!({"model": CODER, "prompt": "What is it?", "stream": false, "options": {"temperature": 0}});
    let first = vllama.post("/api/generate", &body).await.json();
    body["context"] = first["context"].clone();
    let second = vllama.post("/api/generate", &body).await.json();
    assert_eq!((&second["thinking"], &second["response"]), (&json!("Let me look"), &json!("It is small")), "{second}");
    assert!(second["prompt_eval_count"].as_u64() > first["prompt_eval_count"].as_u64());
}
