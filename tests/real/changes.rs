//! A plan that the real engine refuses, and the one it is started with then. The group `keys` runs this, whose engine is one
//! of its own anyway.

use std::path::PathBuf;

use serde_json::json;

use crate::harness::vllama::Builder;
use crate::harness::{Request, Vllama, eventually};
use crate::{Ground, LOAD, MODEL};

/// Where vllama keeps what it has learnt of plans.
fn memory(ground: &Ground) -> PathBuf {
    ground.state.join("plan_changes.json")
}

/// A cache of 20 blocks, of which vLLM keeps one for itself, holds fewer than the 8192 tokens that the operator wants.
pub(crate) fn that_does_not_fit(builder: Builder, ground: &Ground) -> Builder {
    // What an earlier run of this test has taught it would spare it the failure.
    let _ = std::fs::remove_file(memory(ground));
    let file = builder.path().join("vllama.toml");
    let wanted = "max_model_len = 8192\nengine_arguments = [\"--num-gpu-blocks-override\", \"20\"]";
    std::fs::write(&file, format!("[models.\"{MODEL}\"]\n{wanted}\n")).unwrap();
    builder.env("VLLAMA_CONFIG", &file.to_string_lossy())
}

/// The first request waits for the engine that is started with another plan; `key` may see all there is to see.
pub(crate) async fn made_to_fit(vllama: &Vllama, ground: &Ground, key: &str) {
    let with_key = |request: Request| request.header("Authorization", &format!("Bearer {key}"));
    let body = json!({"model": MODEL, "prompt": "What is the capital of France?", "stream": false, "options": {"temperature": 0}});
    let mut exchange = vllama.client.send(&with_key(Request::post("/api/generate", &body))).await.unwrap();
    exchange.patience = LOAD * 2;
    let answer = exchange.answer().await.unwrap();
    assert_eq!(answer.json()["response"], "The capital of France is Paris.", "{}", answer.text());
    let get = async |path: &str| vllama.client.request(&with_key(Request::new("GET", path))).await.json();
    let health = get("/health").await;
    let change = health["engine"]["changes"][0].as_str().unwrap();
    assert!(change.starts_with("context 8192 → auto: so long a context did not fit"), "{change}");
    let running = get("/api/ps").await;
    let length = running["models"][0]["context_length"].as_u64().unwrap();
    println!("  vLLM found {length} tokens");
    assert!((1000..8192).contains(&length), "{running}");
    let log = vllama.log();
    let told = log.iter().find(|line| line["change"].is_string()).unwrap();
    assert_eq!(told["failure"], "context_too_long");
    let remembered = async || std::fs::read_to_string(memory(ground)).ok()?.contains("context_too_long").then_some(());
    eventually("what has helped is remembered", remembered).await;
}
