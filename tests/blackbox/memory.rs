//! What many clients cost in memory, and that they leave nothing behind.

use crate::harness::client::Exchange;
use crate::harness::vllama::chat;
use crate::harness::{Request, Vllama, eventually};

/// Connections that rest.
const RESTING: usize = 500;
/// Streams that are silent after their first word.
const SILENT: usize = 300;

/// Resident memory of vllama, in bytes, without the pages of its program.
fn memory(vllama: &Vllama) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vllama.pid())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<usize>().ok()).expect("its memory") * 1024
}

/// Asks something short on each connection and leaves them open.
async fn ask_all(connections: &mut [Exchange]) {
    for exchange in connections {
        let answer = exchange.ask(&Request::new("GET", "/api/version")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn a_connection_that_rests_costs_less_than_eight_kibibytes() {
    let vllama = Vllama::with_fake().start().await;
    let mut first = [vllama.client.connect().await.expect("a connection")];
    ask_all(&mut first).await;
    let before = memory(&vllama);
    let mut connections = Vec::new();
    for _ in 0..RESTING {
        connections.push(vllama.client.connect().await.expect("a connection"));
    }
    let each = memory(&vllama).saturating_sub(before) / RESTING;
    println!("a connection that waits for its first request costs {each} bytes");
    assert!(each < 8 << 10, "{each} bytes");
    ask_all(&mut connections).await;
    let each = memory(&vllama).saturating_sub(before) / RESTING;
    println!("a connection that rests costs {each} bytes");
    assert!(each < 8 << 10, "{each} bytes");
    // They are all still served.
    ask_all(&mut connections).await;
}

#[tokio::test]
async fn memory_comes_back_when_a_crowd_has_gone() {
    let builder = Vllama::with_fake();
    let file = builder.path().join("vllama.toml");
    std::fs::write(&file, "[models.\"smollm2:135m\"]\nconcurrency = 1000").expect("a configuration file");
    let vllama = builder.env("VLLAMA_CONFIG", &file.to_string_lossy()).start().await;
    vllama.chat_stream("FAKE:count 20").await;
    let before = memory(&vllama);
    let mut streams = Vec::new();
    for _ in 0..SILENT {
        let request = Request::post("/api/chat", &chat("FAKE:hang 1", true));
        streams.push(vllama.client.send(&request).await.expect("sent"));
    }
    for stream in &mut streams {
        assert_eq!(stream.head().await.expect("an answer").status, 200);
    }
    let crowded = memory(&vllama);
    // One that stays holds on to the memory around its own.
    let _last = streams.pop();
    drop(streams);
    vllama.engine_runs(1).await;
    let left = eventually("memory is given back", async || {
        Some(memory(&vllama)).filter(|left| *left < before + (crowded - before) / 4)
    })
    .await;
    println!("{before} bytes, {crowded} with {SILENT} streams, {left} when they had gone");
}
