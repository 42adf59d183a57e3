//! What engines do not read although their models' cards say so: a change of the plan has taken the parser away
//! (decision 0041).

use std::sync::Arc;

use tokio::sync::watch;

use super::book::Member;
use super::factory::Factory;
use super::remedies::{self, Known};
use crate::model::plan::Lever;
use crate::model::{Installed, ParserChoice};

/// Knows it of engines that there are, and of those that there were.
#[derive(Clone, Debug)]
pub(super) struct GivenUp {
    pub members: watch::Receiver<Arc<[Member]>>,
    pub known: watch::Receiver<Arc<Known>>,
    pub factory: Arc<Factory>,
}

impl GivenUp {
    /// What the model's engine does not read, as far as is known now.
    pub(super) fn of(&self, model: &Installed) -> ParserChoice {
        let (members, known) = (self.members.borrow().clone(), self.known.borrow().clone());
        // Every request asks, and hardly ever is there anything.
        if known.is_empty() && members.iter().all(|member| member.given_up == ParserChoice::default()) {
            return ParserChoice::default();
        }
        let key = model.engine_key();
        if let Some(member) = members.iter().find(|member| *member.key == *key) {
            return member.given_up;
        }
        let key = remedies::key(&key, &self.factory.hardware, &self.factory.engine_version);
        let concerns_parsers = |lever| matches!(lever, Lever::ToolParser | Lever::ReasoningParser);
        let remembered = known.get(&key).filter(|remedy| remedy.levers().any(concerns_parsers));
        // Whether it holds still depends on what the operator says now.
        remembered
            .map(|remedy| remedy.apply((self.factory.plan)(&model.manifest.name, model)).given_up())
            .unwrap_or_default()
    }
}
