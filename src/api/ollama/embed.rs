//! `/api/embed` and `/api/embeddings` (ollama-api §3.5, §3.6): texts in, vectors out.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::json::Text;
use super::names::Wanted;
use super::options::Options;
use super::run::Run;
use super::types::{EmbedRequest, EmbeddingsRequest};
use super::vectors::Embedded;
use super::{JSON, input, json, keep_alive};
use crate::api::{self, App, Call, Reply};
use crate::model::{Capability, Installed};
use crate::scheduler::KeepAlive;

/// An engine's answer above this many bytes is turned into JSON beside the request path: that takes milliseconds.
const LARGE: usize = 256 << 10;

/// Limits below this many tokens may be eaten up by the tokens that mark beginning and end.
const TINY: u64 = 16;

/// What the engine is asked (vllm-engine §3.6). Base64 is a quarter of the bytes of numbers in text, and exact.
#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    input: &'a [Text<'a>],
    encoding_format: &'static str,
    /// The end of a longer text is cut off; −1 is the longest the engine takes. Without it such a text is an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate_prompt_tokens: Option<i64>,
    /// `false`: the vector as it comes out of the pooling, whatever the checkpoint does with it afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    use_activation: Option<bool>,
    /// Which requests go first; vLLM knows no header for it here.
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i32>,
}

/// `POST /api/embed`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn embed(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let text = json::text(&call.body)?;
    let request: EmbedRequest = json::decode(&text)?;
    let keep_alive = request.keep_alive.map(keep_alive::parse).transpose()?;
    let texts = input::texts(request.input)?;
    let asked = &*request.model;
    if asked.trim().is_empty() {
        // As in Ollama (§14).
        return Err(ApiError::NotFound(asked.to_owned()));
    }
    let options = Options::parse(request.options)?;
    let model = find(&app, &call, asked)?;
    let options = options.or(&Options::of(&model));
    let mut out = head(asked);
    if texts.is_empty() {
        load(&app, &call, &model, keep_alive).await?;
        out.extend(b"[]}");
        return Ok(api::whole(StatusCode::OK, JSON, out));
    }
    able(&model, asked)?;
    let run = Run::begin(&app, &call, &model, keep_alive).await?;
    let truncate = request.truncate.unwrap_or(true);
    let limit = options.context_length().filter(|limit| *limit < run.max_model_len());
    let answer = ask(&run, &texts, limit, truncate, None).await?;
    let dimensions = usize::try_from(request.dimensions).unwrap_or(0);
    let number = texts.len();
    let (mut out, tokens) = off_the_path(answer, move |answer| {
        let embedded = Embedded::read(answer, number)?;
        // A float takes twelve bytes as text and five and a third as base64.
        out.reserve(answer.len() * 5 / 2);
        embedded.write_normalised(dimensions, &mut out)?;
        Ok((out, embedded.tokens()))
    })
    .await?;
    if let Some(limit) = limit.filter(|limit| !truncate && tokens > *limit) {
        // The engine takes more than the client wants to be taken.
        check_lengths(&run, &texts, limit).await?;
    }
    call.facts.set_tokens(tokens, 0);
    write_figures(&run, tokens, &mut out);
    out.push(b'}');
    Ok(api::whole(StatusCode::OK, JSON, out))
}

/// `POST /api/embeddings`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn embeddings(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let text = json::text(&call.body)?;
    let request: EmbeddingsRequest = json::decode(&text)?;
    let keep_alive = request.keep_alive.map(keep_alive::parse).transpose()?;
    let asked = &*request.model;
    if asked.trim().is_empty() {
        return Err(ApiError::ModelRequired);
    }
    let options = Options::parse(request.options)?;
    let model = find(&app, &call, asked)?;
    let options = options.or(&Options::of(&model));
    let mut out = br#"{"embedding":"#.to_vec();
    if request.prompt.is_empty() {
        load(&app, &call, &model, keep_alive).await?;
        out.extend(b"[]");
    } else {
        able(&model, asked)?;
        let run = Run::begin(&app, &call, &model, keep_alive).await?;
        let limit = options.context_length().filter(|limit| *limit < run.max_model_len());
        let answer = ask(&run, std::slice::from_ref(&request.prompt), limit, true, Some(false)).await?;
        let embedded = Embedded::read(&answer, 1)?;
        embedded.write_first(&mut out)?;
        call.facts.set_tokens(embedded.tokens(), 0);
    }
    out.push(b'}');
    Ok(api::whole(StatusCode::OK, JSON, out))
}

/// Looks the model up. These routes tell of a missing model in words of their own (§14).
fn find(app: &App, call: &Call, asked: &str) -> Result<Arc<Installed>, ApiError> {
    let found = Wanted::parse(asked)?.find(app, call, asked, "remote inference is unavailable");
    let model = found.map_err(|error| match error {
        ApiError::NotFound(name) => ApiError::NotPulled(name),
        error => error,
    })?;
    Ok(model)
}

/// An engine makes text or vectors, never both (vllm-engine §3.6), so a chat model has none to give.
///
/// # Errors
/// [`ApiError::NotSupported`].
pub fn able(model: &Installed, asked: &str) -> Result<(), ApiError> {
    if model.card.can(Capability::Embedding) {
        return Ok(());
    }
    let does = if model.card.is_pooling() {
        "it judges texts"
    } else if model.card.only_writes_down() {
        "it writes down what it hears"
    } else {
        "its engine makes text"
    };
    Err(ApiError::NotSupported(format!(
        "{asked:?} does not support embeddings: {does}; use an embedding model such as all-minilm"
    )))
}

/// Answers a request without a text: the model is there when this returns, and its keep-alive begins.
async fn load(app: &App, call: &Call, model: &Arc<Installed>, keep_alive: Option<KeepAlive>) -> Result<(), ApiError> {
    Run::begin(app, call, model, keep_alive).await.map(drop)
}

/// Asks the engine for vectors of texts of at most `limit` tokens (the engine's own limit where there is none).
async fn ask(
    run: &Run,
    texts: &[Text<'_>],
    limit: Option<u64>,
    truncate: bool,
    use_activation: Option<bool>,
) -> Result<Bytes, ApiError> {
    if let Some(limit) = limit.filter(|limit| truncate && *limit < TINY) {
        // Cut so short, the engine would embed what is left of the marks.
        let marks = tokens(run, "").await?;
        if limit <= marks && texts.iter().any(|text| !text.is_empty()) {
            return Err(ApiError::NothingLeft);
        }
    }
    let longest = limit.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(-1);
    let body = Body {
        model: run.served_name(),
        input: texts,
        encoding_format: "base64",
        truncate_prompt_tokens: truncate.then_some(longest),
        use_activation,
        priority: run.priority().filter(|priority| *priority != 0),
    };
    // Strings and numbers always become JSON.
    let body = serde_json::to_vec(&body).unwrap_or_default();
    run.fetch("/v1/embeddings", body.into()).await.map_err(|error| match error {
        ApiError::TooLong => ApiError::InputTooLong,
        error => error,
    })
}

/// Whether each text alone is short enough; the engine's answer tells their sum only.
async fn check_lengths(run: &Run, texts: &[Text<'_>], limit: u64) -> Result<(), ApiError> {
    for text in texts {
        if tokens(run, text).await? > limit {
            return Err(ApiError::InputTooLong);
        }
    }
    Ok(())
}

/// Number of tokens of a text as the engine counts them, marks included.
async fn tokens(run: &Run, text: &str) -> Result<u64, ApiError> {
    #[derive(Serialize)]
    struct Body<'a> {
        model: &'a str,
        prompt: &'a str,
    }
    #[derive(Deserialize)]
    struct Answer {
        count: u64,
    }
    // Two strings always become JSON.
    let body = serde_json::to_vec(&Body { model: run.served_name(), prompt: text }).unwrap_or_default();
    let answer = run.fetch("/tokenize", body.into()).await?;
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|error| ApiError::Failed(format!("the engine's answer is unreadable: {error}")))?;
    Ok(answer.count)
}

/// Does what takes long on a large answer on a thread that may be busy.
async fn off_the_path<T: Send + 'static>(
    answer: Bytes,
    work: impl FnOnce(&[u8]) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if answer.len() < LARGE {
        return work(&answer);
    }
    let done = tokio::task::spawn_blocking(move || work(&answer)).await;
    done.unwrap_or_else(|error| Err(ApiError::Failed(error.to_string())))
}

/// The beginning of an answer, up to its vectors.
fn head(asked: &str) -> Vec<u8> {
    let mut out = br#"{"model":"#.to_vec();
    // A string always becomes JSON.
    out.extend(serde_json::to_vec(asked).unwrap_or_default());
    out.extend(br#","embeddings":"#);
    out
}

/// What follows the vectors; figures of zero are left out, as in Ollama (§7).
fn write_figures(run: &Run, tokens: u64, out: &mut Vec<u8>) {
    let (total, load) = run.durations();
    for (name, value) in [("total_duration", total), ("load_duration", load), ("prompt_eval_count", tokens)] {
        if value > 0 {
            out.extend(format!(",\"{name}\":{value}").into_bytes());
        }
    }
}
