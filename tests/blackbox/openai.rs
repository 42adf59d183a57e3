//! What Ollama's clients expect of OpenAI's routes: created models, models, responses.

use serde_json::{Value, json};

use crate::harness::{Request, Vllama};
use crate::passing::counted;

const CHAT: &str = "/v1/chat/completions";

async fn with_mario(vllama: &Vllama) {
    let order = json!({
        "model": "mario", "from": "smollm2:135m", "system": "You are Mario.", "stream": false,
        "parameters": {"temperature": 0.5, "num_predict": 7, "stop": ["zzz"]},
        "messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "Mario!"}],
    });
    assert_eq!(vllama.post("/api/create", &order).await.status(), 200);
}

#[tokio::test]
async fn a_created_model_brings_its_prompt_its_messages_and_its_parameters() {
    let vllama = Vllama::with_fake().start().await;
    with_mario(&vllama).await;
    let hello = json!({"role": "user", "content": "FAKE:count 20"});
    let answer = vllama.post(CHAT, &json!({"model": "mario", "messages": [hello]})).await.json();
    assert_eq!(
        (&answer["model"], &answer["choices"][0]["message"]["content"]),
        (&json!("mario"), &json!("1 2 3 4 5 6 7"))
    );
    let sent = vllama.engine_request().await["body"].clone();
    let expected = json!([
        {"role": "system", "content": "You are Mario."}, {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "Mario!"}, hello,
    ]);
    assert_eq!(sent["messages"], expected);
    assert_eq!((&sent["temperature"], &sent["stop"]), (&json!(0.5), &json!(["zzz"])));
    // The request has the last word.
    let system = json!({"role": "system", "content": "You are Luigi."});
    let body = json!({"model": "mario", "messages": [system, hello], "temperature": 1, "max_tokens": 2, "stop": "a"});
    let answer = vllama.post(CHAT, &body).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "1 2");
    let sent = vllama.engine_request().await["body"].clone();
    assert_eq!(sent["messages"].as_array().map(Vec::len), Some(4));
    assert_eq!(sent["messages"][2], system);
    assert_eq!((&sent["temperature"], &sent["stop"]), (&json!(1), &json!("a")));
    // A prompt to be continued is the client's alone.
    let body = json!({"model": "mario", "prompt": "FAKE:count 20"});
    let answer = vllama.post("/v1/completions", &body).await.json();
    assert_eq!(answer["usage"]["completion_tokens"], 7);
    assert_eq!(vllama.engine_request().await["body"]["prompt"], "FAKE:count 20");
}

#[tokio::test]
async fn limits_are_taken_as_ollama_takes_them() {
    let vllama = Vllama::with_fake().start().await;
    let ask = |more: Value| {
        let mut body = json!({"model": "smollm2:135m", "messages": [{"role": "user", "content": "FAKE:count 5"}]});
        body.as_object_mut().expect("members").extend(more.as_object().expect("members").clone());
        body
    };
    for (more, text) in [
        (json!({"max_completion_tokens": 2}), "1 2"),
        (json!({"max_tokens": 2}), "1 2"),
        (json!({"max_tokens": 1_000_000}), "1 2 3 4 5"),
        (json!({"max_tokens": -1}), "1 2 3 4 5"),
        (json!({"max_completion_tokens": 0, "tools": [], "tool_choice": "auto"}), "1 2 3 4 5"),
    ] {
        let answer = vllama.post(CHAT, &ask(more.clone())).await;
        assert_eq!(answer.json()["choices"][0]["message"]["content"], text, "{more}");
    }
}

#[tokio::test]
async fn models_are_listed_and_found_by_ollamas_names() {
    let vllama = Vllama::with_fake().with_model("llama3.2", "latest").start().await;
    let listed = vllama.get("/v1/models").await;
    assert_eq!((listed.status(), listed.header("content-type")), (200, Some("application/json")));
    let listed = listed.json();
    assert_eq!(listed["object"], "list");
    let mut ids: Vec<&str> =
        listed["data"].as_array().expect("models").iter().filter_map(|model| model["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["llama3.2:latest", "smollm2:135m"]);
    for (path, id) in [
        ("llama3.2", "llama3.2"),
        ("llama3.2:latest", "llama3.2:latest"),
        ("library/llama3.2", "library/llama3.2"),
        ("library%2Fllama3.2%3Alatest", "library/llama3.2:latest"),
        ("registry.ollama.ai/library/LLama3.2:latest", "registry.ollama.ai/library/LLama3.2:latest"),
    ] {
        let found = vllama.get(&format!("/v1/models/{path}")).await.json();
        assert!(found["created"].as_u64() > Some(0), "{found}");
        let expected = json!({"id": id, "object": "model", "created": found["created"], "owned_by": "library"});
        assert_eq!(found, expected);
    }
    for (path, status, text) in [
        ("nope", 404, "model 'nope:latest' not found"),
        ("hf.co/a/b", 404, "model 'hf.co/a/b:latest' not found"),
        ("a%20b", 400, "invalid model name"),
    ] {
        let answer = vllama.get(&format!("/v1/models/{path}")).await;
        assert_eq!((answer.status(), &answer.json()["error"]["message"]), (status, &json!(text)));
    }
    for path in ["/v1/models", "/v1/models/llama3.2"] {
        assert_eq!(vllama.client.request(&Request::new("HEAD", path)).await.status(), 200);
        assert_eq!(vllama.client.request(&Request::new("POST", path)).await.status(), 405);
        let redirected = vllama.get(&format!("{path}/")).await;
        assert_eq!((redirected.status(), redirected.header("location")), (301, Some(path)));
    }
}

#[tokio::test]
async fn responses_answer_and_stream() {
    let vllama = Vllama::with_fake().start().await;
    with_mario(&vllama).await;
    let mut body = json!({"model": "Mario", "input": "FAKE:count 3", "reasoning": {"effort": "medium"}, "store": true});
    let answer = vllama.post("/v1/responses", &body).await.json();
    assert_eq!(
        (&answer["object"], &answer["model"], &answer["status"]),
        (&json!("response"), &json!("Mario"), &json!("completed"))
    );
    assert_eq!(answer["output"][0]["content"][0]["text"], "1 2 3");
    let sent = vllama.engine_request().await["body"].clone();
    assert_eq!(sent["instructions"], "You are Mario.");
    assert_eq!(sent["input"][2], json!({"role": "user", "content": "FAKE:count 3"}));
    assert_eq!((&sent["max_output_tokens"], &sent["temperature"]), (&json!(7), &json!(0.5)));
    body["stream"] = json!(true);
    body["max_output_tokens"] = json!(1_000_000);
    let answer = vllama.post("/v1/responses", &body).await;
    assert_eq!(answer.status(), 200);
    let events = responses(&answer.text());
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("response.created", "response.completed"));
    for (number, (name, data)) in events.iter().enumerate() {
        assert_eq!((&data["type"], &data["sequence_number"]), (&json!(name), &json!(number)));
        assert!(data["response"].is_null() || data["response"]["model"] == "Mario", "{data}");
    }
    let text: String = events
        .iter()
        .filter(|(name, _)| name.ends_with("text.delta"))
        .filter_map(|(_, data)| data["delta"].as_str())
        .collect();
    assert_eq!(text, "1 2 3");
    counted(&vllama, "/v1/responses", 2).await;
}

/// Names and data of the events of a response.
fn responses(text: &str) -> Vec<(String, Value)> {
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').expect("two lines");
        let data = data.strip_prefix("data: ").expect("data");
        (name.strip_prefix("event: ").expect("a name").to_owned(), serde_json::from_str(data).expect("JSON"))
    };
    text.split_terminator("\n\n").map(event).collect()
}

#[tokio::test]
async fn a_response_that_breaks_off_ends_with_an_error_event() {
    let vllama = Vllama::with_fake().start().await;
    for fault in ["error-midstream 2", "cut 2", "no-done 2"] {
        let body = json!({"model": "smollm2:135m", "input": format!("FAKE:{fault}"), "stream": true});
        let events = responses(&vllama.post("/v1/responses", &body).await.text());
        let (name, data) = events.last().expect("events");
        assert_eq!((name.as_str(), &data["type"]), ("error", &json!("error")), "{fault}");
        assert_eq!(data["sequence_number"], events.len() - 1);
        assert!(
            data["message"].as_str().is_some_and(|text| text.starts_with("model runner has unexpectedly")),
            "{data}"
        );
    }
}

#[tokio::test]
async fn responses_are_not_kept_and_that_is_said_at_once() {
    let vllama = Vllama::with_fake().start().await;
    let body = json!({"model": "smollm2:135m", "input": "x", "previous_response_id": "resp_1"});
    for (request, param) in [
        (Request::new("GET", "/v1/responses/resp_1"), Value::Null),
        (Request::new("GET", "/v1/responses/resp_1?stream=true"), Value::Null),
        (Request::new("POST", "/v1/responses/resp_1/cancel"), Value::Null),
        (Request::post("/v1/responses", &body), json!("previous_response_id")),
    ] {
        let answer = vllama.client.request(&request).await;
        let message = "Response with id 'resp_1' not found: vllama does not keep responses; send the whole conversation in `input`";
        let error = json!({"message": message, "type": "not_found_error", "param": param, "code": null});
        assert_eq!((answer.status(), answer.json()), (404, json!({"error": error})));
    }
    let body = json!({"model": "smollm2:135m", "input": "x", "background": true});
    let answer = vllama.post("/v1/responses", &body).await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
}
