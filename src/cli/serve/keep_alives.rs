//! How long idle models stay loaded, as the operator wants it: for all, and for single ones.

use std::collections::BTreeMap;

use crate::api::ollama::keep_alive;
use crate::cli::problem::Problem;
use crate::config::Config;
use crate::model::ModelName;
use crate::scheduler::KeepAlive;

/// The keep-alive of models whose requests name none.
pub(super) struct KeepAlives {
    /// Where nothing is said of a model.
    default: KeepAlive,
    /// By the key of the name.
    models: BTreeMap<[String; 4], KeepAlive>,
}

impl KeepAlives {
    /// Reads them all, so that a mistake is told at the start.
    pub(super) fn read(config: &Config) -> Result<Self, Problem> {
        let parse = |text: &String| {
            keep_alive::parse_setting(text).map_err(|error| {
                let what = format!("cannot keep models alive for '{text}'");
                Problem::new(what, error, "give keep_alive or OLLAMA_KEEP_ALIVE as 5m, 300 or -1")
            })
        };
        let own = config.settings_by_model.iter();
        let own = own.filter_map(|(name, settings)| Some((name.clone(), settings.keep_alive.as_ref()?)));
        Ok(Self {
            default: config.keep_alive.as_ref().map_or(Ok(KeepAlive::Forever), parse)?,
            models: own.map(|(name, text)| Ok((name, parse(text)?))).collect::<Result<_, Problem>>()?,
        })
    }

    /// That of one model.
    pub(super) fn of(&self, model: &ModelName) -> KeepAlive {
        self.models.get(&model.key()).copied().unwrap_or(self.default)
    }
}
