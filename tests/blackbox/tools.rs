//! Functions that models call, images they read, and what comes with both (ollama-api §3.3, §3.4, §6.8, §6.11).

use serde_json::{Value, json};

use crate::harness::model::THINKER;
use crate::harness::{Request, Vllama, eventually};

fn weather() -> Value {
    // Names in an order that sorting would change, and words that Ollama itself does not know.
    json!([{"type": "function", "function": {"name": "get_weather", "parameters": {
        "type": "object", "required": ["city"], "$defs": {"d": {"const": 1}},
        "properties": {"zone": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "city": {"type": "string", "minLength": 1}},
    }}}])
}

fn ask(message: &str) -> Value {
    json!({"model": THINKER, "messages": [{"role": "user", "content": message}], "tools": weather()})
}

#[tokio::test]
async fn a_model_with_tools_thoughts_and_eyes_says_so() {
    let vllama = Vllama::with_fake_thinker().start_listening().await;
    let shown = vllama.post("/api/show", &json!({"model": THINKER})).await.json();
    assert_eq!(shown["capabilities"], json!(["completion", "vision", "tools", "thinking"]));
}

#[tokio::test]
async fn parsers_that_the_operator_chose_decide_what_a_model_can_do() {
    let builder = Vllama::with_fake_thinker();
    let file = builder.path().join("vllama.toml");
    let text = "[models.\"thinker:1b\"]\ntool_parser = \"none\"\nreasoning_parser = \"none\"\n\
        [models.\"smollm2:135m\"]\ntool_parser = \"pythonic\"\n";
    std::fs::write(&file, text).expect("written");
    let vllama = builder.env("VLLAMA_CONFIG", &file.to_string_lossy()).start().await;
    let can =
        async |model: &str| vllama.post("/api/show", &json!({"model": model})).await.json()["capabilities"].clone();
    assert_eq!(can(THINKER).await, json!(["completion", "vision", "thinking"]));
    assert_eq!(can("smollm2:135m").await, json!(["completion", "tools"]));
    let answer = vllama.post("/api/chat", &ask("Hi")).await;
    assert_eq!(answer.error(), "registry.ollama.ai/library/thinker:1b does not support tools");
    // What the engine does not read is read here.
    let messages = json!([{"role": "user", "content": "FAKE:replay written-tags-stream 3"}]);
    let lines = vllama.post("/api/chat", &json!({"model": THINKER, "messages": messages})).await.lines();
    let told = |field: &str| -> String { lines.iter().filter_map(|line| line["message"][field].as_str()).collect() };
    assert_eq!((told("thinking").as_str(), told("content").as_str()), ("hm ", "Yes & so on"));
}

#[tokio::test]
async fn a_round_trip_of_calls_reaches_the_engine_in_its_words() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let mut body = ask("FAKE:count 3");
    // As clients send it that know no ids, with an object, a string, and nothing for arguments.
    let call = |name: &str, arguments: Value| json!({"function": {"name": name, "arguments": arguments}});
    body["messages"] = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": null, "tool_calls": [
            call("get_weather", json!({"zone": "x", "city": "Paris"})), call("now", json!("{\"b\": 1}")), call("now", Value::Null),
        ]},
        {"role": "tool", "content": "12:00", "tool_name": "now"},
        {"role": "tool", "content": "18 degrees"},
        {"role": "user", "content": "FAKE:count 3"},
    ]);
    assert_eq!(vllama.post("/api/chat", &body).await.status(), 200);
    let sent = vllama.engine_request().await["body"].clone();
    assert_eq!(sent["tools"].to_string(), weather().to_string(), "schemas pass untouched");
    let calls = &sent["messages"][1]["tool_calls"];
    assert_eq!(sent["messages"][1]["content"], "");
    assert_eq!(calls[0]["function"]["arguments"], r#"{"zone":"x","city":"Paris"}"#, "the order of keys is kept");
    assert_eq!(calls[1]["function"]["arguments"], r#"{"b":1}"#);
    assert_eq!(calls[2]["function"]["arguments"], "{}");
    assert_eq!(sent["messages"][2]["tool_call_id"], calls[1]["id"], "by name");
    assert_eq!(sent["messages"][3]["tool_call_id"], calls[0]["id"], "by order");
    assert_eq!(sent["messages"][3]["name"], "get_weather");
}

#[tokio::test]
async fn parallel_calls_arrive_whole_and_once_before_the_last_line() {
    let vllama = Vllama::with_fake_thinker().start().await;
    for piece in [1, 37, 100_000] {
        let message = format!("FAKE:replay written-tools-parallel-stream {piece}");
        let lines = vllama.post("/api/chat", &ask(&message)).await.lines();
        let calls: Vec<&Value> =
            lines.iter().filter_map(|line| line["message"]["tool_calls"].as_array()).flatten().collect();
        let names: Vec<&str> = calls.iter().filter_map(|call| call["function"]["name"].as_str()).collect();
        assert_eq!(names, ["get_weather", "get_time", "now"]);
        assert_eq!(calls[0]["function"]["arguments"], json!({"city": "Paris", "deg": "é"}));
        assert_eq!(calls[0]["function"]["index"], 0);
        assert!(calls[0]["id"].as_str().is_some_and(|id| id.starts_with("call_")), "{calls:?}");
        let (last, before) = lines.split_last().expect("lines");
        assert!(before.iter().all(|line| line["done"] == false), "{lines:?}");
        assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
        assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    }
}

#[tokio::test]
async fn a_call_that_is_no_json_is_told_and_nothing_breaks() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let lines = vllama.post("/api/chat", &ask("FAKE:replay written-tools-broken-stream 9")).await.lines();
    let arguments = &lines[0]["message"]["tool_calls"][0]["function"]["arguments"];
    assert_eq!(arguments, &json!({"arguments": "{\"city\": "}));
    assert_eq!(lines[1]["done_reason"], "stop");
}

#[tokio::test]
async fn a_whole_answer_holds_its_calls() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let mut body = ask("FAKE:replay tools-required 100");
    body["stream"] = json!(false);
    let answer = vllama.post("/api/chat", &body).await.json();
    assert_eq!(answer["message"]["tool_calls"].as_array().map(Vec::len), Some(1), "{answer}");
    assert!(answer["message"]["tool_calls"][0]["function"]["arguments"].is_object(), "{answer}");
    assert_eq!((&answer["message"]["content"], &answer["done_reason"]), (&json!(""), &json!("stop")));
}

#[tokio::test]
async fn probabilities_are_complete_also_where_thoughts_and_calls_hide_the_text() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let mut body = ask("FAKE:replay written-thinking-tools-logprobs-stream 50");
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(2);
    let lines = vllama.post("/api/chat", &body).await.lines();
    let entries = lines.iter().filter_map(|line| line["logprobs"].as_array()).flatten().count();
    assert_eq!(Some(entries as u64), lines.last().expect("lines")["eval_count"].as_u64(), "{lines:?}");
}

#[tokio::test]
async fn tools_that_cannot_be_used_are_refused_before_the_engine_is_asked() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let mut body = ask("Hi");
    body["model"] = json!("smollm2:135m");
    let answer = vllama.post("/api/chat", &body).await;
    let error = "registry.ollama.ai/library/smollm2:135m does not support tools";
    assert_eq!((answer.status(), answer.error().as_str()), (400, error));
    for tools in [json!({}), json!("x"), json!([1]), json!([null])] {
        body["tools"] = tools.clone();
        assert_eq!(vllama.post("/api/chat", &body).await.status(), 400, "{tools}");
    }
    for tools in [json!([]), Value::Null] {
        body["model"] = json!(THINKER);
        body["tools"] = tools.clone();
        assert_eq!(vllama.post("/api/chat", &body).await.status(), 200, "{tools}");
        assert!(vllama.engine_request().await["body"].get("tools").is_none());
    }
    for arguments in [json!([1]), json!("x"), json!(3)] {
        body["messages"] =
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]);
        assert_eq!(vllama.post("/api/chat", &body).await.status(), 400, "{arguments}");
    }
}

#[tokio::test]
async fn images_and_sounds_reach_the_engine_by_what_they_are() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let image = |kind: &str, base64: &str| json!({"type": "image_url", "image_url": {"url": format!("data:image/{kind};base64,{base64}")}});
    for (given, part) in [
        ("iVBORw0KGgoAAAANSUhEUg==", image("png", "iVBORw0KGgoAAAANSUhEUg==")),
        ("/9j/4AAQSkZJRgABAQ==", image("jpeg", "/9j/4AAQSkZJRgABAQ==")),
        ("R0lGODlhAQAB\r\nAA==\n", image("gif", "R0lGODlhAQABAA==")),
        ("UklGRiQAAABXRUJQVlA4", image("webp", "UklGRiQAAABXRUJQVlA4")),
        ("data:image/jpeg;base64,iVBORw0KGgo=", image("png", "iVBORw0KGgo=")),
        (
            "UklGRiQAAABXQVZFZm10",
            json!({"type": "input_audio", "input_audio": {"data": "UklGRiQAAABXQVZFZm10", "format": "wav"}}),
        ),
        ("SUQzBAAAAAAA", json!({"type": "input_audio", "input_audio": {"data": "SUQzBAAAAAAA", "format": "mp3"}})),
    ] {
        let messages = json!([{"role": "user", "content": "FAKE:count 3", "images": [given]}]);
        let answer = vllama.post("/api/chat", &json!({"model": THINKER, "messages": messages})).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let sent = vllama.engine_request().await["body"]["messages"][0]["content"].clone();
        assert_eq!(sent, json!([{"type": "text", "text": "FAKE:count 3"}, part]), "the text first");
        let body = json!({"model": THINKER, "prompt": "FAKE:count 3", "images": [given]});
        assert_eq!(vllama.post("/api/generate", &body).await.status(), 200);
    }
    for images in [Value::Null, json!([])] {
        let messages = json!([{"role": "user", "content": "FAKE:count 3", "images": images}]);
        vllama.post("/api/chat", &json!({"model": THINKER, "messages": messages})).await;
        assert_eq!(vllama.engine_request().await["body"]["messages"][0]["content"], "FAKE:count 3", "{images}");
    }
}

#[tokio::test]
async fn an_image_for_a_model_that_reads_none_is_a_400_that_says_what_to_do() {
    let vllama = Vllama::with_fake().start().await;
    for stream in [true, false] {
        let body = json!({"model": "smollm2:135m", "prompt": "what?", "images": ["iVBORw0KGgo="], "stream": stream});
        let answer = vllama.post("/api/generate", &body).await;
        assert_eq!(answer.status(), 400, "{}", answer.text());
        assert!(answer.error().contains("does not support images"), "{}", answer.error());
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_answer_is_a_499_in_the_log() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "20").start().await;
    for (id, stream) in [("leaves-a-stream", true), ("leaves-a-wait", false)] {
        let body = crate::harness::vllama::chat("FAKE:count 1000", stream);
        let request = Request::post("/api/chat", &body).header("X-Request-Id", id);
        let exchange = vllama.client.send(&request).await.expect("a request on its way");
        vllama.engine_runs(1).await;
        drop(exchange);
        let is_it = |line: &Value| line["request_id"] == id && line["status"].is_u64();
        let line = eventually("the request is logged", async || vllama.log().into_iter().find(is_it)).await;
        assert_eq!(line["status"], 499, "{line}");
    }
}

#[tokio::test]
async fn keys_are_read_in_any_case() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let body = r#"{"MODEL":"thinker:1b","Messages":[{"ROLE":"user","Content":"FAKE:count 3","Images":null}],"Stream":false,"Think":false}"#;
    let answer = vllama.client.request(&Request::new("POST", "/api/chat").body(body)).await.json();
    assert_eq!(answer["message"]["content"], "1 2 3");
    assert_eq!(vllama.engine_request().await["body"]["chat_template_kwargs"]["thinking"], false);
}
