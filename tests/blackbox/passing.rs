//! What passes through to the engine and back as bytes: OpenAI's routes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Answer, Request, Vllama, within};

const CHAT: &str = "/v1/chat/completions";
const ASKED: &str = "SmolLM2:135M";

fn chat(message: &str, more: &Value) -> Value {
    let mut body = json!({"model": ASKED, "messages": [{"role": "user", "content": message}]});
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    body
}

/// The data of all events but `[DONE]`, which must be the last.
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")));
    let text = answer.text();
    let events = text.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no end in {text:?}"));
    let data = |event: &str| serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON");
    events.split_terminator("\n\n").map(data).collect()
}

fn text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

fn error(answer: &Answer) -> Value {
    answer.json()["error"].clone()
}

#[tokio::test]
async fn a_request_passes_with_nothing_but_the_model_changed() {
    let vllama = Vllama::with_fake().start().await;
    let body = r#"{ "messages":[{"role":"user","content":"\u0048i", "brand_new":[1.50]}] , "model" :"SmolLM2:135M","temperature":0.10,
        "stream":false,"seed":7,"max_completion_tokens":50,"logit_bias":{},"metadata":{"model":"x"},"unknown":null }"#;
    // The content type is whatever curl says (ollama-api §1.1).
    let request = Request::new("POST", CHAT).header("Content-Type", "application/x-www-form-urlencoded").body(body);
    let answer = vllama.client.request(&request).await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")));
    let answer = answer.json();
    assert_eq!((&answer["model"], &answer["object"]), (&json!(ASKED), &json!("chat.completion")));
    assert_eq!(answer["choices"][0]["message"]["content"], "You said: Hi");
    let sent = vllama.engine_request().await;
    assert_eq!(sent["path"], CHAT);
    let expected: Value = serde_json::from_str(&body.replace(ASKED, "smollm2:135m")).expect("JSON");
    assert_eq!(sent["body"], expected);
    // And back: the engine's own answer has the same members in the same order.
    let own = vllama.engine().post(CHAT, &expected).await.json();
    let members = |answer: &Value| answer.as_object().expect("members").keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&answer), members(&own));
    assert_eq!((&answer["choices"], &answer["usage"]), (&own["choices"], &own["usage"]));
    vllama.stop().await;
}

#[tokio::test]
async fn a_stream_names_the_model_as_asked_and_counts_only_when_asked() {
    let vllama = Vllama::with_fake().start().await;
    for (options, counts) in [
        (json!({}), 0),
        (json!({"stream_options": {"include_usage": true}}), 1),
        (json!({"stream_options": {"include_usage": true, "continuous_usage_stats": true}}), usize::MAX),
    ] {
        let mut body = chat("FAKE:count 5", &options);
        body["stream"] = json!(true);
        let events = events(&vllama.post(CHAT, &body).await);
        assert_eq!(text(&events), "1 2 3 4 5");
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        assert!(events.iter().all(|event| event["model"] == ASKED && event["id"] == events[0]["id"]), "{events:?}");
        let counted = events.iter().filter(|event| event["usage"].is_object()).count();
        assert_eq!(counted, counts.min(events.len()), "{options}");
        if counts > 0 {
            assert_eq!(vllama.engine_request().await["body"]["stream_options"], body["stream_options"]);
        }
    }
    // Asked for or not.
    counted(&vllama, CHAT, 3).await;
}

/// Waits until the log tells the tokens of so many requests.
pub(crate) async fn counted(vllama: &Vllama, path: &str, requests: usize) {
    let told =
        |line: &Value| line["path"] == path && line["tokens_in"].as_u64().min(line["tokens_out"].as_u64()) > Some(0);
    within(Duration::from_secs(5), "the log tells the tokens", async || {
        (vllama.log().iter().filter(|line| told(line)).count() == requests).then_some(())
    })
    .await;
}

#[tokio::test]
async fn recorded_streams_pass_in_pieces_of_any_size() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm");
    let builder = Vllama::with_fake();
    let replays = builder.path().to_owned();
    let names = [
        "chat-stream",
        "chat-stream-no-usage",
        "chat-stream-logprobs",
        "chat-stream-token-ids",
        "tools-required-stream",
        "tools-named-stream",
        "completion-stream",
        "completion-stream-logprobs",
    ];
    let recording = |name: &str| {
        let text = std::fs::read_to_string(directory.join(format!("{name}.response.txt"))).expect("a recording");
        text.replace("\r\n", "\n").split_once("\n\n").expect("a head and a body").1.trim_end().to_owned() + "\n\n"
    };
    for name in names {
        std::fs::write(replays.join(name), recording(name)).expect("a file to replay");
    }
    let vllama = builder.env("FAKE_VLLM_REPLAY_DIR", &replays.to_string_lossy()).start().await;
    for name in names {
        let expected = recording(name).replace("\"model\":\"smollm2:135m\"", &format!("\"model\":\"{ASKED}\""));
        for piece in [1, 7, 250, 100_000] {
            let options = json!({"stream": true, "stream_options": {"include_usage": true}});
            let body = chat(&format!("FAKE:replay {name} {piece}"), &options);
            assert_eq!(vllama.post(CHAT, &body).await.text(), expected, "{name} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn words_arrive_when_they_are_made_and_not_at_the_end() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "40").start().await;
    let answer = vllama.post(CHAT, &chat("FAKE:count 20", &json!({"stream": true}))).await;
    assert!(answer.pieces.len() >= 20, "{} pieces", answer.pieces.len());
    let (first, last) = (answer.pieces[0].after, answer.pieces[answer.pieces.len() - 1].after);
    assert!(first < Duration::from_millis(250) && last - first > Duration::from_millis(300), "{first:?} {last:?}");
}

#[tokio::test]
async fn completions_continue_a_prompt_to_its_end() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = json!({"model": ASKED, "prompt": "The capital of France is", "suffix": ""});
    let answer = vllama.post("/v1/completions", &body).await.json();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("text_completion"), &json!(ASKED)));
    assert_eq!(answer["choices"][0]["text"], " Paris.\n\nIt lies on the Seine.");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let sent = vllama.engine_request().await["body"].clone();
    assert_eq!(sent["prompt"], body["prompt"]);
    assert_eq!((&sent["max_tokens"], &sent["suffix"]), (&json!(8192), &Value::Null));
    let echo = json!({"model": ASKED, "prompt": "x", "echo": true, "max_tokens": 0});
    vllama.post("/v1/completions", &echo).await;
    assert_eq!(vllama.engine_request().await["body"]["max_tokens"], 0);
    body["max_tokens"] = json!(2);
    body["stream"] = json!(true);
    let answer = vllama.post("/v1/completions", &body).await;
    let events = events(&answer);
    assert!(events.iter().all(|event| event["model"] == ASKED), "{events:?}");
    assert_eq!(events.last().expect("events")["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_in_openais_shape() {
    let vllama = Vllama::with_fake().start().await;
    let (invalid, missing, other) = ("invalid_request_error", "not_found_error", "api_error");
    let long = "word ".repeat(9000);
    let ask = |more: Value| chat("hi", &more).to_string();
    for (body, status, kind, param, words) in [
        (String::new(), 400, invalid, Value::Null, "EOF"),
        ("{\"model\":".to_owned(), 400, invalid, Value::Null, "the body is no request: EOF while parsing"),
        (r#"{"messages":[]}"#.to_owned(), 400, invalid, Value::Null, "model is required"),
        (r#"{"model":"a","model":"b"}"#.to_owned(), 400, invalid, Value::Null, "it names the model twice"),
        (r#"{"model":"no such"}"#.to_owned(), 400, invalid, Value::Null, "invalid model name"),
        (r#"{"model":"nope"}"#.to_owned(), 404, missing, Value::Null, "model 'nope' not found"),
        (r#"{"model":"x:cloud"}"#.to_owned(), 403, invalid, Value::Null, "ollama cloud is disabled"),
        (format!(r#"{{"model":"{ASKED}"}}"#), 400, invalid, json!("body.messages"), "Field required"),
        (ask(json!({"messages": []})), 400, invalid, Value::Null, "at least one message"),
        (ask(json!({"temperature": "hot"})), 400, invalid, json!("body.temperature"), "valid number"),
        (ask(json!({"temperature": -1})), 400, invalid, json!("temperature"), "must be non-negative"),
        (chat(&long, &json!({})).to_string(), 400, invalid, json!("input_tokens"), "maximum context length is 8192"),
        (chat(&long, &json!({"stream": true})).to_string(), 400, invalid, json!("input_tokens"), "8192 tokens"),
        (ask(json!({"tools": [{}]})), 400, invalid, Value::Null, "does not support tools"),
        (
            ask(json!({"reasoning_effort": "high"})),
            400,
            invalid,
            Value::Null,
            "\"SmolLM2:135M\" does not support thinking",
        ),
        (chat("FAKE:http400", &json!({})).to_string(), 400, invalid, Value::Null, "the fake refuses"),
        (chat("FAKE:http500", &json!({})).to_string(), 500, other, Value::Null, "the fake failed"),
        (chat("FAKE:http503", &json!({"stream": true})).to_string(), 503, other, Value::Null, "server busy"),
    ] {
        let answer = vllama.client.request(&Request::new("POST", CHAT).body(body.clone())).await;
        let error = error(&answer);
        let shown = body.get(..200).unwrap_or(&body);
        assert_eq!(
            (answer.status(), &error["type"], &error["param"]),
            (status, &json!(kind), &param),
            "{shown} {error}"
        );
        assert!(error["message"].as_str().is_some_and(|message| message.contains(words)), "{shown} {error}");
        assert_eq!(error["code"], Value::Null);
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let answer = vllama.client.request(&Request::new("POST", CHAT).header("Content-Length", "99999999999")).await;
    assert_eq!((answer.status(), &error(&answer)["type"]), (413, &json!(invalid)));
}

#[tokio::test]
async fn an_engine_that_fails_is_told_by_status_before_the_first_event_and_in_the_stream_after_it() {
    let vllama = Vllama::with_fake().start().await;
    let stream = json!({"stream": true});
    let answer = vllama.post(CHAT, &chat("FAKE:error-midstream 0", &stream)).await;
    assert_eq!((answer.status(), &error(&answer)["type"]), (500, &json!("api_error")));
    for fault in ["error-midstream 3", "cut 3", "no-done 3"] {
        let events = events(&vllama.post(CHAT, &chat(&format!("FAKE:{fault}"), &stream)).await);
        assert_eq!(text(&events), "one two three", "{fault}");
        let error = &events.last().expect("events")["error"];
        assert_eq!((&error["type"], &error["code"]), (&json!("api_error"), &Value::Null), "{fault}");
        let message = error["message"].as_str().expect("a message");
        assert!(message.starts_with("model runner has unexpectedly stopped"), "{message}");
    }
    for fault in ["cut 3", "cut-head", "error-midstream"] {
        let answer = vllama.post(CHAT, &chat(&format!("FAKE:{fault}"), &json!({}))).await;
        assert_eq!((answer.status(), &error(&answer)["type"]), (500, &json!("api_error")), "{fault}");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_the_engine() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "20").start().await;
    for (path, stream) in [(CHAT, true), (CHAT, false), ("/v1/completions", true), ("/v1/responses", true)] {
        let mut body = chat("FAKE:count 1000", &json!({"stream": stream}));
        body["prompt"] = json!("FAKE:count 1000");
        body["input"] = json!("FAKE:count 1000");
        let mut exchange = vllama.client.send(&Request::post(path, &body)).await.expect("a request on its way");
        if stream {
            exchange.head().await.expect("a head");
            exchange.piece().await.expect("a beginning");
        }
        vllama.engine_runs(1).await;
        drop(exchange);
        within(Duration::from_secs(5), "the engine is free", async || {
            (vllama.engine_running().await == 0).then_some(())
        })
        .await;
    }
    vllama.stop().await;
}

#[tokio::test]
async fn a_model_is_kept_while_a_stream_runs_and_unloaded_after_it() {
    let vllama = Vllama::with_fake().env("OLLAMA_KEEP_ALIVE", "0").env("FAKE_VLLM_TOKEN_RATE", "100").start().await;
    let answer = vllama.post(CHAT, &chat("FAKE:count 30", &json!({"stream": true}))).await;
    assert!(text(&events(&answer)).ends_with(" 30"));
    vllama.engine_state("stopped").await;
}

#[tokio::test]
async fn nothing_else_of_the_engine_can_be_reached() {
    let vllama = Vllama::with_fake().start().await;
    for path in [
        "/ping",
        "/load",
        "/version",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/render",
        "/v1/completions/render",
        "/v1/models/",
        "/invocations",
        "/generative_scoring",
        "/v1/systemone",
        "/scale_elastic_ep",
        "/kv_event_sources",
        "/inference/v1/generate",
        "/tokenizer_info",
        "/sleep",
        "/wake_up",
        "/is_sleeping",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/server_info",
        "/pause",
        "/resume",
        "/abort_requests",
        "/start_profile",
        "/stop_profile",
        "/docs",
        "/openapi.json",
        "//v1/models",
        "/v1/../collective_rpc",
    ] {
        for method in ["GET", "POST"] {
            let answer = vllama.client.request(&Request::new(method, path).body("{}")).await;
            let known = [301, 307, 404, 405];
            assert!(known.contains(&answer.status()), "{method} {path}: {} {}", answer.status(), answer.text());
        }
    }
}

#[tokio::test]
async fn bodies_in_zstd_are_unpacked_and_other_packings_refused() {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    let vllama = Vllama::with_fake().start().await;
    let packed = compress_to_vec(chat("Hi", &json!({})).to_string().as_bytes(), CompressionLevel::Fastest);
    let request = Request::new("POST", CHAT).header("Content-Encoding", "zstd").body(packed.clone());
    let answer = vllama.client.request(&request).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "You said: Hi");
    let answer = vllama.client.request(&request.clone().header("Content-Encoding", "gzip")).await;
    assert_eq!((answer.status(), answer.header("accept-encoding")), (415, Some("zstd")));
    assert_eq!(error(&answer)["type"], "invalid_request_error");
    let answer = vllama.client.request(&request.clone().body(&packed[..packed.len() / 2])).await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    let bomb = compress_to_vec(&vec![b' '; 21 << 20][..], CompressionLevel::Fastest);
    assert!(bomb.len() < 1 << 20);
    let answer = vllama.client.request(&request.clone().body(bomb)).await;
    assert_eq!((answer.status(), &error(&answer)["type"]), (413, &json!("invalid_request_error")));
}
