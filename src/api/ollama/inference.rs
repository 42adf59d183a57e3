//! `/api/generate` and `/api/chat`: the checks in Ollama's order (ollama-api §3.1), then the way to the engine and back.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::messages::{Turn, turns};
use super::names::Wanted;
use super::options::{Limit, Options};
use super::request::{self, Common, Endpoint, Logprobs, Prompt};
use super::response::{Asked, Clock, Shape, Translator, loaded};
use super::stream::Lines;
use super::think::{self, Think, Thinking};
use super::types::{ChatRequest, GenerateRequest};
use super::{JSON, NDJSON, format, json, keep_alive};
use crate::api::{self, App, Body, Call, Reply};
use crate::model::{Capability, Installed};
use crate::scheduler::{KeepAlive, Lease};

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

/// A request whose lease is here.
struct Run<'a> {
    call: &'a Call,
    model: &'a Installed,
    lease: Lease,
    leased: Instant,
}

/// What a run asks the engine.
struct Question<'a> {
    asked: Asked<'a>,
    endpoint: Endpoint,
    stream: bool,
    body: Bytes,
}

impl<'a> Run<'a> {
    async fn begin(
        app: &App,
        call: &'a Call,
        model: &'a Arc<Installed>,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Self, ApiError> {
        let lease = app.scheduler.lease(model, keep_alive).await?;
        Ok(Self { call, model, lease, leased: Instant::now() })
    }

    fn limit(&self, endpoint: Endpoint) -> Limit {
        Limit { max_model_len: self.lease.max_model_len(), always: endpoint == Endpoint::Completions }
    }

    fn common<'b>(
        &'b self,
        endpoint: Endpoint,
        stream: bool,
        options: &'b Options,
        response_format: Option<format::Format<'b>>,
        return_token_ids: bool,
    ) -> Common<'b> {
        let sampling = options.sampling(&self.model.card.generation, self.limit(endpoint));
        Common { model: self.lease.served_name(), stream, sampling, response_format, return_token_ids }
    }

    /// Posts and waits for a whole answer.
    async fn fetch(&self, path: &'static str, body: Bytes) -> Result<Bytes, ApiError> {
        let answer = self.lease.post(path, body, &self.call.request_id).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(ApiError::from_engine(status, &body)) }
    }

    /// Asks the engine and answers the client.
    async fn answer(self, question: Question<'_>) -> Result<Reply, ApiError> {
        let clock = Clock { arrived: self.call.arrived, leased: self.leased, first: None };
        let mut translator = Translator::new(&question.asked, clock, self.call.facts.clone());
        let path = question.endpoint.path();
        if !question.stream {
            let answer = self.fetch(path, question.body).await?;
            let mut out = BytesMut::with_capacity(answer.len());
            translator.whole(&answer, &mut out)?;
            return Ok(api::whole(StatusCode::OK, JSON, out));
        }
        let answer = self.lease.post(path, question.body, &self.call.request_id).await?;
        let (head, body) = answer.into_parts();
        if !head.status.is_success() {
            let body = body.collect().await?.to_bytes();
            return Err(ApiError::from_engine(head.status, &body));
        }
        let lines = Lines::open(body, self.lease, translator).await?;
        let mut reply = Reply::new(Body::Stream(Box::pin(lines)));
        reply.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(NDJSON));
        Ok(reply)
    }
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
    let _lease = Run::begin(app, call, model, keep_alive).await?;
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
    let text = json::text(&call.body)?;
    let request: ChatRequest = json::decode(&text)?;
    let wishes = Wishes::read(request.keep_alive, request.think, request.logprobs, request.top_logprobs)?;
    let asked = &*request.model;
    if asked.trim().is_empty() {
        return Err(ApiError::ModelRequired);
    }
    let model = find(&app, &call, asked)?;
    if request.messages.is_empty() && wishes.unloads() {
        return Ok(unload(&app, &model, (Shape::Chat, asked)));
    }
    wishes.check_thinking(&model, asked)?;
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{asked:?}"), "chat"));
    }
    // An empty list of tools is an error in the engine.
    let tools = request.tools.filter(|tools| has_elements(tools));
    if tools.is_some() && !model.card.can(Capability::Tools) {
        return Err(ApiError::Unable(model.name.full(), "tools"));
    }
    let options = Options::parse(request.options)?;
    if request.messages.is_empty() {
        return load(&app, &call, &model, wishes.keep_alive, (Shape::Chat, asked)).await;
    }
    let response_format = format::parse(request.format)?;
    let turns = turns(&request.messages)?;
    let run = Run::begin(&app, &call, &model, wishes.keep_alive).await?;
    let stream = request.stream.unwrap_or(true);
    let common = run.common(Endpoint::Chat, stream, &options, response_format, false);
    let thinking = think::thinking(wishes.think, &model.card);
    let body = request::chat(common, &turns, tools, thinking, wishes.logprobs);
    let asked = Asked { shape: Shape::Chat, model: asked, logprobs: wishes.logprobs, context: false };
    run.answer(Question { asked, endpoint: Endpoint::Chat, stream, body }).await
}

fn has_elements(list: &RawValue) -> bool {
    let inside = list.get().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| !inside.trim().is_empty())
}

/// `POST /api/generate`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn generate(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let text = json::text(&call.body)?;
    let request: GenerateRequest = json::decode(&text)?;
    let wishes = Wishes::read(request.keep_alive, request.think, request.logprobs, request.top_logprobs)?;
    let asked = &*request.model;
    if asked.trim().is_empty() {
        // Unlike chat, as in Ollama (§14).
        return Err(ApiError::NotFound(asked.to_owned()));
    }
    let model = find(&app, &call, asked)?;
    if request.prompt.is_empty() && wishes.unloads() {
        return Ok(unload(&app, &model, (Shape::Generate, asked)));
    }
    check_generate(&request, &wishes, &model)?;
    let options = Options::parse(request.options)?;
    if request.prompt.is_empty() {
        return load(&app, &call, &model, wishes.keep_alive, (Shape::Generate, asked)).await;
    }
    let response_format = format::parse(request.format)?;
    check_supported(&request)?;
    let run = Run::begin(&app, &call, &model, wishes.keep_alive).await?;
    let stream = request.stream.unwrap_or(true);
    let thinking = think::thinking(wishes.think, &model.card);
    let prompt = prompt(&run, &request, thinking).await?;
    let endpoint = if matches!(prompt, Rendered::Turns(_)) { Endpoint::Chat } else { Endpoint::Completions };
    let common = run.common(endpoint, stream, &options, response_format, !request.raw);
    let body = match &prompt {
        Rendered::Turns(turns) => request::chat(common, turns, None, thinking, wishes.logprobs),
        Rendered::Text(text) => request::completion(common, Prompt::Text(text), wishes.logprobs),
        Rendered::Tokens(tokens) => request::completion(common, Prompt::Tokens(tokens), wishes.logprobs),
    };
    drop(prompt);
    let asked = Asked { shape: Shape::Generate, model: asked, logprobs: wishes.logprobs, context: !request.raw };
    run.answer(Question { asked, endpoint, stream, body }).await
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
    run: &Run<'_>,
    request: &'a GenerateRequest<'a>,
    thinking: Thinking,
) -> Result<Rendered<'a>, ApiError> {
    if request.raw {
        return Ok(Rendered::Text(&request.prompt));
    }
    let system = (!request.system.is_empty()).then(|| Turn::new("system", &request.system, &[]));
    let turns: Vec<_> = system.into_iter().chain([Turn::new("user", &request.prompt, &request.images)]).collect();
    if request.context.is_empty() {
        return Ok(Rendered::Turns(turns));
    }
    let body = request::tokenize(run.lease.served_name(), &turns, thinking);
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
