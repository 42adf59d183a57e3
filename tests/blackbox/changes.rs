//! An engine that fails on its plan is started with another one; that is said, remembered, and undone by the operator.

use serde_json::{Value, json};

use crate::harness::model::{NAME, THINKER};
use crate::harness::vllama::Builder;
use crate::harness::{Request, Vllama, eventually};

/// What vLLM says of a context that does not fit.
const TOO_LONG: &str = "profile:1:ValueError: To serve at least one request with the model's max seq len (9999), (4.3 GiB \
                        KV cache is needed, which is larger than the available KV cache memory (2.0 GiB).";

/// What is told of it.
const CHANGE: &str =
    "context 9999 → auto: so long a context did not fit the memory; vLLM finds the longest one that does";

/// A vllama whose operator wants so long a context, and whose engine fails with 9999 tokens.
fn with_length(builder: Builder, length: u32) -> Builder {
    let file = builder.path().join("vllama.toml");
    std::fs::write(&file, format!("[models.\"{NAME}\"]\nmax_model_len = {length}\n")).expect("a configuration file");
    builder
        .env("VLLAMA_CONFIG", &file.to_string_lossy())
        .env("FAKE_VLLM_FAIL_START", TOO_LONG)
        .env("FAKE_VLLM_FAIL_WITH", "--max-model-len=9999")
}

fn command_line(vllama: &Vllama) -> String {
    let bytes = std::fs::read(format!("/proc/{}/cmdline", vllama.process("fake-vllm").pid)).expect("a process");
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

async fn explained(builder: Builder) -> String {
    let ended = builder.arguments(&["explain", NAME]).run().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    ended.stdout
}

#[tokio::test]
async fn a_context_that_does_not_fit_is_changed_said_remembered_and_undone_by_another_setting() {
    let vllama = with_length(Vllama::with_fake(), 9999).start_listening().await;
    // Who asks while it fails waits for the engine that does not.
    assert_eq!(vllama.chat("FAKE:count 3").await.json()["message"]["content"], "1 2 3");
    assert_eq!(vllama.starts(), 2);
    let health = vllama.health().await;
    assert_eq!(health["engine"]["changes"], json!([CHANGE]), "{health}");
    assert_eq!(health["engine"]["failure"], Value::Null);
    let running = vllama.get("/api/ps").await.json();
    assert_eq!(running["models"][0]["plan_changes"], json!([CHANGE]), "{running}");
    let log = vllama.log();
    let told = log.iter().find(|line| line["change"].is_string()).expect("a log line");
    assert_eq!((&told["failure"], &told["change"]), (&json!("context_too_long"), &json!(CHANGE)));
    let file = vllama.path("state").join("plan_changes.json");
    eventually("the change is written down", async || file.exists().then_some(())).await;

    // The next vllama does not fail first.
    let vllama = vllama.kill().start().await;
    assert_eq!(vllama.starts(), 3);
    assert!(command_line(&vllama).contains("--max-model-len auto"));
    assert_eq!(vllama.health().await["engine"]["changes"], json!([CHANGE]));
    let builder = vllama.kill();
    let text = explained(builder.clone()).await;
    assert!(text.contains(CHANGE) && text.contains("--max-model-len auto"), "{text}");

    // Another setting is another plan, and the change is forgotten when that has worked.
    let vllama = with_length(builder.clone(), 8000).start().await;
    assert!(command_line(&vllama).contains("--max-model-len 8000"));
    assert_eq!(vllama.health().await["engine"]["changes"], json!([]));
    assert_eq!(vllama.get("/api/ps").await.json()["models"][0].get("plan_changes"), None);
    eventually("the change is forgotten", async || {
        let text = std::fs::read_to_string(&file).ok()?;
        (serde_json::from_str::<Value>(&text).ok()? == json!({})).then_some(())
    })
    .await;
    drop(vllama);
    assert!(!explained(with_length(builder, 9999)).await.contains(CHANGE));
}

#[tokio::test]
async fn a_tool_parser_that_does_not_suit_the_model_is_left_out() {
    let line = "profile:1:RuntimeError: Hermes2ProToolParser could not locate the tool call tokens in the tokenizer!";
    let builder =
        Vllama::with_fake_thinker().env("FAKE_VLLM_FAIL_START", line).env("FAKE_VLLM_FAIL_WITH", "--tool-call-parser");
    let vllama = builder.start().await;
    let health = vllama.health().await;
    let change = health["engine"]["changes"][0].as_str().expect("a change");
    assert!(change.ends_with("→ none: vLLM cannot use it with this model"), "{change}");
    assert!(!command_line(&vllama).contains("tool-call-parser"));
    let ask = || json!({"model": THINKER, "messages": [{"role": "user", "content": "FAKE:count 3"}], "stream": false});
    assert_eq!(vllama.post("/api/chat", &ask()).await.status(), 200);
    cannot_call_tools(&vllama).await;

    // So it is after a restart, before anybody has loaded the model.
    let file = vllama.path("state").join("plan_changes.json");
    eventually("the change is written down", async || file.exists().then_some(())).await;
    let vllama = vllama.kill().start_listening().await;
    cannot_call_tools(&vllama).await;
}

/// Whether the model counts as one without tools, in all lists and dialects.
async fn cannot_call_tools(vllama: &Vllama) {
    let shown = vllama.post("/api/show", &json!({"model": THINKER})).await.json();
    assert_eq!(shown["capabilities"], json!(["completion", "vision", "thinking"]));
    let tags = vllama.get("/api/tags").await.json();
    let tags = tags["models"].as_array().expect("models");
    let tag = tags.iter().find(|model| model["name"] == THINKER).expect("the model");
    assert_eq!(tag["capabilities"], shown["capabilities"]);
    for (path, body) in asks_for_tools() {
        let answer = vllama.post(path, &body).await;
        let told = answer.text();
        assert!(answer.status() == 400 && told.contains("library/thinker:1b does not support tools"), "{path}: {told}");
    }
}

/// Requests with a tool, in the words of each dialect.
fn asks_for_tools() -> [(&'static str, Value); 4] {
    let messages = || json!([{"role": "user", "content": "FAKE:count 3"}]);
    let function =
        json!({"name": "now", "description": "the time", "parameters": {"type": "object", "properties": {}}});
    let tool = json!({"type": "function", "function": function});
    let flat = json!({"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}});
    let anthropic = json!({"name": "now", "input_schema": {"type": "object", "properties": {}}});
    [
        ("/api/chat", json!({"model": THINKER, "messages": messages(), "tools": [tool.clone()]})),
        ("/v1/chat/completions", json!({"model": THINKER, "messages": messages(), "tools": [tool]})),
        ("/v1/responses", json!({"model": THINKER, "input": "FAKE:count 3", "tools": [flat]})),
        ("/v1/messages", json!({"model": THINKER, "max_tokens": 9, "messages": messages(), "tools": [anthropic]})),
    ]
}

#[tokio::test]
async fn who_asks_for_tools_while_the_engine_fails_on_them_is_told_so() {
    let line = "profile:1:RuntimeError: Hermes2ProToolParser could not locate the tool call tokens in the tokenizer!";
    let builder =
        Vllama::with_fake_thinker().env("FAKE_VLLM_FAIL_START", line).env("FAKE_VLLM_FAIL_WITH", "--tool-call-parser");
    let vllama = builder.start_listening().await;
    // All of them were asked when the model could still call tools.
    let asked = asks_for_tools().map(|(path, body)| {
        let client = vllama.client.clone();
        tokio::spawn(async move { client.request(&Request::post(path, &body)).await })
    });
    for asked in asked {
        let answer = asked.await.expect("an answer");
        let told = answer.text();
        assert!(answer.status() == 400 && told.contains("library/thinker:1b does not support tools"), "{told}");
    }
}

#[tokio::test]
async fn a_failure_that_no_change_avoids_is_told_by_its_name() {
    let line = "load:1:ValueError: Model architectures ['NewForCausalLM'] are not supported for now.";
    let vllama = Vllama::with_fake().env("FAKE_VLLM_FAIL_START", line).start_listening().await;
    let answer = vllama.chat("Hello").await;
    assert_eq!(answer.status(), 500);
    assert!(answer.error().contains("use a newer vllama image"), "{}", answer.error());
    let health = vllama.engine_state("failed").await;
    assert_eq!(health["engine"]["failure_name"], "unsupported_model");
    assert_eq!(vllama.starts(), 1);
}

#[tokio::test]
async fn when_memory_runs_out_engines_go_before_vllama() {
    let vllama = Vllama::with_fake().start().await;
    let score = |pid: i32| -> i32 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a process");
        text.trim().parse().expect("a number")
    };
    let (own, engine) = (score(vllama.pid()), score(vllama.process("fake-vllm").pid));
    assert_eq!(engine, own + 500);
    let log = vllama.log();
    let spared = log.iter().any(|line| line["message"] == "the kernel spares vllama when memory runs out");
    // It may be forbidden; then the engines' scores alone are higher.
    assert!(own <= -500 || !spared, "{own}");
}
