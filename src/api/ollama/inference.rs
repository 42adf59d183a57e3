//! `/api/chat`, and what `/api/generate` has in common with it: the checks in Ollama's order (ollama-api §3.1).

use std::sync::Arc;

use http::StatusCode;
use serde_json::value::RawValue;

use super::asking::{Asking, Step};
use super::error::ApiError;
use super::fit::Draft;
use super::names::Wanted;
use super::options::Options;
use super::prelude::Prelude;
use super::request::Logprobs;
use super::response::{Asked, Shape, loaded};
use super::run::Run;
use super::think::{self, Think};
use super::types::ChatRequest;
use super::window::Window;
use super::{JSON, format, json, keep_alive, tools};
use crate::access::Scope;
use crate::api::{self, App, Call, Reply};
use crate::model::{Capability, Installed};
use crate::scheduler::KeepAlive;

/// What both requests say about themselves, read and checked.
pub(super) struct Wishes {
    pub keep_alive: Option<KeepAlive>,
    pub think: Option<Think>,
    pub logprobs: Logprobs,
}

impl Wishes {
    pub fn read(
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

    pub fn unloads(&self) -> bool {
        matches!(self.keep_alive, Some(KeepAlive::For(time)) if time.is_zero())
    }

    /// Whether the model can think, if that is wanted.
    pub fn check_thinking(&self, model: &Installed, asked: &str) -> Result<(), ApiError> {
        let wanted = self.think.is_some_and(Think::wanted);
        if wanted && !model.card.can(Capability::Thinking) {
            return Err(ApiError::Unable(format!("{asked:?}"), "thinking"));
        }
        Ok(())
    }
}

/// Looks the model up and notes it for the log.
pub(super) fn find(app: &App, call: &Call, asked: &str) -> Result<Arc<Installed>, ApiError> {
    Wanted::parse(asked)?.find(app, call, asked, "remote inference is unavailable")
}

/// Answers a request without a prompt (§6.1): always one object, never a stream.
pub(super) async fn load(
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

/// Unloads a model, if the request may: others may be using it.
pub(super) fn unload(
    app: &App,
    call: &Call,
    model: &Arc<Installed>,
    (shape, asked): (Shape, &str),
) -> Result<Reply, ApiError> {
    if !call.grant.may(Scope::Manage) {
        call.facts.set_refusal("scope");
        return Err(ApiError::MayNotUnload);
    }
    app.scheduler.unload(model);
    Ok(api::whole(StatusCode::OK, JSON, loaded(shape, asked, "unload")))
}

/// `POST /api/chat`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn chat(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let step = prepare(&app, &call).await?;
    drop(call);
    step.answer().await
}

async fn prepare(app: &App, call: &Call) -> Result<Step, ApiError> {
    let text = json::text(&call.body)?;
    let request: ChatRequest = json::decode(&text)?;
    let wishes = Wishes::read(request.keep_alive, request.think, request.logprobs, request.top_logprobs)?;
    let asked = &*request.model;
    if asked.trim().is_empty() {
        return Err(ApiError::ModelRequired);
    }
    let model = find(app, call, asked)?;
    if request.messages.is_empty() && wishes.unloads() {
        return unload(app, call, &model, (Shape::Chat, asked)).map(Step::Answered);
    }
    wishes.check_thinking(&model, asked)?;
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{asked:?}"), "chat"));
    }
    let tools = tools::parse(request.tools)?;
    let calls = |model: &Installed| tools.as_ref().map_or(Ok(()), |_| tools::able(model));
    calls(&model)?;
    let options = Options::parse(request.options)?.or(&Options::of(&model));
    if request.messages.is_empty() {
        return load(app, call, &model, wishes.keep_alive, (Shape::Chat, asked)).await.map(Step::Answered);
    }
    let response_format = format::parse(request.format)?;
    let prelude = Prelude::of(&model);
    let own = prelude.messages();
    let turns = prelude.chat(&own, &request)?;
    let run = Run::begin(app, call, &model, wishes.keep_alive).await?;
    calls(run.model())?;
    let num_ctx = options.context_length().or(app.context_length);
    let window = Window::new(num_ctx, run.max_model_len(), (request.truncate, request.shift), options.most_tokens());
    let asking = Asking {
        run,
        options: &options,
        window,
        response_format,
        tools: tools.as_deref(),
        thinking: think::thinking(wishes.think, &model.card),
        asked: Asked { shape: Shape::Chat, model: asked, logprobs: wishes.logprobs, context: false },
        stream: request.stream.unwrap_or(true),
        debug: request._debug_render_only,
    };
    asking.put(Draft::Turns(turns)).await
}
