//! How thoughts stand in the text of an answer that no parser of the engine has read.

use super::{Capability, Card};
use crate::model::parsers::{self, Verdict};

/// The tag that opens a thought.
pub const OPENING: &str = "<think>";

/// The tag that closes it.
pub const CLOSING: &str = "</think>";

/// What is known of a model that writes its thoughts between [`OPENING`] and [`CLOSING`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThoughtTags {
    /// Whether the prompt ends with the opening tag, so that the answer begins inside a thought.
    pub opened_by_prompt: bool,
    /// Whether the engine has a parser for them, which reads chats but no completions.
    pub read_by_engine: bool,
}

/// By the chat template; `card` has its capabilities already.
pub(super) fn tags(card: &Card) -> Option<ThoughtTags> {
    if !card.can(Capability::Thinking) || !card.template_says(CLOSING) {
        return None;
    }
    // What a template does with the switch cannot be told without rendering it; those that have one open nothing.
    let opened_by_prompt = !card.template_says("enable_thinking")
        && card.chat_template.as_deref().is_some_and(|template| {
            let prompt = template.rsplit_once("add_generation_prompt").map_or("", |(_, prompt)| prompt);
            prompt.rfind(OPENING) > prompt.rfind(CLOSING)
        });
    let read_by_engine = matches!(parsers::reasoning(card), Verdict::Chosen { .. });
    Some(ThoughtTags { opened_by_prompt, read_by_engine })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags_of(template: &str, tokens: &[&str]) -> Option<(bool, bool)> {
        let card = Card {
            capabilities: vec![Capability::Thinking],
            chat_template: Some(template.into()),
            tokens: Some(tokens.iter().map(|token| (*token).to_owned()).collect()),
            ..Card::default()
        };
        tags(&card).map(|tags| (tags.opened_by_prompt, tags.read_by_engine))
    }

    #[test]
    fn the_template_and_the_tokens_tell_who_reads_thoughts() {
        let both = [OPENING, CLOSING];
        let strips = "{{ content.split('</think>')[-1] }}{% if add_generation_prompt %}";
        assert_eq!(tags_of(&format!("{strips}<assistant>"), &both), Some((false, true)));
        assert_eq!(tags_of(&format!("{strips}<assistant>"), &[]), Some((false, false)));
        assert_eq!(tags_of(&format!("{strips}<assistant><think>\\n"), &both), Some((true, true)));
        assert_eq!(tags_of(&format!("{strips}<think></think>"), &[]), Some((false, false)));
        assert_eq!(tags_of(&format!("{strips}{{% if enable_thinking %}}<think>"), &both), Some((false, true)));
        assert_eq!(tags_of("no tags", &both), None);
        assert_eq!(tags(&Card { chat_template: Some(strips.into()), ..Card::default() }), None);
    }
}
