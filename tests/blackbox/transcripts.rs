//! Recorded answers of a real Ollama 0.5.4, replayed: the same request must get the same kind of answer.
//!
//! Compared are status, content type, framing, keys and JSON types of every kind of line, `done_reason`, and the exact
//! text of errors. Where vllama differs on purpose, [`DIFFERENCES`] says so and why; the newer contract stands there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Answer, Framing, Request, Vllama};
use crate::shape::Shape;

/// What may differ in one transcript.
enum Difference {
    /// Another status.
    Status(u16),
    /// Another text of the error, or of a plain body.
    Text(&'static str),
    /// Members vllama has and Ollama 0.5.4 had not.
    More(&'static [&'static str]),
    /// Members Ollama 0.5.4 had and vllama has not.
    Fewer(&'static [&'static str]),
    /// Members whose inside depends on the model's format.
    Inside(&'static [&'static str]),
    /// Another end, since the fake says other words than the model did.
    Words,
    /// Not a stream any more.
    NotStream,
    /// Another answer altogether; other tests look at it.
    Made,
}

use Difference::{Fewer, Inside, Made, More, NotStream, Status, Text, Words};

/// Members of `details` that came after 0.5.4.
const DETAILS: &[&str] = &["models.0.details.context_length", "models.0.details.embedding_length"];

/// Members of `/api/show` that came after 0.5.4.
const SHOWN: &[&str] = &["capabilities", "tensors", "license", "details.context_length", "details.embedding_length"];

/// Members of `/v1/embeddings` that Ollama leaves out.
const VECTOR_MEMBERS: &[&str] =
    &["id", "created", "usage.completion_tokens", "usage.completion_tokens_details", "usage.prompt_tokens_details"];

/// Transcript, what differs, why.
const DIFFERENCES: &[(&str, &[Difference], &str)] = &[
    ("method", &[Status(405), Text("405 method not allowed")], "newer servers tell a wrong method from a wrong path"),
    ("ps", &[Status(405), Text("405 method not allowed")], "newer servers tell a wrong method from a wrong path"),
    ("gen_badformat", &[Status(500), NotStream], "newer servers check the format before the answer begins"),
    ("show_missing", &[Text("model 'nope:latest' not found")], "newer servers name the complete model"),
    ("tags", &[More(&["models.0.capabilities"]), More(DETAILS)], "members of newer servers"),
    ("ps_empty", &[More(&["models.0.context_length"]), More(DETAILS)], "members of newer servers"),
    ("ps_get", &[More(&["models.0.context_length"]), More(DETAILS)], "members of newer servers"),
    ("show", &[More(SHOWN), Inside(&["model_info"]), Fewer(&["parameters"])], SHOW_REASON),
    ("show_name", &[More(SHOWN), Inside(&["model_info"]), Fewer(&["parameters"])], SHOW_REASON),
    ("show_verbose", &[More(SHOWN), Inside(&["model_info"]), Fewer(&["parameters"])], SHOW_REASON),
    ("v1_embeddings", &[More(VECTOR_MEMBERS)], "the engine's own answer, which has more of OpenAI's members"),
    ("v1_chat", &[More(CHAT_MEMBERS)], CHAT_REASON),
    ("v1_chat_stream", &[More(CHAT_MEMBERS), More(CHAT_FEWER), Fewer(CHAT_FEWER)], CHAT_REASON),
    ("v1_chat_missing", &[Text("model 'nope' not found")], "one text for one thing, with the type of its status"),
    ("v1_completions", &[More(CHAT_MEMBERS)], CHAT_REASON),
    ("v1_model_missing", &[Text("model 'nope:latest' not found")], "newer servers name the complete model"),
    ("tags_after_copy", &[More(&["models.0.capabilities"]), More(DETAILS)], "members of newer servers"),
    ("create", &[Status(200), Made], "newer servers take `from`; this one knew Modelfiles only"),
    ("create_missing", &[Status(200), Made], "newer servers take `from`, and pull what is missing"),
    ("show_created", &[Status(200), Made], "the create before it was refused there"),
    ("delete_created", &[Status(200), Made], "the create before it was refused there"),
    ("chat_stop", &[Words], "the fake's answer holds the stop string"),
];

const SHOW_REASON: &str = "members of newer servers; facts and stops come from the checkpoint instead of a GGUF file";

/// Members of chats and completions that Ollama leaves out.
const CHAT_MEMBERS: &[&str] = &[
    "choices.0.logprobs",
    "choices.0.stop_reason",
    "choices.0.token_ids",
    "choices.0.routed_experts",
    "choices.0.prompt_logprobs",
    "choices.0.prompt_token_ids",
    "choices.0.message.annotations",
    "choices.0.message.audio",
    "choices.0.message.function_call",
    "choices.0.message.reasoning",
    "choices.0.message.refusal",
    "service_tier",
    "prompt_logprobs",
    "prompt_token_ids",
    "prompt_text",
    "kv_transfer_params",
    "ec_transfer_params",
    "metrics",
    "usage.prompt_tokens_details",
    "usage.completion_tokens_details",
];

/// The engine names itself in the last event only, and the speaker in the first only, as OpenAI does.
const CHAT_FEWER: &[&str] = &["system_fingerprint", "choices.0.delta.role"];

const CHAT_REASON: &str = "the engine's own answer, which has more of OpenAI's members and some of its own";

/// Transcripts of vectors, which Ollama 0.5.4 took from a chat model and vllama takes from an embedding model; by the
/// beginning of their names.
const VECTORS: &[&str] = &["embed", "v1_embeddings"];

/// Transcripts to be replayed after all others, in this order: they build on one another.
const LAST: &[&str] = &[
    "copy_missing",
    "copy",
    "tags_after_copy",
    "delete",
    "delete_missing",
    "create",
    "create_missing",
    "show_created",
    "delete_created",
    "unload_chat",
    "unload_generate",
];

struct Transcript {
    name: String,
    request: Request,
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Transcript {
    fn read(name: &str, change: impl Fn(&str) -> String) -> Self {
        let text = std::fs::read_to_string(directory().join(format!("{name}.http"))).expect("a transcript");
        let asked: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("> ")).collect();
        let (method, path) = asked[0].split_once(' ').expect("method and path");
        let mut request = Request::new(method, path);
        if let Some(body) = asked.get(1) {
            request = request.header("Content-Type", "application/json").body(change(body));
        }
        if name == "options_cors" {
            request = request.header("Origin", "http://localhost:3000").header("Access-Control-Request-Method", "POST");
        }
        let answer = text.split_once("HTTP/1.1 ").expect("a status line").1;
        let (head, body) = answer.split_once("\n\n").unwrap_or((answer, ""));
        let mut head = head.lines();
        let status = head.next().and_then(|line| line.split(' ').next()?.parse().ok()).expect("a status");
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let headers = head.filter_map(header).collect();
        Self { name: name.to_owned(), request, status, headers, body: body.trim_end().to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn differences(&self) -> &'static [Difference] {
        DIFFERENCES.iter().find(|(name, ..)| *name == self.name).map_or(&[], |(_, differences, _)| differences)
    }

    /// Everything that is not as it was recorded.
    fn compare(&self, answer: &Answer) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut same = |what: &str, recorded: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            let (recorded, found) = (recorded.to_string(), found.to_string());
            if recorded != found {
                wrong.push(format!("  {what}\n    Ollama {recorded}\n    vllama {found}"));
            }
        };
        let differences = self.differences();
        let has = |wanted: fn(&Difference) -> bool| differences.iter().any(wanted);
        let status = differences
            .iter()
            .find_map(|difference| if let Status(status) = difference { Some(*status) } else { None });
        same("status", &status.unwrap_or(self.status), &answer.status());

        if has(|difference| matches!(difference, Made)) {
            return wrong;
        }
        let kind = |text: Option<&str>| text.unwrap_or("none").split(';').next().unwrap_or_default().to_owned();
        let stream = matches!(self.header("content-type"), Some("application/x-ndjson" | "text/event-stream"))
            && !has(|difference| matches!(difference, NotStream));
        let recorded_kind = if has(|difference| matches!(difference, NotStream)) {
            "application/json".to_owned()
        } else {
            kind(self.header("content-type"))
        };
        same("content type", &recorded_kind, &kind(answer.header("content-type")));
        // Ollama's library sends JSON of more than 2 KiB in chunks; that is no promise.
        let length = matches!(answer.head.framing, Framing::Length(_) | Framing::Nothing);
        same("stream", &stream, &!length);
        for name in ["access-control-allow-origin", "access-control-allow-methods", "access-control-max-age"] {
            same(name, &self.header(name).unwrap_or("none"), &answer.header(name).unwrap_or("none"));
        }

        let body = answer.text();
        if recorded_kind != "application/json" && !stream {
            let text =
                differences.iter().find_map(|difference| if let Text(text) = difference { Some(*text) } else { None });
            same("text", &text.unwrap_or(&self.body), &body.trim_end());
            return wrong;
        }
        let values = |text: &str| -> Vec<Value> {
            // Events are lines too, but for the empty ones between them and the end.
            let lines = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
            lines
                .filter(|line| !line.is_empty() && *line != "[DONE]")
                .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name)))
                .collect()
        };
        let (recorded, found) = (values(&self.body), values(&body));
        let shapes = |values: &[Value], ours: bool| -> BTreeSet<String> {
            let shape = |value: &Value| {
                differences.iter().fold(Shape::of(value), |shape, difference| match difference {
                    More(paths) if ours => paths.iter().fold(shape, |shape, path| shape.without(path)),
                    Fewer(paths) if !ours => paths.iter().fold(shape, |shape, path| shape.without(path)),
                    Inside(paths) => paths.iter().fold(shape, |shape, path| shape.without(path)),
                    _ => shape,
                })
            };
            values.iter().map(|value| shape(value).to_string()).collect()
        };
        let list = |shapes: BTreeSet<String>| shapes.into_iter().collect::<Vec<_>>().join("\n           ");
        same("shapes", &list(shapes(&recorded, false)), &list(shapes(&found, true)));

        let (Some(recorded), Some(found)) = (recorded.last(), found.last()) else { return wrong };
        if !has(|difference| matches!(difference, Words)) {
            same("done_reason", &recorded["done_reason"], &found["done_reason"]);
        }
        let text =
            differences.iter().find_map(|difference| if let Text(text) = difference { Some(*text) } else { None });
        // OpenAI's errors are objects.
        let error_of = |value: &Value| {
            let error = &value["error"];
            error.as_str().or(error["message"].as_str()).map(str::to_owned)
        };
        let error = error_of(recorded).map(|error| text.map_or(error, str::to_owned));
        same("error", &error.as_deref().unwrap_or("none"), &error_of(found).as_deref().unwrap_or("none"));
        wrong
    }
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ollama")
}

#[tokio::test]
async fn every_recorded_request_gets_the_recorded_kind_of_answer() {
    let vllama = Vllama::with_fake().start().await;
    let entries = std::fs::read_dir(directory()).expect("the transcripts");
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".http")?.to_owned())).collect();
    names.sort_by_key(|name| (LAST.iter().position(|last| last == name).map_or(0, |place| place + 1), name.clone()));
    names.retain(|name| !VECTORS.iter().any(|beginning| name.starts_with(beginning)));
    let mut wrong = Vec::new();
    for name in &names {
        let transcript = Transcript::read(name, str::to_owned);
        let answer = vllama.client.request(&transcript.request).await;
        let differences = transcript.compare(&answer);
        if !differences.is_empty() {
            wrong.push(format!("{name}\n{}", differences.join("\n")));
        }
    }
    for (name, differences, reason) in DIFFERENCES {
        assert!(directory().join(format!("{name}.http")).exists(), "{name}: there is no such transcript");
        assert!(differences.is_empty() || !reason.is_empty(), "{name}: a difference has a reason");
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), names.len(), wrong.join("\n"));
}

#[tokio::test]
async fn every_recorded_request_for_vectors_gets_the_recorded_kind_of_answer() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let entries = std::fs::read_dir(directory()).expect("the transcripts");
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".http")?.to_owned()));
    let names: Vec<String> = names.filter(|name| VECTORS.iter().any(|beginning| name.starts_with(beginning))).collect();
    assert_eq!(names.len(), 7, "{names:?}");
    let mut wrong = Vec::new();
    for name in &names {
        let transcript = Transcript::read(name, |body| body.replace("smollm2:135m", "all-minilm"));
        let answer = vllama.client.request(&transcript.request).await;
        let differences = transcript.compare(&answer);
        if !differences.is_empty() {
            wrong.push(format!("{name}\n{}", differences.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), names.len(), wrong.join("\n"));
}

#[tokio::test]
async fn facts_of_a_model_are_those_that_clients_look_for() {
    let vllama = Vllama::with_fake().start().await;
    let shown = vllama.post("/api/show", &serde_json::json!({"model": "smollm2:135m"})).await.json();
    let facts = &shown["model_info"];
    for (name, value) in [
        ("general.parameter_count", 134_515_008),
        ("llama.context_length", 8192),
        ("llama.embedding_length", 576),
        ("llama.block_count", 30),
        ("llama.attention.head_count", 9),
        ("llama.attention.head_count_kv", 3),
        ("llama.feed_forward_length", 1536),
    ] {
        assert_eq!(facts[name], value, "{name} in {facts}");
    }
    assert_eq!(facts["general.architecture"], "llama");
    assert!(facts["general.basename"].is_string(), "{facts}");
    let lengths = facts.as_object().expect("facts").keys().filter(|name| name.contains("context_length")).count();
    assert_eq!(lengths, 1, "clients take any key that holds `context_length`");
    assert!(shown["capabilities"].is_array() && shown["modified_at"].is_string(), "{shown}");
}
