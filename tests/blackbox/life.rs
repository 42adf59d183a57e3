//! Ends: by one SIGTERM in order, by two in a hurry; and starts after an end that was not in order.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::vllama::chat;
use crate::harness::{Request, Vllama, processes};

#[tokio::test]
async fn an_idle_server_ends_at_once_and_leaves_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut vllama = Vllama::with_fake().start().await;
        let asked = Instant::now();
        vllama.signal(signal);
        assert_eq!(vllama.ended().await.code(), Some(0), "{signal}");
        assert!(asked.elapsed() < Duration::from_secs(3), "{signal}: {:?}", asked.elapsed());
        vllama.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_running_stream_may_finish_while_new_requests_are_refused_and_told_to_come_back() {
    let mut vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "40").start().await;
    let kept = vllama.client.connect().await.expect("a connection");
    let client = vllama.client.clone();
    let stream = tokio::spawn(async move { client.post("/api/chat", &chat("FAKE:count 80", true)).await });
    vllama.engine_runs(1).await;
    vllama.signal(Signal::SIGTERM);
    crate::harness::eventually("vllama is not ready any more", async || {
        (vllama.get("/health/ready").await.status() == 503).then_some(())
    })
    .await;
    let ready = vllama.get("/health/ready").await;
    assert_eq!((ready.json()["status"].as_str(), ready.header("connection")), (Some("stopping"), Some("close")));
    assert_eq!(vllama.get("/health/live").await.status(), 200);
    let late = Request::post("/api/chat", &chat("late", false));
    for mut exchange in [kept, vllama.client.connect().await.expect("the port is open")] {
        let refused = exchange.request(&late).await.expect("an answer");
        assert_eq!(refused.status(), 503, "{}", refused.text());
        assert_eq!((refused.header("connection"), refused.header("retry-after")), (Some("close"), Some("5")));
        assert_eq!(exchange.until_closed().await, b"");
    }
    assert!(!stream.is_finished(), "all this while the stream ran");
    let lines = stream.await.expect("the stream's task").lines();
    assert_eq!(lines.last().expect("lines")["eval_count"], 81, "the stream came to its end");
    assert_eq!(vllama.ended().await.code(), Some(0));
    vllama.assert_nothing_left();
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_is_broken_off_and_does_not_look_complete() {
    let mut vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "40").env("VLLAMA_DRAIN", "0.5").start().await;
    let client = vllama.client.clone();
    let request = Request::post("/api/chat", &chat("FAKE:count 4000", true));
    let stream = tokio::spawn(async move { client.try_request(&request).await });
    vllama.engine_runs(1).await;
    let asked = Instant::now();
    vllama.signal(Signal::SIGTERM);
    // Either the chunked body has no end, or its last line is an error.
    if let Ok(answer) = stream.await.expect("the stream's task") {
        let lines = answer.lines();
        assert!(lines.last().expect("lines")["error"].is_string(), "{:?}", lines.last());
    }
    assert_eq!(vllama.ended().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    vllama.assert_nothing_left();
}

#[tokio::test]
async fn a_second_signal_hurries() {
    let mut vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "10").env("VLLAMA_DRAIN", "60").start().await;
    let stream = Request::post("/api/chat", &chat("FAKE:count 4000", true));
    let _stream = vllama.client.send(&stream).await.expect("a request on its way");
    vllama.engine_runs(1).await;
    vllama.signal(Signal::SIGTERM);
    crate::harness::eventually("the first signal has arrived", async || {
        let ready = vllama.client.try_request(&Request::new("GET", "/health/ready")).await;
        ready.map_or(Some(()), |answer| (answer.status() == 503).then_some(()))
    })
    .await;
    let asked = Instant::now();
    vllama.signal(Signal::SIGTERM);
    vllama.ended().await;
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    vllama.assert_nothing_left();
}

#[tokio::test]
async fn an_engine_that_ignores_sigterm_is_killed_at_the_limit() {
    let mut vllama = Vllama::with_fake()
        .env("FAKE_VLLM_IGNORE_TERM", "1")
        .env("FAKE_VLLM_STRAYS", "1")
        .env("VLLAMA_STOP_TIMEOUT", "1")
        .start()
        .await;
    let asked = Instant::now();
    vllama.signal(Signal::SIGTERM);
    assert_eq!(vllama.ended().await.code(), Some(0));
    let took = asked.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(6), "{took:?}");
    vllama.assert_nothing_left();
}

#[tokio::test]
async fn descendants_that_left_the_session_are_swept() {
    let vllama = Vllama::with_fake()
        .env("FAKE_VLLM_STRAYS", "3")
        .env("FAKE_VLLM_LEAVE_FILES", "1")
        .env("FAKE_VLLM_ZOMBIES", "3")
        .start()
        .await;
    assert_eq!(vllama.processes().iter().filter(|process| process.name == "fake-stray").count(), 3);
    vllama.stop().await;
}

#[tokio::test]
async fn a_start_under_way_is_broken_off() {
    for phase in ["import:60000", "load:60000", "profile:60000"] {
        let mut vllama = Vllama::with_fake().env("FAKE_VLLM_START", phase).start_listening().await;
        vllama.engine_state("starting").await;
        let asked = Instant::now();
        vllama.signal(Signal::SIGTERM);
        assert_eq!(vllama.ended().await.code(), Some(0), "{phase}");
        assert!(asked.elapsed() < Duration::from_secs(4), "{phase}: {:?}", asked.elapsed());
        vllama.assert_nothing_left();
    }
}

#[tokio::test]
async fn what_a_killed_server_left_behind_is_not_in_the_way() {
    let place = tempfile::Builder::new().prefix("vllama-run-").tempdir().expect("a temporary directory");
    let run = place.path().to_string_lossy().into_owned();
    let mut first = Vllama::with_fake().env("VLLAMA_RUN", &run).start().await;
    first.signal(Signal::SIGKILL);
    first.ended().await;
    let second = Vllama::with_fake().env("VLLAMA_RUN", &run).start().await;
    assert_eq!(second.chat("FAKE:count 3").await.json()["message"]["content"], json!("1 2 3"));
    let mut second = second;
    second.signal(Signal::SIGTERM);
    second.ended().await;
    assert_eq!(second.processes(), [] as [processes::Process; 0]);
}
