//! Makes an installed model out of nothing that takes tools and thinks aloud, as Qwen3 does.

use std::path::Path;

use serde_json::{Value, json};

use super::model;

/// The name of the model.
pub const NAME: &str = "qwen3:0.6b";

/// What of Qwen3's chat template tells that it takes tools and thinks.
const TEMPLATE: &str = "{% if tools %}<tools>{{ tools | tojson }}</tools> answer with <tool_call>{\"name\": ..., \
    \"arguments\": ...}</tool_call>{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
    {% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}";

/// Installs the model in the store at `models`.
pub fn install(models: &Path) {
    let (name, tag) = NAME.split_once(':').expect("a name with a tag");
    model::install(models, name, tag);
    let file = models.join("registry.ollama.ai/library").join(name).join(tag).join("tokenizer_config.json");
    let text = std::fs::read_to_string(&file).expect("a file of the model");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["chat_template"] = json!(TEMPLATE);
    for (id, token) in [("3", "<think>"), ("4", "</think>"), ("5", "<tool_call>"), ("6", "</tool_call>")] {
        config["added_tokens_decoder"][id] = json!({"content": token, "special": false});
    }
    std::fs::write(file, config.to_string()).expect("a file of the model");
}
