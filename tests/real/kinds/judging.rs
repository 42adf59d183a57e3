//! Pairs of texts, judged by a cross-encoder of BERT's kind.

use serde_json::{Value, json};

use super::{asked, capabilities, import};
use crate::harness::{Request, Vllama};
use crate::{Ground, Runner};

const JUDGE: &str = "judge";
const QUERY: &str = "why is the sky blue?";
const DOCUMENTS: [&str; 3] = ["cats sleep", "air scatters light", "x"];

pub(super) fn run(runner: &mut Runner, ground: &Ground, vllama: &Vllama) {
    runner.test("a model that judges is imported", async { import(ground, "judge", JUDGE) });
    runner.test("texts are scored", scored(vllama));
    runner.test("documents are ranked by the same scores", ranked(vllama));
    runner.test("what does not fit is refused, or cut where that is asked for", long(vllama));
    runner.test("a model that judges writes nothing and makes no vectors", nothing_else(vllama));
}

async fn scores(vllama: &Vllama) -> Vec<f64> {
    let body = json!({"model": JUDGE, "text_1": QUERY, "text_2": DOCUMENTS});
    let answer = asked(vllama, &Request::post("/v1/score", &body)).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["model"], JUDGE);
    body["data"].as_array().expect("a list").iter().map(|entry| entry["score"].as_f64().expect("a score")).collect()
}

async fn scored(vllama: &Vllama) {
    let scores = scores(vllama).await;
    assert!(scores.len() == 3 && scores.iter().all(|score| (0.0..1.0).contains(score)), "{scores:?}");
    assert!(scores[0] != scores[1] && scores[1] != scores[2], "{scores:?}");
    let class = vllama.post("/pooling", &json!({"model": JUDGE, "input": QUERY})).await.json();
    assert_eq!(class["data"][0]["data"].as_array().map(Vec::len), Some(1), "{class}");
}

async fn ranked(vllama: &Vllama) {
    let scores = scores(vllama).await;
    let body = json!({"model": JUDGE, "query": QUERY, "documents": DOCUMENTS});
    let answer = vllama.post("/v1/rerank", &body).await.json();
    let results = answer["results"].as_array().expect("a list");
    let score = |result: &Value| result["relevance_score"].as_f64().expect("a score");
    assert!(results.is_sorted_by(|one, next| score(one) >= score(next)), "{answer}");
    for result in results {
        let index = usize::try_from(result["index"].as_u64().expect("an index")).expect("a small one");
        assert!((score(result) - scores[index]).abs() < 1e-4, "{answer} {scores:?}");
        assert_eq!(result["document"]["text"], DOCUMENTS[index]);
    }
    let body = json!({"model": JUDGE, "query": QUERY, "documents": DOCUMENTS, "top_n": 1});
    let best = vllama.post("/v1/rerank", &body).await.json();
    assert_eq!(
        (best["results"].as_array().map(Vec::len), &best["results"][0]["index"]),
        (Some(1), &results[0]["index"])
    );
}

async fn long(vllama: &Vllama) {
    let mut body = json!({"model": JUDGE, "query": QUERY, "documents": ["word ".repeat(2000)]});
    let answer = vllama.post("/v1/rerank", &body).await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert!(
        answer.json()["error"]["message"].as_str().is_some_and(|text| text.contains("512 tokens")),
        "{}",
        answer.text()
    );
    body["truncate_prompt_tokens"] = json!(-1);
    assert_eq!(vllama.post("/v1/rerank", &body).await.json()["usage"]["prompt_tokens"], 512);
    let none = vllama.post("/v1/rerank", &json!({"model": JUDGE, "query": QUERY, "documents": []})).await;
    assert_eq!(none.status(), 400, "{}", none.text());
}

async fn nothing_else(vllama: &Vllama) {
    assert_eq!(capabilities(vllama, JUDGE).await, json!([]));
    for (path, body, words) in [
        (
            "/api/chat",
            json!({"model": JUDGE, "messages": [{"role": "user", "content": "hi"}]}),
            "does not support chat",
        ),
        ("/api/embed", json!({"model": JUDGE, "input": "hi"}), "does not support embeddings: it judges texts"),
        ("/v1/embeddings", json!({"model": JUDGE, "input": "hi"}), "does not support embeddings: it judges texts"),
        ("/v1/completions", json!({"model": JUDGE, "prompt": "hi"}), "does not support generate"),
    ] {
        let answer = vllama.post(path, &body).await;
        assert_eq!(answer.status(), 400, "{path}: {}", answer.text());
        assert!(answer.text().contains(words), "{path}: {}", answer.text());
    }
}
