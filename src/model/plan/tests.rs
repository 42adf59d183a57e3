//! Rules of the plan one by one; whole plans are the golden files of `tests/families`.

use std::time::SystemTime;

use super::memory::GIB;
use super::*;
use crate::model::{Card, Manifest, ModelName};

fn model(capability: Capability) -> Installed {
    Installed {
        name: ModelName::parse("smollm2:135m").expect("a name"),
        directory: "/models/smollm2".into(),
        modified_at: SystemTime::UNIX_EPOCH,
        manifest: Manifest {
            name: "smollm2:135m".into(),
            digest: String::new(),
            size: 1,
            format: "gguf".into(),
            quantization: "Q4_1".into(),
            license: None,
            parameters: 1,
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
