//! `/health`, `/health/live` and `/health/ready` through the life of a server.

use crate::harness::Vllama;

#[tokio::test]
async fn health_follows_the_engine_from_start_to_unload() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_START", "load:800").start_listening().await;
    // The report is always there, with the status that load balancers ask vLLM's own `/health` for.
    let statuses = async |ready: u16| {
        for (path, status) in [("/health", ready), ("/health/ready", ready), ("/health/live", 200)] {
            assert_eq!(vllama.get(path).await.status(), status, "{path}");
        }
    };
    let health = vllama.engine_state("starting").await;
    assert_eq!(health["status"], "starting");
    assert!(health["reason"].is_string(), "{health}");
    statuses(503).await;

    vllama.ready().await;
    let health = vllama.health().await;
    assert_eq!((health["status"].as_str(), health["engine"]["state"].as_str()), (Some("ok"), Some("ready")));
    assert_eq!(health["model"], "smollm2:135m");
    assert!(health["memory"]["engine_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{health}");
    assert!(health["uptime_seconds"].is_u64() && health["version"].is_string(), "{health}");
    statuses(200).await;
}

#[tokio::test]
async fn an_unloaded_model_still_serves() {
    let vllama = Vllama::with_fake().start().await;
    vllama.post("/api/generate", &serde_json::json!({"model": "smollm2:135m", "keep_alive": 0})).await;
    vllama.engine_state("stopped").await;
    assert_eq!(vllama.get("/health/ready").await.status(), 200, "the next request loads it");
}

#[tokio::test]
async fn the_verb_asks_the_server_of_this_machine() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_START", "load:800").start_listening().await;
    let address = vllama.address.to_string();
    let said = async |arguments: &[&str]| {
        let ended = Vllama::with_fake().env("OLLAMA_HOST", &address).arguments(arguments).run().await;
        assert_eq!(ended.stdout.lines().count(), 1, "{}{}", ended.stdout, ended.stderr);
        (ended.status.code(), ended.stdout.trim_end().to_owned())
    };
    assert_eq!(said(&["health"]).await, (Some(0), "ok".to_owned()), "it lives before it can answer");
    let (code, line) = said(&["health", "--ready"]).await;
    assert!(code == Some(1) && line.starts_with("starting: "), "{code:?} {line}");
    vllama.ready().await;
    assert_eq!(said(&["health", "--ready"]).await, (Some(0), "ok".to_owned()));
    drop(vllama);
    let (code, line) = said(&["health", "--json"]).await;
    assert!(code == Some(1) && line.starts_with(r#"{"ok":false,"message":"nobody answers at"#), "{code:?} {line}");
}
