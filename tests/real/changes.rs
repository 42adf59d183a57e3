//! A plan that the real engine refuses, and the one it is started with then.

use serde_json::json;

use crate::harness::{Request, Vllama};
use crate::{Ground, LOAD, MODEL, Runner};

pub(crate) fn run(runner: &mut Runner, ground: &Ground) {
    runner.test("a context that does not fit is made to fit, and said so", make_context_fit(ground));
}

/// A cache of 20 blocks, of which vLLM keeps one for itself, holds fewer than the 8192 tokens that the operator wants.
async fn make_context_fit(ground: &Ground) {
    let memory = ground.state.join("plan_changes.json");
    // What an earlier run of this test has taught it would spare it the failure.
    let _ = std::fs::remove_file(&memory);
    let builder = Vllama::with_real(&ground.venv, &ground.models, &ground.state);
    let file = builder.path().join("vllama.toml");
    let wanted = "max_model_len = 8192\nengine_arguments = [\"--num-gpu-blocks-override\", \"20\"]";
    std::fs::write(&file, format!("[models.\"{MODEL}\"]\n{wanted}\n")).unwrap();
    let vllama = builder.env("VLLAMA_CONFIG", &file.to_string_lossy()).start_listening().await;
    let body = json!({"model": MODEL, "prompt": "What is the capital of France?", "stream": false, "options": {"temperature": 0}});
    let mut exchange = vllama.client.send(&Request::post("/api/generate", &body)).await.unwrap();
    exchange.patience = LOAD * 2;
    let answer = exchange.answer().await.unwrap();
    assert_eq!(answer.json()["response"], "The capital of France is Paris.", "{}", answer.text());
    let health = vllama.health().await;
    let change = health["engine"]["changes"][0].as_str().unwrap();
    assert!(change.starts_with("context 8192 → auto: so long a context did not fit"), "{change}");
    let running = vllama.get("/api/ps").await.json();
    let length = running["models"][0]["context_length"].as_u64().unwrap();
    println!("  vLLM found {length} tokens");
    assert!((1000..8192).contains(&length), "{running}");
    let log = vllama.log();
    let told = log.iter().find(|line| line["change"].is_string()).unwrap();
    assert_eq!(told["failure"], "context_too_long");
    vllama.stop().await;
    let text = std::fs::read_to_string(&memory).unwrap();
    assert!(text.contains("context_too_long"), "{text}");
}
