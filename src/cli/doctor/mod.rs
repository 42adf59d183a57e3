//! `vllama doctor`: whether an engine could run here, and what to do where it could not. The same checks are made before
//! the first start of a server.
//!
//! [`facts`] looks, [`checks`] judges, [`finding`] tells. Changes nothing: what is not there is not made.

mod checks;
mod engine_version;
mod facts;
mod finding;
mod place;
mod port;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::planning;
use super::problem::Problem;
use crate::config::{Config, Voice};
use crate::gpu::{Host, Pace, Watch};
use crate::init::{Init, Spawner};

use facts::{Facts, Questions, gather};
pub(super) use finding::{Finding, Level};

/// A disk that does not answer for this long will not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A driver may take half a minute to wake up.
const DRIVER_PATIENCE: Duration = Duration::from_secs(45);
/// Longest look before a start.
const PATIENCE_BEFORE_START: Duration = Duration::from_secs(5);

/// Examines, and gives the exit code: 1 when something keeps vllama from serving.
pub(super) fn run(config: &Config) -> i32 {
    let init = match Init::new() {
        Ok(init) => init,
        Err(error) => return Problem::new("cannot start", error, "check the limits of this user (`ulimit -a`)").tell(),
    };
    let (spawner, stopper) = (init.spawner(), init.stopper());
    let interrupt = stopper.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let findings = checks::judge(&examine(config, spawner));
            // A closed pipe, as in `vllama doctor | head`, is no failure.
            let _ = std::io::stdout().write_all(text(&findings, config.voice).as_bytes());
            stopper.stop(i32::from(finding::errors(&findings) > 0));
        });
        init.run(|_signal| {
            interrupt.stop(1);
            std::process::exit(1);
        })
    })
}

/// The version of the vLLM that a program belongs to, by the files of its package.
pub(super) fn engine_version(program: &Path) -> Option<String> {
    engine_version::look(program).version
}

/// What keeps engines from starting, and what else should be known, before the first start. Looks at neither the port nor
/// the GPUs: the one is about to be opened, the others may take a minute to answer.
pub(super) fn before_start(config: &Config) -> Vec<Finding> {
    let facts = gather(Questions {
        gpus: Box::new(|| Ok(None)),
        gpu_patience: PATIENCE_BEFORE_START,
        port: false,
        patience: PATIENCE_BEFORE_START,
        config,
    });
    let mut findings = checks::judge(&facts);
    findings.retain(|finding| finding.check != "gpus");
    findings
}

fn examine(config: &Config, spawner: Spawner) -> Facts {
    let helper = planning::gpu_helper(config);
    let environment = config.environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let gpus = move || {
        if !Host::read().nvidia || !helper.is_file() {
            return Ok(None);
        }
        let watch = Watch::start(spawner, helper, environment, Pace::default()).map_err(|error| error.to_string())?;
        watch.wait(DRIVER_PATIENCE).map(Some).ok_or_else(|| format!("no answer for {} s", DRIVER_PATIENCE.as_secs()))
    };
    gather(Questions {
        gpus: Box::new(gpus),
        gpu_patience: DRIVER_PATIENCE + Duration::from_secs(1),
        port: true,
        patience: PATIENCE,
        config,
    })
}

fn text(findings: &[Finding], voice: Voice) -> String {
    let well = finding::errors(findings) == 0;
    match voice {
        Voice::Json => {
            format!("{}\n", json!({"version": env!("CARGO_PKG_VERSION"), "ok": well, "findings": findings}))
        }
        Voice::Human => finding::table(findings),
        Voice::Quiet => {
            let bad: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Error).cloned().collect();
            if bad.is_empty() { String::new() } else { finding::table(&bad) }
        }
    }
}
