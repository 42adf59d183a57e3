//! What real clients trip over (ollama-api §13): one test a trap, named after who trips.
//!
//! [`TRAPS`] says which test stands for which trap; many stand where their subject is.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::vllama::{chat, generate};
use crate::harness::{Answer, Request, Vllama};

const HERE: &str = "tests/blackbox/traps.rs";

/// The number of a trap, and the file and the name of its test.
const TRAPS: &[(u8, &str, &str)] = &[
    (1, HERE, "copilot_reads_a_version_of_plain_numbers"),
    (2, HERE, "open_webui_and_ollama_js_use_model_and_name_as_they_like"),
    (3, HERE, "langchain_leaves_the_tag_out_and_finds_what_it_asked_for"),
    (4, HERE, "the_ollama_cli_cuts_twelve_characters_from_every_digest"),
    (5, HERE, "copilot_reads_capabilities_and_lengths_of_every_listed_model"),
    (6, HERE, "zed_reads_the_same_capabilities_everywhere"),
    (7, HERE, "n8n_tests_its_credentials_with_the_text_of_the_root"),
    (7, "tests/blackbox/edges.rs", "head_answers_like_get_without_a_body"),
    (8, HERE, "ollama_python_finds_the_members_its_models_require"),
    (9, HERE, "ollama_js_finds_an_end_in_every_stream_and_json_in_every_error"),
    (10, HERE, "aiohttp_reads_short_whole_lines_and_nothing_between_them"),
    (11, HERE, "ollama_js_finds_no_error_key_where_there_is_no_error"),
    (12, HERE, "home_assistant_finds_a_message_with_text_on_every_line"),
    (13, "src/api/ollama/messages.rs", "results_find_their_calls_by_id_by_name_and_by_order"),
    (14, HERE, "home_assistant_never_causes_a_reload"),
    (15, HERE, "continue_parses_every_line_of_parameters_and_fills_gaps_raw"),
    (16, HERE, "langchain_gets_an_answer_to_a_prompt_and_counters_at_its_end"),
    (17, HERE, "open_webui_reads_when_a_model_expires_and_unloads_it"),
    (18, "tests/blackbox/transcripts.rs", "facts_of_a_model_are_those_that_clients_look_for"),
    (19, HERE, "old_clients_send_options_nobody_knows_and_numbers_as_text"),
    (20, "src/api/ollama/think.rs", "a_wish_is_put_in_the_words_of_the_model"),
    (21, "tests/blackbox/openai.rs", "limits_are_taken_as_ollama_takes_them"),
    (22, "tests/blackbox/openai.rs", "models_are_listed_and_found_by_ollamas_names"),
    (22, "tests/blackbox/passing.rs", "a_stream_names_the_model_as_asked_and_counts_only_when_asked"),
    (23, "src/api/ollama/error.rs", "engine_errors_are_flattened_whatever_their_shape"),
    (24, "tests/blackbox/loading.rs", "management_routes_answer_at_once_while_the_engine_loads"),
    (25, "tests/blackbox/edges.rs", "unknown_models_are_a_404_that_says_not_found"),
    (26, HERE, "page_assist_may_ask_from_anywhere_when_the_operator_says_so"),
    (26, "tests/blackbox/edges.rs", "pages_of_this_machine_may_ask_and_foreign_ones_may_not"),
    (27, "tests/blackbox/many.rs", "a_full_queue_is_a_503_that_says_busy"),
    (28, HERE, "llama_index_sends_images_that_are_none"),
    (29, HERE, "the_ollama_cli_is_told_that_there_is_nothing_to_pull"),
    (30, HERE, "go_clients_get_a_stream_unless_they_decline"),
    (31, HERE, "the_go_client_decodes_times_counters_and_lists_strictly"),
    (32, "tests/blackbox/answers.rs", "probabilities_come_with_every_token_when_asked_for"),
    (33, HERE, "ollama_knows_two_ends_of_an_answer"),
    (33, "tests/blackbox/deaths.rs", "an_error_in_the_middle_of_a_stream_is_its_last_line"),
    (34, "tests/blackbox/deaths.rs", "an_error_before_the_first_word_has_a_status_of_its_own"),
    (34, "tests/blackbox/loading.rs", "requests_wait_for_the_load_and_are_answered_then"),
];

/// How many there are.
const LAST: u8 = 34;

#[test]
fn every_trap_has_a_test() {
    for (number, file, test) in TRAPS {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a source file");
        assert!(text.contains(&format!("fn {test}(")), "trap {number}: there is no {test} in {file}");
    }
    let tested: BTreeSet<u8> = TRAPS.iter().map(|(number, ..)| *number).collect();
    assert_eq!(tested, (1..=LAST).collect(), "every trap has a test");
}

fn models(answer: &Value) -> &[Value] {
    answer["models"].as_array().expect("a list of models")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("the text {name} in {value}"))
}

/// Whether a text is a time as Go's and Python's readers take it: RFC 3339 with a zone.
fn is_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once('T') else { return false };
    let zone = time.find(['Z', '+', '-']);
    let Some((time, zone)) = zone.map(|place| time.split_at(place)) else { return false };
    let numbers = |text: &str, mark: char, lengths: &[usize]| {
        let parts: Vec<&str> = text.split(mark).collect();
        let fits = |(part, length): (&&str, &usize)| part.len() == *length && part.bytes().all(|b| b.is_ascii_digit());
        parts.len() == lengths.len() && parts.iter().zip(lengths).all(fits)
    };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    numbers(date, '-', &[4, 2, 2])
        && numbers(whole, ':', &[2, 2, 2])
        && (1..=9).contains(&fraction.len())
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
        && (zone == "Z" || numbers(&zone[1..], ':', &[2, 2]))
}

#[tokio::test]
async fn copilot_reads_a_version_of_plain_numbers() {
    let vllama = Vllama::with_fake().start_listening().await;
    let version = vllama.get("/api/version").await.json();
    let version = text(&version, "version");
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().expect("a plain number")).collect();
    assert!(parts.as_slice() >= [0, 17, 6].as_slice(), "{version}");
    assert_eq!(parts.len(), 3, "{version}");
}

#[tokio::test]
async fn open_webui_and_ollama_js_use_model_and_name_as_they_like() {
    let vllama = Vllama::with_fake().with_copy("alias", "latest").start().await;
    for path in ["/api/tags", "/api/ps"] {
        let answer = vllama.get(path).await.json();
        assert!(!models(&answer).is_empty());
        for model in models(&answer) {
            assert_eq!(text(model, "name"), text(model, "model"), "{path}");
        }
    }
    for field in ["model", "name"] {
        let empty = if field == "model" { "name" } else { "model" };
        let of = |model: &str| json!({field: model, empty: "", "from": "smollm2:135m", "stream": false});
        for path in ["/api/show", "/api/pull"] {
            assert_eq!(vllama.post(path, &of("smollm2:135m")).await.status(), 200, "{path} {field}");
        }
        assert_eq!(vllama.post("/api/create", &of("made")).await.status(), 200, "{field}");
        let delete = Request::new("DELETE", "/api/delete").body(of("made").to_string());
        assert_eq!(vllama.client.request(&delete).await.status(), 200, "{field}");
        let pushed = vllama.post("/api/push", &of("smollm2:135m")).await;
        assert!(pushed.error().contains("push is not supported"), "{field}: {}", pushed.error());
    }
}

#[tokio::test]
async fn langchain_leaves_the_tag_out_and_finds_what_it_asked_for() {
    let vllama = Vllama::with_fake().with_model("foo", "latest").start().await;
    let tags = vllama.get("/api/tags").await.json();
    assert!(models(&tags).iter().any(|model| model["model"] == "foo:latest"), "{tags}");
    let mut body = chat("FAKE:count 3", false);
    for name in ["foo", "foo:latest", "Foo", "registry.ollama.ai/library/foo:latest"] {
        body["model"] = json!(name);
        let answer = vllama.post("/api/chat", &body).await.json();
        assert_eq!(answer["model"], name, "what was asked for is echoed");
    }
    let loaded = vllama.get("/api/ps").await.json();
    assert!(models(&loaded).iter().any(|model| model["model"] == "foo:latest"), "{loaded}");
}

#[tokio::test]
async fn the_ollama_cli_cuts_twelve_characters_from_every_digest() {
    let vllama = Vllama::with_fake().with_model("other", "1b").start().await;
    let mut digests = BTreeSet::new();
    for path in ["/api/tags", "/api/ps"] {
        for model in models(&vllama.get(path).await.json()) {
            let digest = text(model, "digest");
            assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{path}: {digest}");
            digests.insert(digest.to_owned());
        }
    }
    assert_eq!(digests.len(), 2, "one for each model, the same in both lists");
}

#[tokio::test]
async fn copilot_reads_capabilities_and_lengths_of_every_listed_model() {
    let vllama = Vllama::with_fake().with_copy("alias", "latest").with_model("other", "1b").start_listening().await;
    let tags = vllama.get("/api/tags").await.json();
    let mut names = BTreeSet::new();
    for model in models(&tags) {
        let name = text(model, "model");
        let request =
            Request::post("/api/show", &json!({"model": name})).header("User-Agent", "GitHubCopilotChat/0.30.0");
        let shown = vllama.client.request(&request).await.json();
        assert!(shown["capabilities"].is_array(), "{name}: {shown}");
        let facts = &shown["model_info"];
        let length = format!("{}.context_length", text(facts, "general.architecture"));
        assert!(facts[&length].as_u64().is_some_and(|length| length > 4096), "{name}: {facts}");
        names.insert(text(facts, "general.basename").to_owned());
    }
    assert_eq!(names.len(), models(&tags).len(), "equal names would hide models: {names:?}");
}

#[tokio::test]
async fn zed_reads_the_same_capabilities_everywhere() {
    let vllama = Vllama::with_fake().start_listening().await;
    let known = ["completion", "tools", "insert", "vision", "embedding", "thinking", "image", "audio"];
    for model in models(&vllama.get("/api/tags").await.json()) {
        let shown = vllama.post("/api/show", &json!({"model": text(model, "model")})).await.json();
        assert_eq!(shown["capabilities"], model["capabilities"]);
        for capability in shown["capabilities"].as_array().expect("a list") {
            assert!(capability.as_str().is_some_and(|name| known.contains(&name)), "{capability}");
        }
        assert!(model["modified_at"].is_string() && model["digest"].is_string(), "{model}");
        for name in ["format", "family", "parameter_size", "quantization_level"] {
            assert!(!text(&model["details"], name).is_empty(), "{name} of {model}");
        }
    }
}

#[tokio::test]
async fn n8n_tests_its_credentials_with_the_text_of_the_root() {
    let vllama = Vllama::with_fake().start_listening().await;
    let root = vllama.client.request(&Request::new("GET", "/").header("Authorization", "Bearer whatever")).await;
    assert_eq!((root.status(), root.text().as_str()), (200, "Ollama is running"));
}

#[tokio::test]
async fn ollama_python_finds_the_members_its_models_require() {
    let builder = Vllama::with_fake();
    crate::harness::embedder::install(&builder.path().join("models"));
    let vllama = builder.start().await;
    let shown = vllama.post("/api/show", &json!({"model": "smollm2:135m"})).await.json();
    assert!(shown["model_info"].is_object(), "{shown}");
    assert!(is_time(text(&shown, "modified_at")), "{shown}");
    let answer = vllama.chat("FAKE:count 3").await.json();
    assert_eq!(answer["message"]["role"], "assistant");
    let vectors = vllama.post("/api/embed", &json!({"model": "all-minilm", "input": "x"})).await.json();
    assert!(vectors["embeddings"][0][0].is_number(), "{vectors}");
    let missing = vllama.post("/api/chat", &json!({"model": "nope", "messages": []})).await;
    assert_eq!((missing.status(), missing.error().as_str()), (404, "model 'nope' not found"));
}

#[tokio::test]
async fn ollama_js_finds_an_end_in_every_stream_and_json_in_every_error() {
    let vllama = Vllama::with_fake().start().await;
    let done: fn(&Value) -> bool = |line| line["done"] == true;
    let success: fn(&Value) -> bool = |line| line["status"] == "success";
    for (path, body, end) in [
        ("/api/chat", chat("FAKE:count 9", true), done),
        ("/api/generate", generate("FAKE:count 9", true), done),
        ("/api/pull", json!({"name": "smollm2:135m", "stream": true}), success),
        ("/api/create", json!({"model": "made", "from": "smollm2:135m", "stream": true}), success),
    ] {
        let answer = vllama.post(path, &body).await;
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"), "{path}");
        let ends: Vec<usize> = (0..).zip(answer.lines()).filter(|(_, line)| end(line)).map(|(at, _)| at).collect();
        assert_eq!(ends, [answer.lines().len() - 1], "{path} ends once, with its last line");
    }
    for path in ["/api/chat", "/api/generate", "/api/embed", "/api/show"] {
        let answer = vllama.post(path, &json!({"model": "nope", "prompt": "x", "stream": true})).await;
        assert!(answer.header("content-type").is_some_and(|kind| kind.contains("application/json")), "{path}");
    }
}

#[tokio::test]
async fn aiohttp_reads_short_whole_lines_and_nothing_between_them() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = generate("FAKE:text \u{1f642} ü \u{6f22}\u{5b57} \u{1f469}\u{200d}\u{1f680}\nnew\r\nlines", true);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(20);
    let answer = vllama.post("/api/generate", &body).await;
    let bytes: Vec<u8> = answer.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
    assert!(bytes.starts_with(b"{"), "no byte order mark");
    let mut said = String::new();
    for line in bytes.strip_suffix(b"\n").expect("a whole last line").split(|byte| *byte == b'\n') {
        assert!(line.len() < 64 * 1024, "{} bytes", line.len());
        assert!(line.starts_with(b"{") && line.ends_with(b"}"), "{}", String::from_utf8_lossy(line));
        let line: Value = serde_json::from_slice(line).expect("a line is JSON by itself");
        said.push_str(text(&line, "response"));
    }
    assert_eq!(said, "\u{1f642} ü \u{6f22}\u{5b57} \u{1f469}\u{200d}\u{1f680}\nnew\r\nlines");
}

#[tokio::test]
async fn ollama_js_finds_no_error_key_where_there_is_no_error() {
    let vllama = Vllama::with_fake().start().await;
    let mut lines = vllama.chat_stream("FAKE:count 5").await.lines();
    lines.extend(vllama.post("/api/generate", &generate("FAKE:count 5", true)).await.lines());
    lines.extend(vllama.post("/api/create", &json!({"model": "made", "from": "smollm2:135m"})).await.lines());
    lines.extend(vllama.post("/api/pull", &json!({"model": "smollm2:135m"})).await.lines());
    lines.push(vllama.chat("FAKE:count 5").await.json());
    lines.push(vllama.post("/api/show", &json!({"model": "smollm2:135m"})).await.json());
    lines.push(vllama.post("/api/generate", &json!({"model": "smollm2:135m"})).await.json());
    for path in ["/api/tags", "/api/ps", "/api/version"] {
        lines.push(vllama.get(path).await.json());
    }
    for line in lines {
        assert!(line.get("error").is_none(), "{line}");
    }
}

#[tokio::test]
async fn home_assistant_finds_a_message_with_text_on_every_line() {
    let vllama = Vllama::with_fake().start().await;
    for line in vllama.chat_stream("FAKE:count 9").await.lines() {
        assert!(line["message"]["content"].is_string(), "{line}");
        assert_eq!(line["message"]["role"], "assistant", "{line}");
        assert_eq!(line["model"], "smollm2:135m", "{line}");
        assert!(is_time(text(&line, "created_at")), "{line}");
    }
    for line in vllama.post("/api/generate", &generate("FAKE:count 9", true)).await.lines() {
        assert!(line["response"].is_string() && is_time(text(&line, "created_at")), "{line}");
    }
}

#[tokio::test]
async fn home_assistant_never_causes_a_reload() {
    let vllama = Vllama::with_fake().start().await;
    for (keep_alive, length) in [(json!(-1), json!(8192.0)), (json!("300s"), json!(2048)), (json!("5m"), json!(4096.5))]
    {
        let mut body = chat("FAKE:count 3", false);
        body["keep_alive"] = keep_alive;
        body["options"] = json!({"num_ctx": length});
        let answer = vllama.post("/api/chat", &body).await;
        assert_eq!(answer.json()["message"]["content"], "1 2 3", "{body}");
    }
    assert_eq!(vllama.starts(), 1);
    assert_eq!(vllama.health().await["engine"]["generation"], 1);
}

#[tokio::test]
async fn continue_parses_every_line_of_parameters_and_fills_gaps_raw() {
    let vllama = Vllama::with_fake().start().await;
    let parameters = json!({"num_ctx": 4096, "stop": ["<|im_end|>", "a \"b\""], "temperature": 0.25});
    let made = json!({"model": "made", "from": "smollm2:135m", "parameters": parameters, "stream": false});
    assert_eq!(vllama.post("/api/create", &made).await.status(), 200);
    let shown = vllama.post("/api/show", &json!({"name": "made"})).await.json();
    let mut found = Vec::new();
    for line in text(&shown, "parameters").lines() {
        let (name, value) = line.split_once(' ').expect("a name, spaces, a value");
        let value: Value = serde_json::from_str(value.trim_start()).expect("a number or a quoted text");
        found.push((name.to_owned(), value));
    }
    found.sort_by_key(|(name, value)| (name.clone(), value.to_string()));
    let expected = [
        ("num_ctx".to_owned(), json!(4096)),
        ("stop".to_owned(), json!("<|im_end|>")),
        ("stop".to_owned(), json!("a \"b\"")),
        ("temperature".to_owned(), json!(0.25)),
    ];
    assert_eq!(found, expected);
    let body = json!({"model": "smollm2:135m", "prompt": "<fim>FAKE:count 3", "raw": true, "stream": false,
        "keep_alive": 1800, "options": {"num_predict": 64, "stop": ["\n\n"]}});
    assert_eq!(vllama.post("/api/generate", &body).await.json()["response"], "1 2 3");
    assert_eq!(vllama.engine_request().await["body"]["prompt"], "<fim>FAKE:count 3");
}

#[tokio::test]
async fn langchain_gets_an_answer_to_a_prompt_and_counters_at_its_end() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 3", true);
    body["format"] = json!("");
    body["options"] = json!({"num_predict": -1, "top_k": -1, "temperature": null});
    body["keep_alive"] = json!("5m");
    let lines = vllama.post("/api/chat", &body).await.lines();
    let last = lines.last().expect("lines");
    assert_eq!(last["done_reason"], "stop", "{last}");
    for name in ["prompt_eval_count", "eval_count", "total_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(last[name].as_u64().is_some_and(|value| value > 0), "{name} of {last}");
    }
}

#[tokio::test]
async fn open_webui_reads_when_a_model_expires_and_unloads_it() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 3", false);
    body["options"] = json!({"num_thread": 4, "use_mlock": true, "of_its_own": {"a": 1}});
    assert_eq!(vllama.post("/api/chat", &body).await.status(), 200);
    let loaded = vllama.get("/api/ps").await.json();
    assert!(is_time(text(&models(&loaded)[0], "expires_at")), "{loaded}");
    let pulled = vllama.post("/api/pull", &json!({"name": "smollm2:135m", "insecure": true})).await;
    assert_eq!(pulled.lines().last(), Some(&json!({"status": "success"})));
    let unload = json!({"model": "smollm2:135m", "keep_alive": 0, "prompt": ""});
    let answer = vllama.post("/api/generate", &unload).await;
    assert_eq!(answer.json()["done_reason"], "unload");
    vllama.engine_state("stopped").await;
    assert!(models(&vllama.get("/api/ps").await.json()).is_empty());
}

#[tokio::test]
async fn old_clients_send_options_nobody_knows_and_numbers_as_text() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 20", false);
    body["options"] = json!({"mirostat": 2, "tfs_z": 1.0, "numa": false, "vocab_only": null, "nonsense": [1],
        "temperature": "0.5", "num_predict": "4", "stop": "never"});
    let answer = vllama.post("/api/chat", &body).await.json();
    assert_eq!((&answer["eval_count"], &answer["done_reason"]), (&json!(4), &json!("length")), "{answer}");
    assert_eq!(vllama.engine_request().await["body"]["temperature"], 0.5);
}

#[tokio::test]
async fn page_assist_may_ask_from_anywhere_when_the_operator_says_so() {
    let vllama = Vllama::with_fake().env("OLLAMA_ORIGINS", "*").start_listening().await;
    let ask = |method: &'static str| {
        let request = Request::new(method, "/api/tags").header("Origin", "chrome-extension://abc");
        let client = vllama.client.clone();
        async move { client.request(&request.header("Access-Control-Request-Method", "POST")).await }
    };
    let answer = ask("GET").await;
    assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (200, Some("*")));
    let preflight = ask("OPTIONS").await;
    assert_eq!((preflight.status(), preflight.header("access-control-allow-origin")), (204, Some("*")));
}

#[tokio::test]
async fn llama_index_sends_images_that_are_none() {
    let vllama = Vllama::with_fake().start().await;
    for images in [Value::Null, json!([])] {
        let mut body = chat("FAKE:count 3", false);
        body["messages"][0]["images"] = images.clone();
        assert_eq!(vllama.post("/api/chat", &body).await.json()["message"]["content"], "1 2 3", "{images}");
        let mut body = generate("FAKE:count 3", false);
        body["images"] = images.clone();
        assert_eq!(vllama.post("/api/generate", &body).await.json()["response"], "1 2 3", "{images}");
    }
}

#[tokio::test]
async fn the_ollama_cli_is_told_that_there_is_nothing_to_pull() {
    let vllama = Vllama::with_fake().start_listening().await;
    let show = async || vllama.post("/api/show", &json!({"model": "nobody"})).await;
    assert_eq!(show().await.status(), 404);
    let pulled = vllama.post("/api/pull", &json!({"name": "nobody", "model": ""})).await.lines();
    let error = pulled.last().and_then(|line| line["error"].as_str());
    assert!(error.is_some_and(|error| error.contains("file does not exist")), "{pulled:?}");
    assert!(pulled.iter().all(|line| line["status"] != "success"), "{pulled:?}");
    assert_eq!(show().await.status(), 404);
}

#[tokio::test]
async fn go_clients_get_a_stream_unless_they_decline() {
    let vllama = Vllama::with_fake().start().await;
    let kind = |answer: &Answer| answer.header("content-type").unwrap_or_default().to_owned();
    for (path, mut body) in
        [("/api/chat", chat("FAKE:count 3", true)), ("/api/generate", generate("FAKE:count 3", true))]
    {
        for stream in [None, Some(Value::Null), Some(json!(true))] {
            body.as_object_mut().expect("members").remove("stream");
            if let Some(stream) = stream {
                body["stream"] = stream;
            }
            assert_eq!(kind(&vllama.post(path, &body).await), "application/x-ndjson", "{body}");
        }
        body["stream"] = json!(false);
        assert_eq!(kind(&vllama.post(path, &body).await), "application/json; charset=utf-8", "{body}");
    }
    for body in [json!({"model": "smollm2:135m"}), json!({"model": "smollm2:135m", "keep_alive": 0})] {
        let answer = vllama.post("/api/generate", &body).await.json();
        assert!(is_time(text(&answer, "created_at")), "{answer}");
    }
}

/// Every member of an answer, with its name.
fn walk(value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            visit(name, member);
            walk(member, visit);
        }),
        Value::Array(elements) => elements.iter().for_each(|element| walk(element, visit)),
        _ => {}
    }
}

#[tokio::test]
async fn the_go_client_decodes_times_counters_and_lists_strictly() {
    let builder = Vllama::with_fake();
    crate::harness::embedder::install(&builder.path().join("models"));
    let vllama = builder.start().await;
    let mut answers = vllama.chat_stream("FAKE:count 5").await.lines();
    answers.extend(vllama.post("/api/generate", &generate("FAKE:count 5", true)).await.lines());
    answers.push(vllama.post("/api/embed", &json!({"model": "all-minilm", "input": ["x", "y"]})).await.json());
    answers.push(vllama.post("/api/show", &json!({"model": "smollm2:135m", "verbose": true})).await.json());
    answers.extend([vllama.get("/api/tags").await.json(), vllama.get("/api/ps").await.json()]);
    let mut seen = BTreeSet::new();
    for answer in &answers {
        walk(answer, &mut |name, value| {
            if name.ends_with("_at") {
                assert!(value.as_str().is_some_and(is_time), "{name}: {value}");
            } else if name.ends_with("_duration") || name.ends_with("_count") || name.starts_with("size") {
                assert!(value.is_u64(), "{name}: {value}");
            } else if matches!(name, "capabilities" | "models" | "embeddings" | "context" | "tensors") {
                assert!(value.is_array(), "{name}: {value}");
            } else {
                return;
            }
            seen.insert(name.to_owned());
        });
    }
    for name in ["created_at", "modified_at", "expires_at", "eval_count", "load_duration", "size_vram", "capabilities"]
    {
        assert!(seen.contains(name), "{name} was looked at: {seen:?}");
    }
}

#[tokio::test]
async fn ollama_knows_two_ends_of_an_answer() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 20", true);
    for (options, reason) in
        [(json!({}), "stop"), (json!({"num_predict": 3}), "length"), (json!({"stop": ["7"]}), "stop")]
    {
        body["options"] = options;
        let lines = vllama.post("/api/chat", &body).await.lines();
        let (last, words) = lines.split_last().expect("lines");
        assert_eq!(last["done_reason"], reason, "{body}");
        assert!(words.iter().all(|line| line.get("done_reason").is_none()), "{body}");
    }
}
