//! Which checkpoint an Ollama name means: the table in `library.toml`, read once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// The table as text.
const TABLE: &str = include_str!("library.toml");

static LIBRARY: LazyLock<BTreeMap<String, Model>> = LazyLock::new(|| {
    // The text is part of the program, and a test reads it.
    toml::from_str(TABLE).unwrap_or_default()
});

/// One name of Ollama's library.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    /// The tag that `latest` stands for.
    latest: String,
    /// The word Ollama appends to the tags of the tuned models.
    #[serde(default = "instruct")]
    variant: String,
    tags: BTreeMap<String, Meaning>,
}

fn instruct() -> String {
    "instruct".to_owned()
}

/// What a tag means.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Meaning {
    /// A checkpoint, which has a slash in its name, or another tag of the same table.
    Plain(String),
    /// A checkpoint and its quantised versions.
    #[serde(rename_all = "lowercase")]
    Quantized { full: String, q4: Option<String>, q8: Option<String> },
}

/// The precision a tag asks for at its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Precision {
    /// As published: nothing said, or `-fp16`.
    Full,
    /// `-q4_K_M`, `-q4_0` …
    FourBits,
    /// `-q8_0`.
    EightBits,
}

/// The Hugging Face repository that `model:tag` of Ollama's library means; in any case, as Ollama has it.
#[must_use]
pub fn checkpoint(model: &str, tag: &str) -> Option<&'static str> {
    let model = LIBRARY.get(&model.to_ascii_lowercase())?;
    let tag = tag.to_ascii_lowercase();
    let (tag, precision) = split_precision(&tag);
    let tag = if matches!(tag, "" | "latest") { &model.latest } else { tag };
    let meaning = model.meaning(tag)?;
    match (meaning, precision) {
        (Meaning::Plain(checkpoint), Precision::Full) => Some(checkpoint),
        (Meaning::Quantized { full, .. }, Precision::Full) => Some(full),
        (Meaning::Quantized { q4, .. }, Precision::FourBits) => q4.as_deref(),
        (Meaning::Quantized { q8, .. }, Precision::EightBits) => q8.as_deref(),
        (Meaning::Plain(_), _) => None,
    }
}

impl Model {
    /// What a tag without precision means.
    fn meaning(&self, tag: &str) -> Option<&Meaning> {
        let plain = || tag.strip_suffix(self.variant.as_str())?.strip_suffix('-');
        let meaning = self.tags.get(tag).or_else(|| self.tags.get(plain()?))?;
        match meaning {
            Meaning::Plain(other) if !other.contains('/') => self.tags.get(other),
            meaning => Some(meaning),
        }
    }
}

/// Takes the precision off the end of a tag in lower case.
fn split_precision(tag: &str) -> (&str, Precision) {
    let (rest, last) = tag.rsplit_once('-').unwrap_or(("", tag));
    let precision = match last {
        "fp16" | "f16" | "bf16" => Precision::Full,
        "q8_0" => Precision::EightBits,
        _ if last.starts_with("q4_") => Precision::FourBits,
        _ => return (tag, Precision::Full),
    };
    (rest, precision)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::ModelName;

    /// Every checkpoint of the table, and where it stands.
    fn checkpoints(library: &BTreeMap<String, Model>) -> Vec<(String, &str)> {
        let mut found = Vec::new();
        for (name, model) in library {
            for (tag, meaning) in &model.tags {
                let all: Vec<&str> = match meaning {
                    Meaning::Plain(checkpoint) => vec![checkpoint],
                    Meaning::Quantized { full, q4, q8 } => {
                        [Some(full), q4.as_ref(), q8.as_ref()].into_iter().flatten().map(String::as_str).collect()
                    }
                };
                found.extend(all.into_iter().map(|checkpoint| (format!("{name}:{tag}"), checkpoint)));
            }
        }
        found
    }

    #[test]
    fn the_table_is_sound() {
        let library: BTreeMap<String, Model> = toml::from_str(TABLE).expect("library.toml can be read");
        assert!(library.len() >= 60, "{} names", library.len());
        for (name, model) in &library {
            assert!(model.tags.contains_key(&model.latest), "{name}: latest is {}", model.latest);
            for tag in model.tags.keys() {
                let text = format!("{name}:{tag}");
                assert!(ModelName::parse(&text).is_ok(), "{text} is no name");
                assert_eq!(text, text.to_lowercase(), "tags are found in lower case");
                assert!(split_precision(tag).1 == Precision::Full && !tag.ends_with("fp16"), "{text} cannot be found");
                assert!(checkpoint(name, tag).is_some_and(|found| found.contains('/')), "{text} leads nowhere");
            }
        }
    }

    #[test]
    fn every_checkpoint_is_an_organisation_and_a_name_and_stands_once_under_a_model() {
        let library: BTreeMap<String, Model> = toml::from_str(TABLE).expect("library.toml can be read");
        let mut seen = BTreeSet::new();
        for (place, checkpoint) in checkpoints(&library).into_iter().filter(|(_, checkpoint)| checkpoint.contains('/'))
        {
            let parts: Vec<_> = checkpoint.split('/').collect();
            assert_eq!(parts.len(), 2, "{place}: {checkpoint}");
            let allowed = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            assert!(parts.iter().all(|part| !part.is_empty() && allowed(part)), "{place}: {checkpoint}");
            assert!(ModelName::parse(checkpoint).is_ok(), "{place}: {checkpoint} could not be pulled by its own name");
            assert!(seen.insert(checkpoint), "{place}: {checkpoint} stands twice; make one tag name the other");
        }
    }

    #[test]
    fn tags_mean_what_they_mean_in_ollama() {
        for (model, tag, expected) in [
            ("qwen2.5", "latest", Some("Qwen/Qwen2.5-7B-Instruct")),
            ("Qwen2.5", "7B", Some("Qwen/Qwen2.5-7B-Instruct")),
            ("qwen2.5", "7b-instruct", Some("Qwen/Qwen2.5-7B-Instruct")),
            ("qwen2.5", "7b-instruct-q4_K_M", Some("Qwen/Qwen2.5-7B-Instruct-AWQ")),
            ("qwen2.5", "7b-q4_0", Some("Qwen/Qwen2.5-7B-Instruct-AWQ")),
            ("qwen2.5", "7b-instruct-q8_0", Some("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8")),
            ("qwen2.5", "7b-instruct-fp16", Some("Qwen/Qwen2.5-7B-Instruct")),
            ("qwen2.5", "7b-base", Some("Qwen/Qwen2.5-7B")),
            ("qwen3", "30b-a3b-q4_K_M", Some("Qwen/Qwen3-30B-A3B-GPTQ-Int4")),
            ("smollm2", "135m", Some("HuggingFaceTB/SmolLM2-135M-Instruct")),
            ("llama2", "7b-chat", Some("meta-llama/Llama-2-7b-chat-hf")),
            ("all-minilm", "l6-v2", Some("sentence-transformers/all-MiniLM-L6-v2")),
            // No 4-bit checkpoint of its makers, no such size, no such quantisation, no such model.
            ("smollm2", "135m-instruct-q4_K_M", None),
            ("qwen2.5", "8b", None),
            ("qwen2.5", "7b-instruct-q6_K", None),
            ("qwen2.5", "instruct", None),
            ("nobody", "latest", None),
        ] {
            assert_eq!(checkpoint(model, tag), expected, "{model}:{tag}");
        }
    }
}
