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

/// `chat_template_kwargs`: the names templates have for the same switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// Qwen's name, and that of most.
    pub enable_thinking: bool,
    /// DeepSeek's and Granite's name.
    pub thinking: bool,
    /// Seed's way to switch it off: a budget of no tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_budget: Option<u32>,
}

/// How families take the levels of Ollama, which the engine passes on to their templates as they are.
struct Efforts {
    /// Beginning of the family.
    family: &'static str,
    /// Whether it has the switch as well; the engine refuses it where Mistral's own tokenizer makes the prompt.
    switch: bool,
    /// `false`, `true`, `"low"`, `"medium"`, `"high"`, `"max"`.
    levels: [Option<&'static str>; 6],
}

/// Families that refuse or do not know some of the levels (vLLM 0.32); all others are told what the client said.
const EFFORTS: &[Efforts] = &[
    // Cannot be kept from thinking: false is as little as it can (§6.5).
    Efforts {
        family: "gpt_oss",
        switch: false,
        levels: [Some("low"), None, Some("low"), Some("medium"), Some("high"), Some("high")],
    },
    Efforts {
        family: "kimi_k3",
        switch: true,
        levels: [None, None, Some("low"), Some("high"), Some("high"), Some("max")],
    },
    Efforts {
        family: "deepseek_v4",
        switch: true,
        levels: [None, None, Some("low"), Some("high"), Some("high"), Some("max")],
    },
    // Does not think without an effort.
    Efforts {
        family: "hy_v",
        switch: true,
        levels: [None, Some("high"), Some("low"), Some("high"), Some("high"), Some("high")],
    },
    // Knows `none` and `high`.
    Efforts {
        family: "mistral",
        switch: false,
        levels: [Some("none"), Some("high"), Some("high"), Some("high"), Some("high"), Some("high")],
    },
];

/// Puts the wish to a model of this card. Models that cannot think are told nothing.
#[must_use]
pub fn thinking(think: Option<Think>, card: &Card) -> Thinking {
    if !card.can(Capability::Thinking) {
        return Thinking::default();
    }
    let think = think.unwrap_or(Think::On);
    let on = think.wanted();
    let thinking_budget = (!on && card.family.starts_with("seed_oss")).then_some(0);
    let switch = Switch { enable_thinking: on, thinking: on, thinking_budget };
    let Some(efforts) = EFFORTS.iter().find(|efforts| card.family.starts_with(efforts.family)) else {
        let effort = if let Think::Level(level) = think { Some(level) } else { None };
        return Thinking { template: Some(switch), effort };
    };
    let place = match think {
        Think::Off => 0,
        Think::On => 1,
        Think::Level("low") => 2,
        Think::Level("medium") => 3,
        Think::Level("high") => 4,
        Think::Level(_) => 5,
    };
    // Earlier models of the family think by their system prompt alone and refuse efforts.
    let effort =
        efforts.levels[place].filter(|_| efforts.family != "mistral" || card.template_says("reasoning_effort"));
    Thinking { template: efforts.switch.then_some(switch), effort }
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
        let on = Some(Switch { enable_thinking: true, thinking: true, thinking_budget: None });
        let off = Some(Switch { enable_thinking: false, thinking: false, thinking_budget: None });
        let none = Some(Switch { enable_thinking: false, thinking: false, thinking_budget: Some(0) });
        for (think, family, template, effort) in [
            (None, "qwen3", on, None),
            (Some(Think::Off), "qwen3", off, None),
            (Some(Think::Level("low")), "qwen3", on, Some("low")),
            (Some(Think::On), "gpt_oss", None, None),
            (Some(Think::Off), "gpt_oss", None, Some("low")),
            (Some(Think::Level("max")), "gpt_oss", None, Some("high")),
            (Some(Think::Level("medium")), "kimi_k3", on, Some("high")),
            (Some(Think::Level("max")), "deepseek_v41", on, Some("max")),
            (Some(Think::Off), "deepseek_v4", off, None),
            (None, "hy_v3", on, Some("high")),
            (Some(Think::On), "mistral3", None, None),
            (Some(Think::Off), "seed_oss", none, None),
            (Some(Think::Level("high")), "seed_oss", on, Some("high")),
        ] {
            assert_eq!(thinking(think, &thinker(family)), Thinking { template, effort }, "{think:?} {family}");
        }
        assert_eq!(thinking(Some(Think::Off), &Card::default()), Thinking::default());
    }
}
