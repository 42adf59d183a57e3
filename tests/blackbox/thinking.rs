//! Thoughts: asked for, refused, and told beside the answer (ollama-api §6.5).

use serde_json::{Value, json};

use crate::harness::Vllama;
use crate::harness::model::THINKER;
use crate::harness::vllama::chat;

fn thinker(message: &str) -> Value {
    json!({"model": THINKER, "messages": [{"role": "user", "content": message}]})
}

#[tokio::test]
async fn what_a_request_says_about_thinking_reaches_the_engine() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let on = json!({"enable_thinking": true, "thinking": true});
    let off = json!({"enable_thinking": false, "thinking": false});
    for (think, template, effort) in [
        (None, &on, Value::Null),
        (Some(Value::Null), &on, Value::Null),
        (Some(json!(true)), &on, Value::Null),
        (Some(json!(false)), &off, Value::Null),
        (Some(json!("low")), &on, json!("low")),
        (Some(json!("max")), &on, json!("max")),
    ] {
        let mut body = thinker("FAKE:count 3");
        if let Some(think) = &think {
            body["think"] = think.clone();
        }
        assert_eq!(vllama.post("/api/chat", &body).await.status(), 200);
        let sent = vllama.engine_request().await["body"].clone();
        assert_eq!((&sent["chat_template_kwargs"], &sent["reasoning_effort"]), (template, &effort), "{think:?}");
    }
}

#[tokio::test]
async fn wrong_wishes_are_refused_also_when_the_model_is_only_loaded() {
    let vllama = Vllama::with_fake_thinker().start().await;
    for messages in [json!([{"role": "user", "content": "Hi"}]), json!([])] {
        for (model, think, error) in [
            ("smollm2:135m", json!(true), "\"smollm2:135m\" does not support thinking"),
            ("smollm2:135m", json!("high"), "\"smollm2:135m\" does not support thinking"),
            (
                THINKER,
                json!("much"),
                "invalid think value: \"much\" (must be \"high\", \"medium\", \"low\", \"max\", true, or false)",
            ),
            (
                THINKER,
                json!(1),
                "think must be a boolean or string (\"high\", \"medium\", \"low\", \"max\", true, or false)",
            ),
        ] {
            let body = json!({"model": model, "messages": messages, "think": think});
            let answer = vllama.post("/api/chat", &body).await;
            assert_eq!((answer.status(), answer.error().as_str()), (400, error));
            let body = json!({"model": model, "prompt": if messages == json!([]) { "" } else { "Hi" }, "think": think});
            let answer = vllama.post("/api/generate", &body).await;
            assert_eq!((answer.status(), answer.error().as_str()), (400, error));
        }
    }
    let body = json!({"model": "thinker:1b", "think": false});
    assert_eq!(vllama.post("/api/generate", &body).await.json()["done_reason"], "load");
}

#[tokio::test]
async fn thoughts_come_in_a_field_of_their_own_on_both_routes() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let lines =
        vllama.post("/api/chat", &thinker("FAKE:replay written-thinking-both-in-a-chunk-stream 5")).await.lines();
    let told = |field: &str| -> String { lines.iter().filter_map(|line| line["message"][field].as_str()).collect() };
    assert_eq!((told("thinking").as_str(), told("content").as_str()), ("hm.", "Yes no"));
    assert!(lines.iter().all(|line| line["message"]["content"].is_string()), "{lines:?}");
    let body = json!({"model": THINKER, "prompt": "FAKE:replay written-thinking-both-in-a-chunk-stream 5"});
    let lines = vllama.post("/api/generate", &body).await.lines();
    let told = |field: &str| -> String { lines.iter().filter_map(|line| line[field].as_str()).collect() };
    assert_eq!((told("thinking").as_str(), told("response").as_str()), ("hm.", "Yes no"));
    assert!(lines.iter().all(|line| line["response"].is_string()), "{lines:?}");
}

#[tokio::test]
async fn thoughts_in_a_completion_with_a_context_are_parted_here() {
    let vllama = Vllama::with_fake_thinker().start().await;
    // No parser of the engine reads completions.
    let prompt = "FAKE:text <think>\nhm\n</think>\n\nYes";
    let body = json!({"model": THINKER, "prompt": prompt, "context": [1, 2], "stream": false});
    let answer = vllama.post("/api/generate", &body).await.json();
    assert_eq!((&answer["thinking"], &answer["response"]), (&json!("hm\n"), &json!("Yes")));
    let body = json!({"model": THINKER, "prompt": prompt, "raw": true, "stream": false});
    let answer = vllama.post("/api/generate", &body).await.json();
    assert_eq!(answer["response"], "<think>\nhm\n</think>\n\nYes", "a raw prompt is answered as it comes");
}

#[tokio::test]
async fn the_history_keeps_its_thoughts_and_loses_those_in_older_texts() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let mut body = thinker("a");
    body["messages"] = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>old</think>\n\nb", "thinking": ""},
        {"role": "assistant", "content": "c", "thinking": "why"},
        {"role": "user", "content": "FAKE:count 3"},
    ]);
    assert_eq!(vllama.post("/api/chat", &body).await.status(), 200);
    let sent = vllama.engine_request().await["body"]["messages"].clone();
    assert_eq!(sent[1], json!({"role": "assistant", "content": "b"}));
    assert_eq!(sent[2], json!({"role": "assistant", "content": "c", "reasoning": "why"}));
}

#[tokio::test]
async fn a_schema_keeps_the_order_of_its_properties_with_thinking_and_without() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let schema =
        r#"{"type":"object","properties":{"z":{"type":"integer"},"a":{"type":"string"}},"required":["z","a"]}"#;
    for (model, think) in [("smollm2:135m", Value::Null), (THINKER, json!(true)), (THINKER, json!(false))] {
        let mut body = chat("Hi", false);
        body["model"] = json!(model);
        body["think"] = think;
        body["format"] = serde_json::from_str(schema).expect("a schema");
        let answer = vllama.post("/api/chat", &body).await.json();
        assert_eq!(answer["message"]["content"], r#"{"z":30,"a":"Bob"}"#, "{model}");
    }
    for format in [json!("xml"), json!(7), json!([]), json!(true)] {
        let mut body = chat("Hi", true);
        body["format"] = format.clone();
        let answer = vllama.post("/api/chat", &body).await;
        assert_eq!(answer.status(), 500, "{format}");
        let expected =
            format!("invalid format: {:?}; expected \"json\" or a valid JSON Schema object", format.to_string());
        assert_eq!(answer.error(), expected);
    }
}
