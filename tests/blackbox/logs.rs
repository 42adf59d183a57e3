//! What is logged, and what never is.

use serde_json::Value;

use crate::harness::vllama::chat;
use crate::harness::{Request, Vllama, eventually};

#[tokio::test]
async fn every_line_is_one_json_object_with_time_level_and_message() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_GARBAGE", "1").start().await;
    vllama.chat("FAKE:count 3").await;
    let log = vllama.log();
    assert!(log.len() > 3, "{log:?}");
    for line in &log {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field} in {line}");
        }
    }
}

#[tokio::test]
async fn a_request_is_logged_with_its_id_status_and_tokens_but_without_its_words() {
    let vllama = Vllama::with_fake().start().await;
    let body = chat("FAKE:text a-secret-word", false);
    let request = Request::post("/api/chat", &body)
        .header("X-Request-Id", "id-to-look-for")
        .header("Authorization", "Bearer a-secret-token");
    assert_eq!(vllama.client.request(&request).await.status(), 200);
    let is_it = |line: &Value| line["request_id"] == "id-to-look-for" && line["status"] == 200;
    let line = eventually("the request is logged", async || vllama.log().into_iter().find(is_it)).await;
    assert_eq!(line["path"], "/api/chat", "{line}");
    assert_eq!(line["method"], "POST", "{line}");
    assert_eq!(line["model"], "smollm2:135m", "{line}");
    let all = vllama.stderr().join("\n");
    assert!(!all.contains("a-secret-word") && !all.contains("a-secret-token"), "{all}");
}

#[tokio::test]
async fn the_engines_own_log_is_kept_in_a_file() {
    let vllama = Vllama::with_fake().start().await;
    let log = eventually("vllm.log tells the start", async || {
        let engines = std::fs::read_dir(vllama.path("state").join("logs")).ok()?.flatten();
        let file = engines.map(|engine| engine.path().join("vllm.log")).next()?;
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.contains("Application startup complete").then_some(text)
    })
    .await;
    assert!(log.contains("Resolved architecture: LlamaForCausalLM"), "{log}");
    assert!(log.contains("Loading safetensors checkpoint shards"), "standard error is kept too: {log}");
}

#[tokio::test]
async fn variables_of_ollama_without_effect_are_told_once_at_the_start() {
    let vllama =
        Vllama::with_fake().env("OLLAMA_NUM_PARALLEL", "4").env("OLLAMA_KEEP_ALIVE", "\"5m\"").start_listening().await;
    let warnings: Vec<String> = vllama
        .log()
        .iter()
        .filter(|line| line["level"] == "WARN")
        .filter_map(|line| line["message"].as_str().filter(|text| text.contains("OLLAMA_")).map(str::to_owned))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("OLLAMA_NUM_PARALLEL has no effect: vLLM runs"), "{warnings:?}");
}
