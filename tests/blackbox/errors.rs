//! The catalogue of errors (ollama-api §14), entry by entry: status and exact text.

use serde_json::Value;

use crate::harness::{Request, Vllama, embedder};

/// A body in which `M` stands for the model that chats, `T` for the one that also thinks and calls, `E` for the one that embeds.
fn body(text: &str) -> String {
    text.replace("\"M\"", "\"smollm2:135m\"").replace("\"T\"", "\"thinker:1b\"").replace("\"E\"", "\"all-minilm\"")
}

const HI: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

/// What, method, path, body (`HI` stands for a message), status, error.
const CATALOGUE: &[(&str, &str, &str, &str, u16, &str)] = &[
    ("empty body", "POST", "/api/chat", "", 400, "missing request body"),
    ("empty body", "POST", "/api/generate", " \n", 400, "missing request body"),
    ("empty body", "POST", "/api/embed", "", 400, "missing request body"),
    ("empty body", "POST", "/api/embeddings", "", 400, "missing request body"),
    ("empty body", "POST", "/api/show", "", 400, "missing request body"),
    ("empty body", "POST", "/api/pull", "", 400, "missing request body"),
    ("empty body", "POST", "/api/push", "", 400, "missing request body"),
    ("empty body", "POST", "/api/create", "", 400, "missing request body"),
    ("empty body", "POST", "/api/copy", "", 400, "missing request body"),
    ("empty body", "DELETE", "/api/delete", "", 400, "missing request body"),
    ("broken body", "POST", "/api/chat", r#"{"model":"#, 400, "unexpected EOF"),
    ("no model", "POST", "/api/chat", "{}", 400, "model is required"),
    ("no model", "POST", "/api/chat", r#"{"model":" ",HI}"#, 400, "model is required"),
    ("no model", "POST", "/api/embeddings", r#"{"prompt":"x"}"#, 400, "model is required"),
    ("no model", "POST", "/api/show", r#"{"model":""}"#, 400, "model is required"),
    ("no model", "POST", "/api/push", r#"{"model":null}"#, 400, "model is required"),
    ("no model", "DELETE", "/api/delete", "{}", 400, "model is required"),
    ("no model", "POST", "/api/generate", r#"{"prompt":"x"}"#, 404, "model '' not found"),
    ("no model", "POST", "/api/embed", r#"{"input":"x"}"#, 404, "model '' not found"),
    ("no model", "POST", "/api/pull", "{}", 400, "invalid model name"),
    ("no model", "POST", "/api/create", "{}", 400, "invalid model name"),
    ("invalid name", "POST", "/api/chat", r#"{"model":"a b",HI}"#, 400, "invalid model name"),
    ("invalid name", "POST", "/api/generate", r#"{"model":"-x","prompt":"x"}"#, 400, "invalid model name"),
    ("invalid name", "POST", "/api/copy", r#"{"source":"a b","destination":"c"}"#, 400, "source \"a b\" is invalid"),
    (
        "invalid name",
        "POST",
        "/api/copy",
        r#"{"source":"M","destination":"a b"}"#,
        400,
        "destination \"a b\" is invalid",
    ),
    ("invalid name", "DELETE", "/api/delete", r#"{"model":"a b"}"#, 400, "name \"a b\" is invalid"),
    ("unknown model", "POST", "/api/chat", r#"{"model":"Nope",HI}"#, 404, "model 'Nope' not found"),
    ("unknown model", "POST", "/api/generate", r#"{"model":"nope","prompt":"x"}"#, 404, "model 'nope' not found"),
    ("unknown model", "DELETE", "/api/delete", r#"{"name":"nope"}"#, 404, "model 'nope' not found"),
    ("unknown model", "POST", "/api/show", r#"{"name":"nope"}"#, 404, "model 'nope:latest' not found"),
    (
        "unknown model",
        "POST",
        "/api/embed",
        r#"{"model":"nope","input":"x"}"#,
        404,
        "model \"nope\" not found, try pulling it first",
    ),
    (
        "unknown model",
        "POST",
        "/api/embeddings",
        r#"{"model":"nope","prompt":"x"}"#,
        404,
        "model \"nope\" not found, try pulling it first",
    ),
    ("unknown model", "POST", "/api/copy", r#"{"source":"nope","destination":"a"}"#, 404, "model \"nope\" not found"),
    ("embedding model", "POST", "/api/chat", r#"{"model":"E",HI}"#, 400, "\"all-minilm\" does not support chat"),
    (
        "embedding model",
        "POST",
        "/api/generate",
        r#"{"model":"E","prompt":"x"}"#,
        400,
        "\"all-minilm\" does not support generate",
    ),
    (
        "no thinking",
        "POST",
        "/api/chat",
        r#"{"model":"M","think":true,HI}"#,
        400,
        "\"smollm2:135m\" does not support thinking",
    ),
    (
        "no tools",
        "POST",
        "/api/chat",
        r#"{"model":"M","tools":[{}],HI}"#,
        400,
        "registry.ollama.ai/library/smollm2:135m does not support tools",
    ),
    (
        "no insert",
        "POST",
        "/api/generate",
        r#"{"model":"M","prompt":"x","suffix":"y"}"#,
        400,
        "registry.ollama.ai/library/smollm2:135m does not support insert",
    ),
    // Before the model is looked for.
    (
        "logprobs",
        "POST",
        "/api/chat",
        r#"{"model":"nope","top_logprobs":21,HI}"#,
        400,
        "top_logprobs must be between 0 and 20",
    ),
    (
        "logprobs",
        "POST",
        "/api/generate",
        r#"{"model":"nope","top_logprobs":-1,"prompt":"x"}"#,
        400,
        "top_logprobs must be between 0 and 20",
    ),
    (
        "raw",
        "POST",
        "/api/generate",
        r#"{"model":"M","raw":true,"system":"s","prompt":"x"}"#,
        400,
        "raw mode does not support template, system, or context",
    ),
    (
        "raw",
        "POST",
        "/api/generate",
        r#"{"model":"M","raw":true,"template":"s","prompt":"x"}"#,
        400,
        "raw mode does not support template, system, or context",
    ),
    (
        "raw",
        "POST",
        "/api/generate",
        r#"{"model":"M","raw":true,"context":[1],"prompt":"x"}"#,
        400,
        "raw mode does not support template, system, or context",
    ),
    (
        "think",
        "POST",
        "/api/chat",
        r#"{"model":"T","think":"x",HI}"#,
        400,
        "invalid think value: \"x\" (must be \"high\", \"medium\", \"low\", \"max\", true, or false)",
    ),
    (
        "think",
        "POST",
        "/api/chat",
        r#"{"model":"T","think":[],HI}"#,
        400,
        "think must be a boolean or string (\"high\", \"medium\", \"low\", \"max\", true, or false)",
    ),
    (
        "keep_alive",
        "POST",
        "/api/chat",
        r#"{"model":"M","keep_alive":"300",HI}"#,
        400,
        "time: missing unit in duration \"300\"",
    ),
    ("keep_alive", "POST", "/api/generate", r#"{"model":"M","keep_alive":""}"#, 400, "time: invalid duration \"\""),
    ("keep_alive", "POST", "/api/generate", r#"{"model":"M","keep_alive":true}"#, 400, "Unsupported type: 'bool'"),
    (
        "option",
        "POST",
        "/api/chat",
        r#"{"model":"M","options":{"temperature":"x"},HI}"#,
        500,
        "option \"temperature\" must be of type float32",
    ),
    (
        "option",
        "POST",
        "/api/generate",
        r#"{"model":"M","options":{"num_predict":[]},"prompt":"x"}"#,
        500,
        "option \"num_predict\" must be of type integer",
    ),
    (
        "format",
        "POST",
        "/api/chat",
        r#"{"model":"M","format":"xml",HI}"#,
        500,
        "invalid format: \"\\\"xml\\\"\"; expected \"json\" or a valid JSON Schema object",
    ),
    ("input", "POST", "/api/embed", r#"{"model":"E","input":7}"#, 400, "invalid input type"),
    (
        "cloud",
        "POST",
        "/api/chat",
        r#"{"model":"gpt-oss:120b-cloud",HI}"#,
        403,
        "ollama cloud is disabled: remote inference is unavailable",
    ),
    (
        "cloud",
        "POST",
        "/api/show",
        r#"{"model":"gpt-oss:cloud"}"#,
        403,
        "ollama cloud is disabled: remote model details are unavailable",
    ),
    (
        "cloud",
        "POST",
        "/api/chat",
        r#"{"model":"a:cloud:local",HI}"#,
        400,
        "use either :local or :cloud, not both: \"a:cloud:local\"",
    ),
    ("not signed in", "POST", "/api/me", "", 401, "unauthorized"),
    ("blob", "POST", "/api/blobs/sha256:12", "x", 400, "invalid digest format"),
];

#[tokio::test]
async fn every_error_has_the_status_and_the_text_of_the_catalogue() {
    let builder = Vllama::with_fake_thinker();
    embedder::install(&builder.path().join("models"));
    let vllama = builder.start().await;
    let mut wrong = Vec::new();
    for (what, method, path, text, status, error) in CATALOGUE {
        let request = Request::new(method, path).body(body(&text.replace("HI", HI)));
        let answer = vllama.client.request(&request).await;
        let object: Value = serde_json::from_str(&answer.text()).unwrap_or_default();
        let right = object.as_object().is_some_and(|object| object.len() == 1) && object["error"] == *error;
        if answer.status() != *status || !right {
            wrong.push(format!(
                "{what}: {method} {path} {text}\n  wanted {status} {error}\n  got {} {}",
                answer.status(),
                answer.text()
            ));
        }
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"), "{what}: {path}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
