//! The facts of a checkpoint, read once from its `config.json`, tokenizer files and `generation_config.json`.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// Largest JSON file of a checkpoint that is read, in bytes; real ones are far below.
const JSON_LIMIT: u64 = 64 << 20;

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

/// Why a directory is no checkpoint vllama can serve.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// A file is missing or cannot be read.
    #[error("{file}: {source}")]
    File {
        /// The file's name inside the checkpoint.
        file: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// `config.json` is not what a Hugging Face checkpoint has there.
    #[error("config.json: {0}")]
    Config(String),
}

/// The part of `config.json` that vllama reads; vision models keep the language model's part in `text_config`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    architectures: Vec<String>,
    model_type: String,
    max_position_embeddings: u64,
    hidden_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    intermediate_size: u64,
    vocab_size: u64,
    text_config: Option<Box<Config>>,
    vision_config: Option<Value>,
}

impl Card {
    /// Reads the facts of the checkpoint in `directory`; `parameters` is the number of its weights, counted at
    /// installation.
    ///
    /// # Errors
    /// [`CardError`] when `config.json` is missing or makes no sense.
    pub fn read(directory: &Path, parameters: u64) -> Result<Self, CardError> {
        let config: Config = read_json(directory, "config.json")?
            .ok_or_else(|| CardError::File { file: "config.json", source: io::ErrorKind::NotFound.into() })?;
        let generation = read_json(directory, "generation_config.json")?.unwrap_or_default();
        let chat_template = chat_template(directory)?;
        let sentence_transformer = directory.join("modules.json").exists() || directory.join("1_Pooling").exists();
        let markers = read_json::<Value>(directory, "tokenizer_config.json")?
            .and_then(|mut tokenizer| tokenizer.get_mut("added_tokens_decoder").map(Value::take))
            .unwrap_or_default()
            .to_string();
        Self::from_parts(config, generation, chat_template, parameters, sentence_transformer, &markers)
    }

    fn from_parts(
        config: Config,
        generation: GenerationDefaults,
        chat_template: Option<String>,
        parameters: u64,
        sentence_transformer: bool,
        added_tokens: &str,
    ) -> Result<Self, CardError> {
        let architecture = config.architectures.first().cloned().unwrap_or_default();
        if architecture.is_empty() {
            return Err(CardError::Config("it names no architecture".into()));
        }
        let vision = config.vision_config.is_some();
        let family = if config.model_type.is_empty() {
            architecture.to_lowercase().replace("forcausallm", "").replace("forconditionalgeneration", "")
        } else {
            config.model_type.clone()
        };
        let text = config.text_config.map_or_else(
            || Config {
                max_position_embeddings: config.max_position_embeddings,
                hidden_size: config.hidden_size,
                num_hidden_layers: config.num_hidden_layers,
                num_attention_heads: config.num_attention_heads,
                num_key_value_heads: config.num_key_value_heads,
                intermediate_size: config.intermediate_size,
                vocab_size: config.vocab_size,
                ..Config::default()
            },
            |text| *text,
        );
        let embedding = sentence_transformer
            || ["Model", "EmbeddingModel", "ForTextEncoding"].iter().any(|ending| architecture.ends_with(ending));
        let capabilities =
            capabilities(embedding, vision, &family, chat_template.as_deref().unwrap_or_default(), added_tokens);
        Ok(Self {
            architecture,
            family,
            parameters,
            context_length: text.max_position_embeddings,
            embedding_length: text.hidden_size,
            block_count: text.num_hidden_layers,
            head_count: text.num_attention_heads,
            head_count_kv: text.num_key_value_heads.unwrap_or(text.num_attention_heads),
            feed_forward_length: text.intermediate_size,
            vocabulary_size: text.vocab_size,
            chat_template,
            generation,
            capabilities,
        })
    }
}

/// vllm-engine §5.5, in the order Ollama lists them.
fn capabilities(embedding: bool, vision: bool, family: &str, template: &str, added_tokens: &str) -> Vec<Capability> {
    if embedding {
        return vec![Capability::Embedding];
    }
    let says = |words: &[&str]| words.iter().any(|word| template.contains(word));
    let fill_in = ["<|fim_prefix|>", "<fim_prefix>", "<PRE>", "[PREFIX]", "<｜fim▁begin｜>"];
    let checks = [
        (true, Capability::Completion),
        (vision, Capability::Vision),
        (says(&["tools"]), Capability::Tools),
        (fill_in.iter().any(|marker| added_tokens.contains(marker)), Capability::Insert),
        (
            family == "gpt_oss" || says(&["enable_thinking", "thinking", "<think>", "reasoning_effort"]),
            Capability::Thinking,
        ),
    ];
    checks.into_iter().filter_map(|(found, capability)| found.then_some(capability)).collect()
}

fn chat_template(directory: &Path) -> Result<Option<String>, CardError> {
    match read_text(directory, "chat_template.jinja")? {
        Some(template) => Ok(Some(template)),
        None => Ok(read_json::<Value>(directory, "tokenizer_config.json")?.and_then(|mut tokenizer| {
            match tokenizer.get_mut("chat_template").map(Value::take) {
                Some(Value::String(template)) => Some(template),
                Some(Value::Array(templates)) => templates.into_iter().find_map(|named| {
                    (named["name"] == "default").then(|| named["template"].as_str().map(str::to_owned)).flatten()
                }),
                _ => None,
            }
        })),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(directory: &Path, file: &'static str) -> Result<Option<T>, CardError> {
    let Some(text) = read_text(directory, file)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| CardError::File { file, source: io::Error::new(io::ErrorKind::InvalidData, error) })
}

/// The file's text, or `None` where there is no such file.
fn read_text(directory: &Path, file: &'static str) -> Result<Option<String>, CardError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(directory.join(file))?.take(JSON_LIMIT).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CardError::File { file, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(config: &str, template: &str) -> Card {
        let config = serde_json::from_str(config).expect("a config");
        Card::from_parts(config, GenerationDefaults::default(), Some(template.into()), 1, false, "").expect("a card")
    }

    #[test]
    fn a_llama_checkpoint_gives_its_facts() {
        let card = card(
            r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","max_position_embeddings":8192,"hidden_size":576,
                "num_hidden_layers":30,"num_attention_heads":9,"num_key_value_heads":3,"intermediate_size":1536,"vocab_size":49152}"#,
            "{{ messages }}",
        );
        assert_eq!((card.family.as_str(), card.context_length, card.head_count_kv), ("llama", 8192, 3));
        assert_eq!(card.capabilities, [Capability::Completion]);
    }

    #[test]
    fn a_vision_model_keeps_its_language_facts_in_text_config() {
        let card = card(
            r#"{"architectures":["X"],"model_type":"x","vision_config":{},"text_config":{"hidden_size":7,"num_attention_heads":4}}"#,
            "",
        );
        assert_eq!((card.embedding_length, card.head_count_kv), (7, 4));
        assert!(card.can(Capability::Vision));
    }

    #[test]
    fn the_template_tells_tools_and_thinking() {
        let card = card(r#"{"architectures":["Q"],"model_type":"qwen3"}"#, "{% if tools %}{% endif %}<think>");
        assert!(card.can(Capability::Tools) && card.can(Capability::Thinking) && !card.can(Capability::Insert));
    }

    #[test]
    fn a_config_without_an_architecture_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("config.json"), "{}").expect("written");
        assert!(matches!(Card::read(directory.path(), 1), Err(CardError::Config(_))));
    }
}
