//! What known clients send, one request after the other, and what each looks at in the answers (ollama-api §9, §13).
//!
//! Each runs over one connection, as clients keep theirs. The sequences are files in `tests/golden/clients`; its README
//! says how they are written. All of them find the same models: one that chats, one that calls functions and thinks, one
//! that makes vectors.

mod check;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Answer, Request, Vllama, eventually};
use script::{Script, Side, Step};

/// A vllama with the models that the sequences name, and the file that engines write their requests to.
async fn world() -> (Vllama, PathBuf) {
    let builder = Vllama::with_fake().with_embedder().with_thinker();
    let asked = builder.path().join("asked");
    let replays = script::directory().join("engine");
    let builder = builder.env("FAKE_VLLM_REQUESTS", &asked.to_string_lossy());
    (builder.env("FAKE_VLLM_REPLAY_DIR", &replays.to_string_lossy()).start().await, asked)
}

/// Does what the client does.
async fn replay(name: &str) {
    let script = Script::read(name);
    let (vllama, asked) = world().await;
    let mut connection = vllama.client.connect().await.expect("a connection");
    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    for step in &script.steps {
        let known = kept.clone();
        let fill = |text: &str| {
            known.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
        };
        let place = format!("{}.txt:{}: {} {}", script.name, step.line, step.method, step.path);
        let mut attempt = async || {
            let asked_for = request(step, &fill);
            let answer = connection.ask(&asked_for).await.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(answer.header("connection"), None, "{place}: the connection is kept");
            let content = content(&answer);
            let wrong = complaints(step, (&answer, &content), &asked, &fill);
            (content, wrong)
        };
        let (mut content, mut wrong) = attempt().await;
        if step.repeated {
            content = eventually(&format!("{place}: {}", wrong.join(", ")), async || {
                let (content, wrong) = attempt().await;
                wrong.is_empty().then_some(content)
            })
            .await;
            wrong.clear();
        }
        assert!(wrong.is_empty(), "{place}\n  {}\n  answer: {content}", wrong.join("\n  "));
        for (name, place) in &step.kept {
            let found = check::find(&content, &fill(place)).first().copied().cloned();
            let found = found.unwrap_or_else(|| panic!("{place}: nothing to keep in {content}"));
            kept.insert(name.clone(), found.as_str().map_or_else(|| found.to_string(), str::to_owned));
        }
    }
}

/// What the client would trip over in an answer.
fn complaints(
    step: &Step,
    (answer, content): (&Answer, &Value),
    asked: &Path,
    fill: &impl Fn(&str) -> String,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if answer.status() != step.status {
        wrong.push(format!("status {} instead of {}", answer.status(), step.status));
    }
    let kind = answer.header("content-type").unwrap_or_default();
    if step.content_type.as_ref().is_some_and(|wanted| !kind.starts_with(wanted.as_str())) {
        wrong.push(format!("content type {kind:?}"));
    }
    let engine =
        if step.checks.iter().any(|(side, _)| *side == Side::Engine) { last_request(asked) } else { Value::Null };
    for (side, check) in &step.checks {
        let whole = if *side == Side::Engine { &engine } else { content };
        wrong.extend(check.with(fill).complaint(whole));
    }
    wrong
}

fn request(step: &Step, fill: &impl Fn(&str) -> String) -> Request {
    let mut request = Request::new(&step.method, &fill(&step.path));
    if step.body.is_some() {
        request = request.header("Content-Type", "application/json");
    }
    for (name, value) in &step.headers {
        request = request.header(name, value);
    }
    match &step.body {
        Some(body) => request.body(fill(body)),
        None => request,
    }
}

/// The answer as one value: its lines or events as a list, JSON as it is, anything else as text.
fn content(answer: &Answer) -> Value {
    let text = answer.text();
    let kind = answer.header("content-type").unwrap_or_default();
    let event = |data: &str| serde_json::from_str(data).unwrap_or_else(|_| json!(data));
    if kind.starts_with("application/x-ndjson") {
        Value::Array(answer.lines())
    } else if kind.starts_with("text/event-stream") {
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(event).collect()
    } else if kind.starts_with("application/json") && !text.is_empty() {
        assert!(!text.trim_end().contains('\n'), "one line, as clients in Go read lines (ollama-api §1.2): {text}");
        answer.json()
    } else {
        json!(text)
    }
}

/// What an engine was asked last.
fn last_request(asked: &Path) -> Value {
    let text = std::fs::read_to_string(asked).unwrap_or_default();
    text.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).expect("JSON"))
}

/// A test for each sequence, by the name of its file.
macro_rules! sequences {
    ($($test:ident = $file:literal;)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                replay($file).await;
            }
        )*

        #[test]
        fn every_sequence_is_replayed() {
            let files = script::directory().read_dir().expect("the sequences").flatten();
            let names = files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".txt")?.to_owned()));
            assert_eq!(names.collect::<BTreeSet<_>>(), BTreeSet::from([$($file.to_owned()),*]));
        }
    };
}

sequences! {
    copilot_chat_lists_its_models_and_chats = "copilot-chat";
    open_webui_connects_lists_chats_and_unloads = "open-webui";
    continue_reads_parameters_completes_and_calls_tools = "continue";
    home_assistant_is_set_up_and_switches_a_light = "home-assistant";
    zed_lists_its_models_and_edits = "zed";
    langchain_validates_chats_and_calls_tools = "langchain";
    llamaindex_chats_and_calls_tools = "llamaindex";
    n8n_tests_its_credential_and_runs_an_agent = "n8n";
    the_cli_runs_a_model = "cli-run";
    the_cli_pulls_what_it_lacks = "cli-pull";
    the_cli_lists_shows_and_stops = "cli-look";
    the_cli_creates_copies_saves_and_removes = "cli-create";
    the_cli_signs_in_and_pushes = "cli-push";
}
