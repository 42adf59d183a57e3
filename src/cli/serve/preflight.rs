//! What must be true before a server makes sense; each finding says what to do.

use std::path::Path;
use std::sync::Arc;

use crate::cli::doctor::{self, Finding, Level};
use crate::cli::problem::Problem;
use crate::config::Config;
use crate::engine::Installation;
use crate::gpu::Host;
use crate::model::{Installed, ModelName, Store};

/// The model that `make run` and the images install.
const DEFAULT_MODEL: &str = "smollm2:135m";

/// The model to load at the start: the one that was named, the only one that is installed, or the default one if that
/// is installed. Without one the server waits for the first request.
pub(super) fn model(store: &Store, config: &Config) -> Result<Option<Arc<Installed>>, Problem> {
    let installed = store.list();
    let Some(wanted) = &config.model else {
        if let [only] = &*installed {
            return Ok(Some(only.clone()));
        }
        return Ok(ModelName::parse(DEFAULT_MODEL).ok().and_then(|name| store.find(&name)));
    };
    let found = store.find(wanted).ok_or_else(|| {
        let names: Vec<_> = installed.iter().map(|model| model.manifest.name.as_str()).collect();
        let others =
            if names.is_empty() { "nothing is".to_owned() } else { format!("installed: {}", names.join(", ")) };
        Problem::new(
            format!("cannot serve '{wanted}'"),
            format!("it is not installed in {} ({others})", config.models.display()),
            format!(
                "name an installed model, or none and get it with `ollama pull {wanted}`; or install a file with \
                 `vllama import FILE.gguf {wanted}`"
            ),
        )
    })?;
    Ok(Some(found))
}

/// Whether an engine could start at all, by the checks of `vllama doctor`: all that is not well is logged.
pub(super) fn engine(config: &Config) -> Result<(), Problem> {
    let mut impossible = None;
    for finding in doctor::before_start(config) {
        let Finding { check, what, why, fix, .. } = &finding;
        match finding.level {
            Level::Ok => {}
            Level::Warning => tracing::warn!(check, why, fix, "{what}"),
            // Told by whoever ends the verb.
            Level::Error if impossible.is_none() => impossible = Some(finding),
            Level::Error => tracing::error!(check, why, fix, "{what}"),
        }
    }
    impossible.map_or(Ok(()), |finding| Err(finding.problem()))
}

/// Main memory in bytes; the control group's limit counts.
pub(super) fn main_memory() -> u64 {
    Host::read().memory_total
}

/// Main memory that sleeping engines may take, in bytes: half of what is free at the start, as engines
/// that are awake, and everybody else, need some too.
pub(super) fn sleeping_memory() -> u64 {
    Host::read().memory_available / 2
}

/// The installation engines are started from.
pub(super) fn installation(config: &Config) -> Installation {
    // `<venv>/bin/vllm`: the libraries lie in `<venv>/lib`.
    let libraries = config.engine.parent().and_then(Path::parent).map(|venv| venv.join("lib").join("libiomp5.so"));
    let allocator = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"]
        .map(|directory| Path::new(directory).join("libtcmalloc_minimal.so.4"));
    Installation {
        program: config.engine.clone(),
        preloads: allocator.into_iter().chain(libraries).filter(|library| library.is_file()).collect(),
        cache: config.state.join("cache"),
        environment: config.environment.clone(),
    }
}
