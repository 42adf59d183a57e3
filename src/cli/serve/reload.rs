//! What may change while vllama serves: the configuration is read again, and what is in it holds from then on, or, when
//! anything in it cannot be used, nothing changes.

use std::sync::Arc;

use tokio::sync::watch;

use super::descriptors::Shares;
use super::keep_alives::KeepAlives;
use super::keys::Keys;
use super::{limits, server_settings};
use crate::cli::problem::Problem;
use crate::config::{self, Config, Verb};
use crate::scheduler::Scheduler;
use crate::server;
use crate::telemetry::logs;

/// What the operator wants now.
pub(super) struct Wanted {
    /// All settings.
    pub config: Config,
    /// How long idle models stay.
    pub keep_alives: KeepAlives,
}

impl Wanted {
    /// Reads what depends on several settings.
    pub(super) fn new(config: Config) -> Result<Self, Problem> {
        Ok(Self { keep_alives: KeepAlives::read(&config)?, config })
    }
}

/// A setting, as text, to see whether it has changed.
type Shown = fn(&Config) -> String;

/// Settings that hold until the next start: whoever depends on them was made from them.
const FIXED: [(&str, Shown); 15] = [
    ("host", |config| config.listen.to_string()),
    ("metrics-listen", |config| format!("{:?}", config.metrics_listen)),
    ("otlp", |config| format!("{:?}", config.otlp)),
    ("models-dir", |config| config.models.display().to_string()),
    ("base-models-dir", |config| config.base_models.display().to_string()),
    ("state-dir", |config| config.state.display().to_string()),
    ("run-dir", |config| config.run.display().to_string()),
    ("engine", |config| config.engine.display().to_string()),
    ("gpu-helper", |config| format!("{:?}", config.gpu_helper)),
    ("memory-budget", |config| format!("{:?}", config.memory_budget)),
    ("max-connections", |config| config.max_connections.to_string()),
    ("keys", |config| format!("{:?}", config.keys)),
    ("replays", |config| config.replays.to_string()),
    ("context-length", |config| format!("{:?}", config.context_length)),
    ("log-format", |config| config.json_logs.to_string()),
];

/// Settings that hold at once, or from the next start of an engine on.
const LIVE: [(&str, Shown); 20] = [
    ("log", |config| config.log.to_string()),
    ("origins", |config| config.origins.join(",")),
    ("max-queue", |config| config.max_queue.to_string()),
    ("max-loaded-models", |config| config.max_loaded.to_string()),
    ("max-wait", |config| format!("{:?}", config.max_wait)),
    ("min-residence", |config| format!("{:?}", config.min_residence)),
    ("streams-per-client", |config| config.streams_per_client.to_string()),
    ("patience", |config| format!("{:?}", config.patience)),
    ("stall-timeout", |config| format!("{:?}", config.stall_limit)),
    ("max-body", |config| config.body_limit.to_string()),
    ("max-blob", |config| config.blob_limit.to_string()),
    ("keep-alive", |config| format!("{:?}", config.keep_alive)),
    ("drain", |config| format!("{:?}", config.drain)),
    ("start-timeout", |config| format!("{:?}", config.start_limit)),
    ("stop-timeout", |config| format!("{:?}", config.stop_limit)),
    ("heartbeat", |config| format!("{:?}", config.heartbeat)),
    ("engine-args", |config| format!("{:?}", config.engine_arguments)),
    ("engine-frontend", |config| format!("{:?}", config.engine_frontend)),
    ("cpu-cache", |config| format!("{:?}", config.cpu_cache_gib)),
    ("models", |config| format!("{:?}", config.settings_by_model)),
];

/// The names of those that differ.
fn differing(settings: &[(&'static str, Shown)], one: &Config, other: &Config) -> Vec<&'static str> {
    settings.iter().filter(|(_, shown)| shown(one) != shown(other)).map(|(name, _)| *name).collect()
}

/// Reads the configuration again, and makes it hold.
pub(super) struct Reload {
    /// As it was at the start: fixed settings hold.
    pub started: Config,
    /// Descriptors, as they were divided up at the start.
    pub shares: Shares,
    /// What holds now.
    pub wanted: watch::Sender<Arc<Wanted>>,
    /// The server's part of it.
    pub server: watch::Sender<Arc<server::Settings>>,
    /// Gets its part, too.
    pub scheduler: Scheduler,
    /// The keys, where they are asked for.
    pub keys: Option<Arc<Keys>>,
}

impl Reload {
    /// Does it, and logs what has come of it. Reads a file, so it may block for a moment.
    pub(super) fn reload(&self) {
        if let Some(keys) = &self.keys {
            keys.look();
        }
        let wanted = match read_again() {
            Ok(wanted) => wanted,
            Err(why) => {
                tracing::error!("the configuration cannot be used, and nothing changes: {why}");
                return;
            }
        };
        logs::set_filter(wanted.config.log.clone());
        let changed = differing(&LIVE, &self.wanted.borrow().config, &wanted.config);
        let fixed = differing(&FIXED, &self.started, &wanted.config);
        self.server.send_replace(Arc::new(server_settings(&wanted.config, self.keys.as_deref(), self.shares)));
        let limits = limits(&wanted.config);
        self.wanted.send_replace(Arc::new(wanted));
        // Last: it asks for the keep-alive of each model anew.
        self.scheduler.set_limits(limits);
        tracing::info!(changed = changed.join(", "), "the configuration has been read again");
        if !fixed.is_empty() {
            tracing::warn!(
                settings = fixed.join(", "),
                "changed settings that hold from the next start of vllama on; restart it"
            );
        }
    }
}

fn read_again() -> Result<Wanted, String> {
    match config::parse(std::env::args_os(), config::environment()) {
        Ok(Verb::Serve(config)) => Wanted::new(*config).map_err(|problem| problem.to_string()),
        // The command line was one for `serve` at the start.
        Ok(_) => Err("the command line has changed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_is_known_to_change_or_not_to() {
        // The file itself is named by `config`, and `models` is no flag.
        let known: BTreeSet<_> = FIXED.iter().chain(&LIVE).map(|(name, _)| *name).chain(["config"]).collect();
        let all: BTreeSet<_> = config::SETTINGS.iter().map(|setting| setting.flag).chain(["models"]).collect();
        assert_eq!(known, all);
    }

    #[test]
    fn the_settings_that_wait_for_a_restart_are_those_that_the_document_names() {
        let text = include_str!("../../../docs/configuration.md");
        let (_, rest) = text.split_once("<!-- fixed -->").expect("the document marks them");
        let (names, _) = rest.split_once("<!-- end of fixed -->").expect("and their end");
        let names: Vec<&str> = names.split('`').skip(1).step_by(2).collect();
        assert_eq!(names, FIXED.map(|(name, _)| name));
    }
}
