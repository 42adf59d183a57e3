//! Calls and thoughts of the real engine. A model of this size makes neither by itself, so a checkpoint of its own brings a
//! template with examples: three calls where there are tools, three thoughts where it is to think, and the model goes on in
//! kind. Its tokenizer has no tokens for thoughts, so no parser of vLLM reads them. It has marks for gaps in a text, too.
//!
//! There is room for one model here, so that loading this one and then the chat model shows how models take turns.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::Vllama;
use crate::shared::{self, Shared};
use crate::{Ground, MODEL, Runner, clients, embeddings, models};

const CALLER: &str = "caller:135m";

const TEMPLATE: &str = r#"{%- if tools %}
{{- '<|im_start|>system\nYou call functions. When a question needs one, you answer with nothing but the call.\n# Tools\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\n' }}{%- endfor %}
{{- 'A call is written like this:\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>\n' }}
{%- for city in ['Rome', 'Berlin', 'Madrid'] %}
{{- '<|im_start|>user\nWhat is the weather in ' + city + '?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "' + city + '"}}\n</tool_call><|im_end|>\n' }}
{%- endfor %}
{%- elif enable_thinking %}
{%- for number in [1, 2, 3] %}
{{- '<|im_start|>user\nWhat is ' ~ number ~ ' + ' ~ number ~ '?<|im_end|>\n<|im_start|>assistant\n<think>\nI add the numbers.\n</think>\n\n' ~ (number * 2) ~ '<|im_end|>\n' }}
{%- endfor %}
{%- endif %}
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls or [] %}{{- '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{%- endfor %}
{{- '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"#;

/// The tokens that become marks of gaps: three that nobody misses, called by the names of StarCoder's marks.
const MARKS: [(&str, &str); 3] =
    [("<gh_stars>", "<fim_prefix>"), ("<issue_start>", "<fim_suffix>"), ("<issue_comment>", "<fim_middle>")];

pub(crate) fn run(runner: &mut Runner, ground: &Ground, shared: &mut Shared) {
    runner.test("a checkpoint with a template for tools and thoughts, and with marks for gaps, is imported", async {
        embeddings::import(ground);
        import(ground);
    });
    let Some(vllama) = shared.vllama(runner, ground) else { return };
    runner.test("an unloaded model has no engine any more", unloaded(vllama));
    runner.test("with room for one, a model takes the place of another", takes_a_place(vllama));
    runner.test("a model with such a template calls and thinks, with such marks it fills gaps", capabilities(vllama));
    runner.test("a call arrives whole, streaming and not", call(vllama));
    runner.test("a conversation goes on after the result of a call", result(vllama));
    runner.test("log-probabilities are complete where a call hides the text", logprobs(vllama));
    runner.test("thoughts are parted from the answer, and kept away when not wanted", thoughts(vllama));
    runner.test("a schema keeps its order where the model could think", schema(vllama));
    runner.test("a gap is filled by a model with marks, each of them one token", filled(vllama));
    clients::calling(runner, vllama);
    runner.test("the next request loads an unloaded model again, in the place of another", loaded_again(vllama));
}

/// The default model's checkpoint with the template and the marks above.
fn import(ground: &Ground) {
    let manifest = ground.models.join("registry.ollama.ai/library").join(MODEL.replace(':', "/")).join("vllama.json");
    let manifest: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    let source = ground.models.join(".checkpoints").join(manifest["checkpoint"].as_str().unwrap());
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("caller");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    for file in fs::read_dir(source).unwrap().flatten() {
        let copy = place.join(file.file_name());
        if copy.extension().is_some_and(|end| end == "json") {
            let text = fs::read_to_string(file.path()).unwrap();
            let marked = MARKS.iter().fold(text, |text, (name, mark)| text.replace(name, mark));
            fs::write(copy, marked).unwrap();
        } else {
            fs::copy(file.path(), copy).unwrap();
        }
    }
    fs::write(place.join("chat_template.jinja"), TEMPLATE).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_vllama"))
        .args(["import", "--models-dir"])
        .args([ground.models.as_os_str(), place.as_os_str(), CALLER.as_ref()])
        .status()
        .unwrap();
    assert!(status.success());
    fs::remove_dir_all(place).unwrap();
}

/// The chat model is unloaded, the embedding model stays.
async fn unloaded(vllama: &Vllama) {
    shared::load(vllama, MODEL).await;
    models::embed(vllama).await;
    shared::configure(vllama, shared::ROOM_FOR_ONE).await;
    let answer = vllama.post("/api/generate", &json!({"model": MODEL, "keep_alive": 0})).await.json();
    assert_eq!(answer["done_reason"], "unload");
    vllama.engine_state("stopped").await;
    assert!(!models::loaded(vllama).await.contains(MODEL));
    assert_eq!(vllama.get("/health/ready").await.status(), 200);
}

async fn takes_a_place(vllama: &Vllama) {
    let begun = Instant::now();
    shared::load(vllama, CALLER).await;
    println!("  it is loaded after {:.1} s", begun.elapsed().as_secs_f32());
    assert_eq!((models::loaded(vllama).await, models::engines(vllama)), (models::names(&[CALLER]), 1));
}

async fn loaded_again(vllama: &Vllama) {
    let health = vllama.health().await;
    let before = health["engine"]["generation"].as_u64().unwrap();
    shared::load(vllama, MODEL).await;
    assert_eq!((models::loaded(vllama).await, models::engines(vllama)), (models::names(&[MODEL]), 1));
    let engine = vllama.health().await["engine"].clone();
    assert_eq!((&engine["state"], engine["generation"].as_u64()), (&json!("ready"), Some(before + 1)));
}

fn weather(stream: bool) -> Value {
    json!({"model": CALLER, "stream": stream, "options": {"temperature": 0, "num_predict": 80},
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]})
}

async fn capabilities(vllama: &Vllama) {
    let shown = vllama.post("/api/show", &json!({"model": CALLER})).await.json();
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "insert", "thinking"]));
}

async fn call(vllama: &Vllama) {
    let lines = vllama.post("/api/chat", &weather(true)).await.lines();
    let (last, before) = lines.split_last().unwrap();
    let calls: Vec<&Value> =
        before.iter().filter_map(|line| line["message"]["tool_calls"].as_array()).flatten().collect();
    assert_eq!(calls.len(), 1, "{lines:?}");
    assert_eq!(calls[0]["function"], json!({"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}));
    assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"), "{calls:?}");
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    assert!(!lines.iter().any(|line| line["message"]["content"].as_str().unwrap().contains("tool_call")), "{lines:?}");
    let whole = vllama.post("/api/chat", &weather(false)).await.json();
    assert_eq!(whole["message"]["tool_calls"][0]["function"], calls[0]["function"]);
    assert_eq!((&whole["message"]["content"], &whole["done_reason"]), (&json!(""), &json!("stop")));
}

async fn result(vllama: &Vllama) {
    let mut body = weather(false);
    let first = vllama.post("/api/chat", &body).await.json();
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(first["message"].clone());
    messages.push(json!({"role": "tool", "content": "18 degrees", "tool_name": "get_weather"}));
    let second = vllama.post("/api/chat", &body).await;
    assert_eq!(second.status(), 200, "{}", second.text());
    let second = second.json();
    assert!(second["prompt_eval_count"].as_u64() > first["prompt_eval_count"].as_u64(), "{second}");
}

async fn logprobs(vllama: &Vllama) {
    let mut body = weather(true);
    body["logprobs"] = json!(true);
    let lines = vllama.post("/api/chat", &body).await.lines();
    let entries = lines.iter().filter_map(|line| line["logprobs"].as_array()).flatten().count();
    assert_eq!(Some(entries as u64), lines.last().unwrap()["eval_count"].as_u64(), "{lines:?}");
}

async fn thoughts(vllama: &Vllama) {
    let ask = async |think: Value| {
        let body = json!({"model": CALLER, "think": think, "options": {"temperature": 0, "num_predict": 40},
            "messages": [{"role": "user", "content": "What is 4 + 4?"}]});
        let lines = vllama.post("/api/chat", &body).await.lines();
        let text =
            |field: &str| -> String { lines.iter().filter_map(|line| line["message"][field].as_str()).collect() };
        (text("thinking"), text("content"))
    };
    for think in [Value::Null, json!(true)] {
        let (thinking, content) = ask(think).await;
        assert_eq!(thinking.trim(), "I add the numbers.", "{content}");
        assert!(!content.is_empty() && !content.contains('<') && !content.starts_with('\n'), "{content}");
    }
    let (thinking, content) = ask(json!(false)).await;
    assert_eq!(thinking, "");
    assert!(!content.is_empty() && !content.contains("think>"), "{content}");
}

async fn schema(vllama: &Vllama) {
    // Before `age` in the text, behind it in the alphabet.
    let schema = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":12},"age":{"type":"integer"}},"required":["name","age"]}"#;
    let schema: Value = serde_json::from_str(schema).unwrap();
    let body = json!({"model": CALLER, "think": false, "stream": false, "format": schema,
        "options": {"temperature": 0, "num_predict": 60},
        "messages": [{"role": "user", "content": "Describe Bob, 30, as JSON."}]});
    let answer = vllama.post("/api/chat", &body).await.json();
    let text = answer["message"]["content"].as_str().unwrap();
    let object: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
    assert_eq!(object.keys().collect::<Vec<_>>(), ["name", "age"], "{text}");
}

async fn filled(vllama: &Vllama) {
    let ask = async |more: Value| {
        let mut body = json!({"model": CALLER, "stream": false, "options": {"temperature": 0, "num_predict": 12}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        shared::answered(vllama, "/api/generate", &body).await
    };
    let (before, after) = ("def add(a, b):\n    ", "\n    return result\n");
    let tokens = |answer: &Value| answer["prompt_eval_count"].as_u64().unwrap();
    let parts = tokens(&ask(json!({"prompt": before, "raw": true})).await)
        + tokens(&ask(json!({"prompt": after, "raw": true})).await);
    let answer = ask(json!({"prompt": before, "suffix": after, "system": "not used"})).await;
    assert_eq!(tokens(&answer), parts + 3, "{answer}");
    assert!(!answer["response"].as_str().unwrap().contains("<fim"), "{answer}");
    let ids = answer["context"].as_array().unwrap();
    assert_eq!(ids.len() as u64, tokens(&answer) + answer["eval_count"].as_u64().unwrap());
}
