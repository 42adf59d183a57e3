//! The facts of a checkpoint, read once from its `config.json`, tokenizer files and `generation_config.json`.

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
    /// Turns text into vectors; never together with [`Capability::Completion`].
    Embedding,
    /// Thinks before it answers.
    Thinking,
}

/// Sampling defaults a checkpoint ships in `generation_config.json`; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct GenerationDefaults {
    /// Sampling temperature, ≥ 0.
    pub temperature: Option<f32>,
    /// Number of most likely tokens to choose from.
    pub top_k: Option<i64>,
    /// Probability mass to choose from, 0–1.
    pub top_p: Option<f32>,
    /// Least probability relative to the most likely token, 0–1.
    pub min_p: Option<f32>,
    /// Repetition penalty, 1 = none.
    pub repetition_penalty: Option<f32>,
}

/// Facts of one checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Card {
    /// Hugging Face architecture, e.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// Hugging Face `model_type`, e.g. `llama`; Ollama's family and the prefix of its `model_info` keys.
    pub family: String,
    /// Number of weights.
    pub parameters: u64,
    /// Longest sequence the model was made for, in tokens.
    pub context_length: u64,
    /// Width of the hidden state.
    pub embedding_length: u64,
    /// Number of layers.
    pub block_count: u64,
    /// Attention heads per layer.
    pub head_count: u64,
    /// Key/value heads per layer.
    pub head_count_kv: u64,
    /// Width of the feed-forward layer.
    pub feed_forward_length: u64,
    /// Number of tokens in the vocabulary.
    pub vocabulary_size: u64,
    /// The Jinja chat template, if the checkpoint has one.
    pub chat_template: Option<String>,
    /// Sampling defaults of the checkpoint.
    pub generation: GenerationDefaults,
    /// What it can do, in the order Ollama lists it.
    pub capabilities: Vec<Capability>,
}

impl Card {
    /// Whether the model can do this.
    #[must_use]
    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}
