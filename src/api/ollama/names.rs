//! Finds the installed model a request names (ollama-api §4.1, §14).

use std::sync::Arc;

use super::error::ApiError;
use crate::api::{App, Call};
use crate::model::{Installed, ModelName};

/// A name as a client wrote it, ready to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The name.
    pub name: ModelName,
    /// Whether it asks for a model of Ollama's cloud.
    pub cloud: bool,
}

impl Wanted {
    /// Reads a name with its source suffix: `:local` is taken off, `:cloud` and `-cloud` are part of the name.
    ///
    /// # Errors
    /// [`ApiError::InvalidName`], and [`ApiError::LocalAndCloud`] when it wants both.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let text = text.trim();
        let local = ends_with(text, ":local");
        let bare = if local { &text[..text.len() - ":local".len()] } else { text };
        let cloud = ends_with(bare, ":cloud") || (bare.contains(':') && ends_with(bare, "-cloud"));
        if local && cloud {
            return Err(ApiError::LocalAndCloud(text.to_owned()));
        }
        let name = ModelName::parse(bare).map_err(|_| ApiError::InvalidName)?;
        Ok(Self { name, cloud })
    }

    /// Looks it up in the store, if the request may use it, and notes it for the log: what it may not use is not looked for,
    /// so that nobody learns what there is. `shown` is the name in the error when it is not there, `cloud` what a model of
    /// the cloud cannot be used for.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::NotAllowed`], or [`ApiError::Cloud`].
    pub fn find(&self, app: &App, call: &Call, shown: &str, cloud: &'static str) -> Result<Arc<Installed>, ApiError> {
        allow(call, &self.name)?;
        if let Some(installed) = app.find(&self.name) {
            call.facts.set_model(installed.name.display());
            return Ok(installed);
        }
        call.facts.set_wanted(self.name.display());
        Err(if self.cloud { ApiError::Cloud(cloud) } else { ApiError::NotFound(shown.to_owned()) })
    }
}

/// Whether the key of the request may use the model; a refusal is noted.
///
/// # Errors
/// [`ApiError::NotAllowed`].
pub fn allow(call: &Call, name: &ModelName) -> Result<(), ApiError> {
    if call.grant.allows(name) {
        return Ok(());
    }
    call.facts.set_refusal("model");
    Err(ApiError::NotAllowed(name.display()))
}

fn ends_with(text: &str, end: &str) -> bool {
    let start = text.len().checked_sub(end.len());
    start.and_then(|start| text.get(start..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_suffixes_are_understood() {
        for (text, name, cloud) in [
            ("smollm2:135m", "smollm2:135m", false),
            ("smollm2:135m:local", "smollm2:135m", false),
            ("smollm2:LOCAL", "smollm2:latest", false),
            ("gpt-oss:cloud", "gpt-oss:cloud", true),
            ("gpt-oss:120b-cloud", "gpt-oss:120b-cloud", true),
            ("my-cloud", "my-cloud:latest", false),
        ] {
            let wanted = Wanted::parse(text).expect("a name");
            assert_eq!((wanted.name.display().as_str(), wanted.cloud), (name, cloud), "{text}");
        }
        assert_eq!(Wanted::parse("a:cloud:local"), Err(ApiError::LocalAndCloud("a:cloud:local".to_owned())));
        assert_eq!(Wanted::parse("a b"), Err(ApiError::InvalidName));
    }
}
