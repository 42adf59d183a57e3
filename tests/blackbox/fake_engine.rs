//! The fake engine itself: it must answer as the real one was recorded, or the other tests prove nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Client, Request, eventually, model};
use crate::shape::Shape;

/// Recordings that the fake answers in the same shape.
const FAITHFUL: &[&str] = &[
    "chat",
    "chat-content-parts",
    "chat-empty-messages",
    "chat-ignore-eos",
    "chat-json-object",
    "chat-json-schema",
    "chat-length",
    "chat-logprobs",
    "chat-max-completion-tokens",
    "chat-max-tokens-one",
    "chat-max-tokens-zero",
    "chat-request-id",
    "chat-second-name",
    "chat-stop",
    "chat-stop-64",
    "chat-stop-65",
    "chat-stream",
    "chat-stream-continuous-usage",
    "chat-stream-json-schema",
    "chat-stream-length",
    "chat-stream-logprobs",
    "chat-stream-no-usage",
    "chat-stream-stop",
    "chat-stream-token-ids",
    "chat-system",
    "chat-template-kwargs",
    "chat-token-ids",
    "chat-tools-without-parser",
    "chat-truncate-prompt",
    "chat-unknown-field",
    "completion",
    "completion-bad-ids",
    "completion-empty-prompt",
    "completion-from-ids",
    "completion-logprobs",
    "completion-no-max-tokens",
    "completion-stop",
    "completion-stream",
    "completion-stream-from-ids",
    "completion-stream-logprobs",
    "completion-stream-token-ids",
    "completion-token-ids",
    "detokenize",
    "error-bad-json",
    "error-bad-role",
    "error-bad-type",
    "error-completion-too-long",
    "error-embeddings-on-generator",
    "error-max-tokens",
    "error-method",
    "error-no-messages",
    "error-not-found",
    "error-prompt-too-long",
    "error-prompt-too-long-stream",
    "error-temperature-negative",
    "error-unknown-model",
    "health",
    "messages",
    "messages-beta",
    "messages-count",
    "messages-document",
    "messages-empty",
    "messages-empty-content",
    "messages-error-unknown-model",
    "messages-image-on-text-model",
    "messages-max-tokens-beyond",
    "messages-max-tokens-zero",
    "messages-method",
    "messages-no-max-tokens",
    "messages-null-content",
    "messages-stop-sequence",
    "messages-stream",
    "messages-stream-max-tokens",
    "messages-stream-too-long",
    "messages-system-in-messages",
    "messages-thinking-adaptive",
    "messages-thinking-disabled",
    "messages-thinking-enabled",
    "messages-thinking-history",
    "messages-thinking-over-budget",
    "messages-thinking-small-budget",
    "messages-thinking-unknown",
    "messages-too-long",
    "messages-tool-choice-alone",
    "messages-tool-result",
    "messages-tools-any-without-parser",
    "messages-tools-built-in",
    "messages-tools-empty",
    "messages-tools-none",
    "messages-tools-without-parser",
    "messages-unknown-block",
    "models",
    "tokenize-messages",
    "tokenize-prompt",
    "version",
];

/// Recordings of an engine that embeds, which the fake answers in the same shape.
const EMBEDDING: &[&str] = &[
    "messages-on-embedder",
    "pooling",
    "rerank",
    "rerank-error",
    "score",
    "score-error",
    "chat-on-embedder",
    "embeddings",
    "embeddings-bad-encoding",
    "embeddings-base64",
    "embeddings-batch",
    "embeddings-dimensions",
    "embeddings-empty-list",
    "embeddings-empty-text",
    "embeddings-no-activation",
    "embeddings-normalize",
    "embeddings-number",
    "embeddings-token-lists",
    "embeddings-too-long",
    "embeddings-truncate-beyond",
    "embeddings-truncate-zero",
    "embeddings-truncated",
    "embeddings-unknown-model",
    "tokenize-on-embedder",
];

/// A fake engine without a vllama above it.
struct Fake {
    child: Child,
    client: Client,
    _directory: tempfile::TempDir,
}

impl Fake {
    async fn start() -> Self {
        Self::with(&["--served-model-name", model::NAME, "HuggingFaceTB/SmolLM2-135M-Instruct"]).await
    }

    async fn with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("engine.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_fake-vllm"))
            .args(["serve", "/nowhere", "--uds"])
            .arg(&socket)
            .args(arguments)
            .args(["--enable-per-request-metrics", "--enable-prompt-tokens-details"])
            .env("VLLM_MAX_STOP_STRINGS", "64")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the fake starts");
        let client = Client::Unix(socket);
        eventually("the fake answers", async || client.try_request(&Request::new("GET", "/health")).await.ok()).await;
        Self { child, client, _directory: directory }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).unwrap_or_default();
        crate::harness::processes::signal(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A recorded exchange: the request, and the raw answer.
fn recorded(directory: &Path, name: &str) -> (Request, String) {
    let read = |ending: &str| {
        let path = directory.join(format!("{name}.{ending}"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let request: Value = serde_json::from_str(&read("request.json")).expect("a recorded request");
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    let mut sent = Request::new(text("method"), text("path"));
    let body = match &request["body"] {
        Value::Null => None,
        Value::String(raw) => Some(raw.clone()),
        body => Some([9000, 2000].iter().fold(body.to_string(), |body, number| {
            body.replace(&format!("word × {number}"), &"word ".repeat(*number))
        })),
    };
    if let Some(body) = body {
        sent = sent.header("Content-Type", "application/json").body(body);
    }
    (sent, read("response.txt"))
}

/// The status, the content type and the shapes that occur in a body.
#[derive(Debug, PartialEq, Eq)]
struct Outline {
    status: u16,
    content_type: Option<String>,
    shapes: BTreeSet<Shape>,
    done: bool,
}

impl Outline {
    fn new(status: u16, content_type: Option<&str>, body: &str) -> Self {
        let parse =
            |text: &str| -> Value { serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")) };
        let events: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let done = events.last() == Some(&"[DONE]");
        let values: Vec<Value> = if !events.is_empty() {
            events.iter().filter(|event| **event != "[DONE]").map(|event| parse(event)).collect()
        } else if body.is_empty() {
            Vec::new()
        } else {
            vec![parse(body)]
        };
        // Token texts are keys here, and how many tokens an answer has does not matter.
        let shapes = values.iter().map(|value| {
            let shape = Shape::of(value).without("choices.0.logprobs.top_logprobs.0");
            if value["object"] == "text_completion" { shape.without("choices.0.logprobs.top_logprobs") } else { shape }
        });
        Self { status, content_type: content_type.map(str::to_owned), shapes: shapes.collect(), done }
    }

    fn of_recording(text: &str) -> Self {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: "));
        Self::new(status, content_type, body.trim_end())
    }
}

#[tokio::test]
async fn the_fake_answers_in_the_shapes_that_vllm_was_recorded_with() {
    assert_faithful(&Fake::start().await, FAITHFUL).await;
}

#[tokio::test]
async fn the_fake_embeds_in_the_shapes_that_vllm_was_recorded_with() {
    let fake =
        Fake::with(&["--served-model-name", "all-minilm:latest", "--runner", "pooling", "--max-model-len", "256"]);
    let fake = fake.await;
    assert_faithful(&fake, EMBEDDING).await;
    // Not only the shape: as many numbers in a vector, as many tokens counted.
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm");
    for name in
        ["embeddings", "embeddings-batch", "embeddings-truncated", "embeddings-token-lists", "tokenize-on-embedder"]
    {
        let (request, recording) = recorded(&directory, name);
        let body = recording.split_once("\r\n\r\n").expect("a body").1;
        let theirs: Value = serde_json::from_str(body).expect("JSON");
        let ours = fake.client.request(&request).await.json();
        assert_eq!((&ours["usage"], &ours["count"]), (&theirs["usage"], &theirs["count"]), "{name}");
        let length = |answer: &Value| answer["data"][0]["embedding"].as_array().map(Vec::len);
        assert_eq!(length(&ours), length(&theirs), "{name}");
    }
}

async fn assert_faithful(fake: &Fake, names: &[&str]) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm");
    let mut wrong = Vec::new();
    for name in names {
        let (request, recording) = recorded(&directory, name);
        let answer = fake.client.request(&request).await;
        let ours = Outline::new(answer.status(), answer.header("content-type"), answer.text().trim_end());
        let theirs = Outline::of_recording(&recording.replace("\r\n", "\n"));
        if ours != theirs {
            let list =
                |outline: &Outline| outline.shapes.iter().map(|shape| format!("\n    {shape}")).collect::<String>();
            wrong.push(format!(
                "{name}\n  vLLM {} {:?} {}{}\n  fake {} {:?} {}{}",
                theirs.status,
                theirs.content_type,
                theirs.done,
                list(&theirs),
                ours.status,
                ours.content_type,
                ours.done,
                list(&ours)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
