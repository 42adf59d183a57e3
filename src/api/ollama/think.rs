//! `think`: whether a model thinks aloud before it answers, and how long (ollama-api §6.5).

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::ApiError;
use crate::model::{Capability, Card};

const CHOICES: &str = r#""high", "medium", "low", "max", true, or false"#;

/// What a request says about thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Think {
    /// `true`, or nothing said about a model that can think.
    On,
    /// `false`.
    Off,
    /// On, with an effort: `low`, `medium`, `high` or `max`.
    Level(&'static str),
}

impl Think {
    /// Reads the `think` of a request.
    ///
    /// # Errors
    /// [`ApiError::BadThink`] when it is neither a boolean nor a level.
    pub fn parse(raw: &RawValue) -> Result<Self, ApiError> {
        match serde_json::from_str(raw.get()).unwrap_or_default() {
            Value::Bool(true) => Ok(Self::On),
            Value::Bool(false) => Ok(Self::Off),
            Value::String(text) => ["low", "medium", "high", "max"]
                .into_iter()
                .find(|level| *level == text)
                .map(Self::Level)
                .ok_or_else(|| ApiError::BadThink(format!("invalid think value: {text:?} (must be {CHOICES})"))),
            _ => Err(ApiError::BadThink(format!("think must be a boolean or string ({CHOICES})"))),
        }
    }

    /// Whether it asks for thinking, which needs the capability.
    #[must_use]
    pub fn wanted(self) -> bool {
        self != Self::Off
    }
}

/// How a wish about thinking is put to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thinking {
    /// Variables for the chat template. Templates differ in the name; vLLM drops those a template does not use.
    pub template: Option<Switch>,
    /// `reasoning_effort`.
    pub effort: Option<&'static str>,
}

/// `chat_template_kwargs`: the two names templates have for the same switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// Qwen's name.
    pub enable_thinking: bool,
    /// DeepSeek's and Granite's name.
    pub thinking: bool,
}

/// Puts the wish to a model of this card. Models that cannot think are told nothing.
#[must_use]
pub fn thinking(think: Option<Think>, card: &Card) -> Thinking {
    if !card.can(Capability::Thinking) {
        return Thinking::default();
    }
    let think = think.unwrap_or(Think::On);
    let switch = |on| Some(Switch { enable_thinking: on, thinking: on });
    if card.family == "gpt_oss" {
        // gpt-oss knows three efforts and cannot be kept from thinking.
        let effort = match think {
            Think::Level("max") => Some("high"),
            Think::Level(level) => Some(level),
            Think::On | Think::Off => None,
        };
        return Thinking { template: None, effort };
    }
    match think {
        Think::On => Thinking { template: switch(true), effort: None },
        Think::Off => Thinking { template: switch(false), effort: None },
        Think::Level(level) => Thinking { template: switch(true), effort: Some(level) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Think, String> {
        let raw = RawValue::from_string(json.to_owned()).expect("the test's JSON");
        Think::parse(&raw).map_err(|error| error.to_string())
    }

    #[test]
    fn booleans_and_levels_are_read_and_the_rest_is_refused() {
        assert_eq!(parsed("true"), Ok(Think::On));
        assert_eq!(parsed("false"), Ok(Think::Off));
        assert_eq!(parsed(r#""max""#), Ok(Think::Level("max")));
        let invalid = r#"invalid think value: "x" (must be "high", "medium", "low", "max", true, or false)"#;
        assert_eq!(parsed(r#""x""#), Err(invalid.to_owned()));
        let other = r#"think must be a boolean or string ("high", "medium", "low", "max", true, or false)"#;
        assert_eq!(parsed("3"), Err(other.to_owned()));
    }

    #[test]
    fn a_wish_is_put_in_the_words_of_the_model() {
        let thinker = |family: &str| Card {
            family: family.to_owned(),
            capabilities: vec![Capability::Completion, Capability::Thinking],
            ..Card::default()
        };
        let on = Some(Switch { enable_thinking: true, thinking: true });
        let off = Some(Switch { enable_thinking: false, thinking: false });
        for (think, family, template, effort) in [
            (None, "qwen3", on, None),
            (Some(Think::Off), "qwen3", off, None),
            (Some(Think::Level("low")), "qwen3", on, Some("low")),
            (Some(Think::On), "gpt_oss", None, None),
            (Some(Think::Off), "gpt_oss", None, None),
            (Some(Think::Level("max")), "gpt_oss", None, Some("high")),
        ] {
            assert_eq!(thinking(think, &thinker(family)), Thinking { template, effort }, "{think:?} {family}");
        }
        assert_eq!(thinking(Some(Think::Off), &Card::default()), Thinking::default());
    }
}
