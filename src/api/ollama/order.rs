//! What a create request asks for, read and checked before anything is done (ollama-api §4.7).

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::json;
use super::options::Options;
use super::types::{CreateRequest, Message};
use crate::model::digest::Sha256Digest;
use crate::model::gather::{Files, is_inside};
use crate::model::{Card, ModelName, Overlay};

/// Types Ollama quantizes to.
const QUANTIZATIONS: [&str; 7] = ["F32", "F16", "Q8_0", "Q4_K_S", "Q4_K_M", "Q4_K", "BF16"];
/// Who may say something in a model's messages.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// A model to be made.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its name.
    pub name: ModelName,
    /// The model it is made from.
    pub from: Option<ModelName>,
    /// Or the files it is made of.
    pub files: Option<Files>,
    /// The files of its adapter.
    pub adapters: Option<Files>,
    /// Its template, as given; empty when none was.
    pub template: String,
    system: String,
    license: Vec<String>,
    parameters: Map<String, Value>,
    messages: Vec<Value>,
}

impl Order {
    /// Reads a request.
    ///
    /// # Errors
    /// What Ollama refuses before it begins, and what vllama cannot do.
    pub fn read(request: &CreateRequest<'_>) -> Result<Self, ApiError> {
        let files = request.files.map(files).transpose()?;
        let adapters = request.adapters.map(files_of_adapter).transpose()?;
        let name = if request.model.trim().is_empty() { &request.name } else { &request.model };
        let name = ModelName::parse(name).map_err(|_| ApiError::InvalidName)?;
        let from = match request.from.trim() {
            "" => None,
            from => Some(ModelName::parse(from).map_err(|_| ApiError::InvalidName)?),
        };
        check_quantization(if request.quantize.is_empty() { &request.quantization } else { &request.quantize })?;
        Ok(Self {
            name,
            from,
            files,
            adapters,
            template: request.template.to_string(),
            system: request.system.to_string(),
            license: request.license.map(licenses).transpose()?.unwrap_or_default(),
            parameters: request.parameters.map(parameters).transpose()?.unwrap_or_default(),
            messages: request.messages.map(messages).transpose()?.unwrap_or_default(),
        })
    }

    /// The overlay of the new model: what is given replaces what is inherited, parameters one by one; licences are added.
    #[must_use]
    pub fn overlay(&self, inherited: &Overlay) -> Overlay {
        let replace = |new: &String, old: &String| if new.is_empty() { old } else { new }.clone();
        let mut overlay = inherited.clone();
        overlay.system = replace(&self.system, &inherited.system);
        overlay.template = replace(&self.template, &inherited.template);
        if !self.messages.is_empty() {
            overlay.messages.clone_from(&self.messages);
        }
        for (name, value) in &self.parameters {
            overlay.parameters.insert(name.clone(), value.clone());
        }
        for text in &self.license {
            if !overlay.license.contains(text) {
                overlay.license.push(text.clone());
            }
        }
        overlay
    }
}

fn files(raw: &RawValue) -> Result<Files, ApiError> {
    let given: Map<String, Value> = read(raw, "files: expected an object of names and digests")?;
    if given.keys().any(|name| !is_inside(name)) {
        return Err(ApiError::BadCreate("file path must be relative"));
    }
    let digest = |value: &Value| Sha256Digest::parse_prefixed(value.as_str().unwrap_or_default());
    given.into_iter().map(|(name, value)| Ok((name, digest(&value)?))).collect()
}

fn files_of_adapter(raw: &RawValue) -> Result<Files, ApiError> {
    let files = files(raw)?;
    let adapters = files.iter().filter(|(name, _)| name.ends_with(".safetensors") || name.ends_with(".gguf")).count();
    if adapters > 1 {
        return Err(ApiError::BadCreate("only one adapter is currently supported"));
    }
    Ok(files)
}

fn check_quantization(wanted: &str) -> Result<(), ApiError> {
    let wanted = wanted.trim();
    if wanted.is_empty() {
        return Ok(());
    }
    Err(ApiError::NotSupported(if QUANTIZATIONS.iter().any(|known| known.eq_ignore_ascii_case(wanted)) {
        "vllama does not quantize: vLLM loads the weights as they are; leave `quantize` out, and for a smaller model take \
         a checkpoint that is quantized already (AWQ, GPTQ, FP8)"
            .to_owned()
    } else {
        let wanted = wanted.to_ascii_uppercase();
        format!("unsupported quantization type {wanted} - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0")
    }))
}

/// One licence or a list of them; empty ones are none.
fn licenses(raw: &RawValue) -> Result<Vec<String>, ApiError> {
    let wrong = "license: expected a string or a list of strings";
    let texts = match read(raw, wrong)? {
        Value::String(text) => vec![text],
        value => serde_json::from_value(value).map_err(|_| unreadable(wrong))?,
    };
    Ok(texts.into_iter().filter(|text: &String| !text.is_empty()).collect())
}

/// Options of the types Ollama has for them; `null` is none. Unknown ones are kept, as Ollama keeps them.
fn parameters(raw: &RawValue) -> Result<Map<String, Value>, ApiError> {
    // A wrong type is a failure of the server in Ollama's words for requests, but here it is the client who is wrong.
    Options::parse(Some(raw)).map_err(|error| ApiError::NotSupported(error.to_string()))?;
    let mut given: Map<String, Value> = read(raw, "parameters: expected an object")?;
    given.retain(|_, value| !value.is_null());
    Ok(given)
}

/// Turns of a conversation, kept as they came.
fn messages(raw: &RawValue) -> Result<Vec<Value>, ApiError> {
    let text = raw.get();
    let turns: Vec<Message<'_>> = json::decode(text)?;
    if let Some(turn) = turns.iter().find(|turn| !ROLES.iter().any(|role| role.eq_ignore_ascii_case(&turn.role))) {
        let role = &*turn.role;
        let roles = ROLES.join(", ");
        return Err(ApiError::NotSupported(format!("messages: {role:?} is no role; roles are {roles}")));
    }
    // A call that no request could use is refused now and not at every request.
    super::messages::turns(&turns, &Card::default())?;
    read(raw, "messages: expected a list")
}

fn read<'a, T: serde::Deserialize<'a>>(raw: &'a RawValue, wrong: &str) -> Result<T, ApiError> {
    serde_json::from_str(raw.get()).map_err(|_| unreadable(wrong))
}

fn unreadable(wrong: &str) -> ApiError {
    ApiError::BadJson(format!("json: cannot unmarshal {wrong}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(body: &str) -> Result<Order, ApiError> {
        Order::read(&json::decode(body).expect("the test's JSON"))
    }

    #[test]
    fn what_ollama_refuses_is_refused_in_its_words() {
        for (body, text) in [
            (r#"{"model":"","from":"x"}"#, "invalid model name"),
            (r#"{"from":"x"}"#, "invalid model name"),
            (r#"{"model":"a b","from":"x"}"#, "invalid model name"),
            (r#"{"model":"a","from":"x y"}"#, "invalid model name"),
            (r#"{"model":"a","files":{"/etc/passwd":"sha256:1"}}"#, "file path must be relative"),
            (r#"{"model":"a","files":{"../x":"sha256:1"}}"#, "file path must be relative"),
            (r#"{"model":"a","from":"x","adapters":{"a/../../x":""}}"#, "file path must be relative"),
            (r#"{"model":"a","files":{"x.gguf":""}}"#, "invalid digest format"),
            (
                r#"{"model":"a","from":"x","quantize":"q9"}"#,
                "unsupported quantization type Q9 - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0",
            ),
        ] {
            let error = order(body).expect_err(body);
            assert_eq!((error.status().as_u16(), error.to_string().as_str()), (400, text), "{body}");
        }
    }

    #[test]
    fn what_vllama_cannot_do_says_what_to_do() {
        for (body, word) in [
            (r#"{"model":"a","from":"x","quantize":"q4_k_m"}"#, "vllama does not quantize"),
            (r#"{"model":"a","from":"x","quantization":"F16"}"#, "AWQ"),
            (
                r#"{"model":"a","from":"x","parameters":{"temperature":"hot"}}"#,
                "\"temperature\" must be of type float32",
            ),
            (r#"{"model":"a","from":"x","messages":[{"role":"alien","content":"x"}]}"#, "is no role"),
            (r#"{"model":"a","from":"x","license":7}"#, "expected a string or a list"),
        ] {
            let error = order(body).expect_err(body);
            assert_eq!(error.status().as_u16(), 400, "{body}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn an_overlay_inherits_what_is_not_given_and_adds_licences() {
        let order = order(
            r#"{"name":"b","from":"a","system":"new","license":["L2","",  "L1"],
                "parameters":{"stop":["x"],"num_ctx":8192.0,"top_k":null}}"#,
        )
        .expect("an order");
        let inherited = Overlay {
            system: "old".into(),
            template: "t".into(),
            license: vec!["L1".into()],
            messages: vec![serde_json::json!({"role": "user", "content": "hi"})],
            parameters: serde_json::from_str(r#"{"temperature":0.5,"stop":["y"]}"#).expect("parameters"),
            ..Overlay::default()
        };
        let overlay = order.overlay(&inherited);
        assert_eq!((overlay.system.as_str(), overlay.template.as_str()), ("new", "t"));
        assert_eq!(overlay.license, ["L1", "L2"]);
        assert_eq!(overlay.messages, inherited.messages);
        let parameters = serde_json::to_string(&overlay.parameters).expect("JSON");
        assert_eq!(parameters, r#"{"temperature":0.5,"stop":["x"],"num_ctx":8192.0}"#);
    }

    #[test]
    fn messages_are_kept_as_they_came() {
        let order =
            order(r#"{"model":"b","from":"a","messages":[{"role":"user","content":"hi","images":["iVBORw0KGgo="]}]}"#);
        let overlay = order.expect("an order").overlay(&Overlay::default());
        assert_eq!(overlay.messages[0]["images"][0], "iVBORw0KGgo=");
    }
}
