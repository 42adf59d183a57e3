//! Tests of what becomes of a request.

use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::model::{Capability, Card, Manifest, ModelName, Overlay};

fn model(capabilities: &[Capability], overlay: Overlay) -> Installed {
    Installed {
        name: ModelName::parse("m").expect("a name"),
        directory: PathBuf::new(),
        adapter: None,
        modified_at: SystemTime::UNIX_EPOCH,
        manifest: Manifest { overlay, ..Manifest::default() },
        card: Card { family: "qwen3".into(), capabilities: capabilities.to_vec(), ..Card::default() },
    }
}

fn shaped_for(body: &str, model: &Installed, route: Route) -> Result<String, ApiError> {
    let mut request = Request::of(Bytes::from(body.to_owned()))?;
    check(&request, route)?;
    shape(&mut request, model, route)?;
    if route == Route::Messages {
        limit(&mut request, 8192);
    }
    Ok(String::from_utf8(request.spliced("m:latest").to_vec()).expect("text"))
}

fn shaped(body: &str) -> Result<String, ApiError> {
    shaped_for(body, &model(&[Capability::Completion], Overlay::default()), Route::Messages)
}

#[test]
fn a_request_without_trouble_passes_as_it_came() {
    let body =
        r#" {"max_tokens" : 20, "messages":[ {"role":"user","content":"\u00e9"} ],"model":"m:latest","new":[1.50] } "#;
    assert_eq!(shaped(body).as_deref(), Ok(body));
}

#[test]
fn what_a_request_must_say_is_asked_for_in_ollamas_words() {
    let tokens = "max_tokens is required and must be positive";
    let messages = "messages is required";
    for (body, text) in [
        (r#"{"max_tokens":1,"messages":[{}]}"#, "model is required"),
        (r#"{"model":"m","messages":[{}]}"#, tokens),
        (r#"{"model":"m","max_tokens":null,"messages":[{}]}"#, tokens),
        (r#"{"model":"m","max_tokens":0,"messages":[{}]}"#, tokens),
        (r#"{"model":"m","max_tokens":-3,"messages":[{}]}"#, tokens),
        (r#"{"model":"m","max_tokens":1}"#, messages),
        (r#"{"model":"m","max_tokens":1,"messages":null}"#, messages),
        (r#"{"model":"m","max_tokens":1,"messages":[]}"#, messages),
        (r#"{"model":"m","max_tokens":1,"messages":{}}"#, "messages: expected a list"),
    ] {
        assert_eq!(shaped(body).expect_err(body).to_string(), text, "{body}");
    }
    let count = r#"{"model":"m:latest","messages":[{"role":"user","content":"x"}]}"#;
    let model = model(&[Capability::Completion], Overlay::default());
    assert_eq!(shaped_for(count, &model, Route::CountTokens).as_deref(), Ok(count));
}

#[test]
fn more_tokens_than_the_engine_takes_become_as_many_as_it_takes() {
    for (asked, told) in [("32000", "8192"), ("8193", "8192"), ("8192", "8192"), ("1", "1"), ("1.5", "1.5")] {
        let body = |tokens| format!(r#"{{"model":"m:latest","max_tokens":{tokens},"messages":[{{}}]}}"#);
        assert_eq!(shaped(&body(asked)), Ok(body(told)));
    }
}

#[test]
fn thinking_of_a_model_that_cannot_is_dropped() {
    let body =
        r#"{"model":"m:latest","thinking":{"type":"enabled","budget_tokens":31999},"max_tokens":1,"messages":[{}]}"#;
    let told = r#"{"model":"m:latest","thinking":null,"max_tokens":1,"messages":[{}]}"#;
    assert_eq!(shaped(body).as_deref(), Ok(told));
    let thinker = model(&[Capability::Completion, Capability::Thinking], Overlay::default());
    let told = shaped_for(body, &thinker, Route::Messages).expect("a request");
    assert!(told.starts_with(r#"{"chat_template_kwargs":{"enable_thinking":true,"thinking":true},"model""#), "{told}");
    assert!(told.contains(r#""thinking":null,"#), "{told}");
}

#[test]
fn tools_need_a_model_that_knows_them() {
    let body = |choice: &str| {
        format!(
            r#"{{"model":"m:latest","max_tokens":1,{choice}"tools":[{{"name":"f","input_schema":{{}}}}],"messages":[{{}}]}}"#
        )
    };
    for choice in ["", r#""tool_choice":{"type":"auto"},"#, r#""tool_choice":{"type":"any"},"#] {
        let error = shaped(&body(choice)).expect_err("a refusal");
        assert_eq!(error.to_string(), "registry.ollama.ai/library/m:latest does not support tools");
    }
    let none = r#""tool_choice":{"type":"none"},"#;
    assert_eq!(shaped(&body(none)), Ok(body(none)));
    let knows = model(&[Capability::Completion, Capability::Tools], Overlay::default());
    assert_eq!(shaped_for(&body(""), &knows, Route::Messages), Ok(body("")));
    let none = r#"{"model":"m:latest","max_tokens":1,"tools":[],"tool_choice":[],"messages":[{}]}"#;
    assert_eq!(shaped(none), Ok(none.replace("[],", "null,")));
    let choice = r#"{"model":"m:latest","max_tokens":1,"tool_choice":{"type":"auto"},"messages":[{}]}"#;
    assert_eq!(shaped(choice), Ok(choice.replace(r#"{"type":"auto"}"#, "null")));
}

#[test]
fn what_a_model_was_made_with_holds_where_the_request_is_silent() {
    let parameters = json!({"temperature": 0.5, "top_k": 3, "stop": ["x"], "seed": 7, "num_predict": 9});
    let overlay = Overlay {
        system: "You are Mario.".into(),
        parameters: parameters.as_object().expect("members").clone(),
        messages: vec![json!({"role": "user", "content": "Hi"}), json!({"role": "tool", "content": "x"})],
        ..Overlay::default()
    };
    let mario = model(&[Capability::Completion], overlay);
    let silent = r#"{"model":"m:latest","max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#;
    let told = r#"{"system":"You are Mario.","temperature":0.5,"top_k":3,"stop_sequences":["x"],"model":"m:latest","max_tokens":1,"messages":[{"role":"user","content":"Hi"},{"role":"user","content":"x"}]}"#;
    assert_eq!(shaped_for(silent, &mario, Route::Messages).as_deref(), Ok(told));
    let told = r#"{"system":"You are Mario.","model":"m:latest","max_tokens":1,"messages":[{"role":"user","content":"Hi"},{"role":"user","content":"x"}]}"#;
    assert_eq!(shaped_for(silent, &mario, Route::CountTokens).as_deref(), Ok(told));
    let own = r#"{"model":"m:latest","system":[{"type":"text","text":"Be brief."}],"temperature":0,"top_k":1,"stop_sequences":[],"max_tokens":1,"messages":[]}"#;
    let own = own.replace("[]}", r#"[{"role":"user","content":"Hi"}]}"#);
    let told = shaped_for(&own, &mario, Route::Messages).expect("a request");
    assert_eq!(told, own.replace(r#""messages":["#, r#""messages":[{"role":"user","content":"Hi"},"#));
    let null = r#"{"model":"m:latest","system":null,"temperature":null,"top_k":1,"stop_sequences":[],"max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#;
    let told = shaped_for(null, &mario, Route::Messages).expect("a request");
    assert!(told.contains(r#""system":"You are Mario.","temperature":0.5,"top_k":1,"stop_sequences":[],"#), "{told}");
    let inside = r#"{"model":"m:latest","max_tokens":1,"messages":[{"role":"system","content":"Be brief."}]}"#;
    assert!(!shaped_for(inside, &mario, Route::Messages).expect("a request").contains("Mario"));
}
