//! Several models on one machine, with the real engine: side by side, and made of one another. The group `tools` shows how they
//! take turns.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use sha2::Digest as _;

use crate::harness::{Request, Vllama, within};
use crate::shared::{Shared, answered, configure};
use crate::{Ground, LOAD, MODEL, Runner, embeddings};

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

pub(crate) fn run(runner: &mut Runner, ground: &Ground, shared: &mut Shared) {
    runner.test("the embedding model is imported beside the chat model", async { embeddings::import(ground) });
    let Some(vllama) = shared.vllama(runner, ground) else { return };
    runner.test("a chat model and an embedding model stay loaded side by side", side_by_side(vllama));
    runner.test("the package of Ollama chats and embeds in turns without a reload", in_turns(vllama));
    runner.test("a copy is served by the engine of its original", copied(vllama));
    runner.test("a made model brings its system prompt and parameters", made(vllama));
    runner.test("an adapter answers beside its base", adapter(vllama, ground));
    runner.test("deleted models are gone and the rest is served on", deleted(vllama));
}

async fn ask(vllama: &Vllama, model: &str) -> Value {
    ask_with(vllama, model, json!({"temperature": 0})).await
}

async fn ask_with(vllama: &Vllama, model: &str, options: Value) -> Value {
    let messages = json!([{"role": "user", "content": QUESTION}]);
    let body = json!({"model": model, "messages": messages, "stream": false, "options": options});
    answered(vllama, "/api/chat", &body).await
}

pub(crate) async fn embed(vllama: &Vllama) {
    let body = json!({"model": embeddings::MODEL, "input": "why is the sky blue?"});
    let answer = answered(vllama, "/api/embed", &body).await;
    assert_eq!(answer["prompt_eval_count"], 8);
    assert_eq!(answer["embeddings"][0].as_array().map(Vec::len), Some(384));
}

/// The names in `/api/ps`.
pub(crate) async fn loaded(vllama: &Vllama) -> BTreeSet<String> {
    let body = vllama.get("/api/ps").await.json();
    let models = body["models"].as_array().expect("a list of models");
    models.iter().map(|model| model["name"].as_str().expect("a name").to_owned()).collect()
}

/// Number of engines, as their sockets tell.
pub(crate) fn engines(vllama: &Vllama) -> usize {
    vllama.generations().len()
}

pub(crate) fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

async fn side_by_side(vllama: &Vllama) {
    configure(vllama, "").await;
    let begun = Instant::now();
    embed(vllama).await;
    println!("  the second engine answered after {:.1} s", begun.elapsed().as_secs_f32());
    for _ in 0..3 {
        assert_eq!(ask(vllama, MODEL).await["message"]["content"], ANSWER);
        embed(vllama).await;
    }
    assert_eq!(loaded(vllama).await, names(&[MODEL, "all-minilm:latest"]));
    assert_eq!(engines(vllama), 2);
    let body = vllama.get("/api/ps").await.json();
    for model in body["models"].as_array().expect("a list of models") {
        let size = model["size"].as_u64().expect("bytes");
        assert!((500 << 20..8 << 30).contains(&size), "{model}");
    }
}

async fn in_turns(vllama: &Vllama) {
    let Some(python) = std::env::var_os("VLLAMA_TEST_CLIENTS") else {
        println!(
            "skipped: the ollama package, since VLLAMA_TEST_CLIENTS names no Python that has it; `make test` sets it"
        );
        return;
    };
    let before = vllama.generations();
    let script = format!(
        "import ollama\nfor _ in range(5):\n\
         \x20   vector = ollama.embed(model='{}', input='why is the sky blue?')['embeddings'][0]\n\
         \x20   assert len(vector) == 384\n\
         \x20   answer = ollama.chat(model='{MODEL}', messages=[{{'role': 'user', 'content': '{QUESTION}'}}], options={{'temperature': 0}})\n\
         \x20   assert answer['message']['content'] == '{ANSWER}', answer\n",
        embeddings::MODEL
    );
    let address = vllama.address.to_string();
    let run = move || Command::new(python).args(["-c", &script]).env("OLLAMA_HOST", address).status();
    assert!(tokio::task::spawn_blocking(run).await.unwrap().unwrap().success());
    assert_eq!(vllama.generations(), before, "an engine was started again");
}

async fn copied(vllama: &Vllama) {
    let answer = vllama.post("/api/copy", &json!({"source": MODEL, "destination": "gpt-3.5-turbo"})).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let before = vllama.generations();
    assert_eq!(ask(vllama, "gpt-3.5-turbo").await["message"]["content"], ANSWER);
    assert_eq!(vllama.generations(), before, "a copy has no engine of its own");
    // The engine goes by the name it was last asked by.
    assert!(loaded(vllama).await.contains("gpt-3.5-turbo:latest"));
}

async fn made(vllama: &Vllama) {
    let before = vllama.generations();
    let body = json!({
        "model": "brief", "from": MODEL, "stream": false, "system": "You are a helpful assistant who likes the sea.",
        "parameters": {"num_predict": 3, "temperature": 0},
    });
    let answer = vllama.post("/api/create", &body).await;
    assert_eq!((answer.status(), answer.json()), (200, json!({"status": "success"})));
    let plain = ask(vllama, MODEL).await;
    let brief = ask(vllama, "brief").await;
    assert_eq!((&brief["eval_count"], &brief["done_reason"]), (&json!(3), &json!("length")));
    // The template has a system prompt of its own where none is given, of another length.
    assert_ne!(brief["prompt_eval_count"], plain["prompt_eval_count"]);
    assert_eq!(vllama.generations(), before, "a system prompt needs no engine of its own");
}

/// A LoRA adapter of rank 4 with weights large enough to change what the model says, from a fixed seed.
const ADAPTER: &str = r#"
import json, sys, torch
from safetensors.torch import save_file
torch.manual_seed(7)
weights = {}
for layer in range(30):
    for name, out in (("q_proj", 576), ("v_proj", 192)):
        stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
        weights[f"{stem}.lora_A.weight"] = torch.randn(4, 576) * 0.3
        weights[f"{stem}.lora_B.weight"] = torch.randn(out, 4) * 0.3
save_file(weights, sys.argv[1] + "/adapter_model.safetensors")
config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none",
          "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "smollm2", "inference_mode": True}
json.dump(config, open(sys.argv[1] + "/adapter_config.json", "w"))
"#;

pub(crate) async fn upload(vllama: &Vllama, bytes: &[u8]) -> String {
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha256:{hex}");
    let answer = vllama.client.request(&Request::new("POST", &format!("/api/blobs/{digest}")).body(bytes)).await;
    assert!([200, 201].contains(&answer.status()), "{}", answer.text());
    digest
}

async fn adapter(vllama: &Vllama, ground: &Ground) {
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new(ground.venv.join("bin/python")).args(["-c", ADAPTER]).arg(directory.path()).status();
    assert!(status.unwrap().success(), "the adapter is made");
    let mut adapters = serde_json::Map::new();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let digest = upload(vllama, &std::fs::read(directory.path().join(name)).unwrap()).await;
        adapters.insert(name.to_owned(), digest.into());
    }
    let body = json!({"model": "adapted", "from": MODEL, "adapters": adapters, "stream": false});
    let answer = vllama.post("/api/create", &body).await;
    assert_eq!((answer.status(), answer.json()), (200, json!({"status": "success"})));
    let begun = Instant::now();
    // A model with a random adapter does not know when to end.
    let adapted = ask_with(vllama, "adapted", json!({"temperature": 0, "num_predict": 20})).await;
    println!("  the adapted model answered after {:.1} s", begun.elapsed().as_secs_f32());
    let (adapted, base) =
        (adapted["message"]["content"].clone(), ask(vllama, MODEL).await["message"]["content"].clone());
    assert_eq!(base, ANSWER, "the base is as it was");
    assert_ne!(adapted, base, "the adapter changes the answer");
}

async fn deleted(vllama: &Vllama) {
    for name in ["gpt-3.5-turbo", "brief", "adapted"] {
        let request = Request::new("DELETE", "/api/delete").body(json!({"model": name}).to_string());
        let answer = vllama.client.request(&request).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let gone = vllama.post("/api/chat", &json!({"model": name, "messages": []})).await;
        assert_eq!(gone.status(), 404, "{name}");
    }
    within(LOAD, "the engine of the deleted adapter is gone", async || (engines(vllama) == 2).then_some(())).await;
    assert_eq!(ask(vllama, MODEL).await["message"]["content"], ANSWER);
}
