//! Making, copying, showing and deleting models, and what a made model does to a request.

use serde_json::{Value, json};
use sha2::Digest as _;

use crate::harness::{Answer, Request, Vllama, eventually};

/// A stand-in for the import script: makes a small checkpoint and tells how far it is.
pub const IMPORTER: &str = r#"#!/bin/sh
case "$(head -c 4 "$3")" in GGUF) ;; *) echo '{"event":"error","code":"not_gguf","message":"That is no GGUF file."}'; exit 1;; esac
echo '{"event":"progress","phase":"tokenizer","done":1,"total":1}'
printf '{"architectures":["LlamaForCausalLM"],"model_type":"llama","max_position_embeddings":512}' > "$4/config.json"
for done in 1 2 3 4 5 6 7 8; do
    tail -c +5 "$3" >> "$4/model.safetensors"
    echo '{"event":"progress","phase":"tensors","done":'$done',"total":8}'
done
echo '{"event":"done","parameters":1234567,"quantization":"Q8_0","license":"mit"}'
"#;

impl Vllama {
    pub(super) async fn create(&self, body: &Value) -> Answer {
        self.post("/api/create", body).await
    }

    async fn names(&self) -> Vec<String> {
        let tags = self.get("/api/tags").await.json();
        let names = tags["models"].as_array().expect("a list").iter();
        let mut names: Vec<_> = names.map(|model| model["name"].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    }

    async fn show(&self, name: &str) -> Value {
        self.post("/api/show", &json!({"model": name})).await.json()
    }

    async fn delete(&self, body: &Value) -> Answer {
        let request = Request::new("DELETE", "/api/delete").body(body.to_string());
        self.client.request(&request).await
    }

    pub(super) async fn upload(&self, bytes: &[u8]) -> String {
        let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = format!("sha256:{hex}");
        let answer = self.client.request(&Request::new("POST", &format!("/api/blobs/{digest}")).body(bytes)).await;
        assert!([200, 201].contains(&answer.status()), "{}", answer.text());
        digest
    }

    /// The paths of the requests that have been answered to their end, in that order, once there are so many of them.
    async fn answered(&self, paths: &[&str], count: usize) -> Vec<String> {
        eventually("the requests are in the log", async || {
            let path = |line: Value| line["path"].as_str().map(str::to_owned);
            let all: Vec<_> = self.log().into_iter().filter_map(path).filter(|path| paths.contains(&&**path)).collect();
            (all.len() == count).then_some(all)
        })
        .await
    }

    /// What the engine was sent for a chat with this model.
    async fn sent(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let request = self.engine_request().await;
        match &request["body"] {
            Value::String(text) => serde_json::from_str(text).expect("JSON"),
            body => body.clone(),
        }
    }
}

fn statuses(answer: &Answer) -> Vec<String> {
    let status = |line: Value| line["status"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
    answer.lines().into_iter().map(status).collect()
}

/// A file with one tensor of six BF16 numbers.
pub(super) fn safetensors() -> Vec<u8> {
    let header = r#"{"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 12]);
    bytes
}

fn mario() -> Value {
    json!({
        "model": "mario", "from": "smollm2:135m", "system": "You are Mario.", "template": "{{ .System }} {{ .Prompt }}",
        "parameters": {"temperature": 0.25, "stop": ["STOP", "</s>"], "num_ctx": 4096, "top_k": 7},
        "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me, Mario!"}],
        "license": ["MIT", "for fun"],
    })
}

#[tokio::test]
async fn a_copy_answers_on_the_same_engine_and_shares_the_weights() {
    let vllama = Vllama::with_fake().start().await;
    let answer = vllama.post("/api/copy", &json!({"source": "smollm2:135m", "destination": "gpt-3.5-turbo"})).await;
    assert_eq!((answer.status(), answer.text().as_str(), answer.header("content-type")), (200, "", None));
    assert_eq!(vllama.names().await, ["gpt-3.5-turbo:latest", "smollm2:135m"]);
    let tags = vllama.get("/api/tags").await.json();
    assert_eq!(tags["models"][0]["digest"], tags["models"][1]["digest"]);
    assert_eq!(tags["models"][0]["name"], "gpt-3.5-turbo:latest", "the newest first");
    let body =
        json!({"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "FAKE:count 3"}], "stream": false});
    let chat = vllama.post("/api/chat", &body).await.json();
    assert_eq!((&chat["model"], &chat["message"]["content"]), (&json!("gpt-3.5-turbo"), &json!("1 2 3")), "{chat}");
    assert_eq!(vllama.starts(), 1);
    assert_eq!(std::fs::read_dir(vllama.path("models").join(".checkpoints")).expect("read").count(), 1);
    // To itself is nothing, over another is over it.
    for (source, destination) in [("smollm2:135M", "smollm2:135m"), ("smollm2:135m", "gpt-3.5-turbo")] {
        let body = json!({"source": source, "destination": destination});
        assert_eq!(vllama.post("/api/copy", &body).await.status(), 200, "{source} to {destination}");
    }
    assert_eq!(vllama.names().await.len(), 2);
}

#[tokio::test]
async fn copies_that_cannot_be_are_refused_in_ollamas_words() {
    let vllama = Vllama::with_fake().start_listening().await;
    for (source, destination, status, text) in [
        ("nope", "x", 404, r#"model "nope" not found"#),
        ("a b", "x", 400, r#"source "a b" is invalid"#),
        ("", "x", 400, r#"source "" is invalid"#),
        ("smollm2:135m", "../x", 400, r#"destination "../x" is invalid"#),
    ] {
        let answer = vllama.post("/api/copy", &json!({"source": source, "destination": destination})).await;
        assert_eq!((answer.status(), answer.error().as_str()), (status, text));
    }
    let empty = vllama.client.request(&Request::new("POST", "/api/copy")).await;
    assert_eq!((empty.status(), empty.error().as_str()), (400, "missing request body"));
}

#[tokio::test]
async fn a_deleted_model_is_gone_with_its_weights() {
    let vllama = Vllama::with_fake().with_model("other", "1b").start_listening().await;
    let answer = vllama.delete(&json!({"name": "other:1b"})).await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, ""));
    assert_eq!(vllama.names().await, ["smollm2:135m"]);
    assert_eq!(std::fs::read_dir(vllama.path("models").join(".checkpoints")).expect("read").count(), 1);
    for (body, status, text) in [
        (json!({"model": "other:1b"}), 404, "model 'other:1b' not found"),
        (json!({"model": "Nope"}), 404, "model 'Nope' not found"),
        (json!({"model": ""}), 400, "model is required"),
        (json!({"name": "a b"}), 400, r#"name "a b" is invalid"#),
    ] {
        let answer = vllama.delete(&body).await;
        assert_eq!((answer.status(), answer.error().as_str()), (status, text), "{body}");
    }
}

#[tokio::test]
async fn deleting_a_model_in_use_waits_for_its_requests() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "20").start().await;
    let client = vllama.client.clone();
    let body = json!({"model": "smollm2:135m", "stream": false,
        "messages": [{"role": "user", "content": "FAKE:count 20"}]});
    let running = tokio::spawn(async move { client.post("/api/chat", &body).await });
    vllama.engine_runs(1).await;
    let deleted = vllama.delete(&json!({"model": "smollm2:135m"})).await;
    assert_eq!(deleted.status(), 200, "{}", deleted.text());
    let answer = running.await.expect("no panic");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(vllama.answered(&["/api/chat", "/api/delete"], 2).await, ["/api/chat", "/api/delete"]);
    assert!(vllama.names().await.is_empty());
    assert_eq!(vllama.generations(), [] as [std::path::PathBuf; 0], "its engine went first");
    assert_eq!(vllama.health().await["engines"], json!([]), "and is forgotten");
}

#[tokio::test]
async fn replacing_a_model_in_use_waits_only_when_its_weights_go() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_TOKEN_RATE", "20").python(IMPORTER).start().await;
    let ask = || {
        let client = vllama.client.clone();
        let body = json!({"model": "smollm2:135m", "stream": false, "messages": [{"role": "user", "content": "FAKE:count 20"}]});
        tokio::spawn(async move { client.post("/api/chat", &body).await })
    };
    let running = ask();
    vllama.engine_runs(1).await;
    let over = json!({"model": "SmolLM2:135M", "from": "smollm2:135m", "system": "Be kind."});
    assert_eq!(statuses(&vllama.create(&over).await).last().map(String::as_str), Some("success"));
    let shown = vllama.show("smollm2:135m").await;
    assert_eq!((&shown["system"], &shown["details"]["parent_model"]), (&json!("Be kind."), &json!("")));
    assert_eq!(vllama.names().await, ["smollm2:135m"], "it keeps the spelling of its name");
    let digest = vllama.upload(b"GGUFweights").await;
    let made = vllama.create(&json!({"model": "smollm2:135m", "files": {"m.gguf": digest}})).await;
    assert_eq!(statuses(&made).last().map(String::as_str), Some("success"));
    assert_eq!(running.await.expect("no panic").status(), 200);
    let order = vllama.answered(&["/api/chat", "/api/create"], 3).await;
    assert_eq!(order, ["/api/create", "/api/chat", "/api/create"], "the second create waited");
    assert_eq!(std::fs::read_dir(vllama.path("models").join(".checkpoints")).expect("read").count(), 1);
}

#[tokio::test]
async fn deleting_an_alias_leaves_the_engine_alone() {
    let vllama = Vllama::with_fake().start().await;
    vllama.post("/api/copy", &json!({"source": "smollm2:135m", "destination": "alias"})).await;
    assert_eq!(vllama.delete(&json!({"model": "alias"})).await.status(), 200);
    let health = vllama.health().await;
    assert_eq!((&health["engine"]["state"], &health["engine"]["generation"]), (&json!("ready"), &json!(1)));
}

#[tokio::test]
async fn a_made_model_is_shown_with_all_it_adds() {
    let vllama = Vllama::with_fake().start_listening().await;
    let made = vllama.create(&mario()).await;
    assert_eq!(made.header("content-type"), Some("application/x-ndjson"));
    let statuses = statuses(&made);
    assert_eq!(statuses.last().map(String::as_str), Some("success"));
    assert_eq!(statuses[statuses.len() - 2], "writing manifest");
    let digest = "084d77eeeafcb3d4d49683808fc408ef6299ea6f55c1219f35939eb3e38feb2e";
    assert!(statuses.contains(&format!("using existing layer sha256:{digest}")), "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| status.starts_with("creating new layer sha256:")).count(), 6);
    let shown = vllama.show("mario").await;
    assert_eq!(shown["system"], "You are Mario.");
    assert_eq!(shown["template"], "{{ .System }} {{ .Prompt }}");
    assert_eq!(
        shown["parameters"],
        "temperature                    0.25\nstop                           \"STOP\"\n\
         stop                           \"</s>\"\nnum_ctx                        4096\ntop_k                          7"
    );
    assert_eq!(shown["license"], "Apache-2.0\nMIT\nfor fun");
    assert_eq!(shown["details"]["parent_model"], "smollm2:135m");
    assert_eq!(shown["messages"][1], json!({"role": "assistant", "content": "Me, Mario!"}));
    let tags = vllama.get("/api/tags").await.json();
    let model = &tags["models"][0];
    assert_eq!((&model["name"], &model["size"]), (&json!("mario:latest"), &json!(98_363_007)));
    assert_ne!(model["digest"], digest, "it is another model");
    // Made from this one, a model inherits what it does not replace; parameters are replaced one by one.
    let body = json!({"name": "luigi", "from": "mario", "stream": false, "system": "You are Luigi.",
        "parameters": {"temperature": 1}});
    let made = vllama.create(&body).await;
    assert_eq!((made.status(), made.text().as_str()), (200, r#"{"status":"success"}"#));
    let shown = vllama.show("luigi").await;
    assert_eq!(
        (&shown["system"], &shown["details"]["parent_model"]),
        (&json!("You are Luigi."), &json!("mario:latest"))
    );
    assert!(shown["parameters"].as_str().is_some_and(|text| text.contains("temperature                    1\n")));
    assert_eq!(shown["messages"][1]["content"], "Me, Mario!");
}

#[tokio::test]
async fn a_made_model_brings_its_system_prompt_messages_and_parameters_to_every_request() {
    let vllama = Vllama::with_fake().start().await;
    vllama.create(&mario()).await;
    let chat = |messages: Value| json!({"model": "mario", "messages": messages, "stream": false});
    let sent = vllama.sent("/api/chat", &chat(json!([{"role": "user", "content": "hi"}]))).await;
    assert_eq!(
        sent["messages"],
        json!([
            {"role": "system", "content": "You are Mario."}, {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Me, Mario!"}, {"role": "user", "content": "hi"},
        ])
    );
    assert_eq!((&sent["temperature"], &sent["top_k"]), (&json!(0.25), &json!(7)));
    assert_eq!(sent["stop"], json!(["STOP", "</s>"]));
    assert_eq!(sent["model"], "smollm2:135m", "the engine's own name for it");
    let own = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]);
    let sent = vllama.sent("/api/chat", &chat(own)).await;
    assert_eq!(sent["messages"][2], json!({"role": "system", "content": "s"}));
    assert_eq!(sent["messages"].as_array().map(Vec::len), Some(4));
    let options = json!({"model": "mario", "prompt": "hi", "system": "t", "stream": false,
        "options": {"temperature": 1, "stop": []}});
    let sent = vllama.sent("/api/generate", &options).await;
    assert_eq!(sent["messages"][0], json!({"role": "system", "content": "t"}));
    assert_eq!((&sent["temperature"], sent.get("stop")), (&json!(1.0), None));
    let sent =
        vllama.sent("/api/generate", &json!({"model": "mario", "prompt": "x", "raw": true, "stream": false})).await;
    assert_eq!((&sent["prompt"], sent.get("messages")), (&json!("x"), None));
    // The model it was made from is as it was, and one engine serves both.
    let plain = json!({"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}], "stream": false});
    assert_eq!(vllama.sent("/api/chat", &plain).await["messages"].as_array().map(Vec::len), Some(1));
    assert_eq!(vllama.starts(), 1);
}

#[tokio::test]
async fn creates_that_cannot_be_are_refused_in_ollamas_words() {
    let vllama = Vllama::with_fake().start_listening().await;
    let text = vllama.upload(b"no model").await;
    let missing = format!("sha256:{}", "0".repeat(64));
    for (body, status, error) in [
        (json!({"from": "smollm2:135m"}), 400, "invalid model name".to_owned()),
        (json!({"model": "a b", "from": "smollm2:135m"}), 400, "invalid model name".to_owned()),
        (json!({"model": "x"}), 400, "neither 'from' or 'files' was specified".to_owned()),
        (json!({"model": "x", "files": {}}), 400, "no files provided to convert".to_owned()),
        (json!({"model": "x", "files": {"../x": text}}), 400, "file path must be relative".to_owned()),
        (json!({"model": "x", "files": {"x.gguf": ""}}), 400, "invalid digest format".to_owned()),
        (json!({"model": "x", "files": {"x.bin": text}}), 400, "unknown type".to_owned()),
        (json!({"model": "x", "files": {"x.gguf": text}}), 400, "supplied file was not in GGUF format".to_owned()),
        (json!({"model": "x", "files": {"x.gguf": missing}}), 404, format!("blob \"{missing}\" not found")),
        (
            json!({"model": "x", "from": "smollm2:135m", "adapters": {"a.safetensors": text, "b.safetensors": text}}),
            400,
            "only one adapter is currently supported".to_owned(),
        ),
    ] {
        for stream in [true, false] {
            let mut body = body.clone();
            body["stream"] = json!(stream);
            let answer = vllama.create(&body).await;
            assert_eq!((answer.status(), answer.error()), (status, error.clone()), "{body}");
        }
    }
    // What is not here is pulled, and begins with that.
    let missing = "pull model manifest: file does not exist";
    let answer = vllama.create(&json!({"model": "x", "from": "nope"})).await;
    assert_eq!(answer.lines(), [json!({"status": "pulling manifest"}), json!({"error": missing})]);
    let answer = vllama.create(&json!({"model": "x", "from": "nope", "stream": false})).await;
    assert_eq!((answer.status(), answer.error().as_str()), (500, missing));
    let quantized = vllama.create(&json!({"model": "x", "from": "smollm2:135m", "quantize": "q4_k_m"})).await;
    assert_eq!(quantized.status(), 400);
    assert!(quantized.error().contains("vllama does not quantize"), "{}", quantized.error());
    assert_eq!(vllama.names().await, ["smollm2:135m"]);
}

#[tokio::test]
async fn a_gguf_file_becomes_a_model() {
    let vllama = Vllama::with_fake().python(IMPORTER).start_listening().await;
    let digest = vllama.upload(b"GGUFweights").await;
    let made = vllama.create(&json!({"model": "mine", "files": {"mine.gguf": digest}, "system": "Be kind."})).await;
    let lines = made.lines();
    assert_eq!(lines[0], json!({"status": "parsing GGUF"}));
    let parts: Vec<_> = lines.iter().filter(|line| line["status"] == "converting model").collect();
    assert_eq!(parts.len(), 8);
    assert_eq!(parts[7], &json!({"status": "converting model", "digest": digest, "total": 11, "completed": 11}));
    assert_eq!(lines.last(), Some(&json!({"status": "success"})));
    let shown = vllama.show("mine").await;
    assert_eq!(
        (&shown["details"]["format"], &shown["details"]["quantization_level"]),
        (&json!("gguf"), &json!("Q8_0"))
    );
    assert_eq!((&shown["system"], &shown["license"]), (&json!("Be kind."), &json!("mit")));
    assert_eq!(shown["model_info"]["general.parameter_count"], 1_234_567);
    assert_eq!(std::fs::read_dir(vllama.path("models").join(".staging")).expect("read").count(), 0);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_import() {
    let forever =
        "#!/bin/sh\necho '{\"event\":\"progress\",\"phase\":\"tensors\",\"done\":1,\"total\":8}'\nexec sleep 1000\n";
    let vllama = Vllama::with_fake().python(forever).start_listening().await;
    let digest = vllama.upload(b"GGUFweights").await;
    let request = Request::post("/api/create", &json!({"model": "mine", "files": {"mine.gguf": digest}}));
    let mut exchange = vllama.client.send(&request).await.expect("sent");
    exchange.head().await.expect("a head");
    while vllama.processes().iter().all(|process| process.name != "sleep") {
        exchange.piece().await.expect("a line");
    }
    drop(exchange);
    eventually("the script is gone", async || {
        vllama.processes().iter().all(|process| process.name != "sleep").then_some(())
    })
    .await;
    let staging = vllama.path("models").join(".staging");
    eventually("nothing is left", async || (std::fs::read_dir(&staging).ok()?.count() == 0).then_some(())).await;
}

#[tokio::test]
async fn the_files_of_a_checkpoint_become_a_model_with_an_adapter() {
    let vllama = Vllama::with_fake().start_listening().await;
    let weights = vllama.upload(&safetensors()).await;
    let config = vllama.upload(br#"{"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","hidden_size":3}"#).await;
    let lora = vllama.upload(br#"{"peft_type":"LORA","r":8}"#).await;
    let made = vllama
        .create(&json!({
            "model": "mine:1b", "files": {"model.safetensors": weights, "config.json": config, "tokenizer.json": config, "evil.py": config},
            "adapters": {"adapter_model.safetensors": weights, "adapter_config.json": lora},
        }))
        .await;
    let said = statuses(&made);
    assert_eq!((said[0].as_str(), said.last().map(String::as_str)), ("converting model", Some("success")), "{said:?}");
    assert!(said.contains(&"converting adapter".to_owned()), "{said:?}");
    let shown = vllama.post("/api/show", &json!({"model": "mine:1b", "verbose": true})).await.json();
    assert_eq!(shown["details"]["family"], "qwen2");
    assert_eq!(
        (&shown["details"]["format"], &shown["details"]["quantization_level"]),
        (&json!("safetensors"), &json!("BF16"))
    );
    assert_eq!(shown["tensors"], json!([{"name": "w", "type": "BF16", "shape": [2, 3]}]));
    assert_eq!(shown["model_info"]["qwen2.embedding_length"], 3);
    assert!(shown["modelfile"].as_str().is_some_and(|text| text.contains("\nADAPTER /")), "{shown}");
    let child = vllama.create(&json!({"model": "child", "from": "mine:1b", "system": "Be kind."})).await;
    let new = statuses(&child).iter().filter(|status| status.starts_with("creating new layer")).count();
    assert_eq!(new, 1, "checkpoint and adapter are inherited: {}", child.text());
    let torn = vllama.upload(&safetensors()[..60]).await;
    let refused = vllama
        .create(
            &json!({"model": "t", "files": {"m.safetensors": torn, "config.json": config, "tokenizer.json": config}}),
        )
        .await;
    assert!(refused.text().contains("no whole safetensors file"), "{}", refused.text());
    assert_eq!(vllama.names().await, ["child:latest", "mine:1b", "smollm2:135m"]);
    assert_eq!(std::fs::read_dir(vllama.path("models").join(".adapters")).expect("read").count(), 1);
}

#[tokio::test]
async fn models_of_an_image_are_served_copied_and_deleted_without_touching_it() {
    let image = Vllama::with_fake().with_model("baked", "1b");
    let base = image.path().join("models");
    let upper = Vllama::with_fake().env("VLLAMA_BASE_MODELS", &base.to_string_lossy());
    let vllama = upper.start_listening().await;
    assert_eq!(vllama.names().await, ["baked:1b", "smollm2:135m"]);
    let asked = Vllama::with_fake()
        .env("VLLAMA_BASE_MODELS", &base.to_string_lossy())
        .env("VLLAMA_MODELS", "/nowhere")
        .arguments(&["doctor"]);
    let told = asked.run().await.stdout;
    assert!(told.contains("2 models, all whole, 2 of them from the image"), "{told}");
    let copied = vllama.post("/api/copy", &json!({"source": "baked:1b", "destination": "mine"})).await;
    assert_eq!(copied.status(), 200, "{}", copied.text());
    assert_eq!(vllama.delete(&json!({"model": "baked:1b"})).await.status(), 200);
    assert_eq!(vllama.names().await, ["mine:latest", "smollm2:135m"]);
    let vllama = vllama.kill().start_listening().await;
    assert_eq!(vllama.names().await, ["mine:latest", "smollm2:135m"]);
    assert!(base.join("registry.ollama.ai/library/baked/1b/model.safetensors").is_file());
}

#[tokio::test]
async fn two_creates_of_one_name_at_once_leave_one_whole_model() {
    let vllama = Vllama::with_fake().python(IMPORTER).start_listening().await;
    let one = vllama.upload(b"GGUFone").await;
    let two = vllama.upload(b"GGUFtwo").await;
    for _ in 0..4 {
        let from = json!({"model": "same", "from": "smollm2:135m", "system": "s"});
        let create = |digest: &str| json!({"model": "Same", "files": {"m.gguf": digest}});
        let (first, second) = (create(&one), create(&two));
        let (a, b, c) = tokio::join!(vllama.create(&first), vllama.create(&second), vllama.create(&from));
        for answer in [a, b, c] {
            assert_eq!(statuses(&answer).last().map(String::as_str), Some("success"));
        }
    }
    assert_eq!(vllama.names().await.len(), 2);
    let checkpoints = std::fs::read_dir(vllama.path("models").join(".checkpoints")).expect("read").count();
    assert!(checkpoints <= 2, "{checkpoints}");
}
