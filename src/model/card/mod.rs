//! The facts of a checkpoint, read once from its configuration, its tokenizer's files and the headers of its weights.
//!
//! All that is read is bounded: a checkpoint may come from anybody.

mod attention;
mod capability;
mod config;
mod files;
mod pooling;
mod quantization;
pub mod thoughts;
mod tokenizer;
pub(super) mod weights;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

pub(super) use files::json;

pub use attention::{Attention, Window};
pub use capability::Capability;
pub use pooling::Pooling;
pub use quantization::Quantization;
pub use thoughts::ThoughtTags;
pub use weights::Weights;

use config::Config;

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

/// In whose files a checkpoint is described.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `config.json` and `tokenizer.json`.
    #[default]
    HuggingFace,
    /// `params.json` and `tekken.json`, Mistral's own.
    Mistral,
}

/// Mixture of experts: how many there are and how wide one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Experts {
    /// Routed experts per layer.
    pub count: u64,
    /// Width of one expert's feed-forward layer; 0 = as the model's.
    pub feed_forward_length: u64,
}

/// Facts of one checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Card {
    /// Whose files describe it.
    pub format: Format,
    /// Hugging Face architecture, e.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// Hugging Face `model_type`, e.g. `llama`; Ollama's family and the prefix of its `model_info` keys.
    pub family: String,
    /// Number of weights, as its manifest has it.
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
    /// What its layers remember of a sequence.
    pub attention: Attention,
    /// Its experts, where it has some.
    pub experts: Option<Experts>,
    /// Type of its weights as the configuration names it, e.g. `bfloat16`, or `float32` where the weights show it; else
    /// empty.
    pub dtype: String,
    /// How its weights are packed, where they are.
    pub quantization: Option<Quantization>,
    /// What its weight files hold.
    pub weights: Weights,
    /// Layers that guess the tokens after the next one (multi-token prediction), as the configuration counts them.
    pub draft_layers: u64,
    /// How it makes one vector of many, for embedding models.
    pub pooling: Option<Pooling>,
    /// The Jinja chat template, if the checkpoint has one.
    pub chat_template: Option<String>,
    /// The template for requests with tools, where it is another one.
    pub tool_template: Option<String>,
    /// Tokens added to the vocabulary, and those of the plan's marker tokens that the vocabulary itself has; `None`
    /// where the tokenizer's files do not tell.
    pub tokens: Option<BTreeSet<String>>,
    /// Whether the tokenizer tells how tools and thoughts are written (`response_template`).
    pub response_template: bool,
    /// Whether it ships Python code of its own (`auto_map`).
    pub custom_code: bool,
    /// Sampling defaults of the checkpoint.
    pub generation: GenerationDefaults,
    /// What it can do, in the order Ollama lists it.
    pub capabilities: Vec<Capability>,
    /// How it marks its thoughts, where it does so with tags in the text.
    pub thought_tags: Option<ThoughtTags>,
}

/// Why a directory is no checkpoint vllama can serve.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// A file is missing or cannot be read.
    #[error("{file}: {source}")]
    File {
        /// The file's name inside the checkpoint.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// `config.json` is not what a Hugging Face checkpoint has there.
    #[error("config.json: {0}")]
    Config(String),
}

impl Card {
    /// Whether the model can do this.
    #[must_use]
    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// Whether vLLM's pooling runner serves it: it makes vectors or judges texts, and writes none.
    #[must_use]
    pub fn is_pooling(&self) -> bool {
        self.can(Capability::Embedding) || capability::judges(self)
    }

    /// Whether it writes down what it hears and does nothing else.
    #[must_use]
    pub fn only_writes_down(&self) -> bool {
        capability::writes_down(self)
    }

    /// Its templates.
    pub fn templates(&self) -> impl Iterator<Item = &str> {
        self.chat_template.iter().chain(&self.tool_template).map(String::as_str)
    }

    /// Whether one of the templates holds this text.
    #[must_use]
    pub fn template_says(&self, text: &str) -> bool {
        self.templates().any(|template| template.contains(text))
    }

    /// What its weights are, as `quantization_level` says it (ollama-api §4.2): how they are packed, else the type most
    /// of their bytes have.
    #[must_use]
    pub fn level(&self) -> &str {
        self.quantization.as_ref().map_or_else(|| self.weights.level(), |quantization| &quantization.level)
    }

    /// Reads the facts of the checkpoint in `directory`; `parameters` is the number of its weights, counted at
    /// installation, or 0 to take what the weight files say.
    ///
    /// # Errors
    /// [`CardError`] when its configuration is missing or makes no sense.
    pub fn read(directory: &Path, parameters: u64) -> Result<Self, CardError> {
        let config = Config::read(directory)?;
        let format = config.format;
        let mut card = config.into_card()?;
        card.format = format;
        if card.quantization.is_none() {
            card.quantization = quantization::beside(directory)?;
        }
        // Whether they are whole is checked where they are installed; without figures a plan takes the size on disk.
        let quantization = card.quantization.as_ref();
        card.weights = weights::read(directory, format, card.block_count, quantization).unwrap_or_default();
        if card.dtype.is_empty() && card.weights.are_float32() {
            card.dtype = "float32".into();
        }
        card.parameters = if parameters > 0 { parameters } else { card.weights.parameters };
        card.generation = files::json(directory, "generation_config.json")?.unwrap_or_default();
        card.pooling = pooling::read(directory)?;
        tokenizer::read(directory, &mut card)?;
        card.capabilities = capability::of(&card);
        card.thought_tags = thoughts::tags(&card);
        Ok(card)
    }
}

/// A small file of a checkpoint or an adapter.
pub(super) fn read_text(directory: &Path, file: &str) -> io::Result<String> {
    match files::text(directory, file) {
        Ok(text) => text.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no {file}"))),
        Err(CardError::File { source, .. }) => Err(source),
        Err(error) => Err(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Card, CardError> {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(directory.path().join(name), text).expect("written");
        }
        Card::read(directory.path(), 1)
    }

    fn card(files: &[(&str, &str)]) -> Card {
        read(files).expect("a card")
    }

    #[test]
    fn a_llama_checkpoint_gives_its_facts() {
        let card = card(&[
            (
                "config.json",
                r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","max_position_embeddings":8192,
                    "hidden_size":576,"num_hidden_layers":30,"num_attention_heads":9,"num_key_value_heads":3,
                    "intermediate_size":1536,"vocab_size":49152,"torch_dtype":"bfloat16"}"#,
            ),
            ("chat_template.jinja", "{{ messages }}"),
        ]);
        assert_eq!((card.family.as_str(), card.context_length, card.head_count_kv), ("llama", 8192, 3));
        assert_eq!((card.attention.head_length, card.attention.full_layers), (64, 30));
        assert_eq!(card.capabilities, [Capability::Completion]);
    }

    #[test]
    fn a_vision_model_keeps_its_language_facts_in_text_config() {
        let card = card(&[(
            "config.json",
            r#"{"architectures":["X"],"model_type":"x","vision_config":{},
                "text_config":{"hidden_size":8,"num_attention_heads":4}}"#,
        )]);
        assert_eq!((card.embedding_length, card.head_count_kv), (8, 4));
        assert!(card.can(Capability::Vision));
    }

    #[test]
    fn the_template_tells_tools_and_thinking() {
        let card = card(&[
            ("config.json", r#"{"architectures":["Q"],"model_type":"qwen3"}"#),
            ("chat_template.jinja", "{% if tools %}<tool_call>{% endif %}<think>"),
        ]);
        assert!(card.can(Capability::Tools) && card.can(Capability::Thinking) && !card.can(Capability::Insert));
    }

    #[test]
    fn a_model_that_judges_texts_neither_writes_nor_embeds() {
        let reranker = card(&[("config.json", r#"{"architectures":["Qwen3ForSequenceClassification"]}"#)]);
        assert!(reranker.capabilities.is_empty() && reranker.is_pooling());
    }

    #[test]
    fn a_model_that_writes_down_what_it_hears_does_not_chat() {
        let whisper = card(&[(
            "config.json",
            r#"{"architectures":["WhisperForConditionalGeneration"],"model_type":"whisper","d_model":384,
                "decoder_layers":4,"decoder_attention_heads":6,"decoder_ffn_dim":1536,"max_target_positions":448}"#,
        )]);
        assert_eq!(whisper.capabilities, [Capability::Audio]);
        assert_eq!((whisper.context_length, whisper.block_count, whisper.head_count), (448, 4, 6));
        assert!(whisper.only_writes_down() && !whisper.is_pooling());
    }

    #[test]
    fn mistrals_own_files_are_enough() {
        let card = card(&[
            (
                "params.json",
                r#"{"dim":5120,"n_layers":40,"head_dim":128,"hidden_dim":32768,"n_heads":32,"n_kv_heads":8,
                    "vocab_size":131072,"max_seq_len":131072}"#,
            ),
            ("tekken.json", r#"{"config":{"version":"v7"},"vocab":[]}"#),
        ]);
        assert_eq!(card.format, Format::Mistral);
        assert_eq!((card.embedding_length, card.head_count, card.context_length), (5120, 32, 131_072));
        assert_eq!(card.capabilities, [Capability::Completion, Capability::Tools]);
    }

    #[test]
    fn a_config_that_makes_no_sense_is_refused() {
        assert!(matches!(read(&[("config.json", "{}")]), Err(CardError::Config(_))));
        assert!(matches!(read(&[("config.json", "[")]), Err(CardError::File { .. })));
        assert!(matches!(read(&[]), Err(CardError::File { .. })));
    }
}
