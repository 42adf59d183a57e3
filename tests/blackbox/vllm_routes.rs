//! vLLM's small routes beside the three APIs, and those of its routes that nobody may reach.

use serde_json::{Value, json};

use crate::harness::{Answer, Request, Vllama, embedder};

fn error(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap_or_else(|| panic!("an error: {}", answer.text())).to_owned()
}

/// A form as clients send it; `sound` is its file.
fn form(model: &str, sound: &[u8]) -> Vec<u8> {
    let field = |name: &str, value: &str| {
        format!("--bound\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes()
    };
    let file =
        b"--bound\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n";
    [&file[..], sound, b"\r\n", &field("language", "en"), &field("model", model), b"--bound--\r\n"].concat()
}

async fn transcribe(vllama: &Vllama, body: Vec<u8>) -> Answer {
    let request = Request::new("POST", "/v1/audio/transcriptions")
        .header("Content-Type", "multipart/form-data; boundary=bound")
        .body(body);
    vllama.client.request(&request).await
}

#[tokio::test]
async fn text_becomes_tokens_and_tokens_text() {
    let vllama = Vllama::with_fake().start().await;
    let told = vllama.post("/tokenize", &json!({"model": "SmolLM2:135M", "prompt": "The capital of France is"})).await;
    assert_eq!(told.status(), 200, "{}", told.text());
    let told = told.json();
    assert_eq!((&told["count"], &told["max_model_len"]), (&json!(5), &json!(8192)), "{told}");
    let back = vllama.post("/detokenize", &json!({"model": "SmolLM2:135M", "tokens": told["tokens"]})).await;
    assert_eq!(back.json(), json!({"prompt": "The capital of France is"}));
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let chat = vllama.post("/tokenize", &json!({"model": "smollm2:135m", "messages": messages})).await.json();
    assert!(chat["count"].as_u64() > Some(5), "{chat}");
}

#[tokio::test]
async fn texts_are_scored_ranked_and_pooled() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let ask = |more: Value| {
        let mut body = json!({"model": "ALL-MiniLM"});
        body.as_object_mut().expect("members").extend(more.as_object().expect("members").clone());
        body
    };
    let score = vllama.post("/v1/score", &ask(json!({"text_1": "a sky", "text_2": ["a sky", "cats purr"]}))).await;
    assert_eq!(score.status(), 200, "{}", score.text());
    let score = score.json();
    let value = |index: usize| score["data"][index]["score"].as_f64().expect("a score");
    assert!(value(0) > 0.999 && value(1) < 0.9, "{score}");
    assert_eq!(score["model"], "ALL-MiniLM");
    assert_eq!(vllama.engine_request().await["body"]["model"], "all-minilm:latest");
    let documents = json!(["cats purr", "a sky"]);
    let ranked = vllama.post("/v1/rerank", &ask(json!({"query": "a sky", "documents": documents}))).await.json();
    assert_eq!((&ranked["model"], &ranked["results"][0]["index"]), (&json!("ALL-MiniLM"), &json!(1)), "{ranked}");
    let pooled = vllama.post("/pooling", &ask(json!({"input": "a sky"}))).await.json();
    assert_eq!(
        (&pooled["model"], pooled["data"][0]["data"].as_array().map(Vec::len)),
        (&json!("ALL-MiniLM"), Some(384))
    );
    let refused = vllama.post("/v1/rerank", &ask(json!({"query": "a sky"}))).await;
    assert!(refused.status() == 400 && error(&refused).contains("body.documents"), "{}", refused.text());
}

#[tokio::test]
async fn a_model_that_makes_text_gives_no_scores() {
    let vllama = Vllama::with_fake().start().await;
    for path in ["/v1/score", "/v1/rerank", "/pooling"] {
        let answer = vllama.post(path, &json!({"model": "smollm2:135m", "input": "x"})).await;
        let words = format!("\"smollm2:135m\" does not support {path}: its engine makes text");
        assert!(answer.status() == 400 && error(&answer).starts_with(&words), "{}", answer.text());
    }
}

#[tokio::test]
async fn images_from_elsewhere_are_refused_here_too() {
    let part = json!({"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}});
    let vllama = Vllama::with_fake_embedder().start().await;
    let content = json!({"content": [part]});
    for (path, body) in [
        ("/tokenize", json!({"messages": [{"role": "user", "content": [part]}]})),
        ("/v1/score", json!({"text_1": "x", "text_2": [content]})),
        ("/v1/score", json!({"data_1": content, "data_2": "x"})),
        ("/v1/rerank", json!({"query": content, "documents": ["x"]})),
        ("/v1/rerank", json!({"query": "x", "documents": [content]})),
        ("/pooling", json!({"messages": [{"role": "user", "content": [part]}]})),
    ] {
        let mut body = body;
        body["model"] = json!(embedder::NAME);
        let answer = vllama.post(path, &body).await;
        assert!(answer.status() == 400 && error(&answer).starts_with("image URLs"), "{path} {}", answer.text());
    }
}

#[tokio::test]
async fn sound_passes_with_its_form_as_it_came_but_for_the_model() {
    let builder = Vllama::with_fake();
    let path = builder.path().join("models/registry.ollama.ai/library/smollm2/135m/config.json");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    std::fs::write(path, text.replace("LlamaForCausalLM", "WhisperForConditionalGeneration")).expect("a configuration");
    let vllama = builder.start().await;
    let sound: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let answer = transcribe(&vllama, form("SmolLM2:135M", &sound)).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.json()["text"], "100000 bytes of sound");
    let request = vllama.engine_request().await;
    assert_eq!(request["headers"]["content-type"], "multipart/form-data; boundary=\"bound\"");
    // vLLM tells JSON here, too; OpenAI and Ollama the words alone.
    let mut text = form("smollm2:135m", b"RIFF");
    text.truncate(text.len() - b"--bound--\r\n".len());
    text.extend(b"--bound\r\nContent-Disposition: form-data; name=\"response_format\"\r\n\r\ntext\r\n--bound--\r\n");
    let answer = transcribe(&vllama, text).await;
    let kind = answer.header("content-type");
    assert_eq!((kind, answer.text().as_str()), (Some("text/plain; charset=utf-8"), "4 bytes of sound"));
    let answer = transcribe(&vllama, form("smollm2:135m", &vec![0; (25 << 20) + (65 << 10)])).await;
    assert!(answer.status() == 413 && error(&answer).starts_with("the sound is too large"), "{}", answer.text());
}

#[tokio::test]
async fn a_model_that_writes_down_wants_a_sound_and_does_not_chat() {
    let builder = Vllama::with_fake();
    let path = builder.path().join("models/registry.ollama.ai/library/smollm2/135m/config.json");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    std::fs::write(path, text.replace("LlamaForCausalLM", "WhisperForConditionalGeneration")).expect("a configuration");
    let vllama = builder.start().await;
    let shown = vllama.post("/api/show", &json!({"model": "smollm2:135m"})).await.json();
    assert_eq!(shown["capabilities"], json!(["audio"]));
    let form = b"--bound\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nsmollm2:135m\r\n--bound--\r\n";
    let answer = transcribe(&vllama, form.to_vec()).await;
    assert!(answer.status() == 400 && error(&answer).contains("`file`"), "{}", answer.text());
    let answer = vllama.chat("hi").await;
    assert_eq!((answer.status(), answer.error().as_str()), (400, "\"smollm2:135m\" does not support chat"));
}

#[tokio::test]
async fn what_cannot_be_transcribed_is_told() {
    let vllama = Vllama::with_fake().start().await;
    for (body, status, words) in [
        (form("smollm2:135m", b"RIFF"), 400, "\"smollm2:135m\" does not support audio"),
        (form("nope", b"RIFF"), 404, "model 'nope' not found"),
        (form("", b"RIFF"), 400, "model is required"),
        (b"--bound--\r\n".to_vec(), 400, "the body is no form"),
        (b"{\"model\":\"smollm2:135m\"}".to_vec(), 400, "the body is no form"),
        (Vec::new(), 400, "the body is no form"),
    ] {
        let answer = transcribe(&vllama, body).await;
        assert!(answer.status() == status && error(&answer).starts_with(words), "{words}: {}", answer.text());
    }
}

#[tokio::test]
async fn other_routes_of_vllm_cannot_be_reached() {
    let vllama = Vllama::with_fake().start().await;
    let before = vllama.engine_request().await;
    for path in [
        "/ping",
        "/load",
        "/tokenizer_info",
        "/get_tokenizer_info",
        "/invocations",
        "/generative_scoring",
        "/scale_elastic_ep",
        "/is_scaling_elastic_ep",
        "/kv_event_sources",
        "/v1/systemone",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/render",
        "/v1/audio/translations",
        "/v1/realtime",
        "/v2/embed",
        "/v2/rerank",
        "/score",
        "/rerank",
        "/classify",
        "/inference/v1/generate",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/sleep",
        "/wake_up",
        "/is_sleeping",
        "/release_kv_cache_memory",
        "/reset_prefix_cache",
        "/reset_mm_cache",
        "/reset_encoder_cache",
        "/collective_rpc",
        "/server_info",
        "/pause",
        "/resume",
        "/is_paused",
        "/abort_requests",
        "/start_profile",
        "/stop_profile",
        "/start_weight_update",
        "/update_weights",
        "/docs",
        "/openapi.json",
    ] {
        for request in
            [Request::new("GET", path), Request::post(path, &json!({"model": "smollm2:135m", "prompt": "x"}))]
        {
            let answer = vllama.client.request(&request).await;
            assert_eq!((answer.status(), answer.text().as_str()), (404, "404 page not found"), "{request:?}");
        }
    }
    assert_eq!(vllama.engine_request().await, before, "none of it has reached the engine");
}
