//! What the real engine's tokenizer and template make of long prompts, templates, earlier exchanges, and of a request for the
//! prompt itself (ollama-api §6.3, §6.7, §6.9, §6.10).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Request, Vllama};
use crate::shared::Shared;
use crate::{Ground, MODEL, Runner};

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

pub(crate) fn run(runner: &mut Runner, ground: &Ground, shared: &mut Shared) {
    let Some(vllama) = shared.vllama(runner, ground) else { return };
    runner.test("the prompt is told as the checkpoint's template writes it", rendered(vllama));
    runner.test("a long history loses its oldest messages and keeps its system prompt", shortened(vllama));
    runner.test("a context of 128 tokens takes a long input and a long answer", small_context(vllama));
    runner.test("a last message that is too long is cut at its beginning, or refused", cut(vllama));
    runner.test("without shift prompt and answer share the context", share_the_context(vllama));
    runner.test("a history beyond the engine's length is answered", beyond_the_engine(vllama));
    runner.test("an earlier exchange comes back token for token, and a system prompt with it", round_trip(vllama));
    runner.test("a Go template makes the prompt that the checkpoint's own makes", template(vllama));
    runner.test("a gap is refused by a model without marks", gap(vllama));
    runner.test("what counting costs is told", cost(vllama));
}

async fn rendering(vllama: &Vllama, path: &str, mut body: Value) -> String {
    body["_debug_render_only"] = json!(true);
    let answer = vllama.post(path, &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()["_debug_info"]["rendered_template"].as_str().unwrap().to_owned()
}

fn turn(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

async fn rendered(vllama: &Vllama) {
    let body = json!({"model": MODEL, "messages": [
        turn("system", "Be brief. <&> 你好"), turn("user", "Hi"), turn("assistant", "Hello!"), turn("user", QUESTION),
    ]});
    let expected = format!(
        "<|im_start|>system\nBe brief. <&> 你好<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n\
         <|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(rendering(vllama, "/api/chat", body).await, expected);
    let expected = format!(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(rendering(vllama, "/api/generate", json!({"model": MODEL, "prompt": QUESTION})).await, expected);
}

/// A system prompt, exchanges of some thirty tokens each, and a question.
fn history(exchanges: usize, options: &Value) -> Value {
    let mut messages = vec![turn("system", "You are a helpful assistant who knows geography.")];
    for number in 0..exchanges {
        messages.push(turn("user", &format!("Tell me fact number {number} about the sea.")));
        messages.push(turn("assistant", &format!("Fact {number}: the sea is deep, cold and full of salt.")));
    }
    messages.push(turn("user", QUESTION));
    json!({"model": MODEL, "messages": messages, "stream": false, "options": options})
}

async fn shortened(vllama: &Vllama) {
    let body = history(40, &json!({"num_ctx": 300, "temperature": 0, "num_predict": 12}));
    let answer = vllama.post("/api/chat", &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let tokens = answer.json()["prompt_eval_count"].as_u64().unwrap();
    assert!(tokens <= 300 && tokens > 255, "{tokens} of 300");
    assert!(!answer.json()["message"]["content"].as_str().unwrap().is_empty());
    let text = rendering(vllama, "/api/chat", body).await;
    let begin = "<|im_start|>system\nYou are a helpful assistant who knows geography.<|im_end|>\n<|im_start|>user\nTell me fact";
    assert!(text.starts_with(begin) && !text.contains("number 0 "), "{text}");
    let end = format!(
        "Fact 39: the sea is deep, cold and full of salt.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    );
    assert!(text.ends_with(&end), "{text}");
}

/// Ollama's own tests of long inputs (ollama-api §12).
async fn small_context(vllama: &Vllama) {
    let long =
        "Oh, don’t speak to me of Austria. Perhaps I don’t understand things, but Austria never has wished for war. ";
    let body = json!({"model": MODEL, "prompt": long.repeat(10), "stream": false,
        "options": {"temperature": 0, "seed": 123, "num_ctx": 128, "num_predict": 20}});
    let answer = vllama.post("/api/generate", &body).await;
    assert_eq!((answer.status(), &answer.json()["prompt_eval_count"]), (200, &json!(128)), "{}", answer.text());
    let body = json!({"model": MODEL, "messages": [turn("user", "Write me a story in english with a lot of emojis")],
        "options": {"temperature": 0, "seed": 123, "num_ctx": 128, "num_predict": 200}});
    let lines = vllama.post("/api/chat", &body).await.lines();
    let last = lines.last().unwrap();
    assert!(
        last["done"] == true && last["eval_count"].as_u64().unwrap() > 100,
        "an answer may outgrow the context: {last}"
    );
}

async fn cut(vllama: &Vllama) {
    let long = "word ".repeat(300) + QUESTION;
    let mut body = json!({"model": MODEL, "messages": [turn("user", &long)], "stream": false,
        "options": {"num_ctx": 64, "temperature": 0, "num_predict": 10}});
    let answer = vllama.post("/api/chat", &body).await;
    assert_eq!((answer.status(), &answer.json()["prompt_eval_count"]), (200, &json!(64)), "{}", answer.text());
    let text = rendering(vllama, "/api/chat", body.clone()).await;
    assert!(text.ends_with(&format!("{QUESTION}<|im_end|>\n<|im_start|>assistant\n")), "{text}");
    let raw = json!({"model": MODEL, "prompt": "word ".repeat(100) + "The capital of France is", "raw": true, "stream": false,
        "options": {"num_ctx": 16, "temperature": 0, "num_predict": 4}});
    let answer = vllama.post("/api/generate", &raw).await.json();
    assert_eq!(answer["prompt_eval_count"], 16);
    for forbidden in ["shift", "truncate"] {
        body[forbidden] = json!(false);
        let answer = vllama.post("/api/chat", &body).await;
        assert_eq!(answer.status(), 400);
        assert!(answer.error().contains("longer than the context length"), "{}", answer.error());
        body[forbidden] = json!(true);
    }
}

async fn share_the_context(vllama: &Vllama) {
    let body = json!({"model": MODEL, "prompt": "Write a long story.", "stream": false, "shift": false,
        "options": {"num_ctx": 96, "temperature": 0}});
    let answer = vllama.post("/api/generate", &body).await.json();
    let count = |name: &str| answer[name].as_u64().unwrap();
    assert_eq!((count("prompt_eval_count") + count("eval_count"), &answer["done_reason"]), (96, &json!("length")));
    assert_eq!(answer["context"].as_array().map(Vec::len), Some(96));
}

async fn beyond_the_engine(vllama: &Vllama) {
    let began = Instant::now();
    // Half of the engine's length is left for the answer, which spares two cores the longest prompt there is.
    let body = history(320, &json!({"temperature": 0, "num_predict": 4096, "stop": ["."]}));
    let mut exchange = vllama.client.send(&Request::post("/api/chat", &body)).await.unwrap();
    exchange.patience = Duration::from_secs(200);
    let answer = exchange.answer().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let tokens = answer.json()["prompt_eval_count"].as_u64().unwrap();
    assert!(tokens <= 4096 && tokens > 4000, "{tokens} of 4096");
    println!("  {tokens} tokens answered after {:.1} s", began.elapsed().as_secs_f32());
    let mut strict = body;
    strict["truncate"] = json!(false);
    assert_eq!(vllama.post("/api/chat", &strict).await.status(), 400);
}

async fn round_trip(vllama: &Vllama) {
    let first = json!({"model": MODEL, "prompt": QUESTION, "system": "Be kind.", "stream": false, "options": {"temperature": 0}});
    let context = vllama.post("/api/generate", &first).await.json()["context"].clone();
    let second = json!({"model": MODEL, "prompt": "And of Italy?", "system": "Be brief.", "context": context, "stream": false,
        "options": {"temperature": 0, "num_predict": 12}});
    let answer = vllama.post("/api/generate", &second).await.json();
    let (before, after) = (context.as_array().unwrap(), answer["context"].as_array().unwrap());
    assert_eq!(&after[..before.len()], before, "token for token");
    let tokens = answer["prompt_eval_count"].as_u64().unwrap() + answer["eval_count"].as_u64().unwrap();
    assert_eq!(after.len() as u64, tokens);
    let text = rendering(vllama, "/api/generate", second).await;
    assert!(
        text.starts_with(&format!("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n")),
        "{text}"
    );
    let end =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAnd of Italy?<|im_end|>\n<|im_start|>assistant\n";
    assert!(text.ends_with(end), "{text}");
}

async fn template(vllama: &Vllama) {
    let plain = json!({"model": MODEL, "prompt": QUESTION, "system": "Be kind.", "stream": false, "options": {"temperature": 0}});
    let mut templated = plain.clone();
    templated["template"] = json!(
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n\
         {{ end }}<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    );
    let expected = rendering(vllama, "/api/generate", plain.clone()).await;
    assert_eq!(rendering(vllama, "/api/generate", templated.clone()).await, expected);
    let plain = vllama.post("/api/generate", &plain).await.json();
    let templated = vllama.post("/api/generate", &templated).await.json();
    for member in ["response", "prompt_eval_count", "context"] {
        assert_eq!(templated[member], plain[member], "{member}");
    }
    assert_eq!(templated["response"], ANSWER);
}

async fn gap(vllama: &Vllama) {
    let body = json!({"model": MODEL, "prompt": "def add(", "suffix": "return c"});
    let answer = vllama.post("/api/generate", &body).await;
    assert_eq!(
        (answer.status(), answer.error().as_str()),
        (400, "registry.ollama.ai/library/smollm2:135m does not support insert")
    );
}

/// To tell the prompt is to count it and a little more, without an answer.
async fn cost(vllama: &Vllama) {
    for exchanges in [1, 80] {
        let body = history(exchanges, &json!({}));
        let mut milliseconds = Vec::new();
        for _ in 0..21 {
            let began = Instant::now();
            rendering(vllama, "/api/chat", body.clone()).await;
            milliseconds.push(began.elapsed().as_secs_f64() * 1e3);
        }
        milliseconds.sort_by(f64::total_cmp);
        println!("  a history of {} messages is told after {:.1} ms", 2 * exchanges + 2, milliseconds[10]);
    }
}
