//! Gaps, filled by a model of Qwen 2.5 Coder's family. It is loaded already.

use serde_json::{Value, json};

use super::thinking::CODER;
use crate::Runner;
use crate::harness::Vllama;

/// The prompt as the family was trained with it.
const GOLDEN: &str = "<|fim_prefix|>def add(a, b):\n    <|fim_suffix|>\n<|fim_middle|>";

pub(super) fn run(runner: &mut Runner, vllama: &Vllama) {
    runner.test("a gap is filled, streaming and not", filled(vllama));
    runner.test("the engine gets a gap as the family was trained with it", golden(vllama));
    runner.test("OpenAI's completions fill a gap", openai(vllama));
}

fn gap(stream: bool) -> Value {
    json!({"model": CODER, "prompt": "def add(a, b):\n    ", "suffix": "\n", "stream": stream, "options": {"temperature": 0}})
}

async fn filled(vllama: &Vllama) {
    let whole = vllama.post("/api/generate", &gap(false)).await.json();
    assert_eq!((&whole["response"], &whole["done_reason"]), (&json!("return sum"), &json!("stop")), "{whole}");
    assert_eq!(whole.get("thinking"), None, "a gap is filled without thoughts");
    let lines = vllama.post("/api/generate", &gap(true)).await.lines();
    let text: String = lines.iter().filter_map(|line| line["response"].as_str()).collect();
    assert_eq!((text.as_str(), &lines.last().expect("lines")["done_reason"]), ("return sum", &json!("stop")));
}

async fn golden(vllama: &Vllama) {
    let mut body = gap(false);
    body["_debug_render_only"] = json!(true);
    let told = vllama.post("/api/generate", &body).await.json();
    assert_eq!(told["_debug_info"]["rendered_template"], GOLDEN, "{told}");
    // The marks are tokens, not letters.
    let tokens = vllama.post("/tokenize", &json!({"model": CODER, "prompt": GOLDEN})).await.json();
    let whole = vllama.post("/api/generate", &gap(false)).await.json();
    assert_eq!((&tokens["count"], &whole["prompt_eval_count"]), (&json!(23), &json!(23)));
}

async fn openai(vllama: &Vllama) {
    let mut body = json!({"model": CODER, "prompt": "def add(a, b):\n    ", "suffix": "\n", "temperature": 0});
    let whole = vllama.post("/v1/completions", &body).await.json();
    let choice = &whole["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("return sum"), &json!("stop")), "{whole}");
    assert_eq!(whole["usage"]["prompt_tokens"], 23);
    body["stream"] = json!(true);
    let events = super::events(&vllama.post("/v1/completions", &body).await);
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "return sum");
}
