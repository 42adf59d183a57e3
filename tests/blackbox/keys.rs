//! Keys: what they open, what they cost, and where they come from (issue 6).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::vllama::{Builder, chat, generate};
use crate::harness::{Answer, Client, Request, Vllama, eventually};

/// A key file of a test's own, and a vllama that is to ask for its keys.
pub(crate) struct Keys {
    directory: TempDir,
    /// Starts vllama.
    pub builder: Builder,
}

impl Keys {
    pub(crate) fn of(builder: Builder) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.json");
        Self { builder: builder.env("VLLAMA_KEYS", &file.to_string_lossy()), directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("keys.json")
    }

    /// `vllama key …`.
    fn run(&self, arguments: &[&str]) -> Output {
        let arguments: Vec<_> = std::iter::once("key").chain(arguments.iter().copied()).collect();
        let mut command = self.builder.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("vllama runs")
    }

    /// `vllama key add NAME …`: the key.
    pub(crate) fn add(&self, arguments: &[&str]) -> String {
        let arguments: Vec<_> = std::iter::once("add").chain(arguments.iter().copied()).collect();
        let output = self.run(&arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

fn with(key: &str, request: Request) -> Request {
    request.header("Authorization", &format!("Bearer {key}"))
}

async fn asked(vllama: &Vllama, key: &str, path: &str, body: &Value) -> Answer {
    vllama.client.request(&with(key, Request::post(path, body))).await
}

async fn got(vllama: &Vllama, key: &str, path: &str) -> Answer {
    vllama.client.request(&with(key, Request::new("GET", path))).await
}

fn number(answer: &Answer, header: &str) -> u64 {
    answer.header(header).unwrap_or_else(|| panic!("{header} in {:?}", answer.head)).parse().expect("a number")
}

#[tokio::test]
async fn a_key_is_shown_as_bearer_or_as_x_api_key_and_seen_by_nobody_else() {
    let keys = Keys::of(Vllama::with_fake().env("VLLAMA_LOG", "trace"));
    let key = keys.add(&["bob"]);
    let vllama = keys.builder.start().await;
    let bearer = format!("Bearer {key}");
    let (begin, last) = key.split_at(key.len() - 1);
    let wrong = format!("Bearer {begin}{}", if last == "A" { "B" } else { "A" });
    for (headers, status) in [
        (&[("Authorization", bearer.as_str())][..], 200),
        (&[("authorization", &bearer.replace("Bearer", "bearer"))], 200),
        (&[("X-Api-Key", &key)], 200),
        (&[("Authorization", "Bearer sk-ant-somebody-elses"), ("X-Api-Key", &key)], 200),
        (&[("Authorization", &wrong)], 401),
        (&[("Authorization", &key)], 401),
        (&[], 401),
    ] {
        for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
            let mut body = chat("FAKE:count 3", false);
            body["max_tokens"] = json!(10);
            let request =
                headers.iter().fold(Request::post(path, &body), |request, (name, value)| request.header(name, value));
            let answer = vllama.client.request(&request).await;
            assert_eq!(answer.status(), status, "{path} {headers:?} {}", answer.text());
            assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
        }
    }
    let sent = vllama.engine_request().await["headers"].to_string();
    assert!(!sent.contains("sk-"), "{sent}");
    let log = vllama.log();
    let line = |key: &Value| log.iter().find(|line| line["path"] == "/api/chat" && line["key"] == *key).cloned();
    assert_eq!(line(&json!("bob")).expect("a line")["status"], 200);
    assert_eq!(line(&Value::Null).expect("a line of one without a good key")["refused"], "unknown_key");
    let all = vllama.stderr().join("\n");
    assert!(!all.contains(&key[10..]) && !all.contains("somebody-elses"), "the log tells no key");
}

#[tokio::test]
async fn a_page_may_ask_beforehand_and_reads_why_it_may_not_ask() {
    let keys = Keys::of(Vllama::with_fake());
    keys.add(&["bob"]);
    let vllama = keys.builder.start().await;
    let page = |method: &str| Request::new(method, "/v1/messages").header("Origin", "http://localhost:3000");
    let before = vllama.client.request(&page("OPTIONS").header("Access-Control-Request-Method", "POST")).await;
    assert_eq!(before.status(), 204);
    let allowed = before.header("access-control-allow-headers").expect("headers").to_ascii_lowercase();
    for name in ["authorization", "x-api-key", "anthropic-version"] {
        assert!(allowed.split(',').any(|header| header == name), "{name} in {allowed}");
    }
    let refused = vllama.client.request(&page("POST").body("{}")).await;
    assert_eq!((refused.status(), refused.header("access-control-allow-origin")), (401, Some("http://localhost:3000")));
}

#[tokio::test]
async fn a_body_is_not_waited_for_where_the_key_is_not_good() {
    let keys = Keys::of(Vllama::with_fake());
    keys.add(&["bob"]);
    let vllama = keys.builder.start().await;
    let mut exchange = vllama.client.connect().await.expect("a connection");
    let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
    exchange.write(head.as_bytes()).await.expect("sent");
    assert_eq!(exchange.head().await.expect("an answer").status, 401);
}

#[tokio::test]
async fn health_is_open_and_tells_more_to_those_who_may_see_it() {
    let keys = Keys::of(Vllama::with_fake());
    let (bob, grafana) = (keys.add(&["bob"]), keys.add(&["grafana", "--scope", "metrics"]));
    let vllama = keys.builder.start().await;
    for path in ["/health", "/health/ready", "/health/live"] {
        for answer in [vllama.get(path).await, got(&vllama, &bob, path).await, got(&vllama, "wrong", path).await] {
            assert_eq!((answer.status(), answer.json()), (200, json!({"status": "ok"})), "{path}");
        }
    }
    assert_eq!(got(&vllama, &grafana, "/health").await.json()["engine"]["state"], "ready");
    assert_eq!(got(&vllama, &grafana, "/health/ready").await.json()["model"], "smollm2:135m");
    assert_eq!(vllama.get("/").await.text(), "Ollama is running");
}

#[tokio::test]
async fn requests_a_minute_and_at_a_time_are_limited_on_what_asks_an_engine() {
    let keys = Keys::of(Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "20"));
    let few = keys.add(&["few", "--requests-per-minute", "3"]);
    let one = keys.add(&["one", "--concurrent", "1"]);
    let vllama = keys.builder.start().await;
    let embeddings = json!({"model": "smollm2:135m", "prompt": ""});
    for left in [2, 1, 0] {
        let answer = asked(&vllama, &few, "/api/embeddings", &embeddings).await;
        let told = (number(&answer, "x-ratelimit-limit-requests"), number(&answer, "x-ratelimit-remaining-requests"));
        assert_eq!((answer.status(), told), (200, (3, left)), "{}", answer.text());
    }
    let body = json!({"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
        let answer = asked(&vllama, &few, path, &body).await;
        assert_eq!(answer.status(), 429, "{}", answer.text());
        assert!((1..=20).contains(&number(&answer, "retry-after")), "{:?}", answer.head);
        let error = answer.json()["error"].clone();
        match path {
            "/api/chat" => assert!(error.as_str().is_some_and(|text| text.contains("3 times a minute")), "{error}"),
            "/v1/messages" => {
                assert_eq!(error["type"], "rate_limit_error");
                assert_eq!(number(&answer, "anthropic-ratelimit-requests-remaining"), 0);
                let reset = answer.header("anthropic-ratelimit-requests-reset").expect("a time");
                assert!(reset.starts_with("20") && reset.ends_with('Z'), "{reset}");
            }
            _ => {
                assert_eq!(error["code"], "rate_limit_exceeded");
                assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("3"));
            }
        }
    }
    for _ in 0..5 {
        assert_eq!(got(&vllama, &few, "/api/tags").await.status(), 200, "lists cost nothing");
    }
    let long = with(&one, Request::post("/api/chat", &chat("FAKE:count 1000", true)));
    let running = vllama.client.send(&long).await.expect("a request on its way");
    vllama.engine_runs(1).await;
    let answer = asked(&vllama, &one, "/api/chat", &chat("hi", false)).await;
    assert_eq!((answer.status(), answer.header("retry-after")), (429, Some("1")), "{}", answer.text());
    drop(running);
    eventually("the place is free again", async || {
        let answer = asked(&vllama, &one, "/api/chat", &chat("FAKE:count 1", false)).await;
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tokens_are_counted_in_every_dialect_and_hanging_up_saves_none() {
    let keys = Keys::of(Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "200"));
    let key = keys.add(&["bob", "--tokens-per-day", "1000"]);
    let state = keys.directory.path().join("state");
    std::fs::create_dir(&state).expect("a directory");
    let builder = || {
        let builder = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "200");
        builder.env("VLLAMA_STATE", &state.to_string_lossy()).env("VLLAMA_KEYS", &keys.file().to_string_lossy())
    };
    let vllama = builder().start().await;
    let left = async |vllama: &Vllama| {
        let answer = asked(vllama, &key, "/api/embeddings", &json!({"model": "smollm2:135m", "prompt": ""})).await;
        number(&answer, "x-ratelimit-remaining-tokens")
    };
    assert_eq!(left(&vllama).await, 1000);
    let mut before = 1000;
    for (path, stream) in [
        ("/api/chat", true),
        ("/api/chat", false),
        ("/v1/chat/completions", true),
        ("/v1/chat/completions", false),
        ("/v1/messages", true),
        ("/v1/messages", false),
    ] {
        let mut body = chat("FAKE:count 20", stream);
        body["max_tokens"] = json!(100);
        let answer = asked(&vllama, &key, path, &body).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let now = left(&vllama).await;
        assert!((21..60).contains(&(before - now)), "{path} {stream}: {before} {now}");
        before = now;
    }
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
        let mut body = chat("FAKE:count 2000", true);
        body["max_tokens"] = json!(5000);
        let mut exchange = vllama.client.send(&with(&key, Request::post(path, &body))).await.expect("a request");
        exchange.head().await.expect("a head");
        let mut pieces = 0;
        while pieces < 10 {
            exchange.piece().await.expect("a piece").expect("more");
            pieces += 1;
        }
        drop(exchange);
        vllama.engine_runs(0).await;
        let now = eventually("what came is counted", async || {
            let now = left(&vllama).await;
            (now < before).then_some(now)
        })
        .await;
        assert!((5..200).contains(&(before - now)), "{path}: {before} {now}");
        before = now;
    }
    vllama.stop().await;
    let vllama = builder().start().await;
    assert_eq!(left(&vllama).await, before, "a restart forgets nothing");
    let ask = |words: &str| json!({"model": "smollm2:135m", "max_tokens": 2000, "messages": [{"role": "user", "content": words}]});
    assert_eq!(asked(&vllama, &key, "/v1/messages", &ask("FAKE:count 1000")).await.status(), 200, "what runs ends");
    let answer = asked(&vllama, &key, "/v1/messages", &ask("hi")).await;
    assert_eq!((answer.status(), number(&answer, "anthropic-ratelimit-tokens-remaining")), (429, 0));
    assert!(number(&answer, "retry-after") <= 24 * 3600);
}

#[tokio::test]
async fn a_key_for_some_models_uses_and_sees_no_others() {
    let keys = Keys::of(Vllama::with_fake().with_model("other", "latest").with_embedder());
    let key = keys.add(&["bob", "--scope", "infer,manage", "--model", "smollm2:135m"]);
    let all = keys.add(&["all"]);
    let vllama = keys.builder.start().await;
    assert_eq!(asked(&vllama, &key, "/api/chat", &chat("hi", false)).await.status(), 200);
    assert_eq!(asked(&vllama, &all, "/api/embed", &json!({"model": "all-minilm", "input": "x"})).await.status(), 200);
    for name in ["other", "Other:latest", "all-minilm", "nope"] {
        for (method, path, body) in [
            ("POST", "/api/chat", json!({"model": name})),
            ("POST", "/api/generate", json!({"model": name, "keep_alive": 0})),
            ("POST", "/api/embed", json!({"model": name, "input": "x"})),
            ("POST", "/api/embeddings", json!({"model": name, "prompt": "x"})),
            ("POST", "/api/show", json!({"model": name})),
            ("POST", "/api/copy", json!({"source": name, "destination": "smollm2:135m"})),
            ("POST", "/api/copy", json!({"source": "smollm2:135m", "destination": name})),
            ("DELETE", "/api/delete", json!({"model": name})),
            ("POST", "/api/pull", json!({"model": name})),
            ("POST", "/api/create", json!({"model": name, "from": "smollm2:135m"})),
            ("POST", "/api/create", json!({"model": "smollm2:135m", "from": name})),
            ("POST", "/v1/chat/completions", json!({"model": name, "messages": []})),
            ("POST", "/v1/completions", json!({"model": name, "prompt": "x"})),
            ("POST", "/v1/embeddings", json!({"model": name, "input": "x"})),
            ("POST", "/v1/responses", json!({"model": name, "input": "x"})),
            ("POST", "/v1/messages", json!({"model": name, "messages": [], "max_tokens": 1})),
            ("POST", "/v1/messages/count_tokens", json!({"model": name, "messages": []})),
            ("POST", "/v1/score", json!({"model": name})),
            ("POST", "/v1/rerank", json!({"model": name})),
            ("POST", "/pooling", json!({"model": name})),
            ("POST", "/tokenize", json!({"model": name, "prompt": "x"})),
            ("POST", "/detokenize", json!({"model": name, "tokens": []})),
        ] {
            let request = with(&key, Request::new(method, path).body(body.to_string()));
            let answer = vllama.client.request(&request).await;
            assert_eq!(answer.status(), 403, "{method} {path} {body} {}", answer.text());
            assert!(answer.text().contains("this key may not use the model"), "{}", answer.text());
        }
        assert_eq!(got(&vllama, &key, &format!("/v1/models/{name}")).await.status(), 403);
    }
    let form = "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nother\r\n--x--\r\n";
    let form = with(&key, Request::new("POST", "/v1/audio/transcriptions").body(form));
    assert_eq!(vllama.client.request(&form).await.status(), 403);
    for (path, list, name) in [
        ("/api/tags", "models", "name"),
        ("/api/ps", "models", "name"),
        ("/v1/models", "data", "id"),
        ("/api/experimental/model-recommendations", "recommendations", "model"),
    ] {
        let listed = got(&vllama, &key, path).await.json()[list].clone();
        let names: Vec<_> = listed.as_array().expect("a list").iter().map(|model| model[name].clone()).collect();
        assert_eq!(names, ["smollm2:135m"], "{path}");
        let others = got(&vllama, &all, path).await.json()[list].as_array().map(Vec::len);
        assert!(others > Some(1), "{path}: {others:?}");
    }
    assert!(vllama.log().iter().any(|line| line["message"] == "request" && line["refused"] == "model"));
}

#[tokio::test]
async fn whoever_may_only_ask_does_not_say_how_long_a_model_stays() {
    let keys = Keys::of(Vllama::with_fake());
    let (asks, manages) = (keys.add(&["asks"]), keys.add(&["manages", "--scope", "infer,manage"]));
    let vllama = keys.builder.start().await;
    let unload = json!({"model": "smollm2:135m", "keep_alive": 0});
    for path in ["/api/generate", "/api/chat"] {
        let answer = asked(&vllama, &asks, path, &unload).await;
        assert_eq!(answer.status(), 403, "{}", answer.text());
        assert!(answer.error().contains("may not unload"), "{}", answer.text());
    }
    let mut once = generate("FAKE:count 1", false);
    once["keep_alive"] = json!(0);
    assert_eq!(asked(&vllama, &asks, "/api/generate", &once).await.status(), 200, "only not heeded");
    let loaded = async || got(&vllama, &asks, "/api/ps").await.json()["models"].as_array().map(Vec::len);
    assert_eq!(loaded().await, Some(1));
    assert_eq!(asked(&vllama, &manages, "/api/generate", &once).await.status(), 200);
    eventually("the model is unloaded", async || (loaded().await == Some(0)).then_some(())).await;
}

#[tokio::test]
async fn the_first_key_is_made_and_told_once() {
    let keys = Keys::of(Vllama::with_fake());
    let file = keys.file();
    let vllama = keys.builder.start().await;
    let told: Vec<Value> = vllama.log().into_iter().filter(|line| line["key"].is_string()).collect();
    let [line] = &told[..] else { panic!("told once: {told:?}") };
    let key = line["key"].as_str().expect("a key");
    assert!(key.starts_with("sk-vllama-"), "{line}");
    assert_eq!((&line["name"], &line["file"]), (&json!("admin"), &json!(file)));
    for path in ["/api/tags", "/vllama/queue"] {
        assert_eq!(got(&vllama, key, path).await.status(), 200);
    }
    let kept = std::fs::read_to_string(&file).expect("a key file");
    assert!(!kept.contains(&key[10..]), "only its digest is kept");
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    vllama.stop().await;

    let again = Vllama::with_fake().env("VLLAMA_KEYS", &file.to_string_lossy()).start().await;
    assert_eq!(got(&again, key, "/api/tags").await.status(), 200);
    assert!(!again.stderr().iter().any(|line| line.contains("sk-vllama-")), "not told again");
    again.stop().await;

    let other = file.with_file_name("below").join("keys.json");
    let plain = Vllama::with_fake().env("VLLAMA_LOG_FORMAT", "text").env("VLLAMA_KEYS", &other.to_string_lossy());
    let plain = plain.start().await;
    let text = plain.stderr().join("\n");
    let key = text.split_whitespace().find(|word| word.starts_with("sk-vllama-")).expect("a key on a line of its own");
    assert_eq!(got(&plain, key, "/api/tags").await.status(), 200);
    assert!(text.contains("told only this once"), "{text}");
}

#[tokio::test]
async fn a_file_that_changes_is_taken_up_and_a_broken_one_changes_nothing() {
    let keys = Keys::of(Vllama::with_fake());
    let bob = keys.add(&["bob"]);
    let file = keys.file().to_string_lossy().into_owned();
    let vllama = Vllama::with_fake().env("VLLAMA_KEYS", &file).start().await;
    let status = async |key: &str| got(&vllama, key, "/api/tags").await.status();
    assert_eq!(status(&bob).await, 200);
    let eve = keys.add(&["eve"]);
    let began = std::time::Instant::now();
    eventually("the new key is good", async || (status(&eve).await == 200).then_some(())).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
    assert!(keys.run(&["revoke", "bob"]).status.success());
    eventually("the old one is not", async || (status(&bob).await == 401).then_some(())).await;

    let whole = std::fs::read_to_string(&file).expect("a key file");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("written");
    vllama.says("the key file cannot be used, and nothing changes").await;
    assert_eq!((status(&eve).await, status(&bob).await), (200, 401));
    std::fs::remove_file(&file).expect("removed");
    vllama.says("the key file is gone").await;
    assert_eq!(status(&eve).await, 200);
    std::fs::write(&file, &whole).expect("written");
    vllama.signal(Signal::SIGHUP);
    vllama.says("the configuration has been read again").await;
    assert_eq!((status(&eve).await, status(&bob).await), (200, 401));
}

#[tokio::test]
async fn a_key_file_that_cannot_be_used_keeps_vllama_from_starting() {
    let keys = Keys::of(Vllama::with_fake());
    std::fs::write(keys.file(), "{\"keys\": [{}]}").expect("written");
    let file = keys.file().display().to_string();
    let ended = keys.builder.run().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&file) && ended.stderr.contains("it is no key file"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_server_that_strangers_can_reach_without_keys_warns_loudly() {
    let warning = "NO KEYS ARE ASKED FOR";
    let warns =
        |vllama: &Vllama| vllama.stderr().iter().any(|line| line.contains(warning) && line.contains("VLLAMA_KEYS"));
    let open = Vllama::with_fake().env("OLLAMA_HOST", "0.0.0.0:0").start().await;
    assert!(warns(&open));
    let local = Vllama::with_fake().start().await;
    assert!(!warns(&local));
    let keys = Keys::of(Vllama::with_fake().env("OLLAMA_HOST", "0.0.0.0:0"));
    keys.add(&["bob"]);
    let locked = keys.builder.start().await;
    assert!(!warns(&locked));
}

#[tokio::test]
async fn engines_take_requests_in_the_order_of_their_keys_priorities() {
    let keys = Keys::of(Vllama::with_fake().with_embedder());
    let (first, plain) = (keys.add(&["first", "--priority", "-7"]), keys.add(&["plain"]));
    let vllama = keys.builder.start().await;
    let leader = vllama.processes().into_iter().find_map(|process| {
        let line = std::fs::read_to_string(Path::new("/proc").join(process.pid.to_string()).join("cmdline")).ok()?;
        line.contains("--scheduling-policy\0priority").then_some(line)
    });
    assert!(leader.is_some(), "the engine goes by priorities");
    let mut body = json!({"model": "smollm2:135m", "messages": [{"role": "user", "content": "FAKE:count 1"}], "priority": -100,
        "max_tokens": 5, "stream": false});
    for (path, in_body) in [("/api/chat", false), ("/v1/chat/completions", true), ("/v1/messages", true)] {
        for (key, priority) in [(&first, -7), (&plain, 0)] {
            assert_eq!(asked(&vllama, key, path, &body).await.status(), 200);
            let sent = vllama.engine_request().await;
            assert_eq!(sent["headers"]["x-vllm-priority"], priority.to_string(), "{sent}");
            let expected = if in_body { json!(priority) } else { Value::Null };
            assert_eq!(sent["body"]["priority"], expected, "{path} {sent}");
        }
    }
    body["priority"] = Value::Null;
    for (key, expected) in [(&first, json!(-7)), (&plain, Value::Null)] {
        assert_eq!(asked(&vllama, key, "/v1/chat/completions", &body).await.status(), 200);
        assert_eq!(vllama.engine_request().await["body"]["priority"], expected);
    }
    vllama.stop().await;

    // Without keys clients say themselves, and the engine is told nothing.
    let vllama = Vllama::with_fake().start().await;
    body["priority"] = json!(-100);
    assert_eq!(vllama.post("/v1/chat/completions", &body).await.status(), 200);
    let sent = vllama.engine_request().await;
    assert_eq!((&sent["body"]["priority"], &sent["headers"]["x-vllm-priority"]), (&json!(-100), &Value::Null));
}

#[tokio::test]
async fn the_port_for_monitoring_asks_for_no_key_and_tells_what_each_has_used() {
    let keys = Keys::of(Vllama::with_fake().env("VLLAMA_METRICS_LISTEN", "127.0.0.1:0"));
    let bob = keys.add(&["bob"]);
    let vllama = keys.builder.start().await;
    assert_eq!(asked(&vllama, &bob, "/api/chat", &chat("FAKE:count 5", false)).await.status(), 200);
    assert_eq!(asked(&vllama, &bob, "/api/pull", &json!({"model": "x"})).await.status(), 403);
    assert_eq!(vllama.post("/api/chat", &chat("hi", false)).await.status(), 401);
    let monitoring = Client::Tcp(vllama.monitoring.expect("the port is told"));
    assert_eq!(monitoring.get("/health").await.json()["engine"]["state"], "ready");
    for sample in [
        r#"vllama_key_requests_total{key="bob",status="200"} 1"#,
        r#"vllama_key_refusals_total{key="bob",reason="scope"} 1"#,
        r#"vllama_key_refusals_total{key="none",reason="no_key"} 1"#,
        r#"vllama_key_tokens_total{key="bob",direction="generated"} "#,
    ] {
        eventually(sample, async || monitoring.get("/metrics").await.text().contains(sample).then_some(())).await;
    }
    assert_eq!(vllama.get("/metrics").await.status(), 401);
}

#[tokio::test]
async fn keys_are_added_listed_and_revoked_on_the_command_line() {
    let keys = Keys::of(Vllama::with_fake());
    let code = |arguments: &[&str]| keys.run(arguments).status.code();
    let text = |arguments: &[&str]| String::from_utf8(keys.run(arguments).stdout).expect("text");
    assert_eq!(code(&["list"]), Some(1), "there is no file yet");
    let bob = keys.add(&["bob"]);
    assert!(bob.starts_with("sk-vllama-") && !bob.contains(char::is_whitespace), "{bob:?}");
    let added = text(&["add", "eve", "--scope", "manage", "--priority", "3", "--concurrent", "2", "--json"]);
    let added: Value = serde_json::from_str(&added).expect("JSON");
    assert_eq!((&added["name"], &added["scopes"]), (&json!("eve"), &json!(["manage"])));
    assert_eq!(added["limits"], json!({"concurrent": 2, "priority": 3}));
    assert!(added["key"].as_str().is_some_and(|key| key.starts_with("sk-vllama-")));
    assert_eq!(
        (code(&["add", "bob"]), code(&["add", "a b"]), code(&["revoke", "nobody"])),
        (Some(1), Some(2), Some(1))
    );
    assert_eq!(code(&["revoke", "bob"]), Some(0));
    let list = text(&["list"]);
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "SCOPES", "CREATED", "STATE", "LIMITS"]);
    assert_eq!((rows[1][0], rows[1][1], rows[1][3]), ("bob", "infer", "revoked"));
    assert_eq!(rows[2][3..], ["good", "concurrent=2", "priority=3"]);
    let listed: Value = serde_json::from_str(&text(&["list", "--json"])).expect("JSON");
    assert!(listed["keys"][0]["revoked"].is_string() && listed["keys"][1]["revoked"].is_null());
    assert!(!list.contains("sk-vllama") && !listed.to_string().contains("sha256"), "a list tells no secrets");
}
