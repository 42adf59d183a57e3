//! SIGHUP: the configuration is read again; what may change changes, and a broken file changes nothing.

use nix::sys::signal::Signal;

use serde_json::json;

use crate::harness::vllama::chat;
use crate::harness::{Request, Vllama, default_model};

/// Status of an answer to a page of this origin.
async fn asked_by(vllama: &Vllama, origin: &str) -> u16 {
    let request = Request::new("GET", "/api/version").header("Origin", origin);
    vllama.client.request(&request).await.status()
}

#[tokio::test]
async fn what_may_change_holds_from_the_next_request_on_and_what_may_not_asks_for_a_restart() {
    let builder = Vllama::with_fake();
    let file = builder.path().join("vllama.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("a configuration file");
    write("max_body = 1");
    let vllama = builder.env("VLLAMA_CONFIG", &file.to_string_lossy()).start().await;
    assert_eq!(asked_by(&vllama, "https://a.example").await, 403);

    write("max_body = 1\norigins = [\"https://a.example\"]\nmax_connections = 7\nkeep_alive = \"1ms\"");
    vllama.signal(Signal::SIGHUP);
    vllama.says("changed settings that hold from the next start").await;
    assert_eq!(asked_by(&vllama, "https://a.example").await, 200);
    let log = vllama.log();
    let told = |message: &str| log.iter().find(|line| line["message"] == message).expect("a log line");
    assert_eq!(told("the configuration has been read again")["changed"], "origins, keep-alive");
    let fixed = log.iter().find(|line| line["settings"].is_string()).expect("a log line");
    assert_eq!(fixed["settings"], "max-connections");
    vllama.engine_state("stopped").await;

    write("origins = []\nmax_queue = \"many\"");
    vllama.signal(Signal::SIGHUP);
    vllama.says("nothing changes").await;
    let log = vllama.log();
    let told = log.iter().filter_map(|line| line["message"].as_str()).find(|text| text.contains("nothing changes"));
    assert!(told.is_some_and(|text| text.contains("vllama.toml:2: max_queue")), "{told:?}");
    assert_eq!(asked_by(&vllama, "https://a.example").await, 200);
    vllama.stop().await;
}

#[tokio::test]
async fn another_heartbeat_holds_for_a_model_that_is_loaded_again() {
    let builder = Vllama::with_fake();
    let file = builder.path().join("vllama.toml");
    std::fs::write(&file, "heartbeat = 0").expect("a configuration file");
    let vllama = builder.env("VLLAMA_CONFIG", &file.to_string_lossy()).start().await;
    std::fs::write(&file, "heartbeat = \"300ms\"").expect("a configuration file");
    vllama.signal(Signal::SIGHUP);
    vllama.says("the configuration has been read again").await;
    vllama.post("/api/generate", &json!({"model": default_model::NAME, "keep_alive": 0, "stream": false})).await;
    vllama.engine_state("stopped").await;
    let request = Request::post("/api/chat", &chat("FAKE:hang 1", true));
    let _hung = vllama.client.send(&request).await.expect("a request on its way");
    vllama.says("the engine hung: no step and no token").await;
}

#[tokio::test]
async fn another_log_filter_holds_at_once() {
    let builder = Vllama::with_fake().env("VLLAMA_LOG", "");
    let file = builder.path().join("vllama.toml");
    std::fs::write(&file, "log = \"error\"").expect("a configuration file");
    let vllama = builder.env("VLLAMA_CONFIG", &file.to_string_lossy()).start().await;
    std::fs::write(&file, "log = \"info\"").expect("a configuration file");
    vllama.signal(Signal::SIGHUP);
    vllama.says("the configuration has been read again").await;
    vllama.signal(Signal::SIGUSR1);
    vllama.says("state, as asked for by a signal").await;

    std::fs::write(&file, "\nlog = \"info,vllm=loud\"").expect("a configuration file");
    vllama.signal(Signal::SIGHUP);
    vllama.says("vllama.toml:2: log: 'info,vllm=loud' is no log filter").await;
}
