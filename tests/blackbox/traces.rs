//! Traces: handed on to the engine, named in the log, and sent to a collector.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::vllama::{chat, generate};
use crate::harness::{Request, Vllama, eventually};

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn a_trace_is_handed_on_in_every_dialect_and_named_in_the_log() {
    let vllama = Vllama::with_fake().start().await;
    let messages = json!([{"role": "user", "content": "FAKE:count 3"}]);
    for (number, (path, body)) in [
        ("/api/chat", json!({"model": "smollm2:135m", "messages": messages, "stream": false})),
        ("/api/generate", generate("FAKE:count 3", false)),
        ("/v1/chat/completions", json!({"model": "smollm2:135m", "messages": messages})),
        ("/v1/completions", json!({"model": "smollm2:135m", "prompt": "FAKE:count 3"})),
        ("/v1/responses", json!({"model": "smollm2:135m", "input": "FAKE:count 3"})),
        ("/v1/messages", json!({"model": "smollm2:135m", "max_tokens": 9, "messages": messages})),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("{}{number:02}", &ID[..30]);
        let parent = format!("00-{id}-{CLIENT_SPAN}-01");
        let request = Request::post(path, &body)
            .header("traceparent", &parent)
            .header("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
        assert_eq!(vllama.client.request(&request).await.status(), 200, "{path}");
        let seen = vllama.engine_request().await;
        assert_eq!(seen["headers"]["traceparent"], parent, "{path}");
        assert_eq!(seen["headers"]["tracestate"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "{path}");
        let is_it = |line: &Value| line["trace_id"] == id && line["status"] == 200;
        eventually("the trace is in the log", async || vllama.log().into_iter().find(is_it)).await;
    }
    let request = Request::post("/api/chat", &chat("FAKE:count 3", false)).header("traceparent", "00-nonsense-00-01");
    assert_eq!(vllama.client.request(&request).await.status(), 200);
    assert!(vllama.engine_request().await["headers"]["traceparent"].is_null(), "what is no trace is not handed on");
}

/// A collector that keeps all spans it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Value>>>);

impl Collector {
    /// Listens; gives the address for `--otlp`.
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let collector = Self::default();
        let kept = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                kept.take(stream).await;
            }
        });
        (collector, format!("http://{address}"))
    }

    /// Reads one request, whose length is told, and takes it.
    async fn take(&self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        let body = loop {
            assert!(stream.read_buf(&mut bytes).await.expect("a request") > 0, "the request is whole");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
            assert!(head.contains("content-type: application/json"), "{head}");
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            if length == Some(body.len()) {
                break body.to_owned();
            }
        };
        let batch: Value = serde_json::from_str(&body).expect("JSON");
        let resource = &batch["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"][0],
            json!({"key": "service.name", "value": {"stringValue": "vllama"}})
        );
        let spans = resource["scopeSpans"][0]["spans"].as_array().expect("spans").clone();
        self.0.lock().expect("the spans").extend(spans);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(answer).await.expect("answered");
    }

    async fn span(&self, name: &str) -> Value {
        let spans = self.0.clone();
        eventually("the span comes", async || {
            spans.lock().expect("the spans").iter().find(|span| span["name"] == name).cloned()
        })
        .await
    }
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().expect("attributes");
    &attributes.iter().find(|attribute| attribute["key"] == key).unwrap_or_else(|| panic!("{key} in {span}"))["value"]
}

#[tokio::test]
async fn a_collector_gets_a_span_for_each_request_between_the_clients_and_the_engines() {
    let (collector, address) = Collector::start().await;
    let vllama = Vllama::with_fake().arguments(&["serve", "--json", "--otlp", &address]).start().await;
    let request = Request::post("/api/chat", &chat("FAKE:count 3", true))
        .header("traceparent", &format!("00-{ID}-{CLIENT_SPAN}-01"));
    assert_eq!(vllama.client.request(&request).await.status(), 200);
    let span = collector.span("POST /api/chat").await;
    assert_eq!((&span["traceId"], &span["parentSpanId"], &span["kind"]), (&json!(ID), &json!(CLIENT_SPAN), &json!(2)));
    let told = vllama.engine_request().await["headers"]["traceparent"].clone();
    assert_eq!(told, format!("00-{ID}-{}-01", span["spanId"].as_str().expect("an id")), "the engine is below it");
    let time = |value: &Value| -> u128 { value.as_str().and_then(|time| time.parse().ok()).expect("a time") };
    let events = span["events"].as_array().expect("events");
    assert_eq!(events.iter().map(|event| &event["name"]).collect::<Vec<_>>(), ["lease", "first_token"]);
    let times: Vec<_> =
        [&span["startTimeUnixNano"], &events[0]["timeUnixNano"], &events[1]["timeUnixNano"], &span["endTimeUnixNano"]]
            .map(time)
            .to_vec();
    assert!(times.is_sorted() && times[0] > 0, "{times:?}");
    assert_eq!(attribute(&span, "http.response.status_code"), &json!({"intValue": "200"}));
    assert_eq!(attribute(&span, "gen_ai.request.model"), &json!({"stringValue": "smollm2:135m"}));
    assert!(attribute(&span, "gen_ai.usage.output_tokens")["intValue"].is_string());

    // A request of its own begins a trace; one whose client does not record is left alone.
    assert_eq!(vllama.post("/api/generate", &generate("FAKE:count 3", false)).await.status(), 200);
    let span = collector.span("POST /api/generate").await;
    assert_eq!((span["traceId"].as_str().map(str::len), &span["parentSpanId"]), (Some(32), &json!("")));
    let quiet = format!("00-{ID}-{CLIENT_SPAN}-00");
    let request = Request::post("/api/chat", &chat("FAKE:count 3", false)).header("traceparent", &quiet);
    assert_eq!(vllama.client.request(&request).await.status(), 200);
    assert_eq!(vllama.engine_request().await["headers"]["traceparent"], quiet);
}

#[tokio::test]
async fn a_collector_that_is_not_there_disturbs_nobody_and_is_told_of_once() {
    let vllama = Vllama::with_fake().arguments(&["serve", "--json", "--otlp", "http://127.0.0.1:9"]).start().await;
    for _ in 0..3 {
        assert_eq!(vllama.chat("FAKE:count 3").await.status(), 200);
    }
    vllama.says("the collector does not take spans").await;
    vllama.stop().await;
}

#[tokio::test]
async fn a_collector_that_cannot_be_named_is_refused_at_the_start() {
    let ended = Vllama::with_fake().arguments(&["serve", "--json", "--otlp", "https://collector"]).run().await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("VLLAMA_OTLP") && ended.stderr.contains("http://"), "{}", ended.stderr);
}
