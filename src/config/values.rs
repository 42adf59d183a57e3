//! The value of each setting: from the command line, else the environment, else the file.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use tracing_subscriber::filter::{ParseError, Targets};

use super::file::File;
use super::{ConfigError, SETTINGS, ollama};
use crate::model::plan::FrontendWish;

/// More than a hundred years, and small enough to be added to any moment.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What may be logged, from nothing to everything.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The values of all settings, as text.
pub(super) struct Values<'a> {
    pub matches: &'a ArgMatches,
    pub environment: &'a HashMap<String, String>,
    pub file: &'a File,
}

impl Values<'_> {
    /// The setting's value and where it was found; a variable that is empty counts as not set.
    pub(super) fn find(&self, flag: &str) -> Option<(String, String)> {
        let setting = SETTINGS.iter().find(|setting| setting.flag == flag)?;
        if let Some(value) = self.matches.get_one::<String>(flag) {
            return Some((value.clone(), format!("--{flag}")));
        }
        let variable = setting.variables.iter().find_map(|variable| {
            let value = ollama::trimmed(variable, self.environment.get(*variable)?);
            (!value.is_empty()).then(|| (value.to_owned(), (*variable).to_owned()))
        });
        variable.or_else(|| self.file.setting(flag))
    }

    /// The setting's value.
    pub(super) fn text(&self, flag: &str) -> Option<String> {
        self.find(flag).map(|(value, _)| value)
    }

    /// A path, made absolute: engines run in another directory.
    pub(super) fn path(&self, flag: &str) -> Option<PathBuf> {
        self.text(flag).map(|path| std::path::absolute(&path).unwrap_or_else(|_| path.into()))
    }

    /// A whole number.
    pub(super) fn number(&self, flag: &str) -> Result<Option<u64>, ConfigError> {
        let Some((value, place)) = self.find(flag) else { return Ok(None) };
        value
            .parse()
            .map(Some)
            .map_err(|_| ConfigError(format!("{place}: '{value}' is no whole number; give one such as 64")))
    }

    /// A level, or targets with levels.
    pub(super) fn log_filter(&self) -> Result<Option<Targets>, ConfigError> {
        let Some((value, place)) = self.find("log") else { return Ok(None) };
        let no_filter = |why: String| {
            let fix = "give a level such as info, or levels per target such as info,vllm=debug";
            ConfigError(format!("{place}: '{value}' is no log filter: {why}; {fix}"))
        };
        // A lone word that is no level would be taken for a target, and all others be silent.
        let level = |part: &&str| part.rsplit_once('=').map_or(*part, |(_, level)| level).trim().to_ascii_lowercase();
        if let Some(wrong) = value.split(',').find(|part| !LEVELS.contains(&level(part).as_str())) {
            return Err(no_filter(format!("'{wrong}' names no level, which are {}", LEVELS.join(", "))));
        }
        value.parse().map(Some).map_err(|error: ParseError| no_filter(error.to_string()))
    }

    /// Which of the engine's frontends answers.
    pub(super) fn frontend(&self) -> Result<FrontendWish, ConfigError> {
        let Some((value, place)) = self.find("engine-frontend") else { return Ok(FrontendWish::default()) };
        value.parse().map_err(|error| ConfigError(format!("{place}: {error}")))
    }

    /// Words as a shell splits them: quotes keep blanks.
    pub(super) fn words(&self, flag: &str) -> Result<Vec<String>, ConfigError> {
        let Some((value, place)) = self.find(flag) else { return Ok(Vec::new()) };
        shell_words::split(&value)
            .map_err(|_| ConfigError(format!("{place}: '{value}' has a quote without end; close it, as in a shell")))
    }

    /// Bytes: `12GiB`, `500MB`, or a bare number.
    pub(super) fn bytes(&self, flag: &str) -> Result<Option<u64>, ConfigError> {
        let Some((value, place)) = self.find(flag) else { return Ok(None) };
        let parsed = value.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()).filter(|bytes| *bytes > 0);
        parsed.map(Some).ok_or_else(|| {
            ConfigError(format!("{place}: '{value}' is no amount of memory; give one such as 12GiB or 500MB"))
        })
    }

    /// A time to wait at most; zero and less are for ever, as Ollama has it.
    pub(super) fn patience(&self, flag: &str, default: Duration) -> Result<Duration, ConfigError> {
        if self.text(flag).is_some_and(|value| value.starts_with('-')) {
            return Ok(FOREVER);
        }
        Ok(match self.time(flag, default)? {
            Duration::ZERO => FOREVER,
            time => time,
        })
    }

    /// A time: `90`, `90s`, `10m`, `1h30m`.
    pub(super) fn time(&self, flag: &str, default: Duration) -> Result<Duration, ConfigError> {
        let Some((value, place)) = self.find(flag) else { return Ok(default) };
        time(&value).ok_or_else(|| {
            ConfigError(format!("{place}: '{value}' is no time; give seconds, or one such as 90s or 10m"))
        })
    }
}

/// A time as people write it.
pub(super) fn time(text: &str) -> Option<Duration> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.or_else(|| humantime::parse_duration(text).ok())
}
