//! Changes of a plan that failed: one choice of it is made anew, so that the next start does not fail the same way.
//!
//! A change says what it found and what it puts there. It holds only where it finds the same again, so a plan that has
//! come out otherwise since, because the operator has changed a setting, is left alone.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::frontend::Frontend;
use super::{Choice, Device, Plan};
use crate::model::ParserChoice;

/// Memory of each GPU, as the share of it that an engine takes.
const SHARE: &str = "--gpu-memory-utilization";
/// GiB of cache on the CPU.
const CPU_CACHE: &str = "VLLM_CPU_KVCACHE_SPACE";
const LENGTH: &str = "--max-model-len";
const TOOL_PARSER: &str = "--tool-call-parser";
const TOOL_CHOICE: &str = "--enable-auto-tool-choice";
const REASONING_PARSER: &str = "--reasoning-parser";
const STEP: &str = "--max-num-batched-tokens";
const REQUESTS: &str = "--max-num-seqs";
const NO_PEERS: &str = "NCCL_P2P_DISABLE";
const NO_ALL_REDUCE: &str = "--disable-custom-all-reduce";

/// Most tokens in a step, and most requests, of an engine that is short of memory to work in.
const SMALL: (u32, usize) = (2048, 32);

/// What of a plan a failure can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lever {
    /// Share of each GPU: `0.85`.
    Share,
    /// GiB of key/value cache on the CPU.
    CpuCache,
    /// Longest sequence in tokens, or `auto`.
    Length,
    /// Whose tool calls the engine reads, or `none`.
    ToolParser,
    /// Whose thoughts the engine reads, or `none`.
    ReasoningParser,
    /// Whether GPUs write into each other's memory: `on` or `off`.
    PeerToPeer,
    /// Tokens in a step: `default` or a number.
    Steps,
}

impl Lever {
    /// The variable by which it is told to the engine, where it is one.
    #[must_use]
    pub fn variable(self) -> Option<&'static str> {
        match self {
            Self::CpuCache => Some(CPU_CACHE),
            Self::PeerToPeer => Some(NO_PEERS),
            _ => None,
        }
    }

    /// What people read.
    fn label(self) -> &'static str {
        match self {
            Self::Share => "share of the GPU",
            Self::CpuCache => "key/value cache",
            Self::Length => "context",
            Self::ToolParser => "tool parser",
            Self::ReasoningParser => "reasoning parser",
            Self::PeerToPeer => "peer-to-peer between GPUs",
            Self::Steps => "tokens in a step",
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is changed.
    pub lever: Lever,
    /// What was found.
    pub from: String,
    /// What is there now.
    pub to: String,
    /// The failure that it answers, by its identifier.
    pub failure: String,
    /// Why, for people.
    pub reason: String,
    /// Whether it was for that moment only, as when somebody else held the memory; it is not remembered.
    #[serde(skip)]
    pub passing: bool,
}

impl Change {
    /// In a line, for people: `context 100000 → auto: …`.
    #[must_use]
    pub fn describe(&self) -> String {
        let unit = if self.lever == Lever::CpuCache { " GiB" } else { "" };
        format!("{} {}{unit} → {}{unit}: {}", self.lever.label(), self.from, self.to, self.reason)
    }
}

impl Plan {
    /// What the plan has there now; `None` where it has nothing that may be changed: it does not apply, or the operator has
    /// said it verbatim.
    #[must_use]
    pub fn lever(&self, lever: Lever) -> Option<String> {
        let gpu = self.device == Device::Cuda;
        match lever {
            Lever::Share if gpu => self.open_flag(SHARE)?,
            Lever::CpuCache if !gpu => self.open_variable(CPU_CACHE)?,
            // An embedding model has its own length where nothing is said.
            Lever::Length => Some(self.open_flag(LENGTH)?.unwrap_or_else(|| "its own".to_owned())),
            Lever::ToolParser => self.open_flag(TOOL_PARSER)?.filter(|parser| parser != "none"),
            Lever::ReasoningParser => self.open_flag(REASONING_PARSER)?,
            Lever::PeerToPeer if gpu && self.gpus > 1 => {
                Some(if self.open_variable(NO_PEERS)?.is_some() { "off" } else { "on" }.to_owned())
            }
            Lever::Steps if gpu => Some(self.open_flag(STEP)?.unwrap_or_else(|| "default".to_owned())),
            _ => None,
        }
    }

    /// The same plan with this change; as it was where the change does not find what it is for.
    #[must_use]
    pub fn changed(mut self, change: &Change) -> Self {
        if self.lever(change.lever).as_ref() != Some(&change.from) {
            return self;
        }
        let reason = format!("{} (was {})", change.reason, change.from);
        match change.lever {
            Lever::Share => {
                self.set_flag(SHARE, Some(&change.to), reason);
                self.scale_memory(&change.from, &change.to);
            }
            Lever::CpuCache => {
                self.set_variable(CPU_CACHE, &change.to, reason);
                if self.memory.cache > 0 {
                    self.memory.cache = change.to.parse::<u64>().unwrap_or_default() << 30;
                }
            }
            Lever::Length => self.set_flag(LENGTH, Some(&change.to), reason),
            Lever::ToolParser => {
                self.leave_out(TOOL_CHOICE, None);
                self.leave_out(TOOL_PARSER, Some(reason));
                if self.frontend == Frontend::Rust {
                    let why = "left alone, the Rust frontend chooses one by the model's name".to_owned();
                    self.set_flag(TOOL_PARSER, Some("none"), why);
                }
            }
            Lever::ReasoningParser => self.leave_out(REASONING_PARSER, Some(reason)),
            Lever::PeerToPeer => {
                self.set_variable(NO_PEERS, "1", reason.clone());
                self.set_flag(NO_ALL_REDUCE, None, reason);
            }
            Lever::Steps => {
                let (_, requests) = SMALL;
                self.set_flag(STEP, Some(&change.to), reason.clone());
                self.concurrency = self.concurrency.min(requests);
                self.set_flag(REQUESTS, Some(&self.concurrency.to_string()), reason);
            }
        }
        self.changes.push(change.clone());
        self
    }

    /// What changes have taken from the engine: what it does not read any more, although the card says that it does.
    #[must_use]
    pub fn given_up(&self) -> ParserChoice {
        let gave_up = |lever| self.changes.iter().any(|change| change.lever == lever).then_some(false);
        ParserChoice { tools: gave_up(Lever::ToolParser), thoughts: gave_up(Lever::ReasoningParser) }
    }

    /// Tokens in a step of an engine that is short of memory.
    #[must_use]
    pub const fn small_step() -> u32 {
        SMALL.0
    }

    /// A flag's value, if it is there, as long as nobody has said it verbatim.
    #[expect(clippy::option_option, reason = "not ours, ours but absent, ours and there")]
    fn open_flag(&self, name: &str) -> Option<Option<String>> {
        let theirs = |argument: &String| {
            argument.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        if self.extra_arguments.iter().any(theirs) {
            return None;
        }
        Some(self.flags.iter().find(|flag| flag.name == name).map(|flag| flag.value.clone().unwrap_or_default()))
    }

    /// The same of a variable.
    #[expect(clippy::option_option, reason = "not ours, ours but absent, ours and there")]
    fn open_variable(&self, name: &str) -> Option<Option<String>> {
        if self.extra_environment.iter().any(|(theirs, _)| theirs == name) {
            return None;
        }
        let found = self.environment.iter().find(|choice| choice.name == name);
        Some(found.map(|choice| choice.value.clone().unwrap_or_default()))
    }

    fn set_flag(&mut self, name: &'static str, value: Option<&str>, reason: String) {
        self.left_out.retain(|choice| choice.name != name);
        set(&mut self.flags, name, value, reason);
    }

    fn set_variable(&mut self, name: &'static str, value: &str, reason: String) {
        set(&mut self.environment, name, Some(value), reason);
    }

    fn leave_out(&mut self, name: &'static str, reason: Option<String>) {
        self.flags.retain(|flag| flag.name != name);
        if let Some(reason) = reason {
            self.left_out.push(Choice { name, value: None, more: Vec::new(), reason: reason.into() });
        }
    }

    /// What is taken of a GPU goes with its share; weights and overhead stay, so the cache gives way.
    fn scale_memory(&mut self, from: &str, to: &str) {
        let (Ok(from), Ok(to)) = (from.parse::<f64>(), to.parse::<f64>()) else { return };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an estimate"
        )]
        let total = (self.memory.total() as f64 * to / from.max(0.01)) as u64;
        self.memory.cache = total.saturating_sub(self.memory.weights + self.memory.overhead);
    }
}

/// Puts a choice in the place of the one with its name, or at the end.
fn set(choices: &mut Vec<Choice>, name: &'static str, value: Option<&str>, reason: String) {
    let value = value.map(str::to_owned);
    let choice = Choice { name, value, more: Vec::new(), reason: Cow::Owned(reason) };
    match choices.iter_mut().find(|present| present.name == name) {
        Some(present) => *present = choice,
        None => choices.push(choice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::{Memory, sample};

    fn plan() -> Plan {
        let choices = [(LENGTH, "100000"), (SHARE, "0.80"), (TOOL_PARSER, "hermes"), (REASONING_PARSER, "qwen3")];
        let mut plan = sample::plan(Device::Cuda, 2, &choices);
        plan.flags.push(sample::choice(TOOL_CHOICE, None));
        Plan { memory: Memory { weights: 30, cache: 40, overhead: 10 }, ..plan }
    }

    fn change(lever: Lever, from: &str, to: &str) -> Change {
        Change {
            lever,
            from: from.into(),
            to: to.into(),
            failure: "a_failure".into(),
            reason: "it failed".into(),
            passing: false,
        }
    }

    fn flag(plan: &Plan, name: &str) -> Option<String> {
        plan.flags.iter().find(|flag| flag.name == name).map(|flag| flag.value.clone().unwrap_or_default())
    }

    #[test]
    fn each_lever_moves_what_it_names_and_says_why() {
        let changed = plan().changed(&change(Lever::Length, "100000", "auto"));
        assert_eq!(flag(&changed, LENGTH).as_deref(), Some("auto"));
        assert_eq!(changed.flags[0].reason, "it failed (was 100000)");
        let changed = plan().changed(&change(Lever::Share, "0.80", "0.70"));
        assert_eq!(flag(&changed, SHARE).as_deref(), Some("0.70"));
        assert_eq!(changed.memory, Memory { weights: 30, cache: 30, overhead: 10 });
        let changed = plan().changed(&change(Lever::ToolParser, "hermes", "none"));
        assert_eq!((flag(&changed, TOOL_PARSER), flag(&changed, TOOL_CHOICE)), (None, None));
        assert_eq!(changed.left_out[0].name, TOOL_PARSER);
        assert_eq!(changed.given_up(), ParserChoice { tools: Some(false), thoughts: None });
        let changed = plan().changed(&change(Lever::ReasoningParser, "qwen3", "none"));
        assert_eq!(flag(&changed, REASONING_PARSER), None);
        assert_eq!(changed.given_up(), ParserChoice { tools: None, thoughts: Some(false) });
        let changed = plan().changed(&change(Lever::PeerToPeer, "on", "off"));
        assert_eq!(changed.lever(Lever::PeerToPeer).as_deref(), Some("off"));
        assert_eq!(flag(&changed, NO_ALL_REDUCE).as_deref(), Some(""));
        let changed = plan().changed(&change(Lever::Steps, "default", "2048"));
        assert_eq!((flag(&changed, STEP).as_deref(), flag(&changed, REQUESTS).as_deref()), (Some("2048"), Some("32")));
        assert_eq!(changed.concurrency, 32);
    }

    #[test]
    fn a_change_that_finds_something_else_changes_nothing() {
        for change in [
            change(Lever::Length, "50000", "auto"),
            change(Lever::ToolParser, "mistral", "none"),
            change(Lever::CpuCache, "4", "2"),
        ] {
            assert_eq!(plan().changed(&change), plan(), "{change:?}");
        }
    }

    #[test]
    fn what_the_operator_said_verbatim_is_not_ours_to_change() {
        for argument in ["--max-model-len", "--max-model-len=7"] {
            let theirs = Plan { extra_arguments: vec![argument.to_owned(), "7".to_owned()], ..plan() };
            assert_eq!(theirs.lever(Lever::Length), None, "{argument}");
        }
        let theirs = Plan { extra_arguments: vec!["--max-model-length-of-mine".to_owned()], ..plan() };
        assert_eq!(theirs.lever(Lever::Length).as_deref(), Some("100000"));
        let theirs = Plan { extra_environment: vec![(NO_PEERS.to_owned(), "0".to_owned())], ..plan() };
        assert_eq!(theirs.lever(Lever::PeerToPeer), None);
    }

    #[test]
    fn a_change_is_read_as_a_line() {
        let line = change(Lever::CpuCache, "4", "2").describe();
        assert_eq!(line, "key/value cache 4 GiB → 2 GiB: it failed");
    }
}
