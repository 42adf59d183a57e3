//! Chats and generations that go well.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::vllama::{chat, generate};
use crate::harness::{Answer, Framing, Request, Vllama, eventually};

/// The six figures of a last line.
const FIGURES: &[&str] =
    &["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"];

fn assert_figures(last: &Value) {
    for figure in FIGURES {
        assert!(last[figure].as_u64().is_some_and(|value| value > 0), "{figure} in {last}");
    }
}

/// The text of all lines of a chat.
fn content(lines: &[Value]) -> String {
    lines.iter().map(|line| line["message"]["content"].as_str().expect("content in every line")).collect()
}

fn assert_stream(answer: &Answer) {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(answer.head.framing, Framing::Chunked);
}

#[tokio::test]
async fn a_chat_streams_its_words_and_ends_with_the_figures() {
    let vllama = Vllama::with_fake().start().await;
    let answer = vllama.chat_stream("What is the capital of France?").await;
    assert_stream(&answer);
    let lines = answer.lines();
    let (last, words) = lines.split_last().expect("lines");
    assert_eq!(content(words), "The capital of France is Paris.");
    for line in words {
        assert_eq!(line["model"], "smollm2:135m");
        assert_eq!(line["done"], false);
        assert_eq!(line["message"]["role"], "assistant");
        assert!(line["created_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        assert!(line.get("done_reason").is_none() && line.get("eval_count").is_none(), "{line}");
    }
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    assert_eq!(last["eval_count"], 8);
    assert_figures(last);
    vllama.stop().await;
}

#[tokio::test]
async fn a_chat_without_stream_is_one_object_on_one_line() {
    let vllama = Vllama::with_fake().start().await;
    let answer = vllama.chat("What is the capital of France?").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.head.framing, Framing::Length(answer.text().len()));
    assert!(!answer.text().trim_end().contains('\n'), "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["message"], json!({"role": "assistant", "content": "The capital of France is Paris."}));
    assert_eq!((&body["done"], &body["done_reason"]), (&json!(true), &json!("stop")));
    assert_figures(&body);
}

#[tokio::test]
async fn a_generation_streams_its_words_and_ends_with_context_and_figures() {
    let vllama = Vllama::with_fake().start().await;
    // Absent means true.
    let body = json!({"model": "smollm2:135m", "prompt": "What is the capital of France?"});
    let answer = vllama.post("/api/generate", &body).await;
    assert_stream(&answer);
    let lines = answer.lines();
    let text: String = lines.iter().map(|line| line["response"].as_str().expect("response in every line")).collect();
    assert_eq!(text, "The capital of France is Paris.");
    let last = lines.last().expect("lines");
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    assert!(last["context"].as_array().is_some_and(|ids| ids.len() > 8), "{last}");
    assert_figures(last);
}

#[tokio::test]
async fn a_generation_without_stream_is_one_object() {
    let vllama = Vllama::with_fake().start().await;
    let answer = vllama.post("/api/generate", &generate("What is the capital of France?", false)).await;
    let body = answer.json();
    assert_eq!(body["response"], "The capital of France is Paris.");
    assert_eq!((&body["done"], &body["done_reason"]), (&json!(true), &json!("stop")));
    assert!(body["context"].is_array());
    assert_figures(&body);
}

#[tokio::test]
async fn a_context_that_is_sent_back_continues_the_conversation() {
    let vllama = Vllama::with_fake().start().await;
    let first = vllama.post("/api/generate", &generate("What is the capital of France?", false)).await.json();
    let mut second = generate("And what is that city known for?", false);
    second["context"] = first["context"].clone();
    let second = vllama.post("/api/generate", &second).await.json();
    assert!(second["prompt_eval_count"].as_u64() > first["prompt_eval_count"].as_u64(), "{second}");
}

#[tokio::test]
async fn every_chunk_of_a_stream_is_whole_lines_without_empty_ones() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "200").start().await;
    let answer = vllama.chat_stream("FAKE:count 20").await;
    for piece in &answer.pieces {
        let text = std::str::from_utf8(&piece.bytes).expect("no chunk cuts a character");
        assert!(text.ends_with('\n') && !text.contains("\n\n") && !text.starts_with('\n'), "{text:?}");
    }
}

#[tokio::test]
async fn words_arrive_when_they_are_made_and_not_at_the_end() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "40").start().await;
    let answer = vllama.chat_stream("FAKE:count 20").await;
    assert!(answer.pieces.len() >= 20, "{} pieces", answer.pieces.len());
    let (first, last) = (answer.pieces[0].after, answer.pieces[answer.pieces.len() - 1].after);
    // 20 tokens at 40 a second: the first at once, the last after half a second.
    assert!(first < Duration::from_millis(250) && last - first > Duration::from_millis(300), "{first:?} {last:?}");
}

#[tokio::test]
async fn characters_beyond_ascii_survive_the_stream() {
    let vllama = Vllama::with_fake().start().await;
    let text = "Grüße 你好 😀 \u{1F468}\u{200D}\u{1F469} <b>&\"\\ \t ende";
    let answer = vllama.chat_stream(&format!("FAKE:text {text}")).await;
    assert_eq!(content(&answer.lines()), text);
}

#[tokio::test]
async fn an_event_stream_cut_anywhere_is_put_together_again() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm");
    let recording = std::fs::read_to_string(directory.join("chat-stream.response.txt")).expect("a recording");
    let recording = recording.replace("\r\n", "\n");
    let (_, events) = recording.split_once("\n\n").expect("a head and a body");
    let builder = Vllama::with_fake();
    let replays = builder.path().to_owned();
    std::fs::write(replays.join("stream"), events).expect("a file to replay");
    std::fs::write(replays.join("stream-crlf"), events.replace('\n', "\r\n")).expect("a file to replay");
    let vllama = builder.env("FAKE_VLLM_REPLAY_DIR", &replays.to_string_lossy()).start().await;
    for order in ["stream 1", "stream 7", "stream 100000", "stream-crlf 1"] {
        let answer = vllama.chat_stream(&format!("FAKE:replay {order}")).await;
        assert_eq!(content(&answer.lines()), "The capital of France is Paris.", "{order}");
    }
}

#[tokio::test]
async fn options_reach_the_engine_in_its_own_words() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("Hello", false);
    body["options"] = json!({
        "temperature": 0.25, "top_k": 7, "top_p": 0.5, "min_p": 0.125, "seed": 42, "num_predict": 3, "stop": ["zzz"],
        "repeat_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.75, "num_gpu": 99, "foo": 1,
    });
    assert_eq!(vllama.post("/api/chat", &body).await.status(), 200);
    let request = vllama.engine_request().await;
    assert_eq!(request["path"], "/v1/chat/completions");
    let sent = &request["body"];
    for (name, value) in [
        ("temperature", json!(0.25)),
        ("top_k", json!(7)),
        ("top_p", json!(0.5)),
        ("min_p", json!(0.125)),
        ("seed", json!(42)),
        ("max_tokens", json!(3)),
        ("stop", json!(["zzz"])),
        ("repetition_penalty", json!(1.5)),
        ("presence_penalty", json!(0.5)),
        ("frequency_penalty", json!(0.75)),
    ] {
        assert_eq!(sent[name], value, "{name} in {sent}");
    }
    assert!(sent.get("foo").is_none() && sent.get("num_gpu").is_none(), "{sent}");
}

#[tokio::test]
async fn an_answer_ends_at_its_limit_or_at_a_stop_string() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 50", true);
    body["options"] = json!({"num_predict": 5});
    let lines = vllama.post("/api/chat", &body).await.lines();
    assert_eq!(content(&lines), "1 2 3 4 5");
    let last = lines.last().expect("lines");
    assert_eq!((&last["done_reason"], &last["eval_count"]), (&json!("length"), &json!(5)));

    body["options"] = json!({"stop": [" 8"]});
    let lines = vllama.post("/api/chat", &body).await.lines();
    assert_eq!(content(&lines), "1 2 3 4 5 6 7");
    assert_eq!(lines.last().expect("lines")["done_reason"], "stop");
}

#[tokio::test]
async fn a_raw_prompt_reaches_the_engine_as_it_is_and_has_no_context() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = generate("The capital of France is", false);
    body["raw"] = json!(true);
    let answer = vllama.post("/api/generate", &body).await.json();
    assert!(answer["response"].as_str().is_some_and(|text| text.starts_with(" Paris.")), "{answer}");
    assert!(answer.get("context").is_none(), "{answer}");
    let request = vllama.engine_request().await;
    assert_eq!(request["path"], "/v1/completions");
    assert_eq!(request["body"]["prompt"], "The capital of France is");
}

#[tokio::test]
async fn formats_become_constraints_of_the_engine() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("Give a person.", false);
    body["format"] = json!("json");
    let text = vllama.post("/api/chat", &body).await.json()["message"]["content"].clone();
    let person: Value = serde_json::from_str(text.as_str().expect("text")).expect("JSON in the text");
    assert_eq!(person["name"], "John");

    body["format"] = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
    let text = vllama.post("/api/chat", &body).await.json()["message"]["content"].clone();
    assert_eq!(serde_json::from_str::<Value>(text.as_str().expect("text")).expect("JSON"), json!({"age": 30}));
    let request = vllama.engine_request().await;
    assert_eq!(request["body"]["response_format"]["type"], "json_schema");
    assert_eq!(request["body"]["response_format"]["json_schema"]["schema"], body["format"]);
}

#[tokio::test]
async fn probabilities_come_with_every_token_when_asked_for() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 20", true);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(2);
    body["options"] = json!({"num_predict": 10});
    let lines = vllama.post("/api/chat", &body).await.lines();
    let entries: Vec<&Value> = lines.iter().filter_map(|line| line["logprobs"].as_array()).flatten().collect();
    assert_eq!(entries.len(), 10);
    for entry in entries {
        let token = entry["token"].as_str().expect("a token");
        assert_eq!(entry["bytes"], json!(token.as_bytes()));
        assert!(entry["logprob"].as_f64().is_some_and(|value| value <= 0.0), "{entry}");
        assert_eq!(entry["top_logprobs"].as_array().map(Vec::len), Some(2));
    }
    let plain = vllama.chat("Hello").await.json();
    assert!(plain.get("logprobs").is_none(), "{plain}");
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_refused_before_anything_is_sent() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_MAX_MODEL_LEN", "128").start().await;
    let mut body = chat(&"word ".repeat(500), true);
    body["truncate"] = json!(false);
    let answer = vllama.post("/api/chat", &body).await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert!(answer.error().contains("context length"), "{}", answer.error());
}

#[tokio::test]
async fn an_empty_prompt_loads_the_model_and_says_so() {
    let vllama = Vllama::with_fake().start().await;
    let loaded = vllama.post("/api/generate", &json!({"model": "smollm2:135m"})).await;
    assert_eq!(loaded.header("content-type"), Some("application/json; charset=utf-8"));
    let loaded = loaded.json();
    assert_eq!((&loaded["response"], &loaded["done_reason"]), (&json!(""), &json!("load")));
    assert!(loaded.get("eval_count").is_none() && loaded.get("total_duration").is_none(), "{loaded}");
    let loaded = vllama.post("/api/chat", &json!({"model": "smollm2:135m", "messages": []})).await.json();
    assert_eq!(loaded["message"], json!({"role": "assistant", "content": ""}));
    assert_eq!(loaded["done_reason"], "load");
}

#[tokio::test]
async fn an_unload_stops_the_engine_and_the_next_request_starts_it_again() {
    let vllama = Vllama::with_fake().start().await;
    let unloaded = vllama.post("/api/generate", &json!({"model": "smollm2:135m", "keep_alive": 0})).await.json();
    assert_eq!((&unloaded["done"], &unloaded["done_reason"]), (&json!(true), &json!("unload")));
    vllama.engine_state("stopped").await;
    assert_eq!(vllama.get("/api/ps").await.json(), json!({"models": []}));
    assert_eq!(vllama.generations(), [] as [std::path::PathBuf; 0]);
    let left = vllama.processes();
    assert!(!left.iter().any(|process| process.name.starts_with("VLLM") || process.name == "fake-vllm"), "{left:?}");

    assert_eq!(vllama.chat("What is the capital of France?").await.status(), 200);
    assert_eq!(vllama.health().await["engine"]["generation"], 2);
    assert_eq!(vllama.get("/api/ps").await.json()["models"][0]["name"], "smollm2:135m");
}

#[tokio::test]
async fn an_idle_model_is_unloaded_when_its_keep_alive_is_over() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("Hello", false);
    body["keep_alive"] = json!("200ms");
    assert_eq!(vllama.post("/api/chat", &body).await.status(), 200);
    vllama.engine_state("stopped").await;
}

#[tokio::test]
async fn an_unload_lets_a_running_stream_finish() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "50").start().await;
    let stream = tokio::spawn({
        let client = vllama.client.clone();
        async move { client.post("/api/chat", &chat("FAKE:count 25", true)).await }
    });
    vllama.engine_runs(1).await;
    vllama.post("/api/generate", &json!({"model": "smollm2:135m", "keep_alive": 0})).await;
    let lines = stream.await.expect("the stream's task").lines();
    assert_eq!(lines.last().expect("lines")["done_reason"], "stop");
    assert_eq!(lines.last().expect("lines")["eval_count"], 26);
    vllama.engine_state("stopped").await;
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_the_engine_at_once() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "20").start().await;
    for (path, body) in [
        ("/api/chat", chat("FAKE:count 1000", true)),
        ("/api/chat", chat("FAKE:count 1000", false)),
        ("/api/generate", generate("FAKE:count 1000", true)),
        ("/api/generate", generate("FAKE:count 1000", false)),
    ] {
        let exchange = vllama.client.send(&Request::post(path, &body)).await.expect("a request on its way");
        vllama.engine_runs(1).await;
        let hung_up = std::time::Instant::now();
        drop(exchange);
        vllama.engine_runs(0).await;
        let took = hung_up.elapsed();
        assert!(took < Duration::from_millis(200), "{path} {body}: {took:?}");
        eventually("vllama counts no running request", async || {
            (vllama.health().await["engine"]["running"] == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_carries_one_request_after_the_other() {
    let vllama = Vllama::with_fake().start().await;
    let mut exchange = vllama.client.send(&Request::new("GET", "/api/version")).await.expect("a connection");
    assert_eq!(exchange.answer().await.expect("an answer").status(), 200);
    let body = chat("What is the capital of France?", true).to_string();
    let request = format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for _ in 0..3 {
        exchange.write(request.as_bytes()).await.expect("the connection stays open");
        let answer = exchange.answer().await.expect("an answer");
        assert_eq!(content(&answer.lines()), "The capital of France is Paris.");
    }
}

#[tokio::test]
async fn lists_tell_the_installed_and_the_loaded_model() {
    let vllama = Vllama::with_fake().with_model("other", "1b").start().await;
    let tags = vllama.get("/api/tags").await.json();
    let models = tags["models"].as_array().expect("a list");
    assert_eq!(models.len(), 2);
    for model in models {
        assert_eq!(model["name"], model["model"]);
        assert_eq!(model["digest"].as_str().map(str::len), Some(64));
        assert_eq!(model["details"]["family"], "llama");
        assert_eq!(model["details"]["quantization_level"], "Q4_1");
        assert_eq!(model["details"]["parameter_size"], "134.52M");
    }
    let loaded = vllama.get("/api/ps").await.json();
    assert_eq!(loaded["models"].as_array().map(Vec::len), Some(1));
    assert_eq!(loaded["models"][0]["name"], "smollm2:135m");
    let shown = vllama.post("/api/show", &json!({"name": "smollm2:135m"})).await.json();
    assert_eq!(shown["capabilities"], json!(["completion"]));
    assert_eq!(shown["model_info"]["llama.context_length"], 8192);
}
