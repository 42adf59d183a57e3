//! Makes an installed model out of nothing: the facts of SmolLM2-135M with a handful of bytes for weights.

use std::path::Path;

use serde_json::{Value, json};
use sha2::Digest as _;

/// The name of the model every test has.
pub const NAME: &str = "smollm2:135m";

/// The chat template of SmolLM2; it mentions neither tools nor thinking.
const TEMPLATE: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ \
    '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}\
    {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The digest of that model, as a recorded server told it.
const DIGEST: &str = "084d77eeeafcb3d4d49683808fc408ef6299ea6f55c1219f35939eb3e38feb2e";

/// The size of that model in bytes.
const SIZE: u64 = 98_363_007;

/// Installs the model under `tag` in the store at `models`, with a digest of its own.
pub fn install(models: &Path, model: &str, tag: &str) {
    install_sized(models, model, tag, SIZE);
}

/// The same, with a manifest that claims this size in bytes.
pub fn install_sized(models: &Path, model: &str, tag: &str, size: u64) {
    let name = format!("{model}:{tag}");
    let hash = sha2::Sha256::digest(&name);
    let own: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    install_as(models, model, tag, (if name == NAME { DIGEST } else { &own }, size));
}

/// Installs the default model's checkpoint under another name, as `ollama cp` does.
pub fn install_copy(models: &Path, model: &str, tag: &str) {
    install_as(models, model, tag, (DIGEST, SIZE));
}

/// The name of a model that calls functions, thinks, and reads images.
pub const THINKER: &str = "thinker:1b";

/// Its template, as far as vllama reads it.
const THINKING_TEMPLATE: &str = "{% if tools %}<tool_call>{{ tools }}</tool_call>{% endif %}{{ messages }}\
    {% if add_generation_prompt and not enable_thinking %}<think></think>{% endif %}";

/// Installs [`THINKER`].
pub fn install_thinker(models: &Path) {
    install(models, "thinker", "1b");
    let directory = models.join("registry.ollama.ai/library/thinker/1b");
    change(&directory.join("config.json"), |config| config["vision_config"] = json!({"model_type": "siglip"}));
    change(&directory.join("tokenizer_config.json"), |config| {
        config["chat_template"] = json!(THINKING_TEMPLATE);
        config["added_tokens_decoder"]["3"] = json!({"content": "<think>"});
        config["added_tokens_decoder"]["4"] = json!({"content": "</think>"});
    });
}

fn change(file: &Path, change: impl FnOnce(&mut Value)) {
    let text = std::fs::read_to_string(file).expect("a file of the model");
    let mut value = serde_json::from_str(&text).expect("JSON");
    change(&mut value);
    std::fs::write(file, value.to_string()).expect("a file of the model");
}

fn install_as(models: &Path, model: &str, tag: &str, (digest, size): (&str, u64)) {
    let directory = models.join("registry.ollama.ai/library").join(model).join(tag);
    std::fs::create_dir_all(&directory).expect("a directory for the model");
    let write = |name: &str, value: &Value| {
        std::fs::write(directory.join(name), value.to_string()).expect("a file of the model");
    };
    write(
        "config.json",
        &json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
            "max_position_embeddings": 8192, "rope_theta": 100_000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "tie_word_embeddings": true, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
        }),
    );
    let special = |content: &str| json!({"content": content, "special": true});
    let added = json!({"0": special("<|endoftext|>"), "1": special("<|im_start|>"), "2": special("<|im_end|>")});
    write(
        "tokenizer_config.json",
        &json!({
            "chat_template": TEMPLATE, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
            "added_tokens_decoder": added, "tokenizer_class": "GPT2Tokenizer", "model_max_length": 8192,
        }),
    );
    write("tokenizer.json", &json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE"}}));
    write("generation_config.json", &json!({"bos_token_id": 1, "eos_token_id": 2}));
    // A safetensors file without tensors: the length of its header, then the header.
    let mut weights = 2_u64.to_le_bytes().to_vec();
    weights.extend(b"{}");
    std::fs::write(directory.join("model.safetensors"), weights).expect("a file of the model");
    write(
        "vllama.json",
        &json!({
            "name": format!("{model}:{tag}"), "digest": digest, "size": size, "format": "gguf", "quantization": "Q4_1", "license": "Apache-2.0",
            "parameters": 134_515_008,
        }),
    );
}
