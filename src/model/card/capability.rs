//! What a model can be asked to do (vllm-engine §5.5).

use serde_json::Value;

use super::Card;
use crate::model::fill_in;
use crate::model::parsers::{self, Verdict};

/// What a model can be asked to do, in the words of Ollama's `/api/show` (§4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Continues text and chats.
    Completion,
    /// Its chat template takes tools.
    Tools,
    /// Fills in the middle.
    Insert,
    /// Reads images.
    Vision,
    /// Hears sound.
    Audio,
    /// Turns text into vectors; never together with [`Capability::Completion`].
    Embedding,
    /// Thinks before it answers.
    Thinking,
}

impl Capability {
    /// Its name in Ollama's API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Tools => "tools",
            Self::Insert => "insert",
            Self::Vision => "vision",
            Self::Audio => "audio",
            Self::Embedding => "embedding",
            Self::Thinking => "thinking",
        }
    }
}

/// What a configuration alone tells: the senses beside text.
pub(super) fn senses(config: &Value, architecture: &str) -> Vec<Capability> {
    let has = |names: &[&str]| names.iter().any(|name| config.pointer(name).is_some_and(|part| !part.is_null()));
    let generates = architecture.ends_with("ForConditionalGeneration");
    let vision = has(&["/vision_config", "/vision_encoder", "/thinker_config/vision_config"])
        || (generates && has(&["/image_token_id", "/image_token_index"]));
    let audio = has(&["/audio_config", "/audio_encoder", "/thinker_config/audio_config"]);
    [(vision, Capability::Vision), (audio, Capability::Audio)]
        .into_iter()
        .filter_map(|(found, capability)| found.then_some(capability))
        .collect()
}

/// Whether an architecture judges texts (rerankers, reward models): it writes none and makes no vectors of them.
pub(super) fn judges(card: &Card) -> bool {
    ["ForSequenceClassification", "ForTokenClassification", "ForRewardModel", "RewardModel"]
        .iter()
        .any(|ending| card.architecture.ends_with(ending))
}

/// Architectures that only write down what they hear; vLLM 0.32 gives them neither chats nor completions
/// (`supports_transcription_only` in its models).
const WRITE_DOWN: [&str; 5] = [
    "WhisperForConditionalGeneration",
    "CohereAsrForConditionalGeneration",
    "FireRedASR2ForConditionalGeneration",
    "FunASRForConditionalGeneration",
    "MossTranscribeDiarizeForConditionalGeneration",
];

/// Whether an architecture writes down what it hears and does nothing else.
pub(super) fn writes_down(card: &Card) -> bool {
    WRITE_DOWN.contains(&card.architecture.as_str())
}

/// Whether an architecture makes vectors and no text.
fn pools(card: &Card) -> bool {
    card.pooling.is_some()
        || ["Model", "EmbeddingModel", "ForTextEncoding", "ForMaskedLM"]
            .iter()
            .any(|ending| card.architecture.ends_with(ending))
}

/// All it can do, in the order Ollama lists it; `card.capabilities` holds its senses.
pub(super) fn of(card: &Card) -> Vec<Capability> {
    if judges(card) {
        return Vec::new();
    }
    if pools(card) {
        return vec![Capability::Embedding];
    }
    if writes_down(card) {
        return vec![Capability::Audio];
    }
    let sense = |capability| card.can(capability);
    let thinks = card.family == "gpt_oss"
        || matches!(parsers::reasoning(card), Verdict::Chosen { .. })
        || ["enable_thinking", "thinking", "<think>", "</think>", "reasoning_effort"]
            .iter()
            .any(|word| card.template_says(word));
    let tools = matches!(parsers::tool(card), Verdict::Chosen { .. });
    let checks = [
        (true, Capability::Completion),
        (sense(Capability::Vision), Capability::Vision),
        (sense(Capability::Audio), Capability::Audio),
        (tools, Capability::Tools),
        (fill_in::of(card).is_some(), Capability::Insert),
        (thinks, Capability::Thinking),
    ];
    checks.into_iter().filter_map(|(found, capability)| found.then_some(capability)).collect()
}
