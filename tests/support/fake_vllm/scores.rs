//! `/v1/score`, `/v1/rerank` and `/pooling` of a pooling engine: the shapes and refusals of vLLM, and scores that are the
//! products of the vectors that `/v1/embeddings` makes.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::embeddings;
use crate::engine::Engine;
use crate::openai::{Refusal, invalid};

/// Answers a request at one of the three paths as vLLM does.
pub fn answer(engine: &Arc<Engine>, path: &str, body: &Value) -> Result<Value, Refusal> {
    match path {
        "/v1/score" => {
            let (one, others) = (&body["text_1"], &body["text_2"]);
            if one.is_null() || others.is_null() {
                return Err(invalid("body.queries", "Field required"));
            }
            let (scores, tokens) = scores(engine, &body["model"], one, &list(others))?;
            let data: Vec<Value> = scores
                .iter()
                .enumerate()
                .map(|(index, score)| json!({"index": index, "object": "score", "score": score}))
                .collect();
            Ok(listed("score", &body["model"], &json!(data), tokens))
        }
        "/v1/rerank" => {
            if !body["documents"].is_array() {
                return Err(invalid("body.documents", "Field required"));
            }
            let documents = list(&body["documents"]);
            let (scores, tokens) = scores(engine, &body["model"], &body["query"], &documents)?;
            let mut results: Vec<(usize, f64)> = scores.into_iter().enumerate().collect();
            results.sort_by(|one, other| other.1.total_cmp(&one.1));
            let results: Vec<Value> = results
                .into_iter()
                .map(|(index, score)| {
                    let document = json!({"text": documents[index], "multi_modal": null});
                    json!({"index": index, "document": document, "relevance_score": score})
                })
                .collect();
            Ok(json!({
                "id": id("score"), "model": body["model"], "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "results": results,
            }))
        }
        _ => {
            let vectors = embeddings::answer(engine, body)?;
            let data: Vec<Value> = vectors["data"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|vector| json!({"index": vector["index"], "object": "pooling", "data": vector["embedding"]}))
                .collect();
            let tokens = vectors["usage"]["prompt_tokens"].as_u64().unwrap_or(0);
            Ok(listed("pooling", &body["model"], &json!(data), tokens))
        }
    }
}

fn list(texts: &Value) -> Vec<Value> {
    texts.as_array().cloned().unwrap_or_else(|| vec![texts.clone()])
}

/// The score of each text beside the one, and the tokens of all of them.
fn scores(engine: &Arc<Engine>, model: &Value, one: &Value, others: &[Value]) -> Result<(Vec<f64>, u64), Refusal> {
    let mut input = vec![one.clone()];
    input.extend_from_slice(others);
    let vectors = embeddings::answer(engine, &json!({"model": model, "input": input}))?;
    let vector = |index: usize| {
        let numbers = vectors["data"][index]["embedding"].as_array().into_iter().flatten();
        numbers.filter_map(Value::as_f64).collect::<Vec<_>>()
    };
    let first = vector(0);
    let product = |index: usize| first.iter().zip(vector(index)).map(|(one, other)| one * other).sum();
    let tokens = vectors["usage"]["prompt_tokens"].as_u64().unwrap_or(0);
    Ok(((1..=others.len()).map(product).collect(), tokens))
}

fn listed(prefix: &str, model: &Value, data: &Value, tokens: u64) -> Value {
    json!({
        "id": id(prefix), "object": "list",
        "created": SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        "model": model, "data": data,
        "usage": {
            "prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": null,
            "completion_tokens_details": null,
        },
    })
}

fn id(prefix: &str) -> String {
    format!("{prefix}-{}", &uuid::Uuid::new_v4().simple().to_string()[..16])
}
