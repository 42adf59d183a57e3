//! What happens while the engine starts, and when it cannot.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::vllama::chat;
use crate::harness::{Request, Vllama, eventually};

/// A start that takes two seconds, most of them in the load phase.
const SLOW: &str = "import:100,load:1600,profile:200";

#[tokio::test]
async fn management_routes_answer_at_once_while_the_engine_loads() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_START", SLOW).start_listening().await;
    for path in ["/", "/api/version", "/api/tags", "/api/ps", "/health", "/health/live", "/health/ready"] {
        let begun = Instant::now();
        let answer = vllama.get(path).await;
        assert!(begun.elapsed() < Duration::from_millis(250), "{path}: {:?}", begun.elapsed());
        let expected = if matches!(path, "/health" | "/health/ready") { 503 } else { 200 };
        assert_eq!(answer.status(), expected, "{path}: {}", answer.text());
    }
    let begun = Instant::now();
    assert_eq!(vllama.post("/api/show", &json!({"model": "smollm2:135m"})).await.status(), 200);
    assert!(begun.elapsed() < Duration::from_millis(250), "show: {:?}", begun.elapsed());
    assert_ne!(vllama.health().await["engine"]["state"], "ready", "all that happened while it was loading");
}

#[tokio::test]
async fn requests_wait_for_the_load_and_are_answered_then() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_START", SLOW).start_listening().await;
    let (stream, whole) = tokio::join!(vllama.chat_stream("FAKE:count 3"), vllama.chat("FAKE:count 3"));
    assert_eq!(stream.lines().last().expect("lines")["done_reason"], "stop");
    let body = whole.json();
    assert_eq!(body["message"]["content"], "1 2 3");
    assert!(body["load_duration"].as_u64().is_some_and(|time| time > 500_000_000), "{body}");
    // Headers come with the first word, since an error status was possible until then.
    assert!(stream.pieces[0].after > Duration::from_millis(500), "{:?}", stream.pieces[0].after);
}

#[tokio::test]
async fn a_client_that_leaves_while_the_engine_loads_is_forgotten() {
    let builder = Vllama::with_fake().with_phases();
    let phases = builder.phases();
    phases.hold("load");
    let vllama = builder.start_listening().await;
    let waiting = |number: usize| {
        let vllama = &vllama;
        async move {
            eventually(&format!("{number} requests wait"), async || {
                (vllama.health().await["engine"]["waiting"] == number).then_some(())
            })
            .await;
        }
    };
    let request = Request::post("/api/chat", &chat("FAKE:count 3", true));
    let staying = vllama.client.send(&request).await.expect("a request on its way");
    let leaving = vllama.client.send(&request).await.expect("a request on its way");
    waiting(2).await;
    drop(leaving);
    // The engine is held up, so it is not the end of the load that makes it forgotten.
    waiting(1).await;
    drop(staying);
    waiting(0).await;
    phases.release("load");
    vllama.ready().await;
    assert_eq!(vllama.engine_request().await, json!(null), "nothing reached the engine");
}

#[tokio::test]
async fn progress_is_told_while_the_engine_loads() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_START", SLOW).start_listening().await;
    let health = vllama.engine_state("starting").await;
    assert!(health["engine"]["phase"].is_string() && health["engine"]["percent"].is_u64(), "{health}");
    let mut last = 0;
    eventually("the bar moves beyond the half", async || {
        let percent = vllama.health().await["engine"]["percent"].as_u64().unwrap_or(100);
        assert!(percent >= last, "{percent} after {last}");
        last = percent;
        (percent > 50).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_start_that_cannot_succeed_is_tried_once_and_told_to_everybody() {
    let line = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.";
    let failure = format!("profile:1:{line}");
    let vllama = Vllama::with_fake().env("FAKE_VLLM_FAIL_START", &failure).start_listening().await;
    let health = vllama.engine_state("failed").await;
    assert_eq!(health["status"], "failed");
    assert!(health["reason"].as_str().is_some_and(|reason| reason.contains("memory")), "{health}");
    for answer in [vllama.chat("Hello").await, vllama.chat_stream("Hello").await] {
        assert_eq!(answer.status(), 500, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
        assert!(answer.error().contains("No available memory"), "{}", answer.error());
    }
    for (path, status) in [("/health", 503), ("/health/ready", 503), ("/health/live", 200), ("/api/tags", 200)] {
        assert_eq!(vllama.get(path).await.status(), status, "{path}");
    }
    assert_eq!(vllama.starts(), 1);
    vllama.stop().await;
}

#[tokio::test]
async fn a_refused_argument_is_told_with_vllms_own_words() {
    let vllama = Vllama::with_fake().argument("--engine-args").argument("--no-such-flag 1").start_listening().await;
    vllama.engine_state("failed").await;
    let answer = vllama.chat("Hello").await;
    assert_eq!(answer.status(), 500);
    assert!(answer.error().contains("unrecognized arguments: --no-such-flag"), "{}", answer.error());
    assert_eq!(vllama.starts(), 0, "the fake left before it counted a start");
}

#[tokio::test]
async fn a_start_that_fails_by_chance_is_tried_again() {
    let vllama = Vllama::with_fake()
        .env("FAKE_VLLM_FAIL_START", "load:1:RuntimeError: something nobody has seen before")
        .env("FAKE_VLLM_FAIL_STARTS", "1")
        .start_listening()
        .await;
    assert_eq!(vllama.chat("FAKE:count 3").await.json()["message"]["content"], "1 2 3");
    assert_eq!(vllama.starts(), 2);
    let health = vllama.health().await;
    assert_eq!((&health["engine"]["generation"], &health["engine"]["restarts"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn failing_starts_are_spaced_out() {
    let vllama = Vllama::with_fake()
        .env("FAKE_VLLM_FAIL_START", "config:1:RuntimeError: something nobody has seen before")
        .start_listening()
        .await;
    eventually("a second start", async || (vllama.starts() == 2).then_some(())).await;
    let second = Instant::now();
    eventually("a third start", async || (vllama.starts() == 3).then_some(())).await;
    assert!(second.elapsed() > Duration::from_millis(900), "the third start came after {:?}", second.elapsed());
}

#[tokio::test]
async fn a_start_without_progress_is_given_up() {
    let vllama =
        Vllama::with_fake().env("FAKE_VLLM_NEVER_READY", "1").env("VLLAMA_START_TIMEOUT", "1").start_listening().await;
    eventually("a second start", async || (vllama.starts() == 2).then_some(())).await;
    vllama.stop().await;
}

#[tokio::test]
async fn output_that_is_no_text_does_no_harm() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_GARBAGE", "1").env("FAKE_VLLM_LONG_LINE", "1000000").start().await;
    assert_eq!(vllama.chat("FAKE:count 3").await.json()["message"]["content"], "1 2 3");
    vllama.log();
}
