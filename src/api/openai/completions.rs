//! `/v1/completions` (ollama-api §10.2): vLLM's own route. The prompt is what the model continues, as in OpenAI's API; Ollama
//! puts it through the chat template instead (decision 0023).

use std::sync::Arc;

use super::defaults;
use super::stream::{self, DIALECT};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::options::Limit;
use crate::api::pass::{PassError, Request, find};
use crate::api::{App, Call, Reply};
use crate::model::{Capability, Installed, fill_in};

/// `POST /v1/completions`.
///
/// # Errors
/// [`PassError`].
pub async fn completions(app: Arc<App>, mut call: Call) -> Result<Reply, PassError> {
    let mut request = Request::read(&mut call)?;
    let model = find(&app, &call, request.asked())?;
    prepare(&mut request, &model)?;
    let lease = app.lease(&call, &model, None).await.map_err(ApiError::from)?;
    // Silence means 16 tokens to the engine, and to Ollama's clients an answer to its end.
    let limit = Limit { max_model_len: lease.max_model_len(), answer: None, always: true };
    // An echo of nothing but the prompt is how its log-probabilities are asked for.
    let echo = request.member("echo") == Some("true") && request.member("max_tokens") == Some("0");
    defaults::complete(&mut request, &model, limit, if echo { &[] } else { &["max_tokens"] });
    fill_gap(&mut request, &model)?;
    request.pass_over(lease, call, "/v1/completions", &DIALECT).await
}

fn prepare(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{:?}", request.asked()), "generate"));
    }
    if suffix(request).is_some() && fill_in::of(&model.card).is_none() {
        return Err(ApiError::Unable(format!("{:?}", request.asked()), "insert"));
    }
    stream::count(request);
    Ok(())
}

/// What stands after the gap to be filled, as JSON. No text is no gap.
fn suffix(request: &Request) -> Option<&str> {
    request.member("suffix").filter(|suffix| *suffix != "\"\"")
}

/// Puts the prompt and what stands after it around the marks of the model's family: the engine's own route knows no
/// `suffix` (§6.6). After the defaults, whose stop strings these are added to.
fn fill_gap(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    let wrong = |name: &str| ApiError::NotSupported(format!("`{name}` must be one text where `suffix` is given"));
    let text = |name: &str| match request.member(name) {
        None => Ok(String::new()),
        Some(json) => serde_json::from_str(json).map_err(|_| wrong(name)),
    };
    let way = suffix(request).and_then(|_| fill_in::of(&model.card));
    let Some(way) = way else {
        if request.member("suffix").is_some() {
            request.set("suffix", b"null");
        }
        return Ok(());
    };
    let prompt = way.prompt(&text("prompt")?, &text("suffix")?);
    let mut stops: Vec<String> = match request.member("stop").map(serde_json::from_str) {
        None => Vec::new(),
        Some(Ok(OneOrMore::One(stop))) => vec![stop],
        Some(Ok(OneOrMore::More(stops))) => stops,
        Some(Err(_)) => return Err(ApiError::NotSupported("`stop` must be a text or a list of texts".to_owned())),
    };
    stops.extend(way.ends(&model.card).map(str::to_owned));
    request.set("prompt", serde_json::Value::from(prompt).to_string().as_bytes());
    request.set("suffix", b"null");
    request.set("stop", serde_json::Value::from(stops).to_string().as_bytes());
    // The marks that end a filling are special tokens to most tokenizers, and would stop nothing untold.
    request.set("skip_special_tokens", b"false");
    Ok(())
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}
