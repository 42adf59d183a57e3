//! Anthropic's API: messages, streams of them, counted tokens, errors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::vllama::Builder;
use crate::harness::{Answer, Request, Vllama, within};

const MESSAGES: &str = "/v1/messages";
const COUNT_TOKENS: &str = "/v1/messages/count_tokens";

fn message(text: &str) -> Value {
    json!({"model": "smollm2:135m", "max_tokens": 100, "messages": [{"role": "user", "content": text}]})
}

fn streamed(text: &str) -> Value {
    with(message(text), json!({"stream": true}))
}

fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    body
}

/// Name and data of each event.
fn events(answer: &Answer) -> Vec<(String, Value)> {
    let text = answer.text();
    assert!(text.ends_with("\n\n"), "the last event is complete: {text:?}");
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap_or_else(|| panic!("an event of two lines: {event:?}"));
        let name = name.strip_prefix("event: ").unwrap_or_else(|| panic!("a name: {event:?}"));
        let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("data: {event:?}"));
        (name.to_owned(), serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in {data:?}")))
    };
    text.trim_end().split("\n\n").map(event).collect()
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

/// The text that the deltas of these events make.
fn text(events: &[(String, Value)]) -> String {
    events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect()
}

/// The type and the words of an error in Anthropic's shape.
fn error(answer: &Answer) -> (String, String) {
    let body = answer.json();
    let member = |name: &str| body["error"][name].as_str().unwrap_or_else(|| panic!("{name}: {body}")).to_owned();
    let members: Vec<&String> = body.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["type", "error", "request_id"], "{body}");
    assert_eq!(body["type"], "error");
    let id = body["request_id"].as_str().unwrap_or_default();
    assert!(id.len() == 28 && id.starts_with("req_"), "{body}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    (member("type"), member("message"))
}

/// The same model with another chat template, which is where tools and thoughts are known from.
fn with_template(builder: Builder, template: &str) -> Builder {
    let path = builder.path().join("models/registry.ollama.ai/library/smollm2/135m/tokenizer_config.json");
    let text = std::fs::read_to_string(&path).expect("a tokenizer");
    let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
    tokenizer["chat_template"] = json!(template);
    std::fs::write(path, tokenizer.to_string()).expect("a tokenizer");
    builder
}

#[tokio::test]
async fn a_message_is_answered_under_the_name_the_client_has_for_the_model() {
    let vllama = Vllama::with_fake().start().await;
    let body = with(message("What is the capital of France?"), json!({"model": "SmolLM2:135M"}));
    let answer = vllama.post(MESSAGES, &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let told = answer.json();
    assert_eq!(told["content"], json!([{"type": "text", "text": "The capital of France is Paris."}]));
    assert_eq!((&told["model"], &told["role"]), (&json!("SmolLM2:135M"), &json!("assistant")));
    assert_eq!((&told["type"], &told["stop_reason"]), (&json!("message"), &json!("end_turn")));
    assert!(told["usage"]["output_tokens"].as_u64() > Some(5), "{told}");
    assert_eq!(vllama.engine_request().await["body"]["model"], "smollm2:135m");
}

#[tokio::test]
async fn a_streamed_message_comes_event_by_event() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "40").start().await;
    let body = with(streamed("FAKE:count 20"), json!({"model": "SmolLM2:135M"}));
    let answer = vllama.post(MESSAGES, &body).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let events = events(&answer);
    let names = names(&events);
    assert_eq!(names[..3], ["message_start", "content_block_start", "content_block_delta"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(events[0].1["message"]["model"], "SmolLM2:135M");
    assert!(text(&events).starts_with("1 2 3 4"), "{}", text(&events));
    let (first, last) = (answer.pieces[0].after, answer.pieces[answer.pieces.len() - 1].after);
    assert!(answer.pieces.len() >= 20 && last - first > Duration::from_millis(300), "{first:?} {last:?}");
}

#[tokio::test]
async fn a_recorded_stream_is_the_same_wherever_it_is_cut() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm");
    let builder = Vllama::with_fake();
    let replays = builder.path().to_owned();
    let mut recordings = Vec::new();
    for entry in std::fs::read_dir(&directory).expect("recordings").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let recording = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let Some((head, events)) = recording.split_once("\r\n\r\n").filter(|(head, _)| head.contains("event-stream"))
        else {
            continue;
        };
        // One that ends with an error is another test's.
        if name.starts_with("messages-stream") && head.starts_with("HTTP/1.1 200") && events.contains("message_stop") {
            std::fs::write(replays.join(&name), events).expect("a file to replay");
            recordings.push((name, events.to_owned()));
        }
    }
    assert!(!recordings.is_empty());
    let vllama = builder.env("FAKE_VLLM_REPLAY_DIR", &replays.to_string_lossy()).start().await;
    for (name, events) in recordings {
        let expected = events.replacen("\"model\":\"smollm2:135m\"", "\"model\":\"SmolLM2:135M\"", 1);
        for piece in [1, 2, 3, 5, 7, 64, 100_000] {
            let body = with(streamed(&format!("FAKE:replay {name} {piece}")), json!({"model": "SmolLM2:135M"}));
            assert_eq!(vllama.post(MESSAGES, &body).await.text(), expected, "{name} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn tokens_are_counted() {
    let vllama = Vllama::with_fake().start().await;
    let body = json!({"model": "smollm2:135m", "messages": [{"role": "user", "content": "Hi"}]});
    let answer = vllama.post(COUNT_TOKENS, &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let few = answer.json()["input_tokens"].as_u64().expect("a number");
    let body = with(body, json!({"system": "You are a pirate. ".repeat(20)}));
    let many = vllama.post(COUNT_TOKENS, &body).await.json()["input_tokens"].as_u64();
    assert!(few > 0 && many.is_some_and(|many| many > few), "{few} {many:?}");
}

#[tokio::test]
async fn the_headers_and_the_query_of_anthropics_clients_change_nothing() {
    let vllama = Vllama::with_fake().start().await;
    let request = Request::post("/v1/messages?beta=true", &message("Hi"))
        .header("x-api-key", "sk-ant-anything")
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14")
        .header("X-Request-Id", "0a1b2c3d-4e5f-4789-8abc-def012345678");
    let answer = vllama.client.request(&request).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.header("request-id"), Some("req_0a1b2c3d4e5f47898abcdef0"));
    assert_eq!(answer.header("x-request-id"), Some("0a1b2c3d-4e5f-4789-8abc-def012345678"));
    let request = request.header("X-Request-Id", "0A1B2C3D-4E5F-4789-8ABC-DEF012345678").body("{}");
    let refused = vllama.client.request(&request).await;
    assert_eq!(refused.json()["request_id"], "req_0a1b2c3d4e5f47898abcdef0");
}

#[tokio::test]
async fn every_error_has_anthropics_shape() {
    let vllama = Vllama::with_fake().env("VLLAMA_MAX_BODY", "1").start().await;
    let tokens = "max_tokens is required and must be positive";
    let search = json!([{"type": "web_search_20250305", "name": "web_search"}]);
    let image = json!([{"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x.png"}}]);
    let invalid = "invalid_request_error";
    for (body, status, kind, words) in [
        (json!({}), 400, invalid, "model is required"),
        (json!({"model": " "}), 400, invalid, "model is required"),
        (json!({"model": "smollm2:135m", "messages": [{}]}), 400, invalid, tokens),
        (with(message("x"), json!({"max_tokens": 0})), 400, invalid, tokens),
        (with(message("x"), json!({"messages": []})), 400, invalid, "messages is required"),
        (with(message("x"), json!({"model": "nope"})), 404, "not_found_error", "model 'nope' not found"),
        (with(message("x"), json!({"model": "a b"})), 400, invalid, "invalid model name"),
        (with(message("x"), json!({"model": "nope:cloud"})), 403, "permission_error", "ollama cloud is disabled"),
        (with(message("x"), json!({"tools": search})), 400, invalid, "the built-in tool \"web_search\" runs on"),
        (
            with(message("x"), json!({"messages": [{"role": "user", "content": image}]})),
            400,
            invalid,
            "image URLs are not",
        ),
        (
            with(message("x"), json!({"messages": [{"role": "developer", "content": "x"}]})),
            400,
            invalid,
            "1 validation error",
        ),
        (message(&"word ".repeat(9000)), 400, invalid, "prompt is too long: 8193 tokens > 8192 maximum"),
        (message("FAKE:http400"), 400, invalid, "the fake refuses this request"),
        (
            message("FAKE:http500"),
            500,
            "api_error",
            "an error was encountered while running the model: the fake failed",
        ),
        (message("FAKE:http503"), 503, "overloaded_error", "server busy, please try again."),
        (message("FAKE:error-midstream 2"), 500, "api_error", "model runner has unexpectedly stopped"),
        (message("FAKE:cut 2"), 500, "api_error", "model runner has unexpectedly stopped"),
    ] {
        for body in [body.clone(), with(body, json!({"stream": true}))] {
            // What breaks in the middle of a stream is told in the stream.
            if body["stream"] == json!(true) && status == 500 && words.starts_with("model runner") {
                continue;
            }
            let answer = vllama.post(MESSAGES, &body).await;
            assert_eq!(answer.status(), status, "{body}");
            let (told, text) = error(&answer);
            assert!(told == kind && text.starts_with(words), "{told}: {text}");
        }
    }
    let too_large = message(&"x".repeat(1 << 20));
    for (request, status, kind) in [
        (Request::new("POST", MESSAGES).body("{\"model\": "), 400, invalid),
        (Request::new("POST", MESSAGES), 400, invalid),
        (Request::new("GET", MESSAGES), 405, invalid),
        (Request::new("DELETE", COUNT_TOKENS), 405, invalid),
        (Request::new("GET", "/v1/messages/batches"), 404, "not_found_error"),
        (Request::post("/v1/messages/batches", &json!({})), 404, "not_found_error"),
        (Request::post(MESSAGES, &too_large), 413, "request_too_large"),
    ] {
        let answer = vllama.client.request(&request).await;
        assert_eq!((answer.status(), error(&answer).0.as_str()), (status, kind), "{request:?}");
    }
}

#[tokio::test]
async fn a_full_queue_is_an_overload_that_says_when_to_come_back() {
    let vllama =
        Vllama::with_fake().env("OLLAMA_MAX_QUEUE", "0").env("FAKE_VLLM_START", "load:20000").start_listening().await;
    let answer = vllama.post(MESSAGES, &message("Hi")).await;
    assert_eq!((answer.status(), error(&answer).0.as_str()), (503, "overloaded_error"), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn what_breaks_in_a_stream_is_told_in_the_stream() {
    // Slow enough for the first token to be on its way before it breaks: before that it is no stream.
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "10").start().await;
    for fault in ["error-midstream", "cut", "no-done", "kill9"] {
        let answer = vllama.post(MESSAGES, &streamed(&format!("FAKE:{fault} 3"))).await;
        assert_eq!(answer.status(), 200, "{fault}");
        let events = events(&answer);
        let (name, data) = events.last().expect("events");
        assert_eq!((text(&events).as_str(), name.as_str()), ("one two three", "error"), "{fault}");
        assert_eq!((&data["type"], &data["error"]["type"]), (&json!("error"), &json!("api_error")), "{fault}");
        let words = data["error"]["message"].as_str().unwrap_or_default();
        let expected = match fault {
            "error-midstream" => "an error was encountered while running the model: the engine failed in the middle",
            _ => "model runner has unexpectedly stopped",
        };
        assert!(words.starts_with(expected), "{fault}: {words}");
    }
}

#[tokio::test]
async fn what_vllm_would_refuse_is_put_right_before_it_gets_it() {
    let vllama = Vllama::with_fake().start().await;
    let server_tool = json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}});
    let document =
        json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A page."}});
    let text = |text: &str| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}});
    let body = json!({
        "model": "smollm2:135m", "max_tokens": 32000, "brand_new": [1.5],
        "system": [text("Be brief.")], "tools": [], "metadata": {"user_id": "me"},
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [server_tool, text("Hello")]},
            {"role": "system", "content": "A reminder."},
            {"role": "user", "content": [document, text("What now?")]},
        ],
    });
    let answer = vllama.post(MESSAGES, &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let mut expected = with(body, json!({"max_tokens": 8192, "tools": null, "thinking": null}));
    expected["messages"][1]["content"] = json!([text("Hello")]);
    expected["messages"][3]["content"] = json!([{"type": "text", "text": "A page."}, text("What now?")]);
    assert_eq!(vllama.engine_request().await["body"], expected);
}

#[tokio::test]
async fn a_model_that_thinks_is_told_whether_to() {
    let template = "{% if enable_thinking %}<think>{% endif %}{{ messages }}</think>";
    let vllama = with_template(Vllama::with_fake(), template).start().await;
    for (thinking, switch, sent) in [
        (json!({"type": "enabled", "budget_tokens": 100}), true, Value::Null),
        (json!({"type": "adaptive"}), true, Value::Null),
        (json!({"type": "disabled"}), false, json!({"type": "disabled"})),
    ] {
        let answer = vllama.post(MESSAGES, &with(message("Hi"), json!({"thinking": thinking}))).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let request = vllama.engine_request().await;
        let kwargs = json!({"enable_thinking": switch, "thinking": switch});
        assert_eq!((&request["body"]["chat_template_kwargs"], &request["body"]["thinking"]), (&kwargs, &sent));
    }
}

#[tokio::test]
async fn tools_are_called_where_the_model_knows_them() {
    let vllama = Vllama::with_fake().start().await;
    let tool =
        json!({"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}});
    let body = with(message("Weather?"), json!({"tools": [tool]}));
    let words = "registry.ollama.ai/library/smollm2:135m does not support tools";
    for choice in ["auto", "any"] {
        let answer = vllama.post(MESSAGES, &with(body.clone(), json!({"tool_choice": {"type": choice}}))).await;
        assert!(answer.status() == 400 && error(&answer).1.starts_with(words), "{}", answer.text());
    }
    assert_eq!(
        vllama.post(MESSAGES, &with(body.clone(), json!({"tool_choice": {"type": "none"}}))).await.status(),
        200
    );
    drop(vllama);
    let template = "{% for tool in tools %}<tool_call>{{ tool }}{% endfor %}{{ messages }}";
    let vllama = with_template(Vllama::with_fake(), template).start().await;
    for choice in [json!({"type": "any"}), json!({"type": "tool", "name": "get_weather"})] {
        let told = vllama.post(MESSAGES, &with(body.clone(), json!({"tool_choice": choice}))).await.json();
        let call = &told["content"][0];
        assert_eq!((&call["type"], &call["name"]), (&json!("tool_use"), &json!("get_weather")), "{told}");
        assert_eq!((&call["input"], &told["stop_reason"]), (&json!({"city": "Bob"}), &json!("tool_use")));
    }
    let body = with(body, json!({"tool_choice": {"type": "auto"}}));
    let answer = vllama.post(MESSAGES, &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(vllama.engine_request().await["body"], body);
}

#[tokio::test]
async fn what_a_model_was_made_with_holds() {
    let vllama = Vllama::with_fake().start().await;
    let made = json!({"model": "mario", "from": "smollm2:135m", "system": "You are Mario.", "stream": false,
        "parameters": {"temperature": 0.25, "stop": ["zzz"], "seed": 7}});
    assert_eq!(vllama.post("/api/create", &made).await.status(), 200);
    let body = with(message("Who are you?"), json!({"model": "mario"}));
    let answer = vllama.post(MESSAGES, &body).await;
    assert_eq!((answer.status(), &answer.json()["model"]), (200, &json!("mario")));
    let sent = vllama.engine_request().await["body"].clone();
    let own =
        json!({"system": "You are Mario.", "temperature": 0.25, "stop_sequences": ["zzz"], "model": "smollm2:135m"});
    assert_eq!(sent, with(body.clone(), own));
    let silent = json!({"system": "You are Luigi.", "temperature": 1, "stop_sequences": ["y"]});
    vllama.post(MESSAGES, &with(body.clone(), silent.clone())).await;
    let sent = vllama.engine_request().await["body"].clone();
    assert_eq!(sent, with(with(body, silent), json!({"model": "smollm2:135m"})));
}

#[tokio::test]
async fn an_embedding_model_has_no_messages() {
    let vllama = Vllama::with_fake_embedder().start().await;
    for path in [MESSAGES, COUNT_TOKENS] {
        let answer = vllama.post(path, &with(message("Hi"), json!({"model": "all-minilm"}))).await;
        assert_eq!((answer.status(), error(&answer).1.as_str()), (400, "\"all-minilm\" does not support chat"));
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_the_work_on_its_message() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "5").start().await;
    for body in [message("FAKE:count 1000"), streamed("FAKE:count 1000")] {
        let exchange = vllama.client.send(&Request::post(MESSAGES, &body)).await.expect("a request on its way");
        vllama.engine_runs(1).await;
        drop(exchange);
        within(Duration::from_secs(5), "the engine is free", async || {
            (vllama.engine_running().await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn claude_code_can_work() {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/golden/anthropic/claude-code.json"].iter().collect();
    let steps: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("a sequence")).expect("JSON");
    let template = "{% for tool in tools %}<tool_call>{{ tool }}{% endfor %}{{ messages }}";
    let vllama = with_template(Vllama::with_fake(), template).start().await;
    for step in steps.as_array().expect("steps") {
        let name = step["step"].as_str().expect("a name");
        let word = |name: &str| step["request"][name].as_str().unwrap_or_default().to_owned();
        let mut request = Request::new(&word("method"), &word("path"));
        for (name, value) in step["request"]["headers"].as_object().expect("headers") {
            request = request.header(name, value.as_str().expect("text"));
        }
        if step["request"]["body"].is_object() {
            request = request.body(step["request"]["body"].to_string());
        }
        let answer = vllama.client.request(&request).await;
        let expected = &step["answer"];
        assert_eq!(json!(answer.status()), expected["status"], "{name}: {}", answer.text());
        if let Some(wanted) = expected["events"].as_array() {
            let mut names: Vec<Value> = events(&answer).into_iter().map(|(name, _)| json!(name)).collect();
            names.dedup();
            assert_eq!(&names, wanted, "{name}");
        }
        for (pointer, value) in expected["members"].as_object().into_iter().flatten() {
            assert_eq!(answer.json().pointer(pointer), Some(value), "{name}: {pointer} in {}", answer.text());
        }
    }
}
