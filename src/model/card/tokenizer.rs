//! The tokenizer's files: chat templates, and which of the tokens that parsers look for the vocabulary has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::{Card, CardError, Format, files};
use crate::model::parsers;

/// Fills in the card's templates and tokens.
pub(super) fn read(directory: &Path, card: &mut Card) -> Result<(), CardError> {
    let config: Value = files::json(directory, "tokenizer_config.json")?.unwrap_or_default();
    templates(directory, &config, card)?;
    card.response_template = config.get("response_template").is_some();
    card.custom_code |= config.get("auto_map").is_some();
    if card.format == Format::Mistral || (card.chat_template.is_none() && is_mistrals(directory)) {
        card.format = Format::Mistral;
        return Ok(());
    }
    let mut tokens = BTreeSet::new();
    let mut told = false;
    if let Some(decoder) = config["added_tokens_decoder"].as_object() {
        told = true;
        tokens.extend(decoder.values().filter_map(|token| token["content"].as_str()).map(str::to_owned));
    }
    if let Some(added) = files::json::<BTreeMap<String, Value>>(directory, "added_tokens.json")? {
        tokens.extend(added.into_keys());
    }
    // The head of this file holds the added tokens; the vocabulary behind it is read only when a token is missed.
    let missed = |tokens: &BTreeSet<String>| {
        parsers::markers()
            .filter(|marker| card.template_says(marker) && !tokens.contains(*marker))
            .collect::<BTreeSet<_>>()
    };
    if let Ok(file) = fs::File::open(directory.join("tokenizer.json")) {
        told = true;
        let mut search = Search { tokens: &mut tokens, markers: None };
        search.run(&file);
        let markers = missed(&tokens);
        if !markers.is_empty()
            && let Ok(file) = fs::File::open(directory.join("tokenizer.json"))
        {
            let mut search = Search { tokens: &mut tokens, markers: Some(markers) };
            search.run(&file);
        }
    }
    card.tokens = told.then_some(tokens);
    Ok(())
}

/// Whether only Mistral's own tokenizer is there; its library has the template within.
fn is_mistrals(directory: &Path) -> bool {
    let is_there = |file: &str| directory.join(file).exists();
    is_there("tekken.json") && is_there("params.json") && !is_there("tokenizer.json")
}

fn templates(directory: &Path, config: &Value, card: &mut Card) -> Result<(), CardError> {
    let named = |list: &Value, name: &str| {
        let found = list.as_array()?.iter().find(|template| template["name"] == name)?;
        found["template"].as_str().map(str::to_owned)
    };
    let told = &config["chat_template"];
    card.tool_template = named(told, "tool_use");
    card.chat_template = match files::text(directory, "chat_template.jinja")? {
        Some(template) => Some(template),
        None => match told.as_str() {
            Some(template) => Some(template.to_owned()),
            None => match named(told, "default") {
                Some(template) => Some(template),
                // Models of several senses keep it beside their processor.
                None => files::json::<Value>(directory, "chat_template.json")?
                    .and_then(|file| file["chat_template"].as_str().map(str::to_owned)),
            },
        },
    };
    Ok(())
}

/// One pass over `tokenizer.json`.
struct Search<'a> {
    tokens: &'a mut BTreeSet<String>,
    /// Tokens to look for in the vocabulary; `None` = stop behind the added tokens.
    markers: Option<BTreeSet<&'static str>>,
}

impl Search<'_> {
    /// Reads as far as it must. A file that cannot be read to its end told what it told: the engine judges it.
    fn run(&mut self, file: &fs::File) {
        let mut json =
            serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 16, file.take(files::LIMIT)));
        // Stopping early is an error to the deserializer, and the normal end here.
        let _ = json.deserialize_map(Root(self));
    }
}

/// The file's outermost map.
struct Root<'a, 'b>(&'a mut Search<'b>);

impl<'de> Visitor<'de> for Root<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a tokenizer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match (key.as_str(), &self.0.markers) {
                ("added_tokens", None) => {
                    let added: Vec<Value> = map.next_value()?;
                    self.0.tokens.extend(added.iter().filter_map(|token| token["content"].as_str()).map(str::to_owned));
                    return Ok(());
                }
                ("model", Some(_)) => {
                    map.next_value_seed(Vocabulary { search: self.0, inside: false })?;
                    return Ok(());
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// `model`, and in it `vocab`: a map of tokens, or a list of pairs, which is skipped (such vocabularies hold no markers).
struct Vocabulary<'a, 'b> {
    search: &'a mut Search<'b>,
    inside: bool,
}

impl<'de> DeserializeSeed<'de> for Vocabulary<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Vocabulary<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if self.inside {
                if self.search.markers.as_ref().is_some_and(|markers| markers.contains(key.as_str())) {
                    self.search.tokens.insert(key);
                }
                map.next_value::<IgnoredAny>()?;
            } else if key == "vocab" {
                map.next_value_seed(Vocabulary { search: self.search, inside: true })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(files: &[(&str, &str)], template: &str) -> Option<BTreeSet<String>> {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(directory.path().join(name), text).expect("written");
        }
        let mut card = Card { chat_template: None, ..Card::default() };
        fs::write(directory.path().join("chat_template.jinja"), template).expect("written");
        read(directory.path(), &mut card).expect("read");
        card.tokens
    }

    #[test]
    fn added_tokens_come_from_every_file_that_lists_them() {
        let found = tokens(
            &[
                (
                    "tokenizer.json",
                    r#"{"version":"1.0","added_tokens":[{"id":1,"content":"<a>"}],"model":{"vocab":{}}}"#,
                ),
                ("tokenizer_config.json", r#"{"added_tokens_decoder":{"2":{"content":"<b>"}}}"#),
                ("added_tokens.json", r#"{"<c>":3}"#),
            ],
            "",
        );
        assert_eq!(found, Some(["<a>", "<b>", "<c>"].map(str::to_owned).into()));
    }

    #[test]
    fn the_vocabulary_is_searched_for_markers_the_template_uses() {
        let file =
            r#"{"added_tokens":[],"model":{"type":"BPE","vocab":{"<think>":7,"</think>":8,"word":9},"merges":[]}}"#;
        let found = tokens(&[("tokenizer.json", file)], "<think></think>");
        assert_eq!(found, Some(["</think>", "<think>"].map(str::to_owned).into()));
        assert_eq!(tokens(&[("tokenizer.json", file)], "plain"), Some(BTreeSet::new()));
    }

    #[test]
    fn without_a_list_nothing_is_known() {
        assert_eq!(tokens(&[], "<think>"), None);
    }
}
