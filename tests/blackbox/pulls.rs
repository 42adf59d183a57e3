//! `/api/pull` as far as it needs no hub; `tests/pull` has the rest.

use serde_json::json;

use crate::harness::{Request, Vllama};

/// What clients look for when there is no such model (ollama-api §4.5).
const MISSING: &str = "pull model manifest: file does not exist";

#[tokio::test]
async fn unknown_models_are_told_after_the_first_line_or_with_a_status() {
    let vllama = Vllama::with_fake().start_listening().await;
    for name in ["nobody", "qwen2.5:9b", "qwen2.5:7b-instruct-q6_K"] {
        let answer = vllama.post("/api/pull", &json!({"name": name, "model": ""})).await;
        assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/x-ndjson")), "{name}");
        assert_eq!(answer.lines(), [json!({"status": "pulling manifest"}), json!({"error": MISSING})], "{name}");
        let answer = vllama.post("/api/pull", &json!({"model": name, "stream": false})).await;
        assert_eq!((answer.status(), answer.error().as_str()), (500, MISSING), "{name}");
    }
}

#[tokio::test]
async fn names_that_cannot_be_pulled_say_why() {
    let vllama = Vllama::with_fake().start_listening().await;
    for (name, status, text) in [
        ("", 400, "invalid model name"),
        ("a b", 400, "invalid model name"),
        ("../../etc/passwd", 400, "invalid model name"),
        ("http://hf.co/org/name", 400, "insecure protocol http"),
        ("gpt-oss:120b-cloud", 403, "ollama cloud is disabled: remote inference is unavailable"),
        ("hf.co/org/name-GGUF:Q4_K_M", 400, "org/name-GGUF holds GGUF files, and vLLM needs safetensors"),
        ("localhost:5000/me/foo", 400, "pull model manifest: localhost:5000 is no registry vllama can pull from"),
    ] {
        let answer = vllama.post("/api/pull", &json!({"model": name, "stream": false})).await;
        assert_eq!(answer.status(), status, "{name:?}");
        assert!(answer.error().starts_with(text), "{name:?}: {}", answer.error());
    }
    let answer = vllama.client.request(&Request::new("GET", "/api/pull")).await;
    assert_eq!(answer.status(), 405);
}

#[tokio::test]
async fn a_model_that_was_imported_is_left_as_it_is() {
    let vllama = Vllama::with_fake().start_listening().await;
    let before = vllama.client.get("/api/tags").await.json();
    let answer = vllama.post("/api/pull", &json!({"model": "smollm2:135m"})).await;
    assert_eq!(answer.lines(), [json!({"status": "pulling manifest"}), json!({"status": "success"})]);
    assert_eq!(vllama.client.get("/api/tags").await.json(), before);
}

#[tokio::test]
async fn an_engine_without_python_is_told_with_what_to_do() {
    let vllama = Vllama::with_fake().start_listening().await;
    let answer = vllama.post("/api/pull", &json!({"model": "org/name", "stream": false})).await;
    assert_eq!(answer.status(), 500);
    assert!(answer.error().contains("cannot start the engine's Python"), "{}", answer.error());
}
