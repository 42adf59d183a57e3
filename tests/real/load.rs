//! Many clients at once.

use serde_json::json;

use crate::MODEL;
use crate::harness::{Answer, Vllama};

/// Sends `number` chats at the same time, each of `tokens` tokens, and waits for all answers.
pub(crate) async fn parallel_streams(vllama: &Vllama, number: usize, tokens: usize) -> Vec<Answer> {
    let mut streams = tokio::task::JoinSet::new();
    for stream in 0..number {
        let client = vllama.client.clone();
        let body = json!({
            "model": MODEL, "messages": [{"role": "user", "content": format!("Tell me about the number {stream}.")}],
            "options": {"num_predict": tokens, "temperature": 0},
        });
        streams.spawn(async move { client.post("/api/chat", &body).await });
    }
    streams.join_all().await
}
