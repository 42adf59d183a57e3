//! Plans from outside: what `vllama explain` tells, and what the configuration file does to them.

use crate::harness::Vllama;
use crate::harness::model::NAME;

#[tokio::test]
async fn explain_tells_the_plan_of_an_installed_model_and_of_a_directory_without_a_server() {
    let ended = Vllama::with_fake().arguments(&["explain", NAME]).run().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    for part in [NAME, "LlamaForCausalLM", "--max-model-len auto", "the longest context that fits", "vllm serve "] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/families/qwen3-8b");
    let ended = Vllama::with_fake().arguments(&["explain", directory, "--json"]).run().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let plan: serde_json::Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    assert_eq!(plan["card"]["architecture"], "Qwen3ForCausalLM");
    let flags = plan["flags"].as_array().expect("flags");
    let parser = flags.iter().find(|flag| flag["name"] == "--tool-call-parser").expect("a parser");
    assert_eq!((parser["value"].as_str(), parser["reason"].is_string()), (Some("hermes"), true));
    assert!(plan["memory"]["total"].as_u64() > Some(16 << 30), "{}", plan["memory"]);
}

#[tokio::test]
async fn explain_says_what_is_wrong_with_what_it_was_given() {
    for (what, expected) in [("nobody:7b", "not installed"), ("/tmp/", "config.json"), ("a b", "invalid model name")] {
        let ended = Vllama::with_fake().arguments(&["explain", what]).run().await;
        assert_eq!(ended.status.code(), Some(1), "{what}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected) && ended.stderr.contains('→'), "{what}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn the_configuration_file_reaches_the_engine_of_the_model_it_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("vllama.toml");
    let model = NAME.to_uppercase();
    let text =
        format!("max_queue = 3\n[models.\"{model}\"]\nmax_model_len = 777\nengine_arguments = [\"--seed\", \"7\"]\n");
    std::fs::write(&file, text).expect("written");
    let path = file.to_str().expect("a path");
    let vllama = Vllama::with_fake().env("VLLAMA_CONFIG", path).start().await;
    let command_line = std::fs::read(format!("/proc/{}/cmdline", vllama.process("fake-vllm").pid)).expect("a process");
    let engine = String::from_utf8_lossy(&command_line).trim_end_matches('\0').replace('\0', " ");
    assert!(engine.contains("--max-model-len 777") && engine.ends_with("--seed 7"), "{engine}");
}

#[tokio::test]
async fn the_rust_frontend_is_started_without_what_it_refuses_and_gives_durations_of_our_own() {
    let vllama = Vllama::with_fake().env("VLLAMA_ENGINE_FRONTEND", "rust").start().await;
    let environment = std::fs::read(format!("/proc/{}/environ", vllama.process("fake-vllm").pid)).expect("a process");
    assert!(String::from_utf8_lossy(&environment).contains("VLLM_USE_RUST_FRONTEND=1"));
    for answer in [vllama.chat("Hello").await, vllama.chat_stream("Hello").await] {
        assert_eq!(answer.status(), 200);
        let last = answer.lines().pop().expect("a last line");
        for duration in ["total_duration", "prompt_eval_duration", "eval_duration"] {
            assert!(last[duration].as_u64() > Some(0), "{duration}: {last}");
        }
    }
}

#[tokio::test]
async fn what_the_rust_frontend_refuses_is_told_and_not_tried_again() {
    let vllama = Vllama::with_fake()
        .env("VLLAMA_ENGINE_FRONTEND", "rust")
        .env("VLLAMA_ENGINE_ARGS", "--max-num-queued-reqs 7")
        .start_listening()
        .await;
    for _ in 0..2 {
        let answer = vllama.chat("Hello").await;
        assert_eq!(answer.status(), 500);
        let error = answer.error();
        assert!(error.contains("engine_frontend") && error.contains("does not take an argument"), "{error}");
    }
    assert_eq!(vllama.starts(), 1);
}

#[tokio::test]
async fn a_mistake_in_the_configuration_file_is_told_with_its_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("vllama.toml");
    std::fs::write(&file, "\n[models.\"a:b\"]\ntool_pasrer = \"hermes\"\n").expect("written");
    let ended = Vllama::with_fake().arguments(&["serve", "--config", file.to_str().expect("a path")]).run().await;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("vllama.toml:3: unknown field `tool_pasrer`"), "{}", ended.stderr);
}
