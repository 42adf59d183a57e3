//! Checkpoints, which may come from anybody: their facts are read, and a plan is made of them, or they are refused.

use std::cell::RefCell;
use std::path::Path;

use tempfile::TempDir;
use vllama::model::plan::{Checkpoint, Gpu, Hardware, Plan, Wishes};
use vllama::model::{Card, Source, safetensors};

use super::{Target, seeds};

pub const SAFETENSORS: Target = Target {
    name: "safetensors",
    run: tensors,
    seeds: || {
        let of = |header: &str, data: usize| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.extend(vec![0; data]);
            bytes
        };
        vec![
            of("{}", 0),
            of(r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#, 12),
            of(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[4,8]}}"#,
                8,
            ),
            of(
                r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,18446744073709551615]},"b":{"dtype":"F32","shape":[],"data_offsets":[0,18446744073709551615]}}"#,
                0,
            ),
        ]
    },
    words: &["dtype", "shape", "data_offsets", "BF16", "__metadata__", "model.layers.0.mlp.experts.0.up_proj.weight"],
};

pub const CARD: Target = Target {
    name: "card",
    run: card,
    seeds: family_files,
    words: &[
        "architectures",
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "text_config",
        "vision_config",
        "sliding_window",
        "layer_types",
        "sliding_attention",
        "full_attention",
        "linear_attention",
        "kv_lora_rank",
        "qk_rope_head_dim",
        "num_local_experts",
        "moe_intermediate_size",
        "quantization_config",
        "quant_method",
        "bits",
        "fp8",
        "num_nextn_predict_layers",
        "rope_scaling",
        "factor",
        "torch_dtype",
        "auto_map",
        "tie_word_embeddings",
        "chat_template",
        "added_tokens_decoder",
        "content",
        "special",
        "added_tokens",
        "ssm_state_size",
        "d_state",
    ],
};

/// The files of a checkpoint that are read, and a plain content of each, so that one of them can be anything.
const FILES: &[(&str, &str)] = &[
    (
        "config.json",
        r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","max_position_embeddings":8192,"hidden_size":576,
            "num_hidden_layers":30,"num_attention_heads":9,"num_key_value_heads":3,"intermediate_size":1536,
            "vocab_size":49152,"torch_dtype":"bfloat16"}"#,
    ),
    ("tokenizer_config.json", r#"{"chat_template":"{{ messages }}"}"#),
    ("tokenizer.json", r#"{"added_tokens":[{"content":"<think>"}],"model":{"vocab":{"a":1}}}"#),
    ("generation_config.json", r#"{"temperature":0.6}"#),
    ("modules.json", "[]"),
    ("params.json", ""),
    ("tekken.json", ""),
    ("chat_template.jinja", ""),
    ("hf_quant_config.json", ""),
    ("model.safetensors.index.json", ""),
    ("model.safetensors", ""),
];

/// An input is the name of a file on a line of its own, then what is in the file.
fn family_files() -> Vec<Vec<u8>> {
    let families = seeds::files("tests/golden/families");
    let mut inputs = Vec::new();
    for family in families {
        for (file, _) in FILES {
            if let Ok(content) = std::fs::read(family.join(file))
                && (1..8 * 1024).contains(&content.len())
            {
                inputs.push([file.as_bytes(), b"\n", &content].concat());
            }
        }
    }
    inputs
}

thread_local! {
    static DIRECTORY: RefCell<TempDir> = RefCell::new(tempfile::tempdir().expect("a directory"));
}

fn tensors(data: &[u8]) {
    DIRECTORY.with_borrow(|directory| {
        let file = directory.path().join("model.safetensors");
        std::fs::write(&file, data).expect("a file");
        for read in [safetensors::tensors_of, safetensors::headers_of] {
            let Ok(tensors) = read(std::slice::from_ref(&file)) else { continue };
            for tensor in &tensors {
                let _ = (tensor.bytes(), tensor.elements());
            }
        }
        let _ = Card::read(&plain(directory.path()), 0);
        let _ = Source::read(directory.path(), None);
        std::fs::remove_file(&file).expect("the file");
    });
}

/// Puts the plain files into a directory that may hold others.
fn plain(directory: &Path) -> std::path::PathBuf {
    for (file, content) in FILES {
        let path = directory.join(file);
        if !content.is_empty() && !path.exists() {
            std::fs::write(path, content).expect("a file");
        }
    }
    directory.to_owned()
}

fn card(data: &[u8]) {
    let Some(line) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (name, content) = (&data[..line], &data[line + 1..]);
    let Some((file, _)) = FILES.iter().find(|(file, _)| file.as_bytes() == name) else { return };
    DIRECTORY.with_borrow(|directory| {
        let place = directory.path().join(file);
        let _ = std::fs::remove_file(directory.path().join("model.safetensors"));
        if *file == "params.json" {
            // Mistral's own files count where there is no other configuration.
            let _ = std::fs::remove_file(directory.path().join("config.json"));
        }
        std::fs::write(&place, content).expect("a file");
        if let Ok(card) = Card::read(&plain(directory.path()), 0) {
            planned(&card);
        }
        let _ = Source::read(directory.path(), None);
        std::fs::remove_file(place).expect("the file");
    });
}

/// A plan takes what there is or is refused, whatever a checkpoint says of itself, and never runs its code.
fn planned(card: &Card) {
    let gpu = Gpu { name: "GPU".into(), memory: 80 << 30, capability: Some((9, 0)) };
    let gpus = Hardware { nvidia: true, bfloat16: true, memory_available: 512 << 30, gpus: vec![gpu; 2] };
    let cpu = Hardware { bfloat16: true, memory_available: 24 << 30, ..Hardware::default() };
    for hardware in [gpus, cpu] {
        let checkpoint =
            Checkpoint { directory: Path::new("/models/x"), name: "x", size: 1 << 30, card, adapters: &[] };
        let plan = Plan::of(&checkpoint, &hardware, &Wishes::default());
        let there = hardware.gpu_memory().unwrap_or(hardware.memory_available);
        assert!(plan.refusal.is_some() || plan.memory.total() <= there, "{:?}", plan.memory);
        assert!(plan.gpus <= hardware.gpus.len().max(1));
        assert!(!plan.flags.iter().any(|flag| flag.name == "--trust-remote-code"));
        assert!(!plan.explain(&checkpoint, &hardware).is_empty());
    }
}
