//! `/api/generate` and `/api/chat`: the checks in Ollama's order (ollama-api §3.1), then the way to the engine and back.

use std::sync::Arc;

use http::StatusCode;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::messages::Turn;
use super::names::Wanted;
use super::options::Options;
use super::prelude::Prelude;
use super::request::{self, Endpoint, Logprobs, Prompt};
use super::response::{Asked, Shape, loaded};
use super::run::{Question, Run};
use super::think::{self, Think, Thinking};
use super::types::{ChatRequest, GenerateRequest};
use super::{JSON, format, json, keep_alive, tools};
use crate::api::{self, App, Call, Reply};
use crate::model::{Capability, Installed};
use crate::scheduler::KeepAlive;

/// What both requests say about themselves, read and checked.
struct Wishes {
    keep_alive: Option<KeepAlive>,
    think: Option<Think>,
    logprobs: Logprobs,
}

impl Wishes {
    fn read(
        keep_alive: Option<&RawValue>,
        think: Option<&RawValue>,
        logprobs: bool,
        top_logprobs: i64,
    ) -> Result<Self, ApiError> {
        let keep_alive = keep_alive.map(keep_alive::parse).transpose()?;
        let think = think.map(Think::parse).transpose()?;
        let alternatives = u8::try_from(top_logprobs).ok().filter(|count| *count <= 20);
        let alternatives = alternatives.ok_or(ApiError::TopLogprobs)?;
        Ok(Self { keep_alive, think, logprobs: logprobs.then_some(alternatives) })
    }

    fn unloads(&self) -> bool {
        matches!(self.keep_alive, Some(KeepAlive::For(time)) if time.is_zero())
    }

    /// Whether the model can think, if that is wanted.
    fn check_thinking(&self, model: &Installed, asked: &str) -> Result<(), ApiError> {
        let wanted = self.think.is_some_and(Think::wanted);
        if wanted && !model.card.can(Capability::Thinking) {
            return Err(ApiError::Unable(format!("{asked:?}"), "thinking"));
        }
        Ok(())
    }
}

/// Where a request is after its checks. The request itself, with images of many megabytes perhaps, is needed no more.
enum Step {
    /// It has its answer.
    Answered(Reply),
    /// The engine is to be asked.
    Ask(Run, Box<Question>),
}

/// Looks the model up and notes it for the log.
fn find(app: &App, call: &Call, asked: &str) -> Result<Arc<Installed>, ApiError> {
    let model = Wanted::parse(asked)?.find(app, asked, "remote inference is unavailable")?;
    call.facts.set_model(model.name.display());
    Ok(model)
}

/// Answers a request without a prompt (§6.1): always one object, never a stream.
async fn load(
    app: &App,
    call: &Call,
    model: &Arc<Installed>,
    keep_alive: Option<KeepAlive>,
    (shape, asked): (Shape, &str),
) -> Result<Reply, ApiError> {
    // The keep-alive begins when the lease is dropped.
    let _run = Run::begin(app, call, model, keep_alive).await?;
    Ok(api::whole(StatusCode::OK, JSON, loaded(shape, asked, "load")))
}

fn unload(app: &App, model: &Arc<Installed>, (shape, asked): (Shape, &str)) -> Reply {
    app.scheduler.unload(model);
    api::whole(StatusCode::OK, JSON, loaded(shape, asked, "unload"))
}

/// `POST /api/chat`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn chat(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    match prepare_chat(&app, &call).await? {
        Step::Answered(reply) => Ok(reply),
        Step::Ask(run, question) => {
            drop(call);
            run.answer(*question).await
        }
    }
}

async fn prepare_chat(app: &App, call: &Call) -> Result<Step, ApiError> {
    let text = json::text(&call.body)?;
    let request: ChatRequest = json::decode(&text)?;
    let wishes = Wishes::read(request.keep_alive, request.think, request.logprobs, request.top_logprobs)?;
    let asked = &*request.model;
    if asked.trim().is_empty() {
        return Err(ApiError::ModelRequired);
    }
    let model = find(app, call, asked)?;
    if request.messages.is_empty() && wishes.unloads() {
        return Ok(Step::Answered(unload(app, &model, (Shape::Chat, asked))));
    }
    wishes.check_thinking(&model, asked)?;
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{asked:?}"), "chat"));
    }
    let tools = tools::parse(request.tools)?;
    if tools.is_some() && !model.card.can(Capability::Tools) {
        return Err(ApiError::Unable(model.name.full(), "tools"));
    }
    let options = Options::parse(request.options)?.or(&Options::of(&model));
    if request.messages.is_empty() {
        return load(app, call, &model, wishes.keep_alive, (Shape::Chat, asked)).await.map(Step::Answered);
    }
    let response_format = format::parse(request.format)?;
    let prelude = Prelude::of(&model);
    let own = prelude.messages();
    let turns = prelude.chat(&own, &request)?;
    let run = Run::begin(app, call, &model, wishes.keep_alive).await?;
    let stream = request.stream.unwrap_or(true);
    let common = run.common(Endpoint::Chat, stream, &options, response_format, false);
    let thinking = think::thinking(wishes.think, &model.card);
    let body = request::chat(common, &turns, tools, thinking, wishes.logprobs);
    let asked = Asked { shape: Shape::Chat, model: asked, logprobs: wishes.logprobs, context: false };
    let question = run.question(&asked, Endpoint::Chat, stream, body);
    Ok(Step::Ask(run, Box::new(question)))
}

/// `POST /api/generate`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn generate(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    match prepare_generate(&app, &call).await? {
        Step::Answered(reply) => Ok(reply),
        Step::Ask(run, question) => {
            drop(call);
            run.answer(*question).await
        }
    }
}

async fn prepare_generate(app: &App, call: &Call) -> Result<Step, ApiError> {
    let text = json::text(&call.body)?;
    let request: GenerateRequest = json::decode(&text)?;
    let wishes = Wishes::read(request.keep_alive, request.think, request.logprobs, request.top_logprobs)?;
    let asked = &*request.model;
    if asked.trim().is_empty() {
        // Unlike chat, as in Ollama (§14).
        return Err(ApiError::NotFound(asked.to_owned()));
    }
    let model = find(app, call, asked)?;
    if request.prompt.is_empty() && wishes.unloads() {
        return Ok(Step::Answered(unload(app, &model, (Shape::Generate, asked))));
    }
    check_generate(&request, &wishes, &model)?;
    let options = Options::parse(request.options)?.or(&Options::of(&model));
    if request.prompt.is_empty() {
        return load(app, call, &model, wishes.keep_alive, (Shape::Generate, asked)).await.map(Step::Answered);
    }
    let response_format = format::parse(request.format)?;
    check_supported(&request)?;
    let prelude = Prelude::of(&model);
    let own = prelude.messages();
    let turns = if request.raw { Vec::new() } else { prelude.generation(&own, &request)? };
    let run = Run::begin(app, call, &model, wishes.keep_alive).await?;
    let stream = request.stream.unwrap_or(true);
    let thinking = think::thinking(wishes.think, &model.card);
    let prompt = prompt(&run, &request, turns, thinking).await?;
    let endpoint = if matches!(prompt, Rendered::Turns(_)) { Endpoint::Chat } else { Endpoint::Completions };
    let common = run.common(endpoint, stream, &options, response_format, !request.raw);
    let body = match &prompt {
        Rendered::Turns(turns) => request::chat(common, turns, None, thinking, wishes.logprobs),
        Rendered::Text(text) => request::completion(common, Prompt::Text(text), wishes.logprobs),
        Rendered::Tokens(tokens) => request::completion(common, Prompt::Tokens(tokens), wishes.logprobs),
    };
    let asked = Asked { shape: Shape::Generate, model: asked, logprobs: wishes.logprobs, context: !request.raw };
    let question = run.question(&asked, endpoint, stream, body);
    Ok(Step::Ask(run, Box::new(question)))
}

/// What the engine gets for a prompt.
enum Rendered<'a> {
    /// To go through the chat template.
    Turns(Vec<Turn<'a>>),
    /// As it is.
    Text(&'a str),
    /// As token ids: an earlier exchange and a new turn.
    Tokens(Vec<u32>),
}

/// Prepares the prompt. With a `context` the engine renders the new turn, and its tokens follow the old ones (§6.3).
async fn prompt<'a>(
    run: &Run,
    request: &'a GenerateRequest<'a>,
    turns: Vec<Turn<'a>>,
    thinking: Thinking,
) -> Result<Rendered<'a>, ApiError> {
    if request.raw {
        return Ok(Rendered::Text(&request.prompt));
    }
    if request.context.is_empty() {
        return Ok(Rendered::Turns(turns));
    }
    let body = request::tokenize(run.served_name(), &turns, thinking);
    let mut tokens = request.context.clone();
    tokens.extend(request::tokens(&run.fetch("/tokenize", body).await?)?);
    Ok(Rendered::Tokens(tokens))
}

/// The checks of §3.1 between finding the model and waiting for it.
fn check_generate(request: &GenerateRequest<'_>, wishes: &Wishes, model: &Installed) -> Result<(), ApiError> {
    let templated = !request.template.is_empty() || !request.system.is_empty() || !request.context.is_empty();
    if request.raw && templated {
        return Err(ApiError::RawConflict);
    }
    wishes.check_thinking(model, &request.model)?;
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{:?}", &*request.model), "generate"));
    }
    if !request.suffix.is_empty() {
        // The engine fills no gaps by itself and vllama has no prompts for it yet, whatever the card says.
        return Err(ApiError::Unable(model.name.full(), "insert"));
    }
    Ok(())
}

/// What Ollama does and vllama does not.
fn check_supported(request: &GenerateRequest<'_>) -> Result<(), ApiError> {
    let unsupported = if !request.template.is_empty() {
        "vllama does not take a template with a request: Ollama's templates are not those of the engine; leave \
         `template` out, or render the prompt yourself and send it with `raw`"
    } else if !request.images.is_empty() && request.raw {
        "vllama cannot put images into a raw prompt; send them without `raw`, or to /api/chat"
    } else if !request.images.is_empty() && !request.context.is_empty() {
        "vllama cannot combine images with `context`; send the whole conversation to /api/chat"
    } else {
        return Ok(());
    };
    Err(ApiError::NotSupported(unsupported.to_owned()))
}
