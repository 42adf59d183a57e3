//! The configuration file: TOML; every setting may stand at its top, and `[models."NAME"]` says what holds for one model.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, ModelSettings, SETTINGS};
use crate::model::ModelName;

/// Where the file lies when nobody says otherwise; it need not be there.
const DEFAULT: &str = "/etc/vllama/vllama.toml";
/// Largest configuration file, in bytes.
const LIMIT: u64 = 1 << 20;
/// Names that are more like each other than this, from 0 to 1, may be mistaken for each other; clap's own bound for flags.
const ALIKE: f64 = 0.7;
/// The setting that names the file, which the file itself cannot hold.
pub(super) const FLAG: &str = "config";

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Settings as text by their flags, and where each stands.
    settings: HashMap<String, (String, String)>,
    /// What holds for one model.
    pub models: BTreeMap<ModelKey, ModelSettings>,
}

/// A model's name as a key: names that differ in case are one.
pub(super) type ModelKey = [String; 4];

impl File {
    /// Reads the file that was named, or the default one where it is there.
    pub(super) fn read(named: Option<PathBuf>) -> Result<Self, ConfigError> {
        let is_named = named.is_some();
        let path = named.unwrap_or_else(|| DEFAULT.into());
        let read = || {
            let mut text = String::new();
            std::fs::File::open(&path)?.take(LIMIT + 1).read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        match read() {
            Ok(text) if text.len() as u64 > LIMIT => {
                Err(ConfigError(format!("{}: is larger than 1 MiB; that is no configuration file", path.display())))
            }
            Ok(text) => Self::parse(&text, &path),
            Err(error) if !is_named && error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(ConfigError(format!(
                "cannot read the configuration file {}: {error}; name another with --config or VLLAMA_CONFIG",
                path.display()
            ))),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct Models {
            #[serde(default)]
            models: BTreeMap<Spanned<String>, ModelSettings>,
        }
        let place = |at: usize| format!("{}:{}", path.display(), text[..at].matches('\n').count() + 1);
        let wrong = |error: toml::de::Error| {
            let at = error.span().map_or_else(|| path.display().to_string(), |span| place(span.start));
            ConfigError(format!("{at}: {}", error.message().trim_end()))
        };
        let top: BTreeMap<Spanned<String>, Spanned<toml::Value>> = toml::from_str(text).map_err(wrong)?;
        let mut settings = HashMap::new();
        for (key, value) in &top {
            if key.get_ref() == "models" {
                continue;
            }
            let flag = key.get_ref().replace('_', "-");
            let at = format!("{}: {}", place(key.span().start), key.get_ref());
            if flag == FLAG || !SETTINGS.iter().any(|setting| setting.flag == flag) {
                return Err(ConfigError(format!("{at}: no such setting; {}", instead_of(key.get_ref()))));
            }
            let Some(written) = plain(&flag, value.get_ref()) else {
                return Err(ConfigError(format!(
                    "{at}: give a text, a number or, where a list makes sense, a list of texts"
                )));
            };
            if settings.insert(flag, (written, at.clone())).is_some() {
                return Err(ConfigError(format!("{at}: is there twice, with - and with _; leave one")));
            }
        }
        let mut models = BTreeMap::new();
        for (name, model) in toml::from_str::<Models>(text).map_err(wrong)?.models {
            let at = place(name.span().start);
            let parsed = ModelName::parse(name.get_ref()).map_err(|_| {
                ConfigError(format!("{at}: '{}' is no model name; a name looks like qwen2.5:7b", name.get_ref()))
            })?;
            if models.insert(parsed.key(), model).is_some() {
                return Err(ConfigError(format!("{at}: the model {parsed} is there twice; leave one")));
            }
        }
        Ok(Self { settings, models })
    }

    /// A setting's value as it would be written on the command line, and where it stands.
    pub(super) fn setting(&self, flag: &str) -> Option<(String, String)> {
        self.settings.get(flag).filter(|(value, _)| !value.is_empty()).cloned()
    }
}

/// What whoever wrote a name that no setting has may have meant.
fn instead_of(wrong: &str) -> String {
    let settings = SETTINGS.iter().filter(|setting| setting.flag != FLAG).map(|setting| setting.flag.replace('-', "_"));
    let known: Vec<_> = std::iter::once("models".to_owned()).chain(settings).collect();
    let likeness = |name: &&String| strsim::jaro(&wrong.replace('-', "_"), name);
    match known.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other))) {
        Some(name) if likeness(&name) > ALIKE => {
            format!("did you mean {name}? `vllama serve --help` tells all of them")
        }
        _ => format!("there are {}", known.join(", ")),
    }
}

/// A value as it would be written on the command line; `None` where it cannot.
fn plain(flag: &str, value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(text) => text.trim().to_owned(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Array(list) => {
            let texts = list.iter().map(toml::Value::as_str).collect::<Option<Vec<_>>>()?;
            match flag {
                "engine-args" => shell_words::join(texts),
                "origins" => texts.join(","),
                _ => return None,
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        File::parse(text, Path::new("v.toml")).map_err(|error| error.0)
    }

    #[test]
    fn settings_stand_at_the_top_in_either_spelling() {
        let file = parse(
            "host = \"0.0.0.0\"\nmax_queue = 7\nkeep-alive = -1\norigins = [\"http://a\", \"http://b\"]\n\
             engine_args = [\"--seed\", \"1 2\"]",
        )
        .expect("a file");
        let value = |flag| file.setting(flag).map(|(value, _)| value);
        assert_eq!(value("host").as_deref(), Some("0.0.0.0"));
        assert_eq!(value("max-queue").as_deref(), Some("7"));
        assert_eq!(value("keep-alive").as_deref(), Some("-1"));
        assert_eq!(value("origins").as_deref(), Some("http://a,http://b"));
        assert_eq!(value("engine-args").as_deref(), Some("--seed '1 2'"));
        assert_eq!(file.setting("max-queue").expect("there").1, "v.toml:2: max_queue");
    }

    #[test]
    fn a_model_is_found_by_its_name_in_any_case() {
        let file = parse("[models.\"Qwen2.5:7b\"]\nmemory = \"20GiB\"\ntool_parser = \"none\"\nconcurrency = 4")
            .expect("a file");
        let name = ModelName::parse("qwen2.5:7B").expect("a name");
        let model = file.models.get(&name.key()).expect("the model");
        assert_eq!(model.memory.map(|size| size.0), Some(20 << 30));
        assert_eq!((model.tool_parser.as_deref(), model.concurrency.map(Into::into)), (Some("none"), Some(4_usize)));
    }

    #[test]
    fn what_is_unknown_or_makes_no_sense_is_refused_with_its_line() {
        for (text, expected) in [
            ("\nhosst = \"a\"", "v.toml:2: hosst: no such setting; did you mean host?"),
            ("max-que = 1", "v.toml:1: max-que: no such setting; did you mean max_queue?"),
            ("[model.a]\nmemory = 1", "v.toml:1: model: no such setting; did you mean models?"),
            ("zzz = 1", "v.toml:1: zzz: no such setting; there are models, host, "),
            ("config = \"a\"", "v.toml:1: config: no such setting"),
            ("host = true", "v.toml:1: host: give a text"),
            ("host = [\"a\"]", "v.toml:1: host: give a text"),
            ("host = \"a\"\nhost = \"b\"", "v.toml:2: duplicate key"),
            ("max-queue = 1\nmax_queue = 2", "is there twice"),
            ("host = ", "v.toml:1:"),
            ("[models.\"a b\"]", "v.toml:1: 'a b' is no model name"),
            ("[models.a]\n[models.A]", "is there twice"),
            ("[models.a]\n\nmemry = 1", "v.toml:3: unknown field `memry`, expected one of"),
            ("[models.a]\nmemory = \"much\"", "v.toml:2: 'much' is no size; give one such as 20GiB"),
            ("[models.a]\ntensor_parallel = 0", "v.toml:2:"),
            ("[models.a]\nengine_arguments = \"--seed 1\"", "v.toml:2:"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_example_in_the_documents_is_a_file() {
        let document = include_str!("../../docs/decisions/0019-configuration-file.md");
        let example = document.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        let file = parse(example).expect("a file");
        assert_eq!(file.setting("keep-alive").map(|(value, _)| value).as_deref(), Some("30m"));
        let name = ModelName::parse("qwen2.5:7b").expect("a name");
        assert_eq!(file.models.get(&name.key()).and_then(|model| model.memory), Some(crate::config::Size(20 << 30)));
    }

    #[test]
    fn a_missing_file_is_fine_unless_it_was_named() {
        assert!(File::read(Some("/nowhere/vllama.toml".into())).is_err_and(|error| error.0.contains("--config")));
        let directory = tempfile::tempdir().expect("a directory");
        let large = directory.path().join("large.toml");
        std::fs::write(&large, vec![b'#'; (1 << 20) + 1]).expect("written");
        assert!(File::read(Some(large)).is_err_and(|error| error.0.contains("1 MiB")));
    }
}
