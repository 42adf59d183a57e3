//! What the configuration file says about one model.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::values;
use crate::model::plan::FrontendWish;

/// What holds for one model, from `[models."NAME"]`; what is not said is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Arguments for `vllm serve`, behind all others.
    pub engine_arguments: Vec<String>,
    /// Variables for its engine, which win over all others.
    pub environment: BTreeMap<String, String>,
    /// Memory it may take: of each of its GPUs, or of main memory.
    pub memory: Option<Size>,
    /// Number of GPUs to split it between.
    pub tensor_parallel: Option<NonZero<u64>>,
    /// Most requests at a time.
    pub concurrency: Option<NonZero<usize>>,
    /// Longest sequence, in tokens.
    pub max_model_len: Option<NonZero<u64>>,
    /// How long it stays loaded when idle, as Ollama writes it.
    pub keep_alive: Option<String>,
    /// How long its engine may give no sign of life while it has requests, as `heartbeat` for all; zero = for ever.
    pub heartbeat: Option<Time>,
    /// vLLM's parser for tool calls, or `none`.
    pub tool_parser: Option<String>,
    /// vLLM's parser for thoughts, or `none`.
    pub reasoning_parser: Option<String>,
    /// Which program answers its engine's requests; `None` = as for all models.
    pub engine_frontend: Option<FrontendWish>,
    /// Whether Python code that comes with the checkpoint may run.
    pub trust_remote_code: bool,
}

/// A time, written as `90s` or as a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Seconds(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Seconds(seconds) => Ok(Self(Duration::from_secs(seconds))),
            Written::Text(text) => values::time(&text).map(Self).ok_or_else(|| {
                serde::de::Error::custom(format!("'{text}' is no time; give seconds, or one such as 90s or 10m"))
            }),
        }
    }
}

/// A size in bytes, written as `20GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let size = text.parse::<bytesize::ByteSize>();
        size.map(|size| Self(size.as_u64()))
            .map_err(|_| serde::de::Error::custom(format!("'{text}' is no size; give one such as 20GiB")))
    }
}
