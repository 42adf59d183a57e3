//! More of everything than there is room for: what is bounded is refused, the rest goes on as before.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::client::Exchange;
use crate::harness::vllama::chat;
use crate::harness::{Client, Request, Vllama, eventually, processes};

/// Open files of vllama.
fn descriptors(vllama: &Vllama) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", vllama.pid())).expect("its descriptors").count()
}

/// Processor time it has taken, in hundredths of a second.
fn processor_ticks(vllama: &Vllama) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", vllama.pid())).expect("its state");
    // Behind the name, which is in parentheses.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Connections that have asked once and rest now.
async fn resting(client: &Client, number: usize) -> Vec<Exchange> {
    let mut open = Vec::new();
    for _ in 0..number {
        let mut exchange = client.connect().await.expect("a connection");
        // Some may be told that the house is full.
        exchange.ask(&Request::new("GET", "/api/version")).await.expect("an answer");
        open.push(exchange);
    }
    open
}

#[tokio::test]
async fn with_hundreds_of_clients_and_few_descriptors_an_engine_is_restarted_and_health_answers() {
    const LIMIT: u32 = 256;
    let builder = Vllama::with_fake().descriptors(LIMIT).env("FAKE_VLLM_TOKEN_RATE", "20");
    let file = builder.path().join("vllama.toml");
    std::fs::write(&file, "[models.\"smollm2:135m\"]\nconcurrency = 200").expect("a configuration file");
    let vllama = builder.env("VLLAMA_CONFIG", &file.to_string_lossy()).start().await;
    vllama.says("only so many files may be open").await;
    let idle = resting(&vllama.client, 150).await;
    // Every one of these wants a connection to the engine.
    let mut streams = Vec::new();
    for _ in 0..150 {
        streams
            .push(vllama.client.send(&Request::post("/api/chat", &chat("FAKE:count 400", true))).await.expect("sent"));
    }
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(vllama.client.connect().await.expect("the kernel takes it"));
    }
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for stream in &mut streams {
        stream.patience = Duration::from_secs(5);
        // One that was pushed out of the lobby has no answer at all.
        let status = stream.head().await.map_or(0, |head| head.status);
        *statuses.entry(status).or_default() += 1;
    }
    println!("answers by status: {statuses:?}");
    assert!(statuses[&200] >= 20 && statuses[&503] >= 20, "{statuses:?}");
    let open = descriptors(&vllama);
    assert!(open < LIMIT as usize - 20, "{open} descriptors are open");
    let asked = Instant::now();
    assert_eq!(vllama.get("/health/live").await.status(), 200);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let engine = vllama.process("fake-vllm");
    processes::signal(engine.pid, Signal::SIGKILL);
    vllama.generation(2).await;
    let log = vllama.log();
    let lacking = |line: &&Value| line.to_string().contains("Too many open files");
    assert_eq!(log.iter().find(lacking), None);
    assert_eq!(log.iter().find(|line| line.to_string().contains("panic")), None);
    drop((idle, streams, silent));
    eventually("a chat is answered again", async || {
        let answer = vllama.client.try_request(&Request::post("/api/chat", &chat("FAKE:count 3", false))).await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    vllama.stop().await;
}

#[tokio::test]
async fn a_hundred_clients_that_read_nothing_are_cut_off_and_nobody_is_slowed() {
    let builder = Vllama::with_fake().env("VLLAMA_STALL_TIMEOUT", "1500ms");
    // More than all buffers hold, as fast as it is taken.
    let event = json!({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "smollm2:135m",
        "choices": [{"index": 0, "delta": {"content": "x".repeat(16_000)}, "finish_reason": null}]});
    std::fs::write(builder.path().join("flood"), format!("data: {event}\n\n").repeat(100)).expect("a file to replay");
    let directory = builder.path().to_path_buf();
    let builder = builder.env("FAKE_VLLM_REPLAY_DIR", &directory.to_string_lossy());
    let file = directory.join("vllama.toml");
    std::fs::write(&file, "[models.\"smollm2:135m\"]\nconcurrency = 200").expect("a configuration file");
    let vllama = builder.env("VLLAMA_CONFIG", &file.to_string_lossy()).start().await;
    let quick = async || {
        let asked = Instant::now();
        let answer = vllama.chat_stream("FAKE:count 20").await;
        assert_eq!(answer.lines().last().expect("lines")["eval_count"], 21, "{}", answer.text());
        asked.elapsed()
    };
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let request = Request::post("/api/chat", &chat("FAKE:replay flood 65536", true));
        stalled.push(vllama.client.send(&request).await.expect("sent"));
    }
    vllama.engine_runs(100).await;
    // Until all buffers are full there is much to do, and little of that is the stalled clients' being stalled.
    let began = Instant::now();
    let mut before = processor_ticks(&vllama);
    eventually("the buffers are full", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let ticks = processor_ticks(&vllama);
        (ticks - std::mem::replace(&mut before, ticks) <= 4).then_some(())
    })
    .await;
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        slowest = slowest.max(quick().await);
    }
    vllama.engine_runs(0).await;
    println!("cut off after {:?}; slowest answer to others {slowest:?}", began.elapsed());
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    for exchange in &mut stalled {
        let read = exchange.until_closed().await;
        assert!(!read.ends_with(b"\r\n0\r\n\r\n"), "it does not look complete");
    }
    let log = vllama.log();
    let gone = log.iter().filter(|line| line["status"] == 499).count();
    assert_eq!(gone, 100, "each of them is told in the log");
}

#[tokio::test]
async fn too_many_streams_of_one_client_are_refused_in_its_dialect() {
    let vllama = Vllama::with_fake().env("VLLAMA_STREAMS_PER_CLIENT", "1").start().await;
    let first = vllama.client.send(&Request::post("/api/chat", &chat("FAKE:hang 1", true))).await.expect("sent");
    vllama.engine_runs(1).await;
    let messages = json!([{"role": "user", "content": "hello"}]);
    let openai = json!({"model": "smollm2:135m", "messages": messages});
    let anthropic = json!({"model": "smollm2:135m", "messages": messages, "max_tokens": 5});
    for (path, body, text, kind) in [
        ("/api/chat", chat("hello", false), "/error", None),
        ("/v1/chat/completions", openai, "/error/message", Some(("/error/type", "invalid_request_error"))),
        ("/v1/messages", anthropic, "/error/message", Some(("/error/type", "rate_limit_error"))),
    ] {
        let answer = vllama.post(path, &body).await;
        assert_eq!((answer.status(), answer.header("retry-after")), (429, Some("1")), "{path} {}", answer.text());
        let told = answer.json();
        let text = told.pointer(text).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {told}"));
        assert!(text.starts_with("too many requests at a time: 1 of this client's"), "{text}");
        if let Some((place, expected)) = kind {
            assert_eq!(told.pointer(place), Some(&json!(expected)), "{path}");
        }
    }
    for path in ["/api/tags", "/api/ps", "/health"] {
        assert_eq!(vllama.get(path).await.status(), 200, "{path}");
    }
    drop(first);
    vllama.engine_runs(0).await;
    eventually("its share is free again", async || (vllama.chat("FAKE:count 3").await.status() == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn who_says_how_long_he_waits_is_told_at_once_when_the_model_takes_longer_and_it_is_loaded_meanwhile() {
    let vllama = Vllama::with_fake().arguments(&["serve", "--json"]).env("FAKE_VLLM_START", "load:1500");
    let vllama = vllama.without_model("smollm2", "135m").with_model("a", "latest").with_model("b", "latest");
    let vllama = vllama.start_listening().await;
    let ask = |model: &str| {
        let messages = json!([{"role": "user", "content": "FAKE:count 3"}]);
        json!({"model": model, "messages": messages, "stream": false, "max_tokens": 9})
    };
    let within = |path: &str, model: &str| Request::post(path, &ask(model)).header("Prefer", "wait=0");
    let asked = Instant::now();
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
        let answer = vllama.client.request(&within(path, "a")).await;
        assert_eq!(answer.status(), 503, "{path} {}", answer.text());
        let seconds: u64 =
            answer.header("retry-after").and_then(|value| value.parse().ok()).expect("when to come back");
        assert!(seconds >= 1, "{seconds}");
        assert!(answer.text().contains("longer than this request waits"), "{path} {}", answer.text());
    }
    assert!(asked.elapsed() < Duration::from_millis(1400), "at once: {:?}", asked.elapsed());
    assert_eq!(vllama.post("/api/chat", &ask("a")).await.status(), 200, "who says nothing waits");
    assert_eq!(vllama.client.request(&within("/api/chat", "a")).await.status(), 200, "it is there now");
    assert_eq!(vllama.starts(), 1);
    let patient = Request::post("/api/chat", &ask("b")).header("Prefer", "wait=600");
    assert_eq!(vllama.client.request(&patient).await.status(), 200, "as long as that he waits");
}
