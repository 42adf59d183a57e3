//! Who reads a model's tool calls and thoughts, where that is not as its card says, and what it changes about the model: it
//! decides what the model can be asked for.

use std::collections::BTreeMap;

use super::{Capability, Card, ModelName};

/// Whether a model's tool calls and thoughts are read by the engine; `None` = as the card says. The operator chooses it, or
/// a plan that failed has given a parser up ([`super::plan::Plan::given_up`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParserChoice {
    /// Its tool calls.
    pub tools: Option<bool>,
    /// Its thoughts.
    pub thoughts: Option<bool>,
}

impl ParserChoice {
    /// Changes what the card of a model that writes text says.
    pub fn apply(self, card: &mut Card) {
        if !card.can(Capability::Completion) {
            return;
        }
        if let Some(read) = self.tools {
            card.capabilities.retain(|capability| *capability != Capability::Tools);
            if read {
                // In the order Ollama lists them.
                let behind = |capability: &Capability| matches!(capability, Capability::Insert | Capability::Thinking);
                let place = card.capabilities.iter().position(behind).unwrap_or(card.capabilities.len());
                card.capabilities.insert(place, Capability::Tools);
            }
        }
        if let Some(read) = self.thoughts {
            if read && !card.can(Capability::Thinking) {
                card.capabilities.push(Capability::Thinking);
            }
            if let Some(tags) = &mut card.thought_tags {
                tags.read_by_engine = read;
            }
        }
    }
}

/// The choices for single models, by [`ModelName::key`].
#[derive(Clone, Debug, Default)]
pub struct ParserChoices(pub BTreeMap<[String; 4], ParserChoice>);

impl ParserChoices {
    /// Changes what the card says where the operator has chosen.
    pub(super) fn apply(&self, name: &ModelName, card: &mut Card) {
        if let Some(choice) = self.0.get(&name.key()) {
            choice.apply(card);
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
