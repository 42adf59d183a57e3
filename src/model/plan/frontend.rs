//! Which program answers an engine's HTTP requests (decision 0031).

use std::borrow::Cow;
use std::str::FromStr;

use super::flags::{Parser, wished};
use super::{Choice, Wishes};
use crate::model::card::Format;
use crate::model::parsers;
use crate::model::{Capability, Card};

/// The variable that turns the Rust frontend on.
pub(super) const SWITCH: &str = "VLLM_USE_RUST_FRONTEND";

/// Tool parsers of the Rust frontend of vLLM 0.32, as it lists them when it is given a wrong one.
const TOOL_PARSERS: &[&str] = &[
    "deepseek_v3",
    "deepseek_v31",
    "deepseek_v32",
    "deepseek_v4",
    "deepseek_v41",
    "gemma4",
    "glm45",
    "glm47",
    "granite4",
    "hermes",
    "hf",
    "hy_v3",
    "hy_v4",
    "inkling",
    "internlm",
    "kimi_k2",
    "kimi_k3",
    "llama3_json",
    "llama4_json",
    "mimo",
    "minimax_m2",
    "minimax_m3",
    "mistral",
    "phi4_mini_json",
    "qwen3_coder",
    "qwen3_json",
    "qwen3_xml",
    "seed_oss",
];

/// Its reasoning parsers.
const REASONING_PARSERS: &[&str] = &[
    "cohere_cmd",
    "deepseek_r1",
    "deepseek_v3",
    "deepseek_v4",
    "deepseek_v41",
    "gemma4",
    "glm45",
    "glm47",
    "hf",
    "hy_v3",
    "hy_v4",
    "inkling",
    "kimi",
    "kimi_k2",
    "kimi_k3",
    "mimo",
    "minimax_m2",
    "minimax_m3",
    "nemotron_v3",
    "qwen3",
    "seed_oss",
    "step3",
    "step3p5",
];

/// The program that answers an engine's HTTP requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Frontend {
    /// vLLM's own in Python, which has every route.
    #[default]
    Python,
    /// `vllm-rs`, a program that comes with vLLM's CUDA build: chat, completions and tokens only.
    Rust,
}

/// Which one the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontendWish {
    /// The faster of those with which no request loses anything.
    #[default]
    Auto,
    /// The one in Python.
    Python,
    /// The one in Rust, for every model that it can serve.
    Rust,
}

/// There is no such frontend; the text that was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is none of python, rust and auto")]
pub struct NoFrontend(String);

impl FromStr for FrontendWish {
    type Err = NoFrontend;

    fn from_str(text: &str) -> Result<Self, NoFrontend> {
        match text {
            "auto" => Ok(Self::Auto),
            "python" => Ok(Self::Python),
            "rust" => Ok(Self::Rust),
            other => Err(NoFrontend(other.to_owned())),
        }
    }
}

/// The frontend for a model, and what a wish that is not met is told.
pub(super) fn choose(card: &Card, wishes: &Wishes) -> (Frontend, Option<Choice>) {
    // The Rust frontend lacks routes that any request may take, so it is never chosen unasked: decision 0031 has the list
    // and the figures.
    if wishes.frontend != FrontendWish::Rust {
        return (Frontend::Python, None);
    }
    match obstacle(card, wishes) {
        None => (Frontend::Rust, None),
        Some(reason) => (Frontend::Python, Some(Choice { name: SWITCH, value: None, more: Vec::new(), reason })),
    }
}

/// Why the Rust frontend cannot serve a model, or not as well.
fn obstacle(card: &Card, wishes: &Wishes) -> Option<Cow<'static, str>> {
    if card.is_pooling() {
        return Some("vLLM's Rust frontend has no routes for embeddings, scores and classes".into());
    }
    if card.format == Format::Mistral {
        return Some("vLLM's Rust frontend does not read Mistral's own files".into());
    }
    if card.can(Capability::Vision) || card.can(Capability::Audio) {
        return Some("vLLM's Rust frontend takes images and sound for some families only".into());
    }
    if wishes.trust_remote_code {
        return Some("vLLM's Rust frontend runs no Python code of a checkpoint".into());
    }
    let without = |kind: &str, parser: &str| Some(format!("vLLM's Rust frontend has no {kind} parser {parser}").into());
    match wished(wishes.tool_parser.as_deref(), parsers::tool(card)) {
        Parser::Some { parser, .. } if !TOOL_PARSERS.contains(&parser.as_str()) => return without("tool", &parser),
        _ => {}
    }
    match wished(wishes.reasoning_parser.as_deref(), parsers::reasoning(card)) {
        Parser::Some { parser, .. } if !REASONING_PARSERS.contains(&parser.as_str()) => without("reasoning", &parser),
        // It would choose one by itself, and vLLM's command line does not take the word that forbids it.
        Parser::None { .. } if wishes.reasoning_parser.is_some() => {
            Some("vLLM's Rust frontend cannot be kept from reading thoughts".into())
        }
        _ => None,
    }
}
