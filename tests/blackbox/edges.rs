//! The edges of HTTP: methods, paths, bodies that are wrong, foreign pages, slow clients.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::vllama::chat;
use crate::harness::{Framing, Request, Vllama};

#[tokio::test]
async fn head_answers_like_get_without_a_body() {
    let vllama = Vllama::with_fake().start().await;
    for path in ["/", "/api/version", "/api/tags"] {
        let get = vllama.get(path).await;
        let mut exchange = vllama.client.send(&Request::new("HEAD", path)).await.expect("a connection");
        let head = exchange.answer().await.expect("an answer");
        assert_eq!(head.status(), 200, "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
        // The connection would be out of step if a body had come.
        exchange.write(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("the same connection");
        assert_eq!(exchange.answer().await.expect("an answer").status(), 200, "{path}");
    }
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_told_in_plain_text() {
    let vllama = Vllama::with_fake().start_listening().await;
    for (method, path, status, text) in [
        ("GET", "/api/nope", 404, "404 page not found"),
        ("POST", "/nope", 404, "404 page not found"),
        ("GET", "/api/chat", 405, "405 method not allowed"),
        ("GET", "/api/generate", 405, "405 method not allowed"),
        ("GET", "/api/show", 405, "405 method not allowed"),
        ("POST", "/api/tags", 405, "405 method not allowed"),
        ("DELETE", "/", 405, "405 method not allowed"),
    ] {
        let answer = vllama.client.request(&Request::new(method, path).body("")).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.text().trim_end(), text, "{method} {path}");
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{method} {path}");
    }
}

#[tokio::test]
async fn the_content_type_of_a_request_does_not_matter() {
    let vllama = Vllama::with_fake().start().await;
    for kind in ["application/x-www-form-urlencoded", "text/plain", "nonsense", ""] {
        let request = Request::post("/api/chat", &chat("FAKE:count 3", false)).header("Content-Type", kind);
        assert_eq!(vllama.client.request(&request).await.json()["message"]["content"], "1 2 3", "{kind}");
    }
    let request = Request::new("POST", "/api/chat?ts=1").body(chat("FAKE:count 3", false).to_string());
    assert_eq!(vllama.client.request(&request).await.status(), 200);
}

#[tokio::test]
async fn bodies_that_are_wrong_are_a_400_with_an_error() {
    let vllama = Vllama::with_fake().start_listening().await;
    for (path, body) in [
        ("/api/chat", ""),
        ("/api/chat", "{\"model\":"),
        ("/api/chat", "{\"model\":7}"),
        ("/api/chat", "[]"),
        ("/api/chat", "x"),
        ("/api/chat", "{}"),
        ("/api/chat", "{\"model\":\"smollm2:135m\",\"messages\":\"hello\"}"),
        ("/api/generate", ""),
        ("/api/generate", "\u{0}"),
        ("/api/show", ""),
        ("/api/show", "{}"),
    ] {
        let answer = vllama.client.request(&Request::new("POST", path).body(body)).await;
        assert_eq!(answer.status(), 400, "{path} {body:?}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"), "{path} {body:?}");
        assert!(!answer.error().is_empty(), "{path} {body:?}");
    }
    let empty = vllama.client.request(&Request::new("POST", "/api/chat").body("")).await;
    assert_eq!(empty.error(), "missing request body");
}

#[tokio::test]
async fn what_follows_the_json_and_fields_nobody_knows_are_ignored() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 3", false);
    body["unknown"] = json!({"deep": [1, 2, 3]});
    body["options"] = Value::Null;
    body["tools"] = Value::Null;
    let request = Request::new("POST", "/api/chat").body(format!("{body}\n\ntrailing"));
    assert_eq!(vllama.client.request(&request).await.json()["message"]["content"], "1 2 3");
}

#[tokio::test]
async fn a_chunked_body_is_read_like_any_other() {
    let vllama = Vllama::with_fake().start().await;
    let body = chat("FAKE:count 3", false).to_string();
    let (one, other) = body.split_at(10);
    let mut exchange = vllama.client.connect().await.expect("a connection");
    let text = format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{other}\r\n0\r\n\r\n",
        one.len(),
        other.len()
    );
    exchange.write(text.as_bytes()).await.expect("a request on its way");
    assert_eq!(exchange.answer().await.expect("an answer").json()["message"]["content"], "1 2 3");
}

#[tokio::test]
async fn unknown_models_are_a_404_that_says_not_found() {
    let vllama = Vllama::with_fake().start_listening().await;
    for path in ["/api/chat", "/api/generate", "/api/show"] {
        let body = json!({"model": "nope", "prompt": "x", "messages": [{"role": "user", "content": "x"}]});
        let answer = vllama.post(path, &body).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert!(answer.error().contains("not found"), "{path}: {}", answer.error());
    }
    let long = "x".repeat(300);
    for name in ["a b", "../../etc", "-x", long.as_str()] {
        let answer = vllama.post("/api/chat", &json!({"model": name, "messages": []})).await;
        assert_eq!(answer.status(), 400, "{name}: {}", answer.text());
    }
}

#[tokio::test]
async fn names_are_read_without_case_and_given_back_as_they_came() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 3", false);
    body["model"] = json!("SmolLM2:135M");
    let answer = vllama.post("/api/chat", &body).await.json();
    assert_eq!((&answer["model"], &answer["message"]["content"]), (&json!("SmolLM2:135M"), &json!("1 2 3")));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_a_413() {
    let vllama = Vllama::with_fake().env("VLLAMA_MAX_BODY", "1").start_listening().await;
    let request = Request::post("/api/chat", &chat(&"x".repeat(1 << 20), false));
    let answer = vllama.client.request(&request).await;
    assert_eq!(answer.status(), 413, "{}", answer.text());
    assert!(!answer.error().is_empty());
    // A length alone is enough: nobody waits for the bytes.
    let mut exchange = vllama.client.connect().await.expect("a connection");
    let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n";
    exchange.write(head.as_bytes()).await.expect("a head on its way");
    assert_eq!(exchange.head().await.expect("a head").status, 413);
}

#[tokio::test]
async fn a_large_body_within_the_limit_is_read() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 3", false);
    body["unknown"] = json!("x".repeat(8 << 20));
    assert_eq!(vllama.post("/api/chat", &body).await.json()["message"]["content"], "1 2 3");
}

#[tokio::test]
async fn a_client_that_never_ends_its_head_is_cut_off() {
    let vllama = Vllama::with_fake().start_listening().await;
    let begun = Instant::now();
    let mut exchange = vllama.client.connect().await.expect("a connection");
    exchange.write(b"GET /api/version HTTP/1.1\r\nHost: local").await.expect("half a head");
    exchange.until_closed().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let vllama = Vllama::with_fake().start_listening().await;
    for nonsense in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut exchange = vllama.client.connect().await.expect("a connection");
        exchange.write(nonsense).await.expect("bytes on their way");
        let said = exchange.until_closed().await;
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4") || said.starts_with(b"HTTP/1.1 5"), "{said:?}");
    }
    assert_eq!(vllama.get("/api/version").await.status(), 200);
}

#[tokio::test]
async fn pages_of_this_machine_may_ask_and_foreign_ones_may_not() {
    let vllama = Vllama::with_fake().env("OLLAMA_ORIGINS", "https://friend.example").start_listening().await;
    let ask = |method: &'static str, origin: &'static str| {
        let request = Request::new(method, "/api/tags").header("Origin", origin);
        let client = vllama.client.clone();
        async move { client.request(&request.header("Access-Control-Request-Method", "GET")).await }
    };
    for origin in ["http://localhost:3000", "https://127.0.0.1", "app://obsidian", "https://friend.example"] {
        let answer = ask("GET", origin).await;
        assert_eq!(answer.status(), 200, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let preflight = ask("OPTIONS", origin).await;
        assert_eq!((preflight.status(), preflight.head.framing), (204, Framing::Nothing), "{origin}");
        let methods = preflight.header("access-control-allow-methods");
        assert_eq!(methods, Some("GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"));
        let headers = preflight.header("access-control-allow-headers").unwrap_or_default().to_lowercase();
        assert!(headers.contains("authorization") && headers.contains("content-type"), "{headers}");
    }
    for method in ["GET", "OPTIONS"] {
        let answer = ask(method, "https://evil.example").await;
        assert_eq!((answer.status(), answer.text().as_str()), (403, ""), "{method}");
    }
}

#[tokio::test]
async fn a_host_that_is_not_this_machine_is_refused_on_a_loopback_address() {
    let vllama = Vllama::with_fake().start_listening().await;
    for (host, status) in [
        ("localhost", 200),
        ("127.0.0.1:11434", 200),
        ("10.1.2.3", 200),
        ("ollama.internal", 200),
        ("thing.local:80", 200),
        ("evil.example", 403),
        ("evil.example:11434", 403),
    ] {
        let answer = vllama.client.request(&Request::new("GET", "/api/version").header("Host", host)).await;
        assert_eq!(answer.status(), status, "{host}");
    }
    let open = Vllama::with_fake().env("OLLAMA_HOST", "0.0.0.0:0").start_listening().await;
    let client = crate::harness::Client::Tcp(([127, 0, 0, 1], open.address.port()).into());
    let answer = client.request(&Request::new("GET", "/api/version").header("Host", "evil.example")).await;
    assert_eq!(answer.status(), 200, "no guard where everybody may come in");
}

#[tokio::test]
async fn the_request_id_is_given_back_and_passed_on() {
    let vllama = Vllama::with_fake().start().await;
    let request = Request::post("/api/chat", &chat("FAKE:count 3", false)).header("X-Request-Id", "from-the-client-7");
    let answer = vllama.client.request(&request).await;
    assert_eq!(answer.header("x-request-id"), Some("from-the-client-7"));
    let seen = vllama.engine_request().await;
    assert_eq!(seen["headers"]["x-request-id"], "from-the-client-7");
    let made_up = vllama.chat("FAKE:count 3").await;
    assert!(made_up.header("x-request-id").is_some_and(|id| id.len() >= 8), "{:?}", made_up.head.headers);
}
