//! `/metrics`: what is counted, how it is told, and what can go wrong on the way.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::vllama::chat;
use crate::harness::{Answer, Client, Request, Vllama, eventually};

/// The samples of a page by name and labels, as they are written.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("a sample has a value: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("a value is a number: {line}")))
    };
    let all: Vec<_> = lines.map(sample).collect();
    let map: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(map.len(), all.len(), "no sample is told twice: {page}");
    map
}

async fn page(vllama: &Vllama) -> BTreeMap<String, f64> {
    samples(&vllama.get("/metrics").await.text())
}

/// Waits for a sample: requests are counted when their connection has taken the last byte.
async fn tells(vllama: &Vllama, sample: &str, value: f64) {
    let mut last = BTreeMap::new();
    eventually(&format!("{sample} is {value}"), async || {
        last = page(vllama).await;
        (last.get(sample) == Some(&value)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_page_tells_what_has_been_asked_and_answered() {
    let vllama = Vllama::with_fake().start().await;
    vllama.chat_stream("FAKE:count 5").await;
    vllama
        .post(
            "/v1/chat/completions",
            &json!({"model": "smollm2:135m", "messages": [{"role": "user", "content": "FAKE:count 3"}]}),
        )
        .await;
    vllama.post("/api/chat", &json!({"model": "nobody-has-this", "messages": []})).await;
    vllama.get("/no/such/path").await;
    for (sample, value) in [
        (r#"vllama_requests_total{route="/api/chat",model="smollm2:135m",status="200"}"#, 1.0),
        (r#"vllama_requests_total{route="/v1/chat/completions",model="smollm2:135m",status="200"}"#, 1.0),
        (r#"vllama_requests_total{route="/api/chat",model="other",status="404"}"#, 1.0),
        (r#"vllama_requests_total{route="other",model="none",status="404"}"#, 1.0),
        (r#"vllama_request_duration_seconds_count{route="/api/chat",model="smollm2:135m"}"#, 1.0),
        (r#"vllama_time_to_first_token_seconds_count{model="smollm2:135m"}"#, 1.0),
        (r#"vllama_inter_token_latency_seconds_count{model="smollm2:135m"}"#, 1.0),
        (r#"vllama_queue_wait_seconds_count{model="smollm2:135m"}"#, 2.0),
        (r#"vllama_engine_state{engine="smollm2:135m",state="ready"}"#, 1.0),
        (r#"vllama_engine_state{engine="smollm2:135m",state="stopped"}"#, 0.0),
        (r#"vllama_leases{model="smollm2:135m"}"#, 0.0),
        ("vllama_ready", 1.0),
    ] {
        tells(&vllama, sample, value).await;
    }
    let page = page(&vllama).await;
    let generated = page[r#"vllama_generated_tokens_total{model="smollm2:135m"}"#];
    assert!(generated >= 8.0, "the tokens of both answers: {generated}");
    assert!(page["process_resident_memory_bytes"] > 1e6 && page["vllama_store_bytes"] > 0.0);
    assert!(page[r#"vllama_disk_size_bytes{volume="models"}"#] > page[r#"vllama_disk_free_bytes{volume="models"}"#]);
}

#[tokio::test]
async fn openmetrics_is_given_to_those_who_ask_for_it() {
    let vllama = Vllama::with_fake().start().await;
    let text = vllama.get("/metrics").await;
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(text.text().contains("# TYPE vllama_requests_total counter\n") && !text.text().contains("# EOF"));
    let request =
        Request::new("GET", "/metrics").header("Accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1");
    let open = vllama.client.request(&request).await;
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(open.text().contains("# TYPE vllama_requests counter\n") && open.text().ends_with("\n# EOF\n"));
}

#[tokio::test]
async fn a_port_of_its_own_serves_metrics_and_health_and_nothing_else() {
    let vllama = Vllama::with_fake().env("VLLAMA_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let monitoring = Client::Tcp(vllama.monitoring.expect("the port is told"));
    for (path, status) in [("/metrics", 200), ("/health", 200), ("/health/live", 200), ("/health/ready", 200)] {
        assert_eq!(monitoring.get(path).await.status(), status, "{path}");
    }
    for path in ["/api/tags", "/v1/models", "/vllama/queue", "/"] {
        assert_eq!(monitoring.get(path).await.status(), 404, "{path}");
    }
    let chat: Answer = monitoring.post("/api/chat", &chat("hello", false)).await;
    assert_eq!(chat.status(), 404);
    assert!(!monitoring.get("/metrics").await.text().is_empty());
}

#[tokio::test]
async fn made_up_names_and_paths_do_not_make_the_page_grow() {
    let vllama = Vllama::with_fake().start().await;
    let mut line = vllama.client.connect().await.expect("a connection");
    let mut ask = async |number: usize| {
        let body = json!({"model": format!("model-{number}"), "messages": [{"role": "user", "content": "x"}]});
        assert_eq!(line.request(&Request::post("/api/chat", &body)).await.expect("an answer").status(), 404);
        let path = format!("/path/{number}");
        assert_eq!(line.request(&Request::new("GET", &path)).await.expect("an answer").status(), 404);
    };
    ask(0).await;
    tells(&vllama, r#"vllama_requests_total{route="other",model="none",status="404"}"#, 1.0).await;
    let before = page(&vllama).await.len();
    for number in 1..5_000 {
        ask(number).await;
    }
    tells(&vllama, r#"vllama_requests_total{route="/api/chat",model="other",status="404"}"#, 5_000.0).await;
    tells(&vllama, r#"vllama_requests_total{route="other",model="none",status="404"}"#, 5_000.0).await;
    assert_eq!(page(&vllama).await.len(), before);
}
