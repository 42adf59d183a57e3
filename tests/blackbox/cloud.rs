//! Routes of Ollama's cloud, its accounts and its registry, as a server without them answers (ollama-api §2, §4.6).

use serde_json::json;

use crate::harness::{Framing, Request, Vllama};

#[tokio::test]
async fn a_server_without_a_cloud_says_so_on_every_route_of_the_cloud() {
    let vllama = Vllama::with_fake().start_listening().await;
    for (method, path, status, error) in [
        ("POST", "/api/me", 401, "unauthorized"),
        ("POST", "/api/signout", 401, "you are not currently signed in"),
        ("DELETE", "/api/user/keys/c3NoLWVkMjU1MTk", 401, "you are not currently signed in"),
        ("POST", "/api/experimental/web_search", 403, "ollama cloud is disabled: web search is unavailable"),
        ("POST", "/api/experimental/web_fetch", 403, "ollama cloud is disabled: web fetch is unavailable"),
    ] {
        for body in ["", r#"{"query":"x"}"#] {
            let answer = vllama.client.request(&Request::new(method, path).body(body)).await;
            assert_eq!((answer.status(), answer.error().as_str()), (status, error), "{method} {path}");
        }
    }
    let status = vllama.get("/api/status").await;
    assert_eq!(status.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(status.json(), json!({"cloud": {"disabled": true, "source": "env"}}));
    for (method, path) in [("GET", "/api/me"), ("POST", "/api/status"), ("GET", "/api/user/keys/x")] {
        assert_eq!(vllama.client.request(&Request::new(method, path).body("")).await.status(), 405, "{method} {path}");
    }
}

#[tokio::test]
async fn recommended_are_the_models_that_are_installed_and_chat() {
    let vllama = Vllama::with_fake_thinker().start_listening().await;
    let answer = vllama.get("/api/experimental/model-recommendations").await.json();
    let models = answer["recommendations"].as_array().expect("a list");
    assert_eq!(models.len(), 2, "{answer}");
    let thinker = models.iter().find(|model| model["model"] == "thinker:1b").expect("the thinker");
    assert_eq!(thinker["description"], "installed on this server: vision, tools, thinking");
    assert_eq!(thinker["context_length"], 8192);
}

#[tokio::test]
async fn a_push_is_refused_in_its_stream_and_by_its_status_without_one() {
    let vllama = Vllama::with_fake().start_listening().await;
    // As the CLI does it: with the name alone in the old field.
    let answer = vllama.post("/api/push", &json!({"model": "", "name": "smollm2:135m", "insecure": false})).await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/x-ndjson")));
    let lines = answer.lines();
    assert_eq!(lines[0], json!({"status": "retrieving manifest"}));
    assert!(lines[1]["error"].as_str().is_some_and(|error| error.starts_with("push is not supported")), "{lines:?}");
    assert_eq!(lines.len(), 2);
    let answer = vllama.post("/api/push", &json!({"model": "smollm2:135m", "stream": false})).await;
    assert_eq!(answer.status(), 400);
    assert!(answer.error().starts_with("push is not supported"), "{}", answer.error());
    for (body, error) in
        [("{}", "model is required"), (r#"{"name":"a b"}"#, "invalid model name"), ("", "missing request body")]
    {
        let answer = vllama.client.request(&Request::new("POST", "/api/push").body(body)).await;
        assert_eq!((answer.status(), answer.error().as_str()), (400, error), "{body}");
    }
}

#[tokio::test]
async fn a_slash_too_many_leads_to_the_path_without_it() {
    let vllama = Vllama::with_fake().start_listening().await;
    for (method, path, status, place) in [
        ("GET", "/api/tags/", 301, "/api/tags"),
        ("GET", "/api/version/?ts=1", 301, "/api/version?ts=1"),
        ("POST", "/api/chat/", 307, "/api/chat"),
        ("DELETE", "/api/delete/", 307, "/api/delete"),
        ("HEAD", "/api/tags/", 307, "/api/tags"),
    ] {
        let mut exchange = vllama.client.send(&Request::new(method, path).body("")).await.expect("a connection");
        let answer = exchange.head().await.expect("a head");
        let location = answer.headers.iter().find(|(name, _)| name == "location").map(|(_, value)| value.as_str());
        assert_eq!((answer.status, location), (status, Some(place)), "{method} {path}");
        assert!(matches!(answer.framing, Framing::Nothing | Framing::Length(_)), "{method} {path}");
    }
}
