//! `thinking` and `output_config.effort` (ollama-api §11), put in the words of the model.
//!
//! As in Ollama the budget does not count: vLLM refuses one that is small, that is more than `max_tokens`, or that the
//! model's parser cannot keep to. Models that cannot think are told nothing of it: Claude Code always asks.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::json::json;
use crate::api::ollama::json::Text;
use crate::api::ollama::think::{Think, thinking};
use crate::api::pass::Request;
use crate::model::{Capability, Card};

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow, default)]
    r#type: Option<Text<'a>>,
}

/// Puts what a request says about thinking to a model of this card.
pub fn put(request: &mut Request, card: &Card) {
    let asked = request.member("thinking");
    let kind = asked.and_then(|json| serde_json::from_str::<Asked>(json).ok()).and_then(|asked| asked.r#type);
    let off = kind.as_deref() == Some("disabled");
    let thinks = card.can(Capability::Thinking);
    // vLLM knows by itself what keeps a model from thinking.
    let silenced = asked.is_some() && !(thinks && off);
    if silenced {
        request.set("thinking", b"null");
    }
    if !thinks {
        return;
    }
    let think = if off { Think::Off } else { Think::On };
    // Whoever sends variables for the template knows it better.
    if let Some(switch) = thinking(Some(think), card).template
        && request.member("chat_template_kwargs").is_none()
    {
        request.set("chat_template_kwargs", json(&switch).as_bytes());
    }
    if card.family == "gpt_oss" {
        limit_effort(request);
    }
}

/// gpt-oss knows three efforts, and vLLM refuses others.
fn limit_effort(request: &mut Request) {
    let config = request.member("output_config");
    let Some(mut config) = config.and_then(|json| serde_json::from_str::<Map<String, Value>>(json).ok()) else {
        return;
    };
    if matches!(config.get("effort").and_then(Value::as_str), Some("xhigh" | "max")) {
        config.insert("effort".to_owned(), Value::from("high"));
        request.set("output_config", json(&config).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn told(body: &str, card: &Card) -> String {
        let body = format!(r#"{{"model":"m"{body}}}"#);
        let mut request = Request::of(Bytes::from(body)).expect("a request");
        put(&mut request, card);
        String::from_utf8(request.spliced("m").to_vec()).expect("text")
    }

    fn thinker(family: &str) -> Card {
        let capabilities = vec![Capability::Completion, Capability::Thinking];
        Card { family: family.to_owned(), capabilities, ..Card::default() }
    }

    const ON: &str = r#"{"chat_template_kwargs":{"enable_thinking":true,"thinking":true},"model":"m""#;
    const OFF: &str = r#"{"chat_template_kwargs":{"enable_thinking":false,"thinking":false},"model":"m""#;

    #[test]
    fn a_model_that_cannot_think_is_told_nothing() {
        let card = Card { capabilities: vec![Capability::Completion], ..Card::default() };
        for kind in ["enabled", "disabled", "adaptive", "brand_new"] {
            let body = format!(r#","thinking":{{"type":"{kind}"}}"#);
            assert_eq!(told(&body, &card), r#"{"model":"m","thinking":null}"#);
        }
        assert_eq!(told("", &card), r#"{"model":"m"}"#);
    }

    #[test]
    fn a_model_that_thinks_does_unless_it_is_told_not_to() {
        let card = thinker("qwen3");
        assert_eq!(told("", &card), format!("{ON}}}"));
        for asked in [r#"{"type":"enabled","budget_tokens":31999}"#, r#"{"type":"adaptive"}"#, r#"{"type":"new"}"#] {
            assert_eq!(told(&format!(r#","thinking":{asked}"#), &card), format!(r#"{ON},"thinking":null}}"#));
        }
        let disabled = r#","thinking":{"type":"disabled"}"#;
        assert_eq!(told(disabled, &card), format!("{OFF}{disabled}}}"));
        let own = r#","chat_template_kwargs":{"enable_thinking":false}"#;
        assert_eq!(told(own, &card), format!(r#"{{"model":"m"{own}}}"#));
    }

    #[test]
    fn gpt_oss_gets_an_effort_it_knows() {
        let body = |effort: &str| format!(r#","output_config":{{"effort":"{effort}","format":null}}"#);
        for (asked, known) in [("max", "high"), ("xhigh", "high"), ("low", "low")] {
            assert_eq!(told(&body(asked), &thinker("gpt_oss")), format!(r#"{{"model":"m"{}}}"#, body(known)));
        }
        assert!(told(&body("max"), &thinker("qwen3")).contains(r#""effort":"max""#));
    }
}
