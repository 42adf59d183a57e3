//! The sentences of the contract that a real client breaks without ([must] in ollama-api): which test holds which, and
//! those that stand nowhere else.

use std::path::Path;

use serde_json::json;

use crate::harness::vllama::{chat, generate};
use crate::harness::{Request, Vllama, embedder};

const TRAPS: &str = "tests/blackbox/traps.rs";
const EDGES: &str = "tests/blackbox/edges.rs";
const HERE: &str = "tests/blackbox/contract.rs";

/// Section, sentence, and the file and the name of its test.
const MUSTS: &[(&str, &str, &str, &str)] = &[
    ("§1.1", "the content type of a request is ignored", EDGES, "the_content_type_of_a_request_does_not_matter"),
    (
        "§1.1",
        "Accept, Authorization and query strings are ignored",
        HERE,
        "headers_and_queries_of_clients_change_nothing",
    ),
    ("§1.1", "null is absent", "src/api/ollama/types.rs", "the_zero_fields_of_the_go_client_are_as_good_as_absent"),
    ("§1.1", "null is absent, in every field", HERE, "null_in_any_field_is_as_good_as_nothing"),
    (
        "§1.1",
        "a client that leaves cancels its request",
        "tests/blackbox/answers.rs",
        "a_client_that_hangs_up_frees_the_engine_at_once",
    ),
    ("§1.2", "bodies and errors are one line", HERE, "whole_answers_and_errors_are_one_line"),
    (
        "§1.2",
        "no empty lines in a stream",
        "tests/blackbox/answers.rs",
        "every_chunk_of_a_stream_is_whole_lines_without_empty_ones",
    ),
    (
        "§1.2",
        "an error after the first byte is the last line",
        "tests/blackbox/deaths.rs",
        "an_error_in_the_middle_of_a_stream_is_its_last_line",
    ),
    (
        "§3.3",
        "arguments are an object",
        "tests/blackbox/tools.rs",
        "parallel_calls_arrive_whole_and_once_before_the_last_line",
    ),
    ("§3.4", "content is always there", TRAPS, "home_assistant_finds_a_message_with_text_on_every_line"),
    ("§4.2", "no models are an empty list", HERE, "no_models_are_an_empty_list"),
    ("§4.2", "name and model, both with the tag", TRAPS, "open_webui_and_ollama_js_use_model_and_name_as_they_like"),
    ("§4.2", "modified_at is there", TRAPS, "zed_reads_the_same_capabilities_everywhere"),
    ("§4.2", "a digest of 64 hex digits", TRAPS, "the_ollama_cli_cuts_twelve_characters_from_every_digest"),
    ("§4.2", "details are never empty", TRAPS, "zed_reads_the_same_capabilities_everywhere"),
    ("§4.3", "show takes name and model", TRAPS, "open_webui_and_ollama_js_use_model_and_name_as_they_like"),
    (
        "§4.3",
        "what is not there is exactly a 404",
        "tests/blackbox/catalogue.rs",
        "every_row_has_its_status_and_its_text",
    ),
    ("§4.3", "model_info is always there", TRAPS, "ollama_python_finds_the_members_its_models_require"),
    (
        "§4.3",
        "the facts that clients read",
        "tests/blackbox/transcripts.rs",
        "facts_of_a_model_are_those_that_clients_look_for",
    ),
    ("§4.5", "pull takes name and model", TRAPS, "open_webui_and_ollama_js_use_model_and_name_as_they_like"),
    ("§4.5", "a pull ends with success", TRAPS, "ollama_js_finds_an_end_in_every_stream_and_json_in_every_error"),
];

#[test]
fn every_sentence_that_clients_need_has_a_test() {
    for (section, sentence, file, test) in MUSTS {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a source file");
        assert!(text.contains(&format!("fn {test}(")), "{section} {sentence}: there is no {test} in {file}");
    }
}

/// ollama-api §1.1.
#[tokio::test]
async fn headers_and_queries_of_clients_change_nothing() {
    let vllama = Vllama::with_fake().start().await;
    for (name, value) in [
        ("Accept", "text/html"),
        ("Accept", "application/x-ndjson"),
        ("Authorization", "Bearer not-a-key"),
        ("Authorization", "Basic Og=="),
        ("Accept-Encoding", "gzip, br, zstd"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ] {
        let body = chat("FAKE:count 3", false).to_string();
        let request = Request::new("POST", "/api/chat?ts=1690000000&x").header(name, value).body(body);
        let answer = vllama.client.request(&request).await;
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"), "{name}: {value}");
        assert_eq!(answer.json()["message"]["content"], "1 2 3", "{name}: {value}");
    }
}

/// ollama-api §1.1: whatever the field's type is.
#[tokio::test]
async fn null_in_any_field_is_as_good_as_nothing() {
    let builder = Vllama::with_fake();
    embedder::install(&builder.path().join("models"));
    let vllama = builder.start().await;
    let nulls = [
        "stream",
        "format",
        "keep_alive",
        "options",
        "think",
        "logprobs",
        "top_logprobs",
        "truncate",
        "shift",
        "tools",
        "_debug_render_only",
        "suffix",
        "system",
        "template",
        "context",
        "raw",
        "images",
        "dimensions",
        "name",
        "verbose",
        "insecure",
        "quantize",
        "files",
        "adapters",
        "license",
        "parameters",
        "messages",
    ];
    for (path, mut body) in [
        ("/api/chat", chat("FAKE:count 3", false)),
        ("/api/generate", generate("FAKE:count 3", false)),
        ("/api/embed", json!({"model": embedder::NAME, "input": "x"})),
        ("/api/embeddings", json!({"model": embedder::NAME, "prompt": "x"})),
        ("/api/show", json!({"model": "smollm2:135m"})),
        ("/api/pull", json!({"model": "smollm2:135m"})),
        ("/api/create", json!({"model": "made", "from": "smollm2:135m"})),
    ] {
        for name in nulls {
            if body.get(name).is_none() {
                body[name] = json!(null);
            }
        }
        let answer = vllama.post(path, &body).await;
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        assert!(!answer.text().contains("\"error\""), "{path}: {}", answer.text());
    }
    let mut body = chat("FAKE:count 3", false);
    for name in ["images", "thinking", "tool_calls", "tool_name", "tool_call_id"] {
        body["messages"][0][name] = json!(null);
    }
    assert_eq!(vllama.post("/api/chat", &body).await.json()["message"]["content"], "1 2 3");
}

/// ollama-api §1.2: the Go client reads whole bodies with a line scanner of 8 MB.
#[tokio::test]
async fn whole_answers_and_errors_are_one_line() {
    let builder = Vllama::with_fake();
    embedder::install(&builder.path().join("models"));
    let vllama = builder.start().await;
    let mut answers = vec![
        vllama.chat("FAKE:text two\nlines").await,
        vllama.post("/api/generate", &generate("FAKE:text two\nlines", false)).await,
        vllama.post("/api/embed", &json!({"model": embedder::NAME, "input": ["a", "b"]})).await,
        vllama.post("/api/show", &json!({"model": "smollm2:135m", "verbose": true})).await,
        vllama.post("/api/pull", &json!({"model": "smollm2:135m", "stream": false})).await,
        vllama.post("/api/create", &json!({"model": "made", "from": "smollm2:135m", "stream": false})).await,
        vllama.post("/api/chat", &json!({"model": "nope", "messages": []})).await,
        vllama.post("/api/chat", &json!({"model": "smollm2:135m", "think": "two\nlines"})).await,
    ];
    for path in ["/api/tags", "/api/ps", "/api/version"] {
        answers.push(vllama.get(path).await);
    }
    for answer in answers {
        let text = answer.text();
        assert!(!text.trim_end_matches('\n').contains('\n') && text.len() < 8_000_000, "{text:.200}");
        assert!(answer.json().is_object());
    }
}

/// ollama-api §4.2, §4.4.
#[tokio::test]
async fn no_models_are_an_empty_list() {
    let builder = Vllama::with_fake().without_model("smollm2", "135m").arguments(&["serve", "--json"]);
    let vllama = builder.start_listening().await;
    for path in ["/api/tags", "/api/ps"] {
        assert_eq!(vllama.get(path).await.json(), json!({"models": []}), "{path}");
    }
    assert_eq!(vllama.get("/v1/models").await.json()["data"], json!([]));
}
