//! `thinking` and `output_config.effort` (ollama-api §11), put in the words of the model.
//!
//! As in Ollama the budget does not count: vLLM refuses one that is small, that is more than `max_tokens`, or that the
//! model's parser cannot keep to. Models that cannot think are told nothing of it: Claude Code always asks.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::members::{Members, said};
use crate::api::ollama::json::Text;
use crate::api::ollama::think::{Think, thinking};
use crate::model::{Capability, Card};

#[derive(Deserialize)]
struct Thinking<'a> {
    #[serde(borrow, default)]
    r#type: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct OutputConfig<'a> {
    #[serde(borrow, default)]
    effort: Option<&'a RawValue>,
}

/// What is to be changed.
#[derive(Debug, Default)]
pub struct Change<'a> {
    /// The request's `thinking` is to be `null`.
    pub silenced: bool,
    /// `chat_template_kwargs`, where the request has none; JSON.
    pub template: Option<Vec<u8>>,
    /// The effort, where it stands, and the one the model knows; JSON.
    pub effort: Option<(&'a RawValue, &'static [u8])>,
}

/// Decides what is to be changed for a model of this card.
#[must_use]
pub fn change<'a>(members: &Members<'a>, card: &Card) -> Change<'a> {
    let asked = said(members.thinking);
    if !card.can(Capability::Thinking) {
        return Change { silenced: asked.is_some(), ..Change::default() };
    }
    let kind = asked.and_then(|raw| serde_json::from_str::<Thinking>(raw.get()).ok()).and_then(|asked| asked.r#type);
    let off = kind.as_deref() == Some("disabled");
    let think = if off { Think::Off } else { Think::On };
    let template = thinking(Some(think), card).template.filter(|_| said(members.chat_template_kwargs).is_none());
    Change {
        // vLLM knows by itself what keeps a model from thinking.
        silenced: asked.is_some() && !off,
        template: template.and_then(|switch| serde_json::to_vec(&switch).ok()),
        effort: effort(members, card),
    }
}

/// gpt-oss knows three efforts, and vLLM refuses others.
fn effort<'a>(members: &Members<'a>, card: &Card) -> Option<(&'a RawValue, &'static [u8])> {
    let config: OutputConfig = serde_json::from_str(said(members.output_config)?.get()).ok()?;
    let effort = config.effort.filter(|_| card.family == "gpt_oss")?;
    matches!(effort.get(), r#""xhigh""# | r#""max""#).then_some((effort, br#""high""#))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thinker(family: &str) -> Card {
        let capabilities = vec![Capability::Completion, Capability::Thinking];
        Card { family: family.to_owned(), capabilities, ..Card::default() }
    }

    fn decided(body: &str, card: &Card) -> (bool, Option<String>, Option<String>) {
        let members = Members::read(body.as_bytes()).expect("members");
        let Change { silenced, template, effort } = change(&members, card);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (silenced, template.as_deref().map(text), effort.map(|(_, effort)| text(effort)))
    }

    const ENABLED: &str = r#"{"thinking":{"type":"enabled","budget_tokens":31999}}"#;

    #[test]
    fn a_model_that_cannot_think_is_told_nothing() {
        let card = Card { capabilities: vec![Capability::Completion], ..Card::default() };
        for kind in ["enabled", "disabled", "adaptive", "brand_new"] {
            let body = format!(r#"{{"thinking":{{"type":"{kind}"}}}}"#);
            assert_eq!(decided(&body, &card), (true, None, None));
        }
        assert_eq!(decided(r#"{"thinking":null}"#, &card), (false, None, None));
        assert_eq!(decided("{}", &card), (false, None, None));
    }

    #[test]
    fn a_model_that_thinks_does_unless_it_is_told_not_to() {
        let on = Some(r#"{"enable_thinking":true,"thinking":true}"#.to_owned());
        let off = Some(r#"{"enable_thinking":false,"thinking":false}"#.to_owned());
        let card = thinker("qwen3");
        assert_eq!(decided(ENABLED, &card), (true, on.clone(), None));
        assert_eq!(decided("{}", &card), (false, on.clone(), None));
        assert_eq!(decided(r#"{"thinking":{"type":"adaptive"}}"#, &card), (true, on, None));
        assert_eq!(decided(r#"{"thinking":{"type":"disabled"}}"#, &card), (false, off, None));
        let own = r#"{"chat_template_kwargs":{"enable_thinking":false}}"#;
        assert_eq!(decided(own, &card), (false, None, None));
    }

    #[test]
    fn gpt_oss_gets_an_effort_it_knows() {
        let card = thinker("gpt_oss");
        for (effort, known) in [("max", Some("\"high\"")), ("xhigh", Some("\"high\"")), ("low", None)] {
            let body = format!(r#"{{"output_config":{{"effort":"{effort}"}}}}"#);
            assert_eq!(decided(&body, &card), (false, None, known.map(str::to_owned)));
        }
        assert_eq!(decided(r#"{"output_config":{"effort":"max"}}"#, &thinker("qwen3")).2, None);
    }
}
