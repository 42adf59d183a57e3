//! `vllama doctor` from outside: what it says of a machine, with which exit code, and what it leaves alone.

use std::net::TcpListener;

use serde_json::Value;

use crate::harness::Vllama;
use crate::harness::vllama::Builder;

/// What it says as JSON, and its exit code.
async fn doctor(builder: Builder) -> (Value, Option<i32>) {
    let ended = builder.arguments(&["doctor", "--json"]).run().await;
    assert_eq!(ended.stderr, "");
    let said = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", ended.stdout));
    (said, ended.status.code())
}

fn finding<'a>(said: &'a Value, check: &str) -> &'a Value {
    let findings = said["findings"].as_array().expect("findings");
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("{check} in {said}"))
}

#[tokio::test]
async fn it_looks_at_everything_and_makes_nothing() {
    let builder = Vllama::with_fake();
    let place = builder.path().to_owned();
    let (said, code) = doctor(builder).await;
    assert_eq!((code, &said["ok"]), (Some(0), &true.into()), "{said}");
    for check in ["engine", "gpus", "memory", "shared memory", "run directory", "logs", "store", "port", "limits"] {
        assert!(finding(&said, check)["what"].is_string(), "{check}");
    }
    assert!(finding(&said, "store")["what"].as_str().is_some_and(|what| what.contains("1 model")), "{said}");
    assert!(!place.join("run").exists() && !place.join("state").exists(), "it changes nothing");
}

#[tokio::test]
async fn an_engine_that_is_missing_and_a_port_that_is_taken_are_exit_code_1_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let builder = Vllama::with_fake().env("VLLAMA_ENGINE", "/nowhere/vllm").env("OLLAMA_HOST", &address);
    // Nobody there answers, as with a program that speaks no HTTP.
    let (said, code) = doctor(builder).await;
    assert_eq!((code, &said["ok"]), (Some(1), &false.into()), "{said}");
    for (check, fix) in [("engine", "--engine"), ("port", "OLLAMA_HOST")] {
        let finding = finding(&said, check);
        assert_eq!(finding["level"], "error", "{finding}");
        assert!(finding["fix"].as_str().is_some_and(|text| text.contains(fix)), "{finding}");
    }
}

#[tokio::test]
async fn it_finds_a_vllama_that_serves_and_what_others_left_in_its_store() {
    let vllama = Vllama::with_fake().start().await;
    std::fs::create_dir_all(vllama.path("models/.staging/half")).expect("a leftover");
    let builder = Vllama::with_fake()
        .env("OLLAMA_HOST", &vllama.address.to_string())
        .env("VLLAMA_RUN", &vllama.path("run").to_string_lossy())
        .env("VLLAMA_MODELS", &vllama.path("models").to_string_lossy());
    let (said, code) = doctor(builder).await;
    assert_eq!(code, Some(0), "{said}");
    let port = finding(&said, "port");
    assert!(port["what"].as_str().is_some_and(|what| what.starts_with("vllama 0.1.0 serves on")), "{port}");
    assert_eq!(finding(&said, "run directory")["level"], "ok");
    let store = finding(&said, "store");
    assert_eq!(
        (&store["level"], store["what"].as_str()),
        (&"warning".into(), Some("1 unfinished model left in the store"))
    );
    assert!(vllama.path("models/.staging/half").exists(), "it changes nothing");
}

#[tokio::test]
async fn people_get_a_table_with_a_verdict() {
    let ended = Vllama::with_fake().arguments(&["doctor"]).run().await;
    assert!(ended.stdout.lines().any(|line| line.starts_with("✓ port")), "{}", ended.stdout);
    assert!(ended.stdout.lines().last().is_some_and(|line| line.starts_with("an engine can start here")));
}
