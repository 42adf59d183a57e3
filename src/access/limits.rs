//! What a key may cost.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::model::ModelName;

/// The limits of one key; what is absent is without limit. They hold for requests that ask an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests a minute. So many may come at once; then one more each so many'th part of a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<NonZeroU64>,
    /// Requests at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<NonZeroU64>,
    /// Tokens of prompts and answers from midnight to midnight, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<NonZeroU64>,
    /// Names of the only models it may use, see or change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<Model>>,
    /// Whose requests an engine takes first: the lower number goes before the higher, as vLLM has it.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i32,
}

/// A model's name in the key file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Model(pub ModelName);

impl TryFrom<String> for Model {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        ModelName::parse(&text)
            .map(Self)
            .map_err(|_| format!("'{text}' is no model name; a name looks like smollm2:135m"))
    }
}

impl From<Model> for String {
    fn from(model: Model) -> Self {
        model.0.display()
    }
}

impl Limits {
    /// Whether a model may be used.
    #[must_use]
    pub fn allow(&self, name: &ModelName) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|model| model.0 == *name))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_say_only_what_they_limit_and_nothing_unknown_is_taken_for_a_limit() {
        assert_eq!(serde_json::to_string(&Limits::default()).ok().as_deref(), Some("{}"));
        let text = r#"{"requests_per_minute":60,"concurrent":2,"tokens_per_day":1000,"models":["smollm2:135m"],"priority":-5}"#;
        let limits: Limits = serde_json::from_str(text).expect("limits");
        assert_eq!(serde_json::to_string(&limits).ok().as_deref(), Some(text));
        for wrong in [r#"{"request_per_minute":60}"#, r#"{"concurrent":0}"#, r#"{"models":["a b"]}"#] {
            assert!(serde_json::from_str::<Limits>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_model_is_allowed_by_any_way_to_write_its_name() {
        let limits: Limits = serde_json::from_str(r#"{"models":["llama3.2"]}"#).expect("limits");
        for (name, allowed) in [("LLama3.2:latest", true), ("library/llama3.2", true), ("llama3.2:1b", false)] {
            let name = ModelName::parse(name).expect("a name");
            assert_eq!(limits.allow(&name), allowed, "{name}");
            assert!(Limits::default().allow(&name));
        }
        assert!(
            !serde_json::from_str::<Limits>(r#"{"models":[]}"#)
                .expect("limits")
                .allow(&ModelName::parse("a").expect("a name"))
        );
    }
}
