//! Many at a time.

use serde_json::json;

use crate::harness::vllama::chat;
use crate::harness::{Client, Request, Vllama};

/// Runs this many streams at a time and checks each of them to its last line.
async fn streams(client: &Client, number: usize) {
    let tasks: Vec<_> = (0..number)
        .map(|index| {
            let client = client.clone();
            // Different lengths, so that answers meet at different points.
            let last = 10 + index % 7;
            tokio::spawn(async move {
                let answer = client.post("/api/chat", &chat(&format!("FAKE:count {last}"), true)).await;
                let lines = answer.lines();
                let text: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
                let expected: Vec<String> = (1..=last).map(|number| number.to_string()).collect();
                assert_eq!(text, expected.join(" "), "stream {index}");
                assert_eq!(lines.last().expect("lines")["done_reason"], "stop", "stream {index}");
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a stream");
    }
}

#[tokio::test]
async fn sixteen_streams_at_a_time_are_all_answered() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "100").start().await;
    streams(&vllama.client, 16).await;
    vllama.stop().await;
}

#[tokio::test]
async fn five_hundred_streams_at_a_time_are_all_answered() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "20").env("VLLAMA_LOG", "info").start().await;
    streams(&vllama.client, 512).await;
    assert_eq!(vllama.engine_running().await, 0);
    vllama.stop().await;
}

#[tokio::test]
async fn streams_that_are_given_up_do_not_disturb_the_others() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "100").start().await;
    let mut leaving = Vec::new();
    for _ in 0..50 {
        let request = Request::post("/api/chat", &chat("FAKE:count 4000", true));
        leaving.push(vllama.client.send(&request).await.expect("a request on its way"));
    }
    vllama.engine_runs(50).await;
    let client = vllama.client.clone();
    let staying = tokio::spawn(async move { streams(&client, 16).await });
    drop(leaving);
    staying.await.expect("the streams that stay");
    vllama.engine_runs(0).await;
}

#[tokio::test]
async fn a_full_queue_is_a_503_that_says_busy() {
    let vllama =
        Vllama::with_fake().env("FAKE_VLLM_START", "load:1500").env("OLLAMA_MAX_QUEUE", "2").start_listening().await;
    let mut waiting = Vec::new();
    for number in 1..=2 {
        let request = Request::post("/api/chat", &chat("FAKE:count 3", false));
        waiting.push(vllama.client.send(&request).await.expect("a request on its way"));
        crate::harness::eventually("it waits", async || {
            (vllama.health().await["engine"]["waiting"] == number).then_some(())
        })
        .await;
    }
    let answer = vllama.chat("FAKE:count 3").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.error(), "server busy, please try again.  maximum pending requests exceeded");
    for mut exchange in waiting {
        assert_eq!(exchange.answer().await.expect("an answer").json()["message"]["content"], json!("1 2 3"));
    }
}
