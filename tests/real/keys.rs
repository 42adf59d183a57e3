//! Keys with real clients, and an engine that goes by their priorities; its context has to be made to fit, too.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::harness::vllama::Builder;
use crate::harness::{Request, Vllama};
use crate::shared::Shared;
use crate::{Ground, MODEL, Runner, changes, clients};

pub(crate) fn run(runner: &mut Runner, ground: &Ground, _: &mut Shared) {
    let place = tempfile::tempdir().unwrap();
    if let Some(python) = clients::python() {
        with_clients(runner, &python, &place.path().join("fake.json"));
    }
    let file = place.path().join("real.json");
    let builder = Vllama::with_real(&ground.venv, &ground.models, &ground.state);
    let builder = changes::that_does_not_fit(builder.env("VLLAMA_KEYS", &file.to_string_lossy()), ground);
    let all = ["--scope", "infer", "--scope", "manage", "--scope", "metrics"];
    let operator = add(&builder, "operator", &all);
    let keys = [add(&builder, "first", &["--priority", "-5"]), add(&builder, "plain", &[])];
    let start = builder.start_listening();
    let Some(vllama) = runner.test("a vllama with an engine that goes by priorities listens", start) else { return };
    let fit = changes::made_to_fit(&vllama, ground, &operator);
    if runner.test("a context that does not fit is made to fit, and said so", fit).is_none() {
        return;
    }
    runner.test("requests of keys with and without priorities are answered in every dialect", async {
        for key in &keys {
            answered(&vllama, key).await;
        }
    });
    runner.test("the engine is there for those with a key alone", async {
        assert_eq!(vllama.chat("hi").await.status(), 401);
        vllama.stop().await;
    });
}

/// `vllama key add`.
fn add(builder: &Builder, name: &str, more: &[&str]) -> String {
    let arguments: Vec<_> = ["key", "add", name].into_iter().chain(more.iter().copied()).collect();
    let output = builder.command(&arguments).stdout(Stdio::piped()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What clients do with keys, and make of refusals.
fn with_clients(runner: &mut Runner, python: &Path, file: &Path) {
    let builder = Vllama::with_fake().env("VLLAMA_KEYS", &file.to_string_lossy());
    let given = json!({
        "good": add(&builder, "good", &[]),
        "once": add(&builder, "once", &["--requests-per-minute", "1"]),
        "other": add(&builder, "other", &["--model", "other"]),
    });
    let Some(vllama) = runner.test("a vllama with keys gets ready", builder.start()) else { return };
    for file in clients::files(&clients::directory().join("keyed")) {
        runner.test(&format!("clients: {}", clients::name(&file)), async {
            let mut command = clients::command(python, &file, &vllama);
            assert!(command.env("VLLAMA_KEYS_GIVEN", given.to_string()).status().unwrap().success());
        });
    }
}

/// Asks in every dialect, whole and as a stream, with a priority in the body that is not the client's to choose.
async fn answered(vllama: &Vllama, key: &str) {
    let turns = json!([{"role": "user", "content": "What is the capital of France?"}]);
    let short = json!({"num_predict": 8});
    for (path, mut body) in [
        ("/api/chat", json!({"messages": turns, "options": short})),
        ("/api/generate", json!({"prompt": "The capital of France is", "options": short})),
        ("/v1/chat/completions", json!({"messages": turns, "max_tokens": 8})),
        ("/v1/completions", json!({"prompt": "The capital of France is", "max_tokens": 8})),
        ("/v1/responses", json!({"input": "What is the capital of France?", "max_output_tokens": 8})),
        ("/v1/messages", json!({"messages": turns, "max_tokens": 8})),
    ] {
        body["model"] = json!(MODEL);
        body["priority"] = json!(-1000);
        for stream in [false, true] {
            body["stream"] = json!(stream);
            let request = Request::post(path, &body).header("Authorization", &format!("Bearer {key}"));
            let answer = vllama.client.request(&request).await;
            assert_eq!(answer.status(), 200, "{path} {body}: {}", answer.text());
        }
    }
}
