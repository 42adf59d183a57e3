//! `config.json`, or Mistral's `params.json`: the same facts under many names.

use std::path::Path;

use serde_json::Value;

use super::attention;
use super::quantization::Quantization;
use super::{Card, CardError, Experts, Format, files};

/// A checkpoint's configuration.
pub(super) struct Config {
    /// Whose file it is.
    pub format: Format,
    root: Value,
}

/// Where models of several senses keep the language model's part.
const TEXT_PARTS: [&str; 5] =
    ["/text_config", "/thinker_config/text_config", "/llm_config", "/language_config", "/language_model_config"];

/// What a family's configuration class assumes where the file is silent. Published Gemma 3 files are.
const ASSUMED: &[(&str, &str)] = &[(
    "gemma3_text",
    r#"{"num_attention_heads":8,"num_key_value_heads":4,"head_dim":256,"sliding_window":4096,
        "sliding_window_pattern":6,"max_position_embeddings":131072,"vocab_size":262208}"#,
)];

impl Config {
    /// Reads it: Hugging Face's where there is one, else Mistral's.
    pub(super) fn read(directory: &Path) -> Result<Self, CardError> {
        if let Some(root) = files::json(directory, "config.json")? {
            return Ok(Self { format: Format::HuggingFace, root });
        }
        match files::json(directory, "params.json")? {
            Some(root) => Ok(Self { format: Format::Mistral, root }),
            None => {
                let source = std::io::ErrorKind::NotFound.into();
                Err(CardError::File { file: "config.json".into(), source })
            }
        }
    }

    /// The facts it holds.
    pub(super) fn into_card(self) -> Result<Card, CardError> {
        let root = &self.root;
        let text = TEXT_PARTS.iter().find_map(|part| root.pointer(part)).unwrap_or(root);
        let assumed = text["model_type"].as_str().and_then(|kind| ASSUMED.iter().find(|(name, _)| *name == kind));
        // A constant of this file.
        let assumed = assumed.and_then(|(_, json)| serde_json::from_str(json).ok()).unwrap_or(Value::Null);
        let facts = Facts { text, assumed: &assumed };
        let architecture = match (self.format, root["architectures"][0].as_str()) {
            (_, Some(name)) if !name.is_empty() => name.to_owned(),
            (Format::Mistral, _) => "MistralForCausalLM".to_owned(),
            _ => return Err(CardError::Config("it names no architecture".into())),
        };
        let family = match (self.format, root["model_type"].as_str()) {
            (_, Some(name)) if !name.is_empty() => name.to_owned(),
            (Format::Mistral, _) => "mistral".to_owned(),
            _ => architecture.to_lowercase().replace("forcausallm", "").replace("forconditionalgeneration", ""),
        };
        let head_count =
            facts.number(&["num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"]);
        let embedding_length = facts.number(&["hidden_size", "n_embd", "d_model", "dim"]);
        let block_count = facts.number(&["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"]);
        let head_count_kv = facts.maybe(&["num_key_value_heads", "n_kv_heads", "num_kv_heads"]).unwrap_or(head_count);
        let context_length = facts.number(&[
            "max_position_embeddings",
            "n_positions",
            "max_sequence_length",
            "seq_length",
            "max_seq_len",
            "n_ctx",
            "max_target_positions",
        ]);
        let experts = facts.maybe(&["num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"]);
        let experts = experts.or_else(|| text["moe"]["num_experts"].as_u64()).filter(|count| *count > 1);
        Ok(Card {
            attention: attention::of(&facts, &architecture, block_count),
            experts: experts.map(|count| Experts {
                count,
                feed_forward_length: facts.number(&["moe_intermediate_size", "expert_ffn_hidden_size"]),
            }),
            dtype: ["torch_dtype", "dtype"]
                .iter()
                .find_map(|name| text[name].as_str().or_else(|| root[name].as_str()))
                .unwrap_or_default()
                .to_owned(),
            quantization: [root, text].into_iter().find_map(Quantization::in_config),
            draft_layers: facts.number(&["num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules"]),
            custom_code: root.get("auto_map").is_some(),
            context_length,
            embedding_length,
            block_count,
            head_count,
            head_count_kv,
            feed_forward_length: facts.number(&[
                "intermediate_size",
                "n_inner",
                "hidden_dim",
                "ffn_dim",
                "decoder_ffn_dim",
            ]),
            vocabulary_size: facts.number(&["vocab_size"]),
            capabilities: super::capability::senses(root, &architecture),
            architecture,
            family,
            ..Card::default()
        })
    }
}

/// The language model's part of a configuration, and what its family assumes.
pub(super) struct Facts<'a> {
    text: &'a Value,
    assumed: &'a Value,
}

impl Facts<'_> {
    /// The first of these names that is there.
    pub(super) fn value(&self, names: &[&str]) -> Option<&Value> {
        let found = |part: &Value| names.iter().any(|name| part.get(name).is_some_and(|value| !value.is_null()));
        let part = [self.text, self.assumed].into_iter().find(|part| found(part))?;
        names.iter().find_map(|name| part.get(name).filter(|value| !value.is_null()))
    }

    /// The first of these numbers that is there.
    pub(super) fn maybe(&self, names: &[&str]) -> Option<u64> {
        self.value(names)?.as_u64()
    }

    /// The first of these numbers that is there, else 0.
    pub(super) fn number(&self, names: &[&str]) -> u64 {
        self.maybe(names).unwrap_or_default()
    }

    /// A yes or no; `None` where it does not say.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.value(&[name])?.as_bool()
    }
}

#[cfg(test)]
pub(super) fn facts_of(text: &Value) -> Facts<'_> {
    Facts { text, assumed: &Value::Null }
}
