//! `/v1/audio/transcriptions` of an engine whose checkpoint is one of Whisper's.

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::openai::{Refusal, invalid, known_model};

/// Whether the checkpoint listens.
pub fn listens(engine: &Engine) -> bool {
    let config = std::path::Path::new(&engine.arguments.model).join("config.json");
    std::fs::read_to_string(config).is_ok_and(|text| text.contains("WhisperForConditionalGeneration"))
}

/// Reads the form and tells how many bytes of sound it had.
pub fn answer(engine: &Engine, content_type: &str, body: &[u8]) -> Result<Value, Refusal> {
    let boundary = content_type.split_once("boundary=").map(|(_, boundary)| boundary.trim_matches('"'));
    let boundary = boundary.filter(|_| content_type.starts_with("multipart/form-data"));
    let boundary = boundary.ok_or_else(|| invalid("body", "Field required"))?;
    // Bytes beyond ASCII are the sound's own affair.
    let text: String = body.iter().map(|byte| char::from(*byte)).collect();
    let field = |name: &str| {
        let named = format!("name=\"{name}\"");
        let part = text.split(&format!("--{boundary}")).find(|part| part.contains(&named))?;
        let (_, value) = part.split_once("\r\n\r\n")?;
        value.strip_suffix("\r\n").map(str::to_owned)
    };
    let file = field("file").ok_or_else(|| invalid("body.file", "Field required"))?;
    known_model(engine, &json!({"model": field("model")}))?;
    Ok(json!({"text": format!("{} bytes of sound", file.chars().count()), "usage": {"type": "duration", "seconds": 1}}))
}
