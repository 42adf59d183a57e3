//! `vllama import` of the directory of a checkpoint.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{Vllama, embedder};

/// A checkpoint as its makers give it, and a store to install it in.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        embedder::install(&directory.path().join("made"));
        Self { directory }
    }

    fn checkpoint(&self) -> PathBuf {
        self.directory.path().join("made/registry.ollama.ai/library/all-minilm/latest")
    }

    fn models(&self) -> PathBuf {
        self.directory.path().join("models")
    }

    async fn import(&self, more: &[&str]) -> (i32, String) {
        self.import_as("mini", more).await
    }

    async fn import_as(&self, name: &str, more: &[&str]) -> (i32, String) {
        let checkpoint = self.checkpoint();
        let mut arguments = vec!["import", checkpoint.to_str().expect("a path"), name];
        arguments.extend(more);
        let vllama = Vllama::with_fake().env("VLLAMA_MODELS", &self.models().to_string_lossy()).arguments(&arguments);
        let ended = vllama.run().await;
        (ended.status.code().expect("an exit code"), ended.stderr)
    }
}

/// All files below a directory, by their paths inside it.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for path in std::fs::read_dir(next).expect("a directory").flatten().map(|entry| entry.path()) {
            let name = path.strip_prefix(directory).expect("below it").to_string_lossy().into_owned();
            if path.is_dir() { open.push(path) } else { found.push(name) }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_checkpoint_directory_is_installed_with_its_parts_and_can_be_served() {
    let bench = Bench::new();
    let checkpoint = bench.checkpoint();
    std::fs::write(checkpoint.join("README.md"), "---\nlicense: apache-2.0\n---\n").expect("written");
    std::fs::write(checkpoint.join("pytorch_model.bin"), "x").expect("written");
    let (code, said) = bench.import(&[]).await;
    assert_eq!(code, 0, "{said}");

    let vllama = Vllama::with_fake()
        .env("VLLAMA_MODELS", &bench.models().to_string_lossy())
        .env("FAKE_VLLM_MAX_MODEL_LEN", "256")
        .arguments(&["serve", "mini", "--json"])
        .start()
        .await;
    let shown = vllama.post("/api/show", &json!({"model": "mini"})).await.json();
    assert_eq!(shown["capabilities"], json!(["embedding"]));
    assert_eq!((&shown["license"], &shown["details"]["format"]), (&json!("apache-2.0"), &json!("safetensors")));
    let answer = vllama.post("/api/embed", &json!({"model": "mini", "input": "why is the sky blue?"})).await;
    assert_eq!(answer.json()["prompt_eval_count"], 8, "{}", answer.text());

    // What the engine was given holds the part in its own directory, and is what `/api/tags` counts.
    let serving = vllama.processes().into_iter().find(|process| process.name == "fake-vllm").expect("the engine");
    let arguments = std::fs::read(format!("/proc/{}/cmdline", serving.pid)).expect("its command line");
    let arguments = String::from_utf8(arguments).expect("text");
    let given = PathBuf::from(arguments.split('\0').skip_while(|word| *word != "serve").nth(1).expect("a checkpoint"));
    let mut installed = files(&given);
    installed.retain(|name| name != "vllama.json");
    let expected = [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(installed, expected);
    let bytes: u64 = expected.iter().map(|name| given.join(name).metadata().expect("a file").len()).sum();
    assert_eq!(vllama.get("/api/tags").await.json()["models"][0]["size"], bytes);
}

#[tokio::test]
async fn the_same_directory_has_the_same_digest_and_another_part_another() {
    let bench = Bench::new();
    let mut digests = Vec::new();
    for pooling in ["", "", " "] {
        let file = bench.checkpoint().join("1_Pooling/config.json");
        let text = std::fs::read_to_string(&file).expect("read").trim_end().to_owned();
        std::fs::write(&file, text + pooling).expect("written");
        let (code, said) = bench.import(&[]).await;
        assert_eq!(code, 0, "{said}");
        let vllama =
            Vllama::with_fake().with_model("smollm2", "135m").env("VLLAMA_MODELS", &bench.models().to_string_lossy());
        let vllama = vllama.arguments(&["serve", "mini", "--json"]).start().await;
        digests.push(vllama.get("/api/tags").await.json()["models"][0]["digest"].clone());
    }
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[1], digests[2]);
}

#[tokio::test]
async fn parameters_go_with_a_name_and_the_checkpoint_stays_the_same_for_all() {
    let bench = Bench::new();
    assert_eq!(bench.import(&[]).await.0, 0);
    assert_eq!(bench.import_as("other", &["--parameter", "temperature=0,top_k=40"]).await.0, 0);
    let checkpoints = std::fs::read_dir(bench.models().join(".checkpoints")).expect("checkpoints");
    assert_eq!(checkpoints.count(), 1, "it is stored once");
    let vllama = Vllama::with_fake().env("VLLAMA_MODELS", &bench.models().to_string_lossy());
    let vllama = vllama.arguments(&["serve", "mini", "--json"]).start_listening().await;
    let shown = vllama.post("/api/show", &json!({"model": "other"})).await.json();
    let lines: Vec<&str> = shown["parameters"].as_str().expect("text").lines().collect();
    assert_eq!(lines, ["temperature                    0", "top_k                          40"]);
    let shown = vllama.post("/api/show", &json!({"model": "mini"})).await.json();
    assert_eq!(shown["parameters"].as_str().unwrap_or_default(), "");
}

#[tokio::test]
async fn a_directory_that_is_not_whole_is_told_and_nothing_is_installed() {
    let bench = Bench::new();
    let weights = bench.checkpoint().join("model.safetensors");
    let whole = std::fs::read(&weights).expect("read");
    std::fs::write(&weights, &whole[..whole.len() - 1]).expect("written");
    let (code, said) = bench.import(&[]).await;
    assert_eq!(code, 1, "{said}");
    for part in ["cannot import", "model.safetensors", "download or copy it again", "nothing was installed"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!files(&bench.models()).iter().any(|name| name.ends_with("vllama.json") || name.ends_with("config.json")));

    std::fs::remove_file(&weights).expect("removed");
    std::fs::write(bench.checkpoint().join("pytorch_model.bin"), "x").expect("written");
    let (code, said) = bench.import(&[]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("pytorch_model.bin, which is not safetensors"), "{said}");
}

#[tokio::test]
async fn a_directory_that_is_installed_already_is_left_alone_when_told_so() {
    let bench = Bench::new();
    assert_eq!(bench.import(&[]).await.0, 0);
    std::fs::remove_file(bench.checkpoint().join("config.json")).expect("removed");
    let (code, said) = bench.import(&["--if-missing"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(bench.import(&[]).await.0, 1);
}

#[tokio::test]
async fn a_file_that_is_no_gguf_is_told_before_anything_is_done_with_it() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, bytes) in [("text.gguf", &b"no model"[..]), ("empty.gguf", b""), ("short.gguf", b"GG")] {
        let file = directory.path().join(name);
        std::fs::write(&file, bytes).expect("written");
        let ended = Vllama::with_fake().arguments(&["import", file.to_str().expect("a path"), "x"]).run().await;
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("no GGUF file") && ended.stderr.contains("→"), "{}", ended.stderr);
    }
}
