//! Bodies nobody would write, against a whole server: none of them gives a panic or a 5xx that is vllama's own.
//!
//! The fuzz targets (`tests/fuzz`) go deeper and faster; this is what holds them together, and the engine behind it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Request, Vllama, embedder};
use crate::mutate::mutate;

/// Time for all of it.
const TIME: Duration = Duration::from_millis(1500);

/// Every route that reads JSON of a client and changes nothing for good; what it is, a good body, words it knows.
const ROUTES: &[(&str, &str)] = &[
    (
        "/api/chat",
        r#"{"model":"smollm2:135m","messages":[{"role":"user","content":"FAKE:count 3","images":[]}],"stream":false,"options":{"num_predict":5,"stop":["x"]},"format":null,"think":false,"keep_alive":"5m"}"#,
    ),
    (
        "/api/chat",
        r#"{"model":"smollm2:135m","messages":[{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]},{"role":"tool","content":"1"}],"logprobs":true,"top_logprobs":3}"#,
    ),
    (
        "/api/generate",
        r#"{"model":"smollm2:135m","prompt":"FAKE:count 3","system":"s","stream":false,"raw":false,"context":[1,2],"options":{"temperature":0.1}}"#,
    ),
    (
        "/api/generate",
        r#"{"model":"smollm2:135m","prompt":"FAKE:count 3","raw":true,"suffix":"","template":"","images":null,"logprobs":true}"#,
    ),
    (
        "/api/embed",
        r#"{"model":"all-minilm","input":["a","b"],"truncate":true,"dimensions":3,"options":{"num_ctx":8}}"#,
    ),
    ("/api/embeddings", r#"{"model":"all-minilm","prompt":"a","keep_alive":10}"#),
    ("/api/show", r#"{"model":"smollm2:135m","verbose":true,"system":"s"}"#),
    ("/api/copy", r#"{"source":"smollm2:135m","destination":"copied"}"#),
    ("/v1/embeddings", r#"{"model":"all-minilm","input":"a","encoding_format":"float"}"#),
];

const WORDS: &[&str] = &[
    "model",
    "messages",
    "role",
    "content",
    "images",
    "tool_calls",
    "function",
    "arguments",
    "tools",
    "stream",
    "format",
    "json",
    "keep_alive",
    "options",
    "think",
    "logprobs",
    "top_logprobs",
    "prompt",
    "system",
    "context",
    "raw",
    "input",
    "num_ctx",
    "num_predict",
    "stop",
    "smollm2:135m",
    "all-minilm",
    "truncate",
    "dimensions",
    "suffix",
    "template",
];

#[tokio::test]
async fn no_body_gives_a_panic_or_a_5xx_of_vllamas_own() {
    let builder = Vllama::with_fake();
    embedder::install(&builder.path().join("models"));
    let vllama = builder.start().await;
    let bodies: Vec<Vec<u8>> = ROUTES.iter().map(|(_, body)| body.as_bytes().to_vec()).collect();
    let mut random = fastrand::Rng::with_seed(7);
    let end = Instant::now() + TIME;
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    while Instant::now() < end {
        let number = random.usize(..ROUTES.len());
        let path = ROUTES[number].0;
        let body = mutate(&bodies[number], &bodies, WORDS, &mut random);
        let answer = vllama.client.request(&Request::new("POST", path).body(body.as_slice())).await;
        let shown = String::from_utf8_lossy(&body);
        assert!(answer.status() < 500, "{path} {shown}\n{}", answer.text());
        if answer.status() >= 400 {
            assert!(answer.json()["error"].is_string() || answer.json()["error"].is_object(), "{path} {shown}");
        } else if answer.header("content-type") == Some("application/x-ndjson") {
            let last = answer.lines().pop().unwrap_or(Value::Null);
            assert!(last["done"] == true || last["error"].is_string(), "{path} {shown}: {last}");
        }
        *statuses.entry(answer.status()).or_default() += 1;
    }
    println!("answers by status: {statuses:?}");
    assert!(statuses.contains_key(&200) && statuses.contains_key(&400), "{statuses:?}");
    assert!(vllama.log().iter().all(|line| !line["message"].as_str().unwrap_or_default().contains("panic")));
    let alive = vllama.chat("FAKE:count 3").await;
    assert_eq!(alive.json()["message"]["content"], "1 2 3");
}
