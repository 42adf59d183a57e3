//! What a ready engine answers, through vllama.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vllama::telemetry::metrics::table::{Kind, TABLE};

use crate::harness::{Request, Vllama, within};
use crate::load::parallel_streams;
use crate::monitoring::engines_metrics;
use crate::shared::Shared;
use crate::{Ground, MODEL, Runner};

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

pub(crate) fn run(runner: &mut Runner, ground: &Ground, shared: &mut Shared) {
    let Some(vllama) = shared.vllama(runner, ground) else { return };
    runner.test("a chat answers what the model knows", chat(vllama));
    runner.test("a chat streams one line a token", stream(vllama));
    runner.test("generate answers, and its context carries on", context(vllama));
    runner.test("a raw prompt is continued verbatim", raw(vllama));
    runner.test("a system prompt reaches the model", system(vllama));
    runner.test("a stop string stops and is not told", stop_strings(vllama));
    runner.test("num_predict ends with the reason length", length(vllama));
    runner.test("the same seed gives the same text", seed(vllama));
    runner.test("format json and a schema give JSON", format(vllama));
    runner.test("logprobs come one a token, sorted", logprobs(vllama));
    runner.test("a prompt that may not be cut is refused in Ollama's words beyond the context", too_long(vllama));
    runner.test("what the engine refuses is the client's fault", refused(vllama));
    runner.test("sixteen parallel streams all complete", sixteen(vllama));
    runner.test("a client that hangs up frees the engine, streaming", hang_up(vllama, true));
    runner.test("a client that hangs up frees the engine, waiting for one piece", hang_up(vllama, false));
    runner.test("health tells of a ready engine", health(vllama));
    runner.test("boards and alerts ask the engine for nothing it does not tell", engines_metrics(vllama));
    runner.test("every metric that can have a value has one, and vLLM's own are there", metrics(vllama));
}

fn ask(question: &str, options: &Value) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": question}], "stream": false, "options": options})
}

async fn metrics(vllama: &Vllama) {
    // No GPU, no keys, and nothing has died.
    let without = |name: &str| {
        ["vllama_gpu_", "vllama_key_", "vllama_engine_restarts_total"].iter().any(|start| name.starts_with(start))
    };
    let page = vllama.get("/metrics").await.text();
    let has =
        |name: &str| page.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    for family in TABLE.iter().filter(|family| !without(family.name)) {
        let end = if family.kind == Kind::Histogram { "_count" } else { "" };
        assert!(has(&format!("{}{end}", family.name)), "{} has a value: {page}", family.name);
    }
    for name in ["vllm:generation_tokens_total", "vllm:kv_cache_usage_perc", "vllm:time_to_first_token_seconds_bucket"]
    {
        let sample = format!("{name}{{engine=\"{MODEL}\",exported_engine=\"0\",");
        assert!(page.contains(&sample), "{sample}: {page}");
    }
    // What vLLM has counted and what vllama has are the same tokens, but for those of requests that were given up.
    let value = |start: &str| -> f64 {
        page.lines().find_map(|line| line.strip_prefix(start)?.rsplit(' ').next()?.parse().ok()).unwrap()
    };
    let ours = value(&format!("vllama_generated_tokens_total{{model=\"{MODEL}\"}}"));
    let theirs = value("vllm:generation_tokens_total{");
    assert!(ours > 0.0 && ours <= theirs, "{ours} of {theirs}");
}

async fn chat(vllama: &Vllama) {
    let answer = vllama.post("/api/chat", &ask(QUESTION, &json!({"temperature": 0}))).await;
    assert_eq!(answer.status(), 200);
    let answer = answer.json();
    assert_eq!(answer["message"], json!({"role": "assistant", "content": ANSWER}));
    assert_eq!((&answer["done"], &answer["done_reason"]), (&json!(true), &json!("stop")));
    for counter in
        ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"]
    {
        assert!(answer[counter].as_u64().is_some_and(|value| value > 0), "{counter} in {answer}");
    }
    let sum = answer["prompt_eval_duration"].as_u64().unwrap() + answer["eval_duration"].as_u64().unwrap();
    assert!(sum <= answer["total_duration"].as_u64().unwrap(), "the parts are not longer than the whole: {answer}");
}

async fn stream(vllama: &Vllama) {
    let body =
        json!({"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "options": {"temperature": 0}});
    let answer = vllama.post("/api/chat", &body).await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines = answer.lines();
    assert!(lines.len() > 5, "one line a token: {lines:?}");
    let text: String = lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, ANSWER);
    assert!(answer.pieces.len() > 3, "lines come as they are made");
}

async fn context(vllama: &Vllama) {
    let body = json!({"model": MODEL, "prompt": QUESTION, "stream": false, "options": {"temperature": 0}});
    let first = vllama.post("/api/generate", &body).await.json();
    assert_eq!(first["response"], ANSWER);
    let tokens = first["context"].as_array().unwrap().len() as u64;
    assert_eq!(tokens, first["prompt_eval_count"].as_u64().unwrap() + first["eval_count"].as_u64().unwrap());
    let body = json!({"model": MODEL, "prompt": "And of Italy?", "context": first["context"], "stream": false,
        "options": {"temperature": 0, "num_predict": 12}});
    let second = vllama.post("/api/generate", &body).await.json();
    assert!(second["prompt_eval_count"].as_u64().unwrap() > tokens, "{second}");
    assert!(!second["response"].as_str().unwrap().is_empty());
}

async fn raw(vllama: &Vllama) {
    let body = json!({"model": MODEL, "prompt": "The capital of France is", "raw": true, "stream": false,
        "options": {"temperature": 0, "num_predict": 4}});
    let answer = vllama.post("/api/generate", &body).await.json();
    assert!(answer["response"].as_str().unwrap().contains("Paris"), "{answer}");
    assert_eq!((&answer["prompt_eval_count"], answer.get("context")), (&json!(5), None));
}

async fn system(vllama: &Vllama) {
    let with = |system: &str| json!({"model": MODEL, "prompt": "Hi", "system": system, "stream": false, "options": {"num_predict": 1}});
    let short = vllama.post("/api/generate", &with("Be kind.")).await.json();
    let long = vllama.post("/api/generate", &with(&"Be kind. ".repeat(20))).await.json();
    let tokens = |answer: &Value| answer["prompt_eval_count"].as_u64().unwrap();
    assert!(tokens(&long) > tokens(&short) + 30, "{short} {long}");
}

async fn stop_strings(vllama: &Vllama) {
    let answer = vllama.post("/api/chat", &ask(QUESTION, &json!({"temperature": 0, "stop": ["France"]}))).await.json();
    assert_eq!(answer["message"]["content"], "The capital of ");
    assert_eq!(answer["done_reason"], "stop");
}

async fn length(vllama: &Vllama) {
    let options = json!({"temperature": 0, "num_predict": 3});
    let answer = vllama.post("/api/chat", &ask(QUESTION, &options)).await.json();
    assert_eq!((&answer["done_reason"], &answer["eval_count"]), (&json!("length"), &json!(3)));
}

async fn seed(vllama: &Vllama) {
    let options = json!({"temperature": 1.5, "seed": 7, "num_predict": 12});
    let text = async || {
        vllama.post("/api/chat", &ask("Tell me a story.", &options)).await.json()["message"]["content"].clone()
    };
    assert_eq!(text().await, text().await);
}

async fn format(vllama: &Vllama) {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"]});
    for format in [json!("json"), schema] {
        let body = json!({"model": MODEL, "prompt": "Describe Bob, 30, as JSON.", "format": format, "stream": false,
            "options": {"temperature": 0, "num_predict": 60}});
        let answer = vllama.post("/api/generate", &body).await.json();
        if format != "json" {
            let text: Value = serde_json::from_str(answer["response"].as_str().unwrap()).unwrap();
            assert!(text["name"].is_string() && text["age"].is_i64(), "{text}");
        }
        assert!(answer["response"].as_str().unwrap().trim_start().starts_with('{'), "{answer}");
    }
}

async fn logprobs(vllama: &Vllama) {
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "Count."}], "logprobs": true, "top_logprobs": 3,
        "options": {"temperature": 0, "num_predict": 10}});
    let lines = vllama.post("/api/chat", &body).await.lines();
    let entries: Vec<&Value> = lines.iter().filter_map(|line| line["logprobs"].as_array()).flatten().collect();
    assert_eq!(entries.len(), 10, "{lines:?}");
    for entry in entries {
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
        let top: Vec<f64> =
            entry["top_logprobs"].as_array().unwrap().iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
        assert!(top.len() == 3 && top.is_sorted_by(|one, next| one >= next), "{entry}");
    }
}

async fn too_long(vllama: &Vllama) {
    for cuts_nothing in ["truncate", "shift"] {
        let mut body = ask(&"word ".repeat(9000), &json!({}));
        body[cuts_nothing] = json!(false);
        let answer = vllama.post("/api/chat", &body).await;
        assert_eq!(answer.status(), 400, "{cuts_nothing}: {}", answer.text());
        let error = answer.error();
        assert!(error.contains("context") && (error.contains("longer") || error.contains("exceed")), "{error}");
    }
}

async fn refused(vllama: &Vllama) {
    for body in [
        json!({"model": MODEL, "prompt": "x", "format": {"type": "nonsense"}, "stream": false}),
        json!({"model": MODEL, "prompt": "x", "images": ["aGVsbG8="], "stream": true}),
    ] {
        let answer = vllama.post("/api/generate", &body).await;
        assert!((400..500).contains(&answer.status()), "{} {}", answer.status(), answer.text());
        assert!(!answer.error().contains("Traceback"), "{}", answer.error());
    }
}

async fn sixteen(vllama: &Vllama) {
    for answer in parallel_streams(vllama, 16, 12).await {
        let lines = answer.lines();
        assert_eq!(lines.last().unwrap()["done"], true, "{lines:?}");
        assert!(!answer.text().contains("\"error\""));
    }
    vllama.engine_runs(0).await;
}

async fn hang_up(vllama: &Vllama, stream: bool) {
    let body =
        json!({"model": MODEL, "prompt": "Write a long story.", "stream": stream, "options": {"num_predict": 2000}});
    let mut exchange = vllama.client.send(&Request::post("/api/generate", &body)).await.unwrap();
    if stream {
        exchange.head().await.unwrap();
    }
    vllama.engine_runs(1).await;
    drop(exchange);
    let gone = Instant::now();
    // Long before its 2000 tokens would be there.
    within(Duration::from_secs(15), "the engine is free", async || (vllama.engine_running().await == 0).then_some(()))
        .await;
    println!("  free after {} ms, as its metrics tell", gone.elapsed().as_millis());
}

async fn health(vllama: &Vllama) {
    let health = vllama.health().await;
    assert_eq!((&health["status"], &health["engine"]["state"]), (&json!("ok"), &json!("ready")));
    assert_eq!((&health["engine"]["generation"], &health["engine"]["restarts"]), (&json!(1), &json!(0)));
    assert!(health["memory"]["engine_bytes"].as_u64().unwrap() > 1 << 30, "{health}");
}
