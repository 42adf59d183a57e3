//! The operator's word about vLLM's parsers, and what it changes about a model: who reads tool calls and thoughts decides
//! what the model can be asked for.

use std::collections::BTreeMap;

use super::{Capability, Card, ModelName};

/// Whether a model's tool calls and thoughts are read by the engine; `None` = as the card says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParserChoice {
    /// Its tool calls.
    pub tools: Option<bool>,
    /// Its thoughts.
    pub thoughts: Option<bool>,
}

/// The choices for single models, by [`ModelName::key`].
#[derive(Clone, Debug, Default)]
pub struct ParserChoices(pub BTreeMap<[String; 4], ParserChoice>);

impl ParserChoices {
    /// Changes what the card says where the operator has chosen.
    pub(super) fn apply(&self, name: &ModelName, card: &mut Card) {
        let Some(choice) = self.0.get(&name.key()).filter(|_| card.can(Capability::Completion)) else { return };
        if let Some(read) = choice.tools {
            card.capabilities.retain(|capability| *capability != Capability::Tools);
            if read {
                // In the order Ollama lists them.
                let behind = |capability: &Capability| matches!(capability, Capability::Insert | Capability::Thinking);
                let place = card.capabilities.iter().position(behind).unwrap_or(card.capabilities.len());
                card.capabilities.insert(place, Capability::Tools);
            }
        }
        if let Some(read) = choice.thoughts {
            if read && !card.can(Capability::Thinking) {
                card.capabilities.push(Capability::Thinking);
            }
            if let Some(tags) = &mut card.thought_tags {
                tags.read_by_engine = read;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::card::ThoughtTags;

    #[test]
    fn what_the_operator_chose_counts_and_other_models_stay_as_they_are() {
        use Capability::{Completion, Embedding, Thinking, Tools};
        let name = ModelName::parse("a").expect("a name");
        let chosen = |tools, thoughts, capabilities: &[Capability]| {
            let choices = ParserChoices([(name.key(), ParserChoice { tools, thoughts })].into());
            let tags = Some(ThoughtTags { opened_by_prompt: false, read_by_engine: true });
            let mut card = Card { capabilities: capabilities.to_vec(), thought_tags: tags, ..Card::default() };
            choices.apply(&name, &mut card);
            (card.capabilities, card.thought_tags.is_some_and(|tags| tags.read_by_engine))
        };
        assert_eq!(chosen(Some(true), None, &[Completion, Thinking]), (vec![Completion, Tools, Thinking], true));
        assert_eq!(chosen(Some(true), None, &[Completion, Tools]), (vec![Completion, Tools], true));
        assert_eq!(
            chosen(Some(false), Some(false), &[Completion, Tools, Thinking]),
            (vec![Completion, Thinking], false)
        );
        assert_eq!(chosen(None, Some(true), &[Completion]), (vec![Completion, Thinking], true));
        assert_eq!(chosen(Some(true), Some(true), &[Embedding]), (vec![Embedding], true));
        let mut card = Card { capabilities: vec![Completion], ..Card::default() };
        ParserChoices::default().apply(&name, &mut card);
        assert_eq!(card.capabilities, [Completion]);
    }
}
