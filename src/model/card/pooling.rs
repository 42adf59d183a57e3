//! How an embedding model makes one vector of many: the files of sentence-transformers.

use std::path::Path;

use serde_json::Value;

use super::{CardError, files};

/// How an embedding model makes one vector of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pooling {
    /// `mean`, `cls`, `lasttoken` …; empty where the files do not tell.
    pub kind: String,
    /// Longest text its makers meant it for, in tokens.
    pub max_length: Option<u64>,
}

/// Keys of `1_Pooling/config.json`, and what they mean.
const KINDS: [(&str, &str); 5] = [
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_lasttoken", "lasttoken"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_weightedmean_tokens", "weightedmean"),
];

/// Reads it; `None` where the checkpoint has none of the files.
pub(super) fn read(directory: &Path) -> Result<Option<Pooling>, CardError> {
    let config: Option<Value> = files::json(directory, "1_Pooling/config.json")?;
    if config.is_none() && !directory.join("modules.json").exists() {
        return Ok(None);
    }
    let kind = config.as_ref().and_then(|config| {
        let modern = config["pooling_mode"].as_str();
        modern.or_else(|| KINDS.iter().find(|(key, _)| config[key] == true).map(|(_, kind)| *kind))
    });
    // The file is named after the architecture it was first made for.
    let sentences: Option<Value> = match files::json(directory, "sentence_bert_config.json")? {
        None => files::json(directory, "sentence_roberta_config.json")?,
        found => found,
    };
    let max_length = sentences.and_then(|config| config["max_seq_length"].as_u64());
    Ok(Some(Pooling { kind: kind.unwrap_or_default().to_owned(), max_length }))
}
