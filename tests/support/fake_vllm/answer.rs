//! What the fake says: deterministic, and what a small model would be glad to say.

use serde_json::{Value, json};

/// The text of the answer to a prompt, before stop strings and limits cut it.
pub fn text(prompt: &str, last_message: &str, format: Option<&Value>) -> String {
    if let Some(format) = format.and_then(structured) {
        return format;
    }
    if let Some((_, order)) = last_message.rsplit_once("FAKE:count ") {
        let last: u64 = order.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(10);
        return (1..=last).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
    }
    if let Some((_, words)) = last_message.split_once("FAKE:text ") {
        return words.to_owned();
    }
    if let Some(words) = rush(last_message) {
        return vec!["rush"; words].join(" ");
    }
    // Enough words for a fault to come in the middle.
    if last_message.contains("FAKE:") {
        return "one two three four five six seven eight nine ten".to_owned();
    }
    if prompt.ends_with("The capital of France is") {
        return " Paris.\n\nIt lies on the Seine.".to_owned();
    }
    if last_message.contains("capital of France") {
        return "The capital of France is Paris.".to_owned();
    }
    format!("You said: {}", last_message.trim())
}

/// The number of words that shall come at once, if the prompt asks for that.
pub fn rush(prompt: &str) -> Option<usize> {
    prompt.rsplit_once("FAKE:rush ")?.1.split_whitespace().next()?.parse().ok()
}

/// An answer that keeps to a `response_format`; `None` where it asks for nothing.
fn structured(format: &Value) -> Option<String> {
    match format["type"].as_str()? {
        "json_object" => Some("{\n  \"name\": \"John\",\n  \"age\": 45\n}".to_owned()),
        "json_schema" => Some(example(&format["json_schema"]["schema"]).to_string()),
        _ => None,
    }
}

/// A value that a JSON schema accepts, as far as tests ask.
fn example(schema: &Value) -> Value {
    if let Some(choice) = schema["enum"].as_array().and_then(|choices| choices.first()) {
        return choice.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let members = schema["properties"].as_object();
            members.into_iter().flatten().map(|(name, member)| (name.clone(), example(member))).collect()
        }
        Some("array") => json!([example(&schema["items"])]),
        Some("integer") => json!(30),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        _ => json!("Bob"),
    }
}

/// The prompt a chat becomes: ChatML, as SmolLM2's template renders it.
pub fn render_chat(messages: &[Value], add_generation_prompt: bool) -> String {
    let mut prompt = String::new();
    if messages.first().is_none_or(|message| message["role"] != "system") {
        prompt.push_str(
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
        );
    }
    for message in messages {
        let role = message["role"].as_str().unwrap_or("user");
        prompt.push_str(&format!("<|im_start|>{role}\n{}<|im_end|>\n", content(message)));
    }
    if add_generation_prompt {
        prompt.push_str("<|im_start|>assistant\n");
    }
    prompt
}

/// The text of a message, whether given as a string or in parts.
pub fn content(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}
