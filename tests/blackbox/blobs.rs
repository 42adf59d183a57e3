//! Uploaded files: kept by their digest, streamed to the disk, never half there.

use sha2::Digest as _;

use crate::harness::{Request, Vllama, eventually};

fn path(bytes: &[u8]) -> String {
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("/api/blobs/sha256:{hex}")
}

/// Number of entries in a directory of the store.
fn entries(vllama: &Vllama, directory: &str) -> usize {
    std::fs::read_dir(vllama.path("models").join(directory)).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_file_is_uploaded_once_and_known_then() {
    let vllama = Vllama::with_fake().start_listening().await;
    let path = path(b"GGUF and more");
    let ask = async || vllama.client.request(&Request::new("HEAD", &path)).await.status();
    assert_eq!(ask().await, 404);
    let upload = Request::new("POST", &path).body("GGUF and more");
    let first = vllama.client.request(&upload).await;
    assert_eq!((first.status(), first.text().as_str()), (201, ""));
    assert_eq!(ask().await, 200);
    let second = vllama.client.request(&upload).await;
    assert_eq!((second.status(), second.text().as_str()), (200, ""));
    let dashed = Request::new("HEAD", &path.replace("sha256:", "sha256-"));
    assert_eq!(vllama.client.request(&dashed).await.status(), 200);
    let escaped = Request::new("HEAD", &path.replace("sha256:", "sha256%3A"));
    assert_eq!(vllama.client.request(&escaped).await.status(), 200);
    assert_eq!((entries(&vllama, ".blobs"), entries(&vllama, ".staging")), (1, 0));
}

#[tokio::test]
async fn a_file_that_is_not_what_its_name_says_is_refused() {
    let vllama = Vllama::with_fake().start_listening().await;
    let wanted = path(b"one thing");
    let answer = vllama.client.request(&Request::new("POST", &wanted).body("another")).await;
    let digest = |path: &str| path.trim_start_matches("/api/blobs/").to_owned();
    let text = format!("digest mismatch, expected \"{}\", got \"{}\"", digest(&wanted), digest(&path(b"another")));
    assert_eq!((answer.status(), answer.error()), (400, text));
    for name in ["sha256:", "sha256:xyz", "md5:d41d8cd98f00b204e9800998ecf8427e", "..", "%2e%2e"] {
        let answer = vllama.client.request(&Request::new("POST", &format!("/api/blobs/{name}")).body("x")).await;
        assert_eq!((answer.status(), answer.error().as_str()), (400, "invalid digest format"), "{name}");
        let head = vllama.client.request(&Request::new("HEAD", &format!("/api/blobs/{name}"))).await;
        assert_eq!(head.status(), 400, "{name}");
    }
    assert_eq!(vllama.get("/api/blobs/sha256:x").await.status(), 405);
    assert_eq!(vllama.get("/api/blobs").await.status(), 404);
    assert_eq!((entries(&vllama, ".blobs"), entries(&vllama, ".staging")), (0, 0));
}

#[tokio::test]
async fn a_file_far_larger_than_other_bodies_is_taken_without_being_held_in_memory() {
    let vllama = Vllama::with_fake().env("VLLAMA_MAX_BODY", "1").start_listening().await;
    let bytes = vec![7; 64 << 20];
    let answer = vllama.client.request(&Request::new("POST", &path(&bytes)).body(bytes)).await;
    assert_eq!(answer.status(), 201, "{}", answer.text());
    let status = std::fs::read_to_string(format!("/proc/{}/status", vllama.pid())).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    let peak: u64 = peak.expect("its peak");
    assert!(peak < 48 << 10, "{peak} KiB");
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_a_413_and_an_unfinished_one_leaves_nothing() {
    let vllama = Vllama::with_fake().env("VLLAMA_MAX_BLOB", "1").start_listening().await;
    let path = path(b"x");
    let mut exchange = vllama.client.connect().await.expect("a connection");
    let length = (1_u64 << 30) + 1;
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n");
    exchange.write(head.as_bytes()).await.expect("a head on its way");
    assert_eq!(exchange.head().await.expect("a head").status, 413);

    let mut exchange = vllama.client.connect().await.expect("a connection");
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nhalf of it");
    exchange.write(head.as_bytes()).await.expect("a beginning on its way");
    eventually("the upload has begun", async || (entries(&vllama, ".staging") == 1).then_some(())).await;
    drop(exchange);
    eventually("nothing is left of it", async || (entries(&vllama, ".staging") == 0).then_some(())).await;
    assert_eq!(entries(&vllama, ".blobs"), 0);
}
