//! Models that see, hear, think, fill gaps and judge, with the real engine: tiny ones that `tests/support/kinds.py`
//! makes, of the real families, whose words are known because they are written into their weights.
//!
//! A vllama of their own serves all of them, one at a time, before the one that the other groups share.

mod filling;
mod hearing;
mod judging;
mod sight;
mod thinking;

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Answer, Request, Vllama, checkpoint};
use crate::leftovers::leftovers;
use crate::shared::Shared;
use crate::{Ground, LOAD, Runner};

pub(crate) fn run(runner: &mut Runner, ground: &Ground, _: &mut Shared) {
    let start = async {
        let builder = Vllama::with_real(&ground.venv, &ground.models, &ground.state).arguments(&["serve", "--json"]);
        builder.env("OLLAMA_MAX_LOADED_MODELS", "1").env("VLLAMA_MIN_RESIDENCE", "0").start_listening().await
    };
    let Some(vllama) = runner.test("a vllama for models of other kinds listens", start) else { return };
    sight::run(runner, ground, &vllama);
    thinking::run(runner, ground, &vllama);
    filling::run(runner, &vllama);
    hearing::run(runner, ground, &vllama);
    judging::run(runner, ground, &vllama);
    runner.test("models of other kinds leave nothing behind", async move {
        vllama.stop().await;
        assert_eq!(leftovers(), [] as [String; 0], "shared memory left behind");
    });
}

/// Makes a checkpoint and gives its directory.
fn made(ground: &Ground, kind: &str) -> PathBuf {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kinds").join(kind);
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(place.parent().expect("a directory")).expect("made");
    checkpoint::make(&ground.venv.join("bin/python"), kind, &place);
    place
}

/// Makes a checkpoint and imports it under `name`.
fn import(ground: &Ground, kind: &str, name: &str) {
    let directory = made(ground, kind);
    let status = Command::new(env!("CARGO_BIN_EXE_vllama"))
        .args(["import", "--models-dir"])
        .args([ground.models.as_os_str(), directory.as_os_str(), name.as_ref()])
        .status()
        .expect("vllama runs");
    assert!(status.success(), "{name} is imported");
}

/// The answer of a request before which a model may have to be loaded.
async fn asked(vllama: &Vllama, request: &Request) -> Answer {
    let mut exchange = vllama.client.send(request).await.expect("vllama answers");
    exchange.patience = LOAD;
    exchange.answer().await.expect("an answer")
}

/// Loads a model.
async fn load(vllama: &Vllama, name: &str) {
    let answer = asked(vllama, &Request::post("/api/generate", &json!({"model": name}))).await;
    assert_eq!((answer.status(), &answer.json()["done_reason"]), (200, &json!("load")), "{}", answer.text());
}

async fn capabilities(vllama: &Vllama, name: &str) -> Value {
    vllama.post("/api/show", &json!({"model": name})).await.json()["capabilities"].clone()
}

/// One message of a user, whole, at temperature 0.
fn chat(model: &str, message: Value) -> Value {
    json!({"model": model, "messages": [message], "stream": false, "options": {"temperature": 0, "num_predict": 30}})
}

/// The data of server-sent events, without the last one that says so.
fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}
