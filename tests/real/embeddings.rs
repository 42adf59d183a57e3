//! What a real embedding model answers, through vllama.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::Vllama;
use crate::shared::{self, Shared};
use crate::{Ground, Runner, models};

/// The embedding model, as its users know it.
pub(crate) const MODEL: &str = "all-minilm";
const SKY: &str = "why is the sky blue?";

pub(crate) fn run(runner: &mut Runner, ground: &Ground, shared: &mut Shared) {
    runner.test("the embedding model is imported from its directory once", async { import(ground) });
    let Some(vllama) = shared.vllama(runner, ground) else { return };
    runner.test("the embedding model is loaded", async {
        shared::configure(vllama, "").await;
        models::embed(vllama).await;
    });
    runner.test("a text becomes Ollama's own vector of it", sky(vllama));
    runner.test("a batch keeps its order and counts all tokens", batch(vllama));
    runner.test("texts of one meaning are near, others are not", meaning(vllama));
    runner.test("a long text loses its end, or is refused", long(vllama));
    runner.test("num_ctx cuts, and leaves more than the marks", num_ctx(vllama));
    runner.test("the older route gives the raw vector", raw(vllama));
    runner.test("OpenAI's route takes texts, tokens and base64", openai(vllama));
    runner.test("a thousand texts are one answer", thousand(vllama));
    runner.test("an embedding model does not chat", chat(vllama));
}

pub(crate) fn import(ground: &Ground) {
    let entries = std::fs::read_dir(ground.venv.join("share/vllama")).unwrap();
    let directory = entries.flatten().map(|entry| entry.path()).find(|path| path.join("config.json").exists());
    let status = Command::new(env!("CARGO_BIN_EXE_vllama"))
        .args(["import", "--if-missing", "--models-dir"])
        .arg(&ground.models)
        .arg(directory.expect("the embedding model's directory, which engine/setup makes"))
        .arg(MODEL)
        .status()
        .unwrap();
    assert!(status.success());
}

async fn embed(vllama: &Vllama, body: Value) -> Value {
    let mut whole = json!({"model": MODEL});
    whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let answer = vllama.post("/api/embed", &whole).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

fn numbers(vector: &Value) -> Vec<f64> {
    vector.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn norm(vector: &Value) -> f64 {
    numbers(vector).iter().map(|number| number * number).sum::<f64>().sqrt()
}

/// The cosine of the angle between two vectors.
fn similarity(one: &Value, other: &Value) -> f64 {
    let product: f64 = numbers(one).iter().zip(numbers(other)).map(|(one, other)| one * other).sum();
    product / norm(one) / norm(other)
}

/// The vector that was recorded from this engine in float32.
fn recorded() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm/embeddings.response.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["data"][0]["embedding"].clone()
}

async fn sky(vllama: &Vllama) {
    let answer = embed(vllama, json!({"input": SKY})).await;
    assert_eq!((&answer["model"], &answer["prompt_eval_count"]), (&json!(MODEL), &json!(8)));
    assert!(answer["load_duration"].as_u64() < answer["total_duration"].as_u64());
    let vector = &answer["embeddings"][0];
    assert_eq!(numbers(vector).len(), 384);
    assert!((norm(vector) - 1.0).abs() < 1e-6, "{}", norm(vector));
    let near = similarity(vector, &recorded());
    println!("  similarity to float32: {near:.6}");
    assert!(near > 0.999, "{near}");
    // What Ollama's own tests expect of this model and text.
    assert!((numbers(vector)[0] - 0.010_071).abs() < 2e-3, "{}", numbers(vector)[0]);
}

async fn batch(vllama: &Vllama) {
    let texts = [SKY, "hello", "A much longer sentence about the weather of the coming week, so that lengths differ."];
    let both = embed(vllama, json!({"input": texts})).await;
    let mut tokens = 0;
    for (place, text) in texts.iter().enumerate() {
        let alone = embed(vllama, json!({"input": text})).await;
        tokens += alone["prompt_eval_count"].as_u64().unwrap();
        let near = similarity(&both["embeddings"][place], &alone["embeddings"][0]);
        assert!(near > 0.9999, "{text}: {near}");
    }
    assert_eq!(both["prompt_eval_count"], tokens);
    assert_eq!(embed(vllama, json!({"input": [SKY, SKY]})).await["prompt_eval_count"], 16);
}

async fn meaning(vllama: &Vllama) {
    let texts = ["The cat sits on the mat.", "A kitten is lying on the rug.", "Interest rates rose again in March."];
    let vectors = embed(vllama, json!({"input": texts})).await["embeddings"].clone();
    let (near, far) = (similarity(&vectors[0], &vectors[1]), similarity(&vectors[0], &vectors[2]));
    assert!(near > 0.4 && far < 0.2, "{near} {far}");
    // Cut to fewer numbers the order stays.
    let cut = embed(vllama, json!({"input": texts, "dimensions": 128})).await["embeddings"].clone();
    assert_eq!(numbers(&cut[0]).len(), 128);
    assert!((norm(&cut[0]) - 1.0).abs() < 1e-6);
    assert!(similarity(&cut[0], &cut[1]) > similarity(&cut[0], &cut[2]));
}

async fn long(vllama: &Vllama) {
    let text = "The sky is blue because air scatters short waves of light more than long ones. ".repeat(60);
    let cut = embed(vllama, json!({"input": text})).await;
    assert_eq!(cut["prompt_eval_count"], 256);
    // A very long one is refused by its characters, a shorter one by its tokens; both in the same words.
    for text in [&text, &text[..2000]] {
        let answer = vllama.post("/api/embed", &json!({"model": MODEL, "input": text, "truncate": false})).await;
        assert_eq!(answer.status(), 400, "{}", answer.text());
        assert_eq!(answer.error(), "the input length exceeds the context length");
    }
}

async fn num_ctx(vllama: &Vllama) {
    let cut = embed(vllama, json!({"input": SKY, "options": {"num_ctx": 5}})).await;
    assert_eq!(cut["prompt_eval_count"], 5);
    let beginning = embed(vllama, json!({"input": "why is the"})).await;
    assert!(similarity(&cut["embeddings"][0], &beginning["embeddings"][0]) > 0.9999);
    for (options, truncate, text) in [
        (json!({"num_ctx": 2}), true, "input after truncation exceeds maximum context length"),
        (json!({"num_ctx": 7}), false, "the input length exceeds the context length"),
    ] {
        let body = json!({"model": MODEL, "input": [SKY, "hi"], "options": options, "truncate": truncate});
        let answer = vllama.post("/api/embed", &body).await;
        assert_eq!((answer.status(), answer.error().as_str()), (400, text));
    }
    let fits = embed(vllama, json!({"input": [SKY, SKY], "options": {"num_ctx": 8}, "truncate": false})).await;
    assert_eq!(fits["prompt_eval_count"], 16);
}

async fn raw(vllama: &Vllama) {
    let answer = vllama.post("/api/embeddings", &json!({"model": MODEL, "prompt": SKY})).await.json();
    assert_eq!(answer.as_object().unwrap().len(), 1);
    let vector = &answer["embedding"];
    assert!(norm(vector) > 2.0, "{}", norm(vector));
    // What Ollama's own tests expect of the older route.
    assert!((numbers(vector)[0] - 0.066_429).abs() < 1e-2, "{}", numbers(vector)[0]);
    assert!(similarity(vector, &recorded()) > 0.999);
}

async fn openai(vllama: &Vllama) {
    let body = json!({"model": "All-MiniLM:latest", "input": [SKY, "hello"], "user": "me"});
    let answer = vllama.post("/v1/embeddings", &body).await.json();
    assert_eq!((&answer["model"], &answer["usage"]["prompt_tokens"]), (&json!("All-MiniLM:latest"), &json!(11)));
    assert!(similarity(&answer["data"][0]["embedding"], &recorded()) > 0.999);
    let tokens = json!({"model": MODEL, "input": [[101, 7592, 102]]});
    let hello = vllama.post("/v1/embeddings", &tokens).await.json();
    assert!(similarity(&hello["data"][0]["embedding"], &answer["data"][1]["embedding"]) > 0.9999);
    let base64 = json!({"model": MODEL, "input": SKY, "encoding_format": "base64"});
    let base64 = vllama.post("/v1/embeddings", &base64).await.json();
    assert_eq!(base64["data"][0]["embedding"].as_str().map(str::len), Some(2048));
    let refused = vllama.post("/v1/embeddings", &json!({"model": MODEL, "input": "word ".repeat(2000)})).await;
    assert_eq!(refused.status(), 400);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("256 tokens"), "{}", refused.text());
}

async fn thousand(vllama: &Vllama) {
    let texts: Vec<String> = (0..1000).map(|number| format!("this is sentence number {number}")).collect();
    let began = Instant::now();
    let answer = embed(vllama, json!({"input": texts})).await;
    println!("  after {:.1} s", began.elapsed().as_secs_f32());
    assert_eq!(answer["embeddings"].as_array().unwrap().len(), 1000);
}

async fn chat(vllama: &Vllama) {
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]});
    let answer = vllama.post("/api/chat", &body).await;
    assert_eq!((answer.status(), answer.error().as_str()), (400, "\"all-minilm\" does not support chat"));
}
