//! All about one model: `/api/show` (ollama-api §4.3). Never waits.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value};

use super::listing::Details;
use super::prelude::Prelude;
use crate::model::safetensors::Tensor;
use crate::model::{Capability, Installed};
use crate::telemetry::Timestamp;

/// Most tensors that are shown: the answer is one line, and Go's clients take none above 8 MB (§13.10).
const TENSORS: usize = 32_000;

/// What of a model is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked<'a> {
    /// The name as the client wrote it.
    pub name: &'a str,
    /// A system prompt to show instead of the model's; empty for the model's.
    pub system: &'a str,
    /// Longest sequence the engine takes in tokens, where it is known.
    pub context_length: Option<u64>,
    /// The tensors, where they were asked for.
    pub tensors: Option<&'a [Tensor]>,
}

#[derive(Serialize)]
struct Show<'a> {
    #[serde(skip_serializing_if = "String::is_empty")]
    license: String,
    modelfile: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    parameters: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    template: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    system: &'a str,
    details: Details,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<Message<'a>>,
    model_info: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<ShownTensor<'a>>>,
    /// Always a list, even an empty one: some clients skip the model otherwise (§13.5).
    capabilities: &'a [Capability],
    modified_at: Timestamp,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
}

#[derive(Serialize)]
struct ShownTensor<'a> {
    name: &'a str,
    r#type: &'a str,
    shape: &'a [u64],
}

impl<'a> ShownTensor<'a> {
    fn of(tensor: &'a Tensor) -> Self {
        Self { name: &tensor.name, r#type: &tensor.dtype, shape: &tensor.shape }
    }
}

/// The body of `/api/show`.
#[must_use]
pub fn show(model: &Installed, asked: &Asked<'_>) -> Vec<u8> {
    let overlay = model.overlay();
    let checkpoints_own = model.card.chat_template.as_deref().unwrap_or_default();
    let prelude = Prelude::of(model);
    let messages = prelude.messages();
    let facts = Facts {
        license: model.licenses().collect::<Vec<_>>().join("\n"),
        template: if overlay.template.is_empty() { checkpoints_own } else { &overlay.template },
        system: if asked.system.is_empty() { &overlay.system } else { asked.system },
        settings: settings(model),
        messages: messages.iter().map(|turn| Message { role: &turn.role, content: &turn.content }).collect(),
    };
    let tensors = asked.tensors.map(|tensors| tensors.iter().take(TENSORS).map(ShownTensor::of).collect());
    let show = Show {
        modelfile: facts.modelfile(model),
        parameters: facts.parameter_lines(),
        license: facts.license,
        template: facts.template,
        system: facts.system,
        details: Details::of(model),
        messages: facts.messages,
        model_info: model_info(model, asked.name, asked.context_length.unwrap_or(model.card.context_length)),
        tensors,
        capabilities: &model.card.capabilities,
        modified_at: Timestamp::of(model.modified_at),
    };
    // Strings and numbers always become JSON.
    serde_json::to_vec(&show).unwrap_or_default()
}

/// What is said twice: in fields of its own, and in the Modelfile.
struct Facts<'a> {
    license: String,
    template: &'a str,
    system: &'a str,
    /// Name and value; a list is several.
    settings: Vec<(String, Value)>,
    messages: Vec<Message<'a>>,
}

/// The model's parameters in the order they were given, then the checkpoint's sampling defaults under Ollama's names.
fn settings(model: &Installed) -> Vec<(String, Value)> {
    let own = &model.overlay().parameters;
    let defaults = &model.card.generation;
    // The shortest text of a 32-bit number is not that of the same number in 64 bits.
    let exact = |value: f32| value.to_string().parse::<Value>().unwrap_or_default();
    let inherited = [
        ("temperature", defaults.temperature.map(exact)),
        ("top_k", defaults.top_k.map(Value::from)),
        ("top_p", defaults.top_p.map(exact)),
        ("min_p", defaults.min_p.map(exact)),
        ("repeat_penalty", defaults.repetition_penalty.map(exact)),
    ];
    let inherited = inherited.into_iter().filter(|(name, _)| !own.contains_key(*name));
    let inherited = inherited.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let own = own.iter().flat_map(|(name, value)| {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        values.iter().map(|value| (name.clone(), value.clone()))
    });
    own.chain(inherited).collect()
}

/// A value as Go writes it with `%#v`: strings in quotes, numbers bare and whole where they are whole.
fn go_syntax(value: &Value) -> String {
    match value.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small, as was just looked at")]
        Some(number) if number.fract() == 0.0 && number.abs() < 1e15 => (number as i64).to_string(),
        _ => value.to_string(),
    }
}

impl Facts<'_> {
    /// One line a value, the name in 30 columns: Continue reads them strictly (§13.15).
    fn parameter_lines(&self) -> String {
        let line = |(name, value): &(String, Value)| format!("{name:<30} {}", go_syntax(value));
        self.settings.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn modelfile(&self, model: &Installed) -> String {
        let name = model.name.display();
        let mut text = format!(
            "# Modelfile generated by \"ollama show\"\n# To build a new Modelfile based on this, replace FROM with:\n\
             # FROM {name}\n\nFROM {}\n",
            model.directory.display()
        );
        // Writing into a string does not fail.
        if let Some(adapter) = &model.adapter {
            let _ = writeln!(text, "ADAPTER {}", adapter.directory.display());
        }
        for (word, value) in [("TEMPLATE", self.template), ("SYSTEM", self.system)] {
            if !value.is_empty() {
                let _ = writeln!(text, "{word} \"\"\"{value}\"\"\"");
            }
        }
        for (name, value) in &self.settings {
            let value = value.as_str().map_or_else(|| go_syntax(value), quoted);
            let _ = writeln!(text, "PARAMETER {name} {value}");
        }
        for license in model.licenses() {
            let _ = writeln!(text, "LICENSE \"\"\"{license}\"\"\"");
        }
        for Message { role, content } in &self.messages {
            let _ = writeln!(text, "MESSAGE {role} {}", quoted(content));
        }
        text
    }
}

/// Text on a line of a Modelfile, in quotes where it would be read as something else without.
fn quoted(text: &str) -> String {
    match text {
        _ if !text.contains('\n') && text.trim() == text && !text.starts_with('"') => text.to_owned(),
        _ if text.contains('"') => format!("\"\"\"{text}\"\"\""),
        _ => format!("\"{text}\""),
    }
}

/// Flat keys in the style of GGUF. Exactly one holds `context_length`: scanners take the first (§13.18).
fn model_info(model: &Installed, asked: &str, context_length: u64) -> Map<String, Value> {
    let card = &model.card;
    let family = if card.family.is_empty() { "unknown" } else { &card.family };
    let mut info = Map::new();
    info.insert("general.architecture".into(), family.into());
    // Copilot shows this as the name and looks for it in its list (§13.5), so it is the name that was asked for.
    info.insert("general.basename".into(), asked.into());
    info.insert("general.parameter_count".into(), model.card.parameters.into());
    info.insert("general.type".into(), "model".into());
    let numbers = [
        ("attention.head_count", card.head_count),
        ("attention.head_count_kv", card.head_count_kv),
        ("block_count", card.block_count),
        ("context_length", context_length),
        ("embedding_length", card.embedding_length),
        ("feed_forward_length", card.feed_forward_length),
        ("vocab_size", card.vocabulary_size),
    ];
    for (name, number) in numbers {
        if number > 0 {
            info.insert(format!("{family}.{name}"), number.into());
        }
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ollama::listing::tests::smollm2;

    fn shown(model: &Installed, asked: &Asked<'_>) -> Value {
        let body = show(model, asked);
        assert!(!body.contains(&b'\n'), "one line");
        serde_json::from_slice(&body).expect("show is JSON")
    }

    #[test]
    fn show_holds_what_clients_read() {
        let mut model = smollm2();
        model.card.generation.temperature = Some(0.6);
        model.card.generation.top_k = Some(20);
        let show = shown(&model, &Asked { name: "SmolLM2:135m", context_length: Some(2048), ..Asked::default() });
        assert_eq!(show["parameters"], "temperature                    0.6\ntop_k                          20");
        assert_eq!(show["capabilities"], serde_json::json!(["completion"]));
        let info = show["model_info"].as_object().expect("an object");
        assert_eq!(info["general.architecture"], "llama");
        assert_eq!(info["general.basename"], "SmolLM2:135m");
        assert_eq!(info["general.parameter_count"], 134_515_008);
        assert_eq!(info["llama.context_length"], 2048);
        assert_eq!(info["llama.embedding_length"], 576);
        assert_eq!(info.keys().filter(|key| key.contains("context_length")).count(), 1);
        assert_eq!(show["details"]["parameter_size"], "134.52M");
        assert!(show["modelfile"].as_str().is_some_and(|text| text.contains("\nPARAMETER temperature 0.6\n")));
        assert!(show.get("system").is_none() && show["modified_at"].is_string());
        assert!(show.get("tensors").is_none() && show.get("messages").is_none());
    }

    #[test]
    fn what_a_model_adds_is_shown_in_fields_and_in_the_modelfile() {
        let mut model = smollm2();
        model.card.generation.temperature = Some(0.6);
        let overlay = &mut model.manifest.overlay;
        overlay.parent = "smollm2:135m".into();
        overlay.system = "You are Mario.".into();
        overlay.template = "{{ .Prompt }}".into();
        overlay.license = vec!["MIT".into()];
        overlay.parameters = serde_json::from_str(
            r#"{"stop":["<|im_end|>","a\n\"b\""],"temperature":0.25,"num_ctx":8192.0,"use_mmap":true}"#,
        )
        .expect("parameters");
        overlay.messages = serde_json::from_str(r#"[{"role":"user","content":"It's me"}]"#).expect("messages");
        let show = shown(&model, &Asked { name: "mario", ..Asked::default() });
        let lines: Vec<&str> = show["parameters"].as_str().expect("text").lines().collect();
        assert_eq!(
            lines,
            [
                r#"stop                           "<|im_end|>""#,
                r#"stop                           "a\n\"b\"""#,
                "temperature                    0.25",
                "num_ctx                        8192",
                "use_mmap                       true",
            ]
        );
        assert_eq!((&show["system"], &show["template"]), (&"You are Mario.".into(), &"{{ .Prompt }}".into()));
        assert_eq!(show["license"], "apache-2.0\nMIT");
        assert_eq!(show["details"]["parent_model"], "smollm2:135m");
        assert_eq!(show["messages"], serde_json::json!([{"role": "user", "content": "It's me"}]));
        let modelfile = show["modelfile"].as_str().expect("text");
        for line in [
            "TEMPLATE \"\"\"{{ .Prompt }}\"\"\"",
            "SYSTEM \"\"\"You are Mario.\"\"\"",
            "PARAMETER stop <|im_end|>",
            "PARAMETER stop \"\"\"a",
            "PARAMETER num_ctx 8192",
            "LICENSE \"\"\"MIT\"\"\"",
            "MESSAGE user It's me",
        ] {
            assert!(modelfile.contains(&format!("\n{line}")), "{line} in {modelfile}");
        }
        let asked = shown(&model, &Asked { name: "mario", system: "Another.", ..Asked::default() });
        assert_eq!(asked["system"], "Another.");
    }

    #[test]
    fn tensors_are_shown_where_they_are_asked_for() {
        let tensor = serde_json::json!({"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]});
        let mut tensor: Tensor = serde_json::from_value(tensor).expect("a tensor");
        tensor.name = "w".into();
        let show = shown(&smollm2(), &Asked { tensors: Some(&[tensor]), ..Asked::default() });
        assert_eq!(show["tensors"], serde_json::json!([{"name": "w", "type": "BF16", "shape": [2, 3]}]));
    }
}
