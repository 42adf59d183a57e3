//! What known attacks on Ollama send, and what comes of it here: a refusal, no file touched, and a server that serves on. The
//! numbers are told in docs/security.md.

use serde_json::json;

use crate::harness::vllama::chat;
use crate::harness::{Request, Vllama};

/// Names and digests that lead out of where they belong.
const OUT: [&str; 6] = [
    "../../../../../../etc/passwd",
    "sha256:../../../../../../etc/passwd",
    "sha256-../../../../../../etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/etc/passwd",
    "sha256:0000000000000000000000000000000000000000000000000000000000000000/../../x",
];

#[tokio::test]
async fn digests_and_names_that_lead_out_are_refused_on_every_route_that_takes_one() {
    let vllama = Vllama::with_fake().start().await;
    for out in OUT {
        for method in ["HEAD", "POST"] {
            let request = Request::new(method, &format!("/api/blobs/{out}")).body("x");
            let status = vllama.client.request(&request).await.status();
            assert!([301, 307, 400, 404, 405].contains(&status), "{method} {out}: {status}");
        }
        for (method, path, body) in [
            ("POST", "/api/push", json!({"model": out, "stream": false})),
            ("POST", "/api/pull", json!({"model": out, "stream": false})),
            ("POST", "/api/show", json!({"model": out})),
            ("DELETE", "/api/delete", json!({"model": out})),
            ("POST", "/api/copy", json!({"source": "smollm2:135m", "destination": out})),
            ("POST", "/api/create", json!({"model": "x", "files": {"x.gguf": out}, "stream": false})),
            ("POST", "/api/create", json!({"model": "x", "adapters": {"x.gguf": out}, "stream": false})),
            ("POST", "/api/create", json!({"model": "x", "from": out, "stream": false})),
            ("POST", "/api/chat", json!({"model": out, "messages": []})),
            ("POST", "/v1/chat/completions", json!({"model": out, "messages": []})),
            ("POST", "/v1/messages", json!({"model": out, "messages": [], "max_tokens": 1})),
        ] {
            let answer = vllama.client.request(&Request::new(method, path).body(body.to_string())).await;
            assert!(
                [400, 404].contains(&answer.status()),
                "{method} {path} {body}: {} {}",
                answer.status(),
                answer.text()
            );
            assert!(!answer.text().contains("root:"), "{}", answer.text());
        }
    }
    assert!(!vllama.path("models").join("etc").exists() && !vllama.path("etc").exists());
    assert_eq!(vllama.chat("hi").await.status(), 200);
}

#[tokio::test]
async fn a_create_reads_no_file_of_the_server_whatever_it_is_called() {
    let vllama = Vllama::with_fake().start().await;
    let mut told = Vec::new();
    for path in ["/dev/random", "/etc/passwd", "/etc/no-such-file"] {
        for body in [
            json!({"model": "x", "path": path, "stream": false}),
            json!({"model": "x", "modelfile": format!("FROM {path}"), "stream": false}),
            json!({"model": "x", "from": path, "stream": false}),
        ] {
            let answer = vllama.post("/api/create", &body).await;
            assert_eq!(answer.status(), 400, "{body}: {}", answer.text());
            told.push(answer.error().replace(path, "PATH"));
        }
    }
    // What is there is answered like what is not.
    assert_eq!(told[..3], told[3..6]);
    assert_eq!(told[..3], told[6..]);
}

#[tokio::test]
async fn an_archive_is_no_model_and_nothing_is_unpacked() {
    let vllama = Vllama::with_fake().start().await;
    // The beginning of a ZIP archive with a member that leads out.
    let mut archive = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\x04\0\0\0\x15\0\0\0".to_vec();
    archive.extend(b"../../../../etc/x.txtevil");
    let digest = vllama::model::digest::Sha256Digest::of(&archive);
    let upload = Request::new("POST", &format!("/api/blobs/sha256:{}", digest.as_str())).body(archive);
    assert_eq!(vllama.client.request(&upload).await.status(), 201);
    for name in ["x.zip", "x.gguf", "model.safetensors", "../x.gguf", "a/../../x.gguf"] {
        let files = json!({name: format!("sha256:{}", digest.as_str())});
        let answer = vllama.post("/api/create", &json!({"model": "x", "files": files, "stream": false})).await;
        assert_eq!(answer.status(), 400, "{name}: {}", answer.text());
    }
}

#[tokio::test]
async fn pictures_that_are_none_harm_nothing() {
    let vllama = Vllama::with_fake_thinker().start().await;
    for image in ["", "AAAA", "iVBORw0KGgo=", "/9j/", "R0lGODlh", "not base64 at all!", "UklGRgAAAABXRUJQ"] {
        let mut body = chat("FAKE:count 1", false);
        body["model"] = json!("thinker:1b");
        body["messages"][0]["images"] = json!([image]);
        let answer = vllama.post("/api/chat", &body).await;
        assert!(answer.status() < 500, "{image}: {} {}", answer.status(), answer.text());
    }
    assert_eq!(vllama.get("/health/ready").await.status(), 200);
}
