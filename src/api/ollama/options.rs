//! `options`: what Ollama's clients tune, and what of it the engine is told (ollama-api §5).

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::json;
use crate::model::{GenerationDefaults, Installed};

/// Ollama's own numbers, for models whose checkpoint says nothing.
const TEMPERATURE: f64 = 0.8;
const TOP_K: i64 = 40;
const TOP_P: f64 = 0.9;

/// JSON type of an option; the words are those of Ollama's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Float,
    Boolean,
    Strings,
}

/// Every option Ollama knows. Those vllama has no use for are checked all the same, as Ollama does.
const KNOWN: &[(&str, Kind)] = &[
    ("draft_num_predict", Kind::Integer),
    ("frequency_penalty", Kind::Float),
    ("main_gpu", Kind::Integer),
    ("min_p", Kind::Float),
    ("num_batch", Kind::Integer),
    ("num_ctx", Kind::Integer),
    ("num_gpu", Kind::Integer),
    ("num_keep", Kind::Integer),
    ("num_predict", Kind::Integer),
    ("num_thread", Kind::Integer),
    ("presence_penalty", Kind::Float),
    ("repeat_last_n", Kind::Integer),
    ("repeat_penalty", Kind::Float),
    ("seed", Kind::Integer),
    ("stop", Kind::Strings),
    ("temperature", Kind::Float),
    ("top_k", Kind::Integer),
    ("top_p", Kind::Float),
    ("typical_p", Kind::Float),
    ("use_mmap", Kind::Boolean),
];

/// The options that change an answer; `None` where the request says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    temperature: Option<f64>,
    top_k: Option<i64>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    seed: Option<i64>,
    num_predict: Option<i64>,
    repeat_penalty: Option<f64>,
    repeat_last_n: Option<i64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    num_ctx: Option<i64>,
    stop: Option<Vec<String>>,
}

/// A value of an option, of the type the option has.
enum Setting {
    Integer(i64),
    Float(f64),
    Boolean,
    Strings(Vec<String>),
}

impl Options {
    /// Reads `options`. Unknown keys are ignored (§13.19), `null` is absent, fractions of integers are cut off, and
    /// numbers in strings are taken as numbers, which Ollama refuses.
    ///
    /// # Errors
    /// [`ApiError::BadOption`] for a value of the wrong type, [`ApiError::BadJson`] when `options` is no object.
    pub fn parse(raw: Option<&RawValue>) -> Result<Self, ApiError> {
        let Some(raw) = raw else { return Ok(Self::default()) };
        let given: Map<String, Value> = serde_json::from_str(raw.get())
            .map_err(|error| json::unreadable("options", &error, "expected an object"))?;
        Self::of_map(&given)
    }

    /// The options a model was made with; they were checked then.
    #[must_use]
    pub fn of(model: &Installed) -> Self {
        Self::of_map(&model.overlay().parameters).unwrap_or_default()
    }

    /// These options, and where they say nothing those.
    #[must_use]
    pub fn or(self, defaults: &Self) -> Self {
        Self {
            temperature: self.temperature.or(defaults.temperature),
            top_k: self.top_k.or(defaults.top_k),
            top_p: self.top_p.or(defaults.top_p),
            min_p: self.min_p.or(defaults.min_p),
            seed: self.seed.or(defaults.seed),
            num_predict: self.num_predict.or(defaults.num_predict),
            repeat_penalty: self.repeat_penalty.or(defaults.repeat_penalty),
            repeat_last_n: self.repeat_last_n.or(defaults.repeat_last_n),
            presence_penalty: self.presence_penalty.or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(defaults.frequency_penalty),
            num_ctx: self.num_ctx.or(defaults.num_ctx),
            stop: self.stop.or_else(|| defaults.stop.clone()),
        }
    }

    fn of_map(given: &Map<String, Value>) -> Result<Self, ApiError> {
        let mut options = Self::default();
        for (name, value) in given {
            let Some((_, kind)) = KNOWN.iter().find(|(known, _)| known == name) else {
                tracing::debug!(option = name, "an option that Ollama does not know is ignored");
                continue;
            };
            if value.is_null() {
                continue;
            }
            let setting = read(*kind, value).map_err(|wanted| ApiError::BadOption(name.clone(), wanted))?;
            options.set(name, setting);
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, setting: Setting) {
        match (name, setting) {
            ("temperature", Setting::Float(value)) => self.temperature = Some(value),
            ("top_p", Setting::Float(value)) => self.top_p = Some(value),
            ("min_p", Setting::Float(value)) => self.min_p = Some(value),
            ("repeat_penalty", Setting::Float(value)) => self.repeat_penalty = Some(value),
            ("presence_penalty", Setting::Float(value)) => self.presence_penalty = Some(value),
            ("frequency_penalty", Setting::Float(value)) => self.frequency_penalty = Some(value),
            ("top_k", Setting::Integer(value)) => self.top_k = Some(value),
            ("seed", Setting::Integer(value)) => self.seed = Some(value),
            ("num_predict", Setting::Integer(value)) => self.num_predict = Some(value),
            ("repeat_last_n", Setting::Integer(value)) => self.repeat_last_n = Some(value),
            ("num_ctx", Setting::Integer(value)) => self.num_ctx = Some(value),
            ("stop", Setting::Strings(value)) => self.stop = Some(value),
            // The rest belongs to llama.cpp.
            _ => {}
        }
    }

    /// `num_ctx`, in tokens, where the request or the model says one: the longest text to embed, and the longest prompt.
    /// It never reloads the engine (§13.14).
    #[must_use]
    pub fn context_length(&self) -> Option<u64> {
        self.num_ctx.and_then(|length| u64::try_from(length).ok()).filter(|length| *length > 0)
    }

    /// Lets answers end at these texts, too.
    pub fn add_stops(&mut self, stops: impl Iterator<Item = &'static str>) {
        self.stop.get_or_insert_default().extend(stops.map(str::to_owned));
    }

    /// `num_predict`: most tokens of an answer, where there is a limit.
    #[must_use]
    pub fn most_tokens(&self) -> Option<u64> {
        self.num_predict.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0)
    }

    /// What the engine is told. A value comes from the request; else the checkpoint's own default holds, which the
    /// engine applies by itself when it is told nothing; else Ollama's number.
    #[must_use]
    pub fn sampling<'a>(&'a self, checkpoint: &GenerationDefaults, limit: Limit) -> Sampling<'a> {
        let given = self.given(limit);
        Sampling {
            temperature: given.temperature.or(checkpoint.temperature.is_none().then_some(TEMPERATURE)),
            top_k: given.top_k.or(checkpoint.top_k.is_none().then_some(TOP_K)),
            top_p: given.top_p.or(checkpoint.top_p.is_none().then_some(TOP_P)),
            ..given
        }
    }

    /// These options in the engine's words, and nothing else.
    #[must_use]
    pub fn given(&self, limit: Limit) -> Sampling<'_> {
        let window_off = self.repeat_last_n == Some(0);
        Sampling {
            // The engine refuses what is above 2.
            temperature: self.temperature.map(|value| value.clamp(0.0, 2.0)),
            top_k: self.top_k.map(|value| if value <= 0 { -1 } else { value }),
            // The engine wants 0 < top_p ≤ 1. Ollama's 0 means the most likely token only.
            top_p: self.top_p.map(|value| value.clamp(1e-6, 1.0)),
            min_p: self.min_p.map(|value| value.clamp(0.0, 1.0)),
            repetition_penalty: match self.repeat_penalty {
                _ if window_off => Some(1.0),
                Some(value) if value <= 0.0 => Some(1.0),
                value => value,
            },
            presence_penalty: self.presence_penalty.map(|value| value.clamp(-2.0, 2.0)),
            frequency_penalty: self.frequency_penalty.map(|value| value.clamp(-2.0, 2.0)),
            seed: self.seed.filter(|seed| *seed >= 0),
            max_tokens: limit.tokens(self.most_tokens()),
            stop: self.stop.as_deref().unwrap_or_default(),
        }
    }
}

/// How long an answer may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Longest sequence of the engine in tokens. More than this in `max_tokens` is an error there.
    pub max_model_len: u64,
    /// Most tokens of the answer, where the request's context leaves less.
    pub answer: Option<u64>,
    /// Whether a limit must be named: completions would stop after 16 tokens without one (vllm-engine §3.2).
    pub always: bool,
}

impl Limit {
    fn tokens(self, wanted: Option<u64>) -> Option<u64> {
        let most = self.answer.unwrap_or(self.max_model_len).min(self.max_model_len);
        match wanted {
            Some(wanted) => Some(wanted.min(most)),
            None => (self.always || self.answer.is_some()).then_some(most),
        }
    }
}

/// Sampling fields of an engine request (vllm-engine §3.2).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are the engine's")]
pub struct Sampling<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub stop: &'a [String],
}

/// Reads one value; the error says of what type it had to be.
fn read(kind: Kind, value: &Value) -> Result<Setting, &'static str> {
    let number = || match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse::<f64>().ok().filter(|number| number.is_finite()),
        _ => None,
    };
    match kind {
        Kind::Integer => match value.as_i64() {
            Some(integer) => Ok(Setting::Integer(integer)),
            // `as` saturates, which is what a limit of any kind should do here.
            #[expect(clippy::cast_possible_truncation, reason = "Ollama cuts fractions off")]
            None => number().map(|number| Setting::Integer(number as i64)).ok_or("of type integer"),
        },
        Kind::Float => number().map(Setting::Float).ok_or("of type float32"),
        Kind::Boolean => value.as_bool().map(|_| Setting::Boolean).ok_or("of type boolean"),
        Kind::Strings => strings(value).map(Setting::Strings),
    }
}

/// Stop texts: a list, or one alone. Empty ones would be an error in the engine and stop nothing in Ollama.
fn strings(value: &Value) -> Result<Vec<String>, &'static str> {
    let texts = match value {
        Value::String(_) => std::slice::from_ref(value),
        Value::Array(texts) => texts,
        _ => return Err("of type array"),
    };
    let texts = texts.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    let mut texts = texts.ok_or("of an array of strings")?;
    texts.retain(|text| !text.is_empty());
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: Limit = Limit { max_model_len: 2048, answer: None, always: false };

    fn parsed(json: &str) -> Result<Options, ApiError> {
        let raw = RawValue::from_string(json.to_owned()).expect("the test's JSON");
        Options::parse(Some(&raw))
    }

    fn sampling(json: &str, checkpoint: &GenerationDefaults, limit: Limit) -> String {
        let options = parsed(json).expect("good options");
        serde_json::to_string(&options.sampling(checkpoint, limit)).expect("sampling is JSON")
    }

    #[test]
    fn options_become_sampling_fields() {
        let silent = GenerationDefaults::default();
        let defaults = r#""temperature":0.8,"top_k":40,"top_p":0.9"#;
        for (options, fields) in [
            ("{}", String::new()),
            (r#"{"temperature":null,"foo":1,"mirostat":2,"tfs_z":"x","num_ctx":8192.0,"num_gpu":0}"#, String::new()),
            (r#"{"seed":7}"#, r#","seed":7"#.to_owned()),
            (r#"{"seed":-1,"num_predict":-1}"#, String::new()),
            (r#"{"num_predict":0}"#, String::new()),
            (r#"{"num_predict":12.9}"#, r#","max_tokens":12"#.to_owned()),
            (r#"{"num_predict":99999}"#, r#","max_tokens":2048"#.to_owned()),
            (r#"{"min_p":0.05,"repeat_penalty":1.1}"#, r#","min_p":0.05,"repetition_penalty":1.1"#.to_owned()),
            (r#"{"repeat_penalty":1.1,"repeat_last_n":0}"#, r#","repetition_penalty":1.0"#.to_owned()),
            (
                r#"{"presence_penalty":3,"frequency_penalty":-0.5}"#,
                r#","presence_penalty":2.0,"frequency_penalty":-0.5"#.to_owned(),
            ),
            (r####"{"stop":["###","",  "\n"]}"####, r####","stop":["###","\n"]"####.to_owned()),
            (r#"{"stop":"END"}"#, r#","stop":["END"]"#.to_owned()),
        ] {
            assert_eq!(sampling(options, &silent, CHAT), format!("{{{defaults}{fields}}}"), "{options}");
        }
    }

    #[test]
    fn extremes_are_put_in_the_engines_words() {
        let silent = GenerationDefaults::default();
        for (options, fields) in [
            (r#"{"temperature":-1,"top_k":0,"top_p":0}"#, r#"{"temperature":0.0,"top_k":-1,"top_p":1e-6}"#),
            (r#"{"temperature":"0.5","top_k":"-1","top_p":7}"#, r#"{"temperature":0.5,"top_k":-1,"top_p":1.0}"#),
        ] {
            assert_eq!(sampling(options, &silent, CHAT), fields, "{options}");
        }
    }

    #[test]
    fn the_request_wins_over_the_checkpoint_and_the_checkpoint_over_ollama() {
        let checkpoint =
            GenerationDefaults { temperature: Some(0.6), top_k: Some(20), ..GenerationDefaults::default() };
        assert_eq!(sampling("{}", &checkpoint, CHAT), r#"{"top_p":0.9}"#);
        assert_eq!(sampling(r#"{"temperature":0}"#, &checkpoint, CHAT), r#"{"temperature":0.0,"top_p":0.9}"#);
    }

    #[test]
    fn the_request_wins_over_the_model_and_the_model_over_the_checkpoint() {
        let checkpoint = GenerationDefaults { temperature: Some(0.6), ..GenerationDefaults::default() };
        let model = parsed(r#"{"temperature":0.1,"top_k":7,"stop":["a","b"],"num_ctx":4096}"#).expect("good options");
        for (request, fields) in [
            ("{}", r#"{"temperature":0.1,"top_k":7,"top_p":0.9,"stop":["a","b"]}"#),
            (r#"{"temperature":1,"stop":["c"]}"#, r#"{"temperature":1.0,"top_k":7,"top_p":0.9,"stop":["c"]}"#),
            (r#"{"stop":[]}"#, r#"{"temperature":0.1,"top_k":7,"top_p":0.9}"#),
        ] {
            let options = parsed(request).expect("good options").or(&model);
            let sampling = serde_json::to_string(&options.sampling(&checkpoint, CHAT)).expect("sampling is JSON");
            assert_eq!(sampling, fields, "{request}");
        }
    }

    #[test]
    fn completions_always_get_a_limit() {
        let limit = Limit { max_model_len: 2048, answer: None, always: true };
        assert!(sampling("{}", &GenerationDefaults::default(), limit).contains(r#""max_tokens":2048"#));
    }

    #[test]
    fn a_context_may_leave_less_than_was_asked_for() {
        for (options, answer, told) in [
            ("{}", Some(28), r#""max_tokens":28"#),
            (r#"{"num_predict":100}"#, Some(28), r#""max_tokens":28"#),
            (r#"{"num_predict":5}"#, Some(28), r#""max_tokens":5"#),
            (r#"{"num_predict":100}"#, None, r#""max_tokens":100"#),
        ] {
            let limit = Limit { max_model_len: 2048, answer, always: false };
            let sampling = sampling(options, &GenerationDefaults::default(), limit);
            assert!(sampling.contains(told), "{options}: {sampling}");
        }
    }

    #[test]
    fn wrong_types_are_refused_in_ollamas_words() {
        for (options, text) in [
            (r#"{"temperature":"hot"}"#, r#"option "temperature" must be of type float32"#),
            (r#"{"num_predict":true}"#, r#"option "num_predict" must be of type integer"#),
            (r#"{"num_gpu":"all"}"#, r#"option "num_gpu" must be of type integer"#),
            (r#"{"use_mmap":1}"#, r#"option "use_mmap" must be of type boolean"#),
            (r#"{"stop":1}"#, r#"option "stop" must be of type array"#),
            (r#"{"stop":[1]}"#, r#"option "stop" must be of an array of strings"#),
        ] {
            let error = parsed(options).expect_err("a wrong type");
            assert_eq!((error.status().as_u16(), error.to_string().as_str()), (400, text));
        }
        assert_eq!(parsed("[]").expect_err("no object").status().as_u16(), 400);
    }
}
