//! The error catalogue (ollama-api §14), row by row: status and exact text.
//!
//! Statuses differ from Ollama's where it calls a client's fault its own (decision 0033).

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use crate::harness::{Request, Vllama, embedder};

/// The rows, as the catalogue names them.
const ROWS: &[&str] = &[
    "empty body",
    "model empty: chat, embeddings, show, push, delete",
    "model empty: generate, embed",
    "model empty: pull, create",
    "invalid name",
    "unknown model: generate, chat, delete",
    "unknown model: show, /v1/models/x",
    "unknown model: embed, embeddings",
    "unknown model: copy",
    "unknown model: pull",
    "embedding-only model: chat / generate",
    "thinking unsupported",
    "tools / insert unsupported",
    "top_logprobs",
    "raw conflict",
    "bad think / keep_alive",
    "bad option type",
    "bad format",
    "prompt too long",
    "embed too long",
    "embed bad input",
    "queue full",
    "client cancelled",
    "runner died",
    "cloud model, cloud off",
    "not signed in",
    "image-generation model",
    "blob",
    "unknown route / method",
];

/// Rows that need a story rather than one request: row, file, test.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("unknown model: pull", "tests/blackbox/pulls.rs", "unknown_models_are_told_after_the_first_line_or_with_a_status"),
    ("queue full", "tests/blackbox/many.rs", "a_full_queue_is_a_503_that_says_busy"),
    (
        "client cancelled",
        "tests/blackbox/tools.rs",
        "a_client_that_leaves_in_the_middle_of_an_answer_is_a_499_in_the_log",
    ),
    ("runner died", "tests/blackbox/deaths.rs", "without_replays_an_engine_that_dies_before_the_first_word_is_a_500"),
    ("runner died", "tests/blackbox/deaths.rs", "an_error_in_the_middle_of_a_stream_is_its_last_line"),
    ("embed too long", "tests/blackbox/embeddings.rs", "a_text_that_is_too_long_is_refused_when_it_may_not_be_cut"),
    ("unknown route / method", "tests/blackbox/edges.rs", "unknown_paths_and_wrong_methods_are_told_in_plain_text"),
];

/// Rows that nothing here can cause: row, why.
const NEVER: &[(&str, &str)] =
    &[("image-generation model", "vLLM makes no images, so a checkpoint that would is refused when it is installed")];

const TOO_LONG: &str = "the prompt is longer than the context length currently available to the model; shorten the \
    prompt, adjust the context length in settings, or use a model with a longer context length";

/// A digest nobody has.
const NOBODYS: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A digest of other bytes than `abc`.
const OTHERS: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// A case: row, method and path, body, status, text.
type Case = (&'static str, &'static str, String, u16, String);

fn case(row: &'static str, call: &'static str, body: impl ToString, status: u16, text: impl Into<String>) -> Case {
    (row, call, body.to_string(), status, text.into())
}

/// A POST to each of these paths with the same body has the same answer.
fn each(
    row: &'static str,
    calls: &[&'static str],
    body: &serde_json::Value,
    status: u16,
    text: &str,
) -> impl Iterator<Item = Case> {
    calls.iter().map(move |call| case(row, call, body, status, text)).collect::<Vec<_>>().into_iter()
}

/// Bodies that every dialect of a model's name understands.
fn body(name: &str) -> serde_json::Value {
    json!({"model": name, "prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}], "stream": false})
}

fn with(name: &str, field: &str, value: serde_json::Value) -> serde_json::Value {
    let mut body = body(name);
    body[field] = value;
    body
}

/// A request whose prompt is longer than the engine's 64 tokens.
fn long(path: &'static str, more: serde_json::Value) -> Case {
    let mut body = body("smollm2:135m");
    let text = "word ".repeat(500);
    body["messages"][0]["content"] = json!(text);
    body["prompt"] = json!(text);
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    case("prompt too long", path, body, 400, TOO_LONG)
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let chat = "POST /api/chat";
    let generate = "POST /api/generate";
    let both = [chat, generate];
    let every = [
        chat,
        generate,
        "POST /api/embed",
        "POST /api/embeddings",
        "POST /api/show",
        "POST /api/pull",
        "POST /api/push",
        "POST /api/create",
        "POST /api/copy",
        "DELETE /api/delete",
    ];
    cases.extend(every.map(|call| case("empty body", call, "", 400, "missing request body")));

    let required = [chat, "POST /api/embeddings", "POST /api/show", "POST /api/push", "DELETE /api/delete"];
    let row = "model empty: chat, embeddings, show, push, delete";
    cases.extend(each(row, &required, &body(""), 400, "model is required"));
    cases.extend(each(row, &required, &json!({}), 400, "model is required"));
    let row = "model empty: generate, embed";
    cases.push(case(row, generate, body(""), 404, "model '' not found"));
    cases.push(case(row, "POST /api/embed", body(""), 404, "model '' not found"));
    let making = ["POST /api/pull", "POST /api/create"];
    cases.extend(each("model empty: pull, create", &making, &body(""), 400, "invalid model name"));

    let row = "invalid name";
    let naming = [
        chat,
        generate,
        "POST /api/embed",
        "POST /api/embeddings",
        "POST /api/show",
        "POST /api/pull",
        "POST /api/push",
        "POST /api/create",
    ];
    cases.extend(each(row, &naming, &body("a b"), 400, "invalid model name"));
    let copy = |source: &str, destination: &str| json!({"source": source, "destination": destination});
    cases.push(case(row, "POST /api/copy", copy("a b", "x"), 400, "source \"a b\" is invalid"));
    cases.push(case(row, "POST /api/copy", copy("smollm2:135m", "a b"), 400, "destination \"a b\" is invalid"));
    cases.push(case(row, "DELETE /api/delete", body("a b"), 400, "name \"a b\" is invalid"));

    let unknown = [generate, chat, "DELETE /api/delete"];
    cases.extend(each("unknown model: generate, chat, delete", &unknown, &body("Nope"), 404, "model 'Nope' not found"));
    let row = "unknown model: show, /v1/models/x";
    cases.push(case(row, "POST /api/show", body("nope"), 404, "model 'nope:latest' not found"));
    let row = "unknown model: embed, embeddings";
    let embed = ["POST /api/embed", "POST /api/embeddings"];
    cases.extend(each(row, &embed, &body("nope"), 404, "model \"nope\" not found, try pulling it first"));
    cases.push(case("unknown model: copy", "POST /api/copy", copy("nope", "x"), 404, "model \"nope\" not found"));
    let row = "unknown model: pull";
    cases.push(case(row, "POST /api/pull", body("nope"), 500, "pull model manifest: file does not exist"));

    let row = "embedding-only model: chat / generate";
    cases.push(case(row, chat, body(embedder::NAME), 400, "\"all-minilm\" does not support chat"));
    cases.push(case(row, generate, body(embedder::NAME), 400, "\"all-minilm\" does not support generate"));
    let think = with("smollm2:135m", "think", json!(true));
    let text = "\"smollm2:135m\" does not support thinking";
    cases.extend(each("thinking unsupported", &both, &think, 400, text));
    let row = "tools / insert unsupported";
    let full = "registry.ollama.ai/library/smollm2:135m";
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    cases.push(case(row, chat, with("smollm2:135m", "tools", tools), 400, format!("{full} does not support tools")));
    let suffix = with("smollm2:135m", "suffix", json!("}"));
    cases.push(case(row, generate, suffix, 400, format!("{full} does not support insert")));

    for number in [21, -1] {
        // Before the model is looked at.
        for name in ["smollm2:135m", "nope", "a b"] {
            let body = with(name, "top_logprobs", json!(number));
            cases.extend(each("top_logprobs", &both, &body, 400, "top_logprobs must be between 0 and 20"));
        }
    }
    for (field, value) in [("template", json!("{{ .Prompt }}")), ("system", json!("s")), ("context", json!([1]))] {
        let mut body = with("smollm2:135m", field, value);
        body["raw"] = json!(true);
        cases.push(case("raw conflict", generate, body, 400, "raw mode does not support template, system, or context"));
    }

    let row = "bad think / keep_alive";
    let think = with("smollm2:135m", "think", json!("much"));
    let levels = "invalid think value: \"much\" (must be \"high\", \"medium\", \"low\", \"max\", true, or false)";
    cases.extend(each(row, &both, &think, 400, levels));
    for (value, text) in [
        (json!("300"), "time: missing unit in duration \"300\""),
        (json!(""), "time: invalid duration \"\""),
        (json!(true), "Unsupported type: 'bool'"),
    ] {
        let body = with("smollm2:135m", "keep_alive", value);
        cases.extend(each(row, &[chat, generate, "POST /api/embed", "POST /api/embeddings"], &body, 400, text));
    }
    for (name, value, kind) in [
        ("num_ctx", json!("many"), "integer"),
        ("temperature", json!("hot"), "float32"),
        ("use_mmap", json!(1), "boolean"),
    ] {
        let body = with("smollm2:135m", "options", json!({name: value}));
        let text = format!("option {name:?} must be of type {kind}");
        cases.extend(each("bad option type", &both, &body, 400, &text));
    }
    let xml = with("smollm2:135m", "format", json!("xml"));
    let text = "invalid format: \"\\\"xml\\\"\"; expected \"json\" or a valid JSON Schema object";
    cases.extend(each("bad format", &both, &xml, 400, text));

    cases.push(long(chat, json!({"truncate": false, "shift": false})));
    cases.push(long(generate, json!({"truncate": false, "shift": false})));
    for input in [json!(5), json!([1, 2]), json!({"text": "x"}), json!([["x"]])] {
        let body = with(embedder::NAME, "input", input);
        cases.push(case("embed bad input", "POST /api/embed", body, 400, "invalid input type"));
    }

    let row = "cloud model, cloud off";
    for name in ["gpt-oss:120b-cloud", "gpt-oss:cloud"] {
        let text = "ollama cloud is disabled: remote inference is unavailable";
        cases.extend(each(row, &both, &body(name), 403, text));
        let text = "ollama cloud is disabled: remote model details are unavailable";
        cases.push(case(row, "POST /api/show", body(name), 403, text));
    }
    cases.push(case("not signed in", "POST /api/me", "", 401, "unauthorized"));
    cases.push(case("not signed in", "POST /api/signout", "", 401, "you are not currently signed in"));

    // SHA-256 of `abc`.
    let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let text = format!("digest mismatch, expected \"{OTHERS}\", got \"{abc}\"");
    cases.push(case(
        "blob",
        "POST /api/blobs/sha256:1111111111111111111111111111111111111111111111111111111111111111",
        "abc",
        400,
        text,
    ));
    cases.push(case("blob", "POST /api/blobs/nonsense", "abc", 400, "invalid digest format"));
    let files = json!({"model": "new", "files": {"model.gguf": NOBODYS}, "stream": false});
    cases.push(case("blob", "POST /api/create", files, 404, format!("blob \"{NOBODYS}\" not found")));
    cases
}

#[tokio::test]
async fn every_row_has_its_status_and_its_text() {
    let builder = Vllama::with_fake().env("FAKE_VLLM_MAX_MODEL_LEN", "64");
    embedder::install(&builder.path().join("models"));
    let vllama = builder.start().await;
    let mut wrong = Vec::new();
    let cases = cases();
    for (row, call, body, status, text) in &cases {
        let (method, path) = call.split_once(' ').expect("method and path");
        let answer = vllama.client.request(&Request::new(method, path).body(body.as_str())).await;
        let told = serde_json::from_str::<serde_json::Value>(&answer.text()).unwrap_or_default();
        let told = told["error"].as_str().unwrap_or("no error").to_owned();
        if (answer.status(), &told) != (*status, text) {
            wrong.push(format!("{row}: {call} {body:.120}\n  want {status} {text}\n  have {} {told}", answer.status()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let alive = vllama.chat("FAKE:count 3").await;
    assert_eq!(alive.json()["message"]["content"], "1 2 3", "errors leave nothing behind");
}

#[tokio::test]
async fn a_blob_that_is_not_there_is_a_bare_404_and_a_bad_digest_a_400() {
    let vllama = Vllama::with_fake().start_listening().await;
    for (digest, status) in [(NOBODYS, 404), ("sha256:12", 400), ("nonsense", 400)] {
        let answer = vllama.client.request(&Request::new("HEAD", &format!("/api/blobs/{digest}"))).await;
        assert_eq!(answer.status(), status, "{digest}");
    }
}

#[test]
fn no_row_of_the_catalogue_is_without_a_test() {
    let here: BTreeSet<&str> = cases().iter().map(|(row, ..)| *row).collect();
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().map(|(row, ..)| *row).collect();
    let never: BTreeSet<&str> = NEVER.iter().map(|(row, _)| *row).collect();
    for row in ROWS {
        assert!(here.contains(row) || elsewhere.contains(row) || never.contains(row), "{row}");
    }
    for row in here.iter().chain(&elsewhere).chain(&never) {
        assert!(ROWS.contains(row), "{row} is no row of the catalogue");
    }
    for (row, file, test) in ELSEWHERE {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a file of tests");
        assert!(text.contains(&format!("fn {test}(")), "{row}: there is no {test} in {file}");
    }
}
