//! Makes an installed embedding model out of nothing: the facts of all-MiniLM-L6-v2 with a handful of bytes for weights.

use std::path::Path;

use serde_json::{Value, json};

/// The name of the model.
pub const NAME: &str = "all-minilm";

/// Installs an embedding model with the facts of all-MiniLM-L6-v2 in the store at `models`.
pub fn install(models: &Path) {
    let directory = models.join("registry.ollama.ai/library").join(NAME).join("latest");
    std::fs::create_dir_all(directory.join("1_Pooling")).expect("a directory for the model");
    let write = |name: &str, value: &Value| {
        std::fs::write(directory.join(name), value.to_string()).expect("a file of the model");
    };
    write(
        "config.json",
        &json!({
            "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6,
            "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 30522, "max_position_embeddings": 512,
            "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0, "type_vocab_size": 2,
        }),
    );
    write("1_Pooling/config.json", &json!({"word_embedding_dimension": 384, "pooling_mode_mean_tokens": true}));
    let module = |index: usize, path: &str, kind: &str| json!({"idx": index, "name": index.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules =
        [module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling"), module(2, "2_Normalize", "Normalize")];
    write("modules.json", &json!(modules));
    write("tokenizer_config.json", &json!({"tokenizer_class": "BertTokenizer", "model_max_length": 512}));
    write("tokenizer.json", &json!({"version": "1.0", "added_tokens": [], "model": {"type": "WordPiece"}}));
    // A safetensors file with one number: the length of its header, the header, the number.
    let header = br#"{"embeddings.word_embeddings.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header);
    weights.extend([0; 4]);
    std::fs::write(directory.join("model.safetensors"), weights).expect("a file of the model");
    write(
        "vllama.json",
        &json!({
            "name": format!("{NAME}:latest"),
            "digest": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "size": 91_617_000,
            "format": "safetensors", "quantization": "F32", "license": "apache-2.0", "parameters": 22_713_216,
        }),
    );
}
