//! Rules of the plan one by one; whole plans are the golden files of `tests/families`.

use std::path::Path;
use std::time::SystemTime;

use super::memory::GIB;
use super::*;
use crate::model::{Capability, Card, Manifest, ModelName};

fn model(capability: Capability) -> Installed {
    Installed {
        name: ModelName::parse("smollm2:135m").expect("a name"),
        directory: "/models/smollm2".into(),
        adapter: None,
        modified_at: SystemTime::UNIX_EPOCH,
        manifest: Manifest {
            name: "smollm2:135m".into(),
            digest: String::new(),
            size: 1,
            format: "gguf".into(),
            quantization: "Q4_1".into(),
            license: None,
            parameters: 1,
            ..Manifest::default()
        },
        card: Card { capabilities: vec![capability], ..Card::default() },
    }
}

fn value(plan: &Plan, name: &str) -> Option<String> {
    plan.flags.iter().chain(&plan.environment).find(|choice| choice.name == name)?.value.clone()
}

fn hardware() -> Hardware {
    Hardware { bfloat16: true, memory_available: 24 * GIB, ..Hardware::default() }
}

#[test]
fn a_cpu_plan_is_eager_and_uses_the_type_the_processor_is_fast_in() {
    let plan = Plan::new(&model(Capability::Completion), &hardware(), &Wishes::default());
    assert_eq!(value(&plan, "--dtype").as_deref(), Some("bfloat16"));
    assert!(plan.flags.iter().any(|choice| choice.name == "--enforce-eager"));
    assert_eq!(value(&plan, "VLLM_CPU_KVCACHE_SPACE").as_deref(), Some("2"));
    let plain = Hardware { bfloat16: false, memory_available: 3 * GIB, ..hardware() };
    let plan = Plan::new(&model(Capability::Completion), &plain, &Wishes::default());
    assert_eq!(value(&plan, "--dtype").as_deref(), Some("float32"));
    assert_eq!(value(&plan, "VLLM_CPU_KVCACHE_SPACE").as_deref(), Some("1"));
}

#[test]
fn a_cuda_plan_leaves_type_and_compilation_to_vllm() {
    let plan = Plan::new(&model(Capability::Completion), &Hardware { nvidia: true, ..hardware() }, &Wishes::default());
    assert_eq!(plan.device, Device::Cuda);
    for name in ["--dtype", "--enforce-eager", "VLLM_CPU_KVCACHE_SPACE"] {
        assert!(!plan.flags.iter().chain(&plan.environment).any(|choice| choice.name == name), "{name}");
    }
}

#[test]
fn an_embedding_model_gets_the_pooling_runner_and_the_operator_has_the_last_word() {
    let wishes = Wishes {
        extra_arguments: vec!["--max-model-len".into(), "512".into()],
        cpu_cache_gib: Some(7),
        ..Wishes::default()
    };
    let plan = Plan::new(&model(Capability::Embedding), &hardware(), &wishes);
    assert_eq!(value(&plan, "--runner").as_deref(), Some("pooling"));
    assert_eq!(value(&plan, "VLLM_CPU_KVCACHE_SPACE").as_deref(), Some("7"));
    assert_eq!(plan.extra_arguments, wishes.extra_arguments);
}

fn on(card: &Card, hardware: &Hardware, wishes: &Wishes, adapters: &[Adapter]) -> Plan {
    let checkpoint = Checkpoint { directory: Path::new("/m"), name: "m", size: 1, card, adapters };
    Plan::of(&checkpoint, hardware, wishes)
}

fn writer() -> Card {
    Card { capabilities: vec![Capability::Completion], ..Card::default() }
}

fn old_gpu() -> Hardware {
    let gpu = Gpu { name: "Tesla T4".into(), memory: 15 * GIB, capability: Some((7, 5)) };
    Hardware { nvidia: true, gpus: vec![gpu], ..Hardware::default() }
}

#[test]
fn a_gpu_without_bfloat16_computes_in_float16_or_where_that_is_too_small_in_float32() {
    let plan = on(&writer(), &old_gpu(), &Wishes::default(), &[]);
    assert_eq!(value(&plan, "--dtype").as_deref(), Some("float16"));
    let gemma = Card { family: "gemma3".into(), ..writer() };
    assert_eq!(value(&on(&gemma, &old_gpu(), &Wishes::default(), &[]), "--dtype").as_deref(), Some("float32"));
}

#[test]
fn an_engine_on_a_gpu_can_sleep() {
    let plan = on(&writer(), &old_gpu(), &Wishes::default(), &[]);
    assert!(plan.flags.iter().any(|choice| choice.name == "--enable-sleep-mode"));
    assert_eq!(value(&plan, "VLLM_SERVER_DEV_MODE").as_deref(), Some("1"));
    let plan = on(&writer(), &hardware(), &Wishes::default(), &[]);
    assert_eq!(value(&plan, "VLLM_SERVER_DEV_MODE"), None);
}

/// One for which the configuration asks for the Rust frontend.
fn rusty() -> Wishes {
    Wishes { frontend: FrontendWish::Rust, ..Wishes::default() }
}

#[test]
fn the_rust_frontend_is_taken_when_asked_for_and_spared_what_it_refuses() {
    for frontend in [FrontendWish::Auto, FrontendWish::Python] {
        let plan = on(&writer(), &hardware(), &Wishes { frontend, ..Wishes::default() }, &[]);
        assert_eq!((plan.frontend, value(&plan, "VLLM_USE_RUST_FRONTEND")), (Frontend::Python, None));
    }
    let plan = on(&writer(), &hardware(), &rusty(), &[]);
    assert_eq!(plan.frontend, Frontend::Rust);
    assert_eq!(value(&plan, "VLLM_USE_RUST_FRONTEND").as_deref(), Some("1"));
    assert_eq!(value(&plan, "--tool-call-parser").as_deref(), Some("none"), "or it would choose one by itself");
    for refused in ["--enable-per-request-metrics", "--disable-uvicorn-access-log", "--disable-fastapi-docs"] {
        assert!(!plan.flags.iter().any(|choice| choice.name == refused), "{refused}");
    }
    assert!(plan.left_out.iter().any(|choice| choice.name == "--enable-per-request-metrics"));
}

#[test]
fn models_that_the_rust_frontend_cannot_serve_as_well_keep_the_other_one() {
    let card = |capability| Card { capabilities: vec![Capability::Completion, capability], ..Card::default() };
    let parser = |tool: Option<&str>, reasoning: Option<&str>| Wishes {
        tool_parser: tool.map(str::to_owned),
        reasoning_parser: reasoning.map(str::to_owned),
        ..rusty()
    };
    let mistral = Card { format: crate::model::card::Format::Mistral, ..writer() };
    for (card, wishes, reason) in [
        (card(Capability::Embedding), rusty(), "embeddings"),
        (card(Capability::Vision), rusty(), "images"),
        (mistral, rusty(), "Mistral"),
        (writer(), Wishes { trust_remote_code: true, ..rusty() }, "Python code"),
        (writer(), parser(Some("pythonic"), None), "no tool parser pythonic"),
        (writer(), parser(None, Some("granite")), "no reasoning parser granite"),
        (writer(), parser(None, Some("none")), "thoughts"),
    ] {
        let plan = on(&card, &hardware(), &wishes, &[]);
        assert_eq!((plan.frontend, value(&plan, "VLLM_USE_RUST_FRONTEND")), (Frontend::Python, None), "{reason}");
        let told = plan.left_out.iter().find(|choice| choice.name == "VLLM_USE_RUST_FRONTEND").expect(reason);
        assert!(told.reason.contains(reason), "{}", told.reason);
    }
    let plan = on(&writer(), &hardware(), &parser(Some("hermes"), Some("qwen3")), &[]);
    assert_eq!((plan.frontend, value(&plan, "--tool-call-parser").as_deref()), (Frontend::Rust, Some("hermes")));
}

#[test]
fn a_base_model_gets_a_template_that_its_tokenizer_knows() {
    let template = |tokens: &[&str]| {
        let tokens = Some(tokens.iter().map(|token| (*token).to_owned()).collect());
        let plan = on(&Card { tokens, ..writer() }, &hardware(), &Wishes::default(), &[]);
        value(&plan, "--chat-template").expect("a template")
    };
    assert!(template(&["<|im_start|>", "<|im_end|>"]).contains("<|im_start|>assistant"));
    assert!(!template(&["<s>"]).contains("<|im_start|>"));
    let own = Card { chat_template: Some("{{ messages }}".into()), ..writer() };
    assert_eq!(value(&on(&own, &hardware(), &Wishes::default(), &[]), "--chat-template"), None);
}

#[test]
fn adapters_are_named_with_room_for_the_widest() {
    let adapter = |name: &str, rank| Adapter { name: name.into(), directory: format!("/a/{name}").into(), rank };
    let plan = on(&writer(), &hardware(), &Wishes::default(), &[adapter("one", 8), adapter("two", 24)]);
    let modules: Vec<_> = plan.flags.iter().filter(|choice| choice.name == "--lora-modules").collect();
    assert_eq!(modules.len(), 1, "of two such flags vLLM keeps the last");
    assert_eq!(
        (modules[0].value.as_deref(), modules[0].more.join(" ").as_str()),
        (Some(r#"{"name":"one","path":"/a/one"}"#), r#"{"name":"two","path":"/a/two"}"#)
    );
    assert_eq!(value(&plan, "--max-lora-rank").as_deref(), Some("32"));
    assert_eq!(value(&plan, "--max-loras").as_deref(), Some("2"));
    assert!(plan.flags.iter().any(|choice| choice.name == "--enable-lora"));
}

#[test]
fn secrets_among_the_operators_variables_are_not_told() {
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let extra_environment = vec![variable("HF_TOKEN", "hf_abc"), variable("NCCL_DEBUG", "WARN")];
    let wishes = Wishes { extra_environment, ..Wishes::default() };
    let card = writer();
    let checkpoint = Checkpoint { directory: Path::new("/m"), name: "m", size: 1, card: &card, adapters: &[] };
    let plan = Plan::of(&checkpoint, &hardware(), &wishes);
    for told in [plan.explain(&checkpoint, &hardware()), serde_json::to_string(&plan).expect("JSON")] {
        assert!(told.contains("HF_TOKEN") && told.contains("WARN") && !told.contains("hf_abc"), "{told}");
    }
}

#[test]
fn a_name_that_stands_for_checkpoint_and_adapter_asks_for_both() {
    let mut model = model(Capability::Completion);
    model.adapter = Some(Adapter { name: model.manifest.name.clone(), directory: "/a".into(), rank: 8 });
    let plan = Plan::new(&model, &hardware(), &Wishes::default());
    assert_eq!(plan.served_name, "smollm2:135m");
    assert_ne!(plan.checkpoint_name, plan.served_name, "two things, two names");
    assert_eq!(value(&plan, "--lora-modules").as_deref(), Some(r#"{"name":"smollm2:135m","path":"/a"}"#));
    model.adapter = None;
    let plan = Plan::new(&model, &hardware(), &Wishes::default());
    assert_eq!(plan.checkpoint_name, plan.served_name);
}

#[test]
fn draft_layers_guess_on_a_gpu_where_vllm_knows_the_family() {
    let mut card = Card { family: "deepseek_v3".into(), ..writer() };
    card.weights.draft_bytes = 1;
    card.weights.bytes = 2;
    let speculates = |card: &Card, hardware: &Hardware| {
        let plan = on(card, hardware, &Wishes::default(), &[]);
        let told = plan.left_out.iter().any(|choice| choice.name == "--speculative-config");
        let value = value(&plan, "--speculative-config");
        assert!(told != value.is_some(), "it is there, or why not is told");
        value.is_some()
    };
    assert!(speculates(&card, &old_gpu()));
    assert!(!speculates(&card, &hardware()));
    card.family = "unheard_of".into();
    assert!(!speculates(&card, &old_gpu()));
}

#[test]
fn code_of_a_checkpoint_runs_only_when_the_configuration_trusts_it() {
    let card = Card { custom_code: true, ..writer() };
    let plan = on(&card, &hardware(), &Wishes::default(), &[]);
    let told = plan.left_out.iter().find(|choice| choice.name == "--trust-remote-code").expect("told");
    assert!(told.reason.contains("trust_remote_code = true under [models.\"m\"]"), "{}", told.reason);
    let plan = on(&card, &hardware(), &Wishes { trust_remote_code: true, ..Wishes::default() }, &[]);
    assert!(plan.flags.iter().any(|choice| choice.name == "--trust-remote-code"));
}

#[test]
fn the_configuration_has_the_last_word_on_parsers_lengths_and_concurrency() {
    let card = Card { chat_template: Some("tools <tool_call> enable_thinking".into()), ..writer() };
    let wishes = Wishes {
        tool_parser: Some("qwen3_xml".into()),
        reasoning_parser: Some("none".into()),
        max_model_len: Some(2048),
        concurrency: Some(3),
        ..Wishes::default()
    };
    let plan = on(&card, &hardware(), &wishes, &[]);
    assert_eq!(value(&plan, "--tool-call-parser").as_deref(), Some("qwen3_xml"));
    assert_eq!(value(&plan, "--reasoning-parser"), None);
    assert_eq!(value(&plan, "--max-model-len").as_deref(), Some("2048"));
    assert_eq!((value(&plan, "--max-num-seqs").as_deref(), plan.concurrency), (Some("3"), 3));
}
