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
    /// Cohere's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<bool>,
    /// Seed's way to switch it off: a budget of no tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_budget: Option<u32>,
}

impl Switch {
    /// The switch for a family of models, `""` for most.
    #[must_use]
    pub fn new(on: bool, family: &str) -> Self {
        let reasoning = family.starts_with("cohere").then_some(on);
        let thinking_budget = (!on && family.starts_with("seed_oss")).then_some(0);
        Self { enable_thinking: on, thinking: on, reasoning, thinking_budget }
    }
}

/// How families take the levels of Ollama, which the engine passes on to their templates as they are.
struct Efforts {
    /// Beginnings of the families.
    families: &'static [&'static str],
    /// Whether it has the switch as well; the engine refuses it where Mistral's own tokenizer makes the prompt.
    switch: bool,
    /// Whether only those do that name efforts in their template.
    if_template_says: bool,
    /// `false`, `true`, `"low"`, `"medium"`, `"high"`, `"max"`.
    levels: [Option<&'static str>; 6],
}

/// Families that refuse or do not know some of the levels (vLLM 0.32); all others are told what the client said.
const EFFORTS: &[Efforts] = &[
    // Cannot be kept from thinking: false is as little as it can (§6.5).
    Efforts {
        families: &["gpt_oss"],
        switch: false,
        if_template_says: false,
        levels: [Some("low"), None, Some("low"), Some("medium"), Some("high"), Some("high")],
    },
    Efforts {
        families: &["kimi_k3"],
        switch: true,
        if_template_says: false,
        levels: [None, None, Some("low"), Some("high"), Some("high"), Some("max")],
    },
    Efforts {
        families: &["deepseek_v4"],
        switch: true,
        if_template_says: false,
        levels: [None, None, Some("low"), Some("high"), Some("high"), Some("max")],
    },
    // Does not think without an effort.
    Efforts {
        families: &["hy_v"],
        switch: true,
        if_template_says: false,
        levels: [None, Some("high"), Some("low"), Some("high"), Some("high"), Some("high")],
    },
    // Knows `none` and `high`.
    Efforts {
        families: &["mistral", "ministral"],
        switch: false,
        if_template_says: true,
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
    let switch = Switch::new(think.wanted(), &card.family);
    let family = |efforts: &&Efforts| efforts.families.iter().any(|family| card.family.starts_with(family));
    let Some(efforts) = EFFORTS.iter().find(family) else {
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
    // Earlier models of Mistral think by their system prompt alone and refuse efforts.
    let knows = !efforts.if_template_says || card.template_says("reasoning_effort");
    let effort = efforts.levels[place].filter(|_| knows);
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
        let on = Some(Switch::new(true, ""));
        let off = Some(Switch::new(false, ""));
        let none = Some(Switch { thinking_budget: Some(0), ..Switch::new(false, "") });
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
            (Some(Think::On), "ministral3", None, None),
            (Some(Think::Off), "cohere2", Some(Switch { reasoning: Some(false), ..Switch::new(false, "") }), None),
            (Some(Think::Off), "seed_oss", none, None),
            (Some(Think::Level("high")), "seed_oss", on, Some("high")),
        ] {
            assert_eq!(thinking(think, &thinker(family)), Thinking { template, effort }, "{think:?} {family}");
        }
        assert_eq!(thinking(Some(Think::Off), &Card::default()), Thinking::default());
    }

    #[test]
    fn mistrals_are_told_an_effort_where_their_template_knows_one() {
        let card = Card {
            family: "mistral3".to_owned(),
            capabilities: vec![Capability::Completion, Capability::Thinking],
            chat_template: Some("[THINK]{{ reasoning_effort }}".to_owned()),
            ..Card::default()
        };
        let effort = |think| thinking(Some(think), &card).effort;
        assert_eq!(
            [effort(Think::Off), effort(Think::On), effort(Think::Level("low"))],
            [Some("none"), Some("high"), Some("high")]
        );
    }
}
