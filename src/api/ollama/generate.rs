//! `/api/generate`: the checks in Ollama's order (ollama-api §3.1), then the prompt in one of its five forms.

use std::borrow::Cow;
use std::sync::Arc;

use super::asking::{Asking, Step};
use super::error::ApiError;
use super::fit::{Draft, Verbatim};
use super::inference::{self, Wishes};
use super::messages::Turn;
use super::options::Options;
use super::prelude::Prelude;
use super::request::{self, Specials};
use super::response::{Asked, Shape};
use super::run::Run;
use super::think::{self, Thinking};
use super::types::{GenerateRequest, Message};
use super::window::Window;
use super::{format, go_template, json};
use crate::api::{App, Call, Reply};
use crate::model::fill_in::{self, FillIn};
use crate::model::{Capability, Card, Installed};

/// Texts by which models' tokenizers begin a sequence: a prompt that begins with one must not get another.
const BEGINNINGS: [&str; 6] =
    ["<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "[gMASK]<sop>"];

/// `POST /api/generate`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn generate(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let step = prepare(&app, &call).await?;
    drop(call);
    step.answer().await
}

async fn prepare(app: &App, call: &Call) -> Result<Step, ApiError> {
    let text = json::text(&call.body)?;
    let request: GenerateRequest = json::decode(&text)?;
    let wishes = Wishes::read(request.keep_alive, request.think, request.logprobs, request.top_logprobs)?;
    let asked = &*request.model;
    if asked.trim().is_empty() {
        // Unlike chat, as in Ollama (§14).
        return Err(ApiError::NotFound(asked.to_owned()));
    }
    let model = inference::find(app, call, asked)?;
    if request.prompt.is_empty() && wishes.unloads() {
        return inference::unload(app, call, &model, (Shape::Generate, asked)).map(Step::Answered);
    }
    let way = check(&request, &wishes, &model)?;
    let mut options = Options::parse(request.options)?.or(&Options::of(&model));
    if request.prompt.is_empty() {
        let shown = (Shape::Generate, asked);
        return inference::load(app, call, &model, wishes.keep_alive, shown).await.map(Step::Answered);
    }
    let response_format = format::parse(request.format)?;
    let form = Form::of(&request, way)?;
    if let Form::Gap(way) = form {
        options.add_stops(way.ends(&model.card));
    }
    let prelude = Prelude::of(&model);
    let own = prelude.messages();
    let turns = if let Form::Turns | Form::Continued = form { prelude.generation(&own, &request)? } else { Vec::new() };
    let template =
        if let Form::Template = form { Some(rendered(&request, &prelude, &own, wishes.think).await?) } else { None };
    let run = Run::begin(app, call, &model, wishes.keep_alive).await?;
    let thinking = think::thinking(wishes.think, &model.card);
    let draft = match form {
        Form::Raw => Draft::Text(verbatim(Cow::Borrowed(&*request.prompt), &model.card)),
        Form::Template => {
            let text = after(&run, &request.context, template.unwrap_or_default()).await?;
            Draft::Text(verbatim(Cow::Owned(text), &model.card))
        }
        Form::Gap(way) => {
            let text = after(&run, &request.context, way.prompt(&request.prompt, &request.suffix)).await?;
            let mut gap = verbatim(Cow::Owned(text), &model.card);
            // Its ends are special tokens to most tokenizers, and would stop nothing untold.
            gap.specials.skip_special_tokens = Some(false);
            gap.whole = true;
            Draft::Text(gap)
        }
        Form::Continued => Draft::Tokens(continued(&run, &request.context, &turns, thinking).await?),
        Form::Turns => Draft::Turns(turns),
    };
    let num_ctx = options.context_length().or(app.context_length);
    let window = Window::new(num_ctx, run.max_model_len(), (request.truncate, request.shift), options.most_tokens());
    let asking = Asking {
        run,
        options: &options,
        window,
        response_format,
        tools: None,
        thinking,
        asked: Asked { shape: Shape::Generate, model: asked, logprobs: wishes.logprobs, context: !request.raw },
        stream: request.stream.unwrap_or(true),
        debug: request._debug_render_only,
    };
    asking.put(draft).await
}

/// The checks of §3.1 between finding the model and waiting for it. Gives the model's way to fill a gap, where there is
/// one to be filled.
fn check(
    request: &GenerateRequest<'_>,
    wishes: &Wishes,
    model: &Installed,
) -> Result<Option<&'static FillIn>, ApiError> {
    let templated = !request.template.is_empty() || !request.system.is_empty() || !request.context.is_empty();
    if request.raw && templated {
        return Err(ApiError::RawConflict);
    }
    wishes.check_thinking(model, &request.model)?;
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{:?}", &*request.model), "generate"));
    }
    if request.suffix.is_empty() {
        return Ok(None);
    }
    let way = fill_in::of(&model.card).ok_or_else(|| ApiError::Unable(model.name.full(), "insert"))?;
    Ok(Some(way))
}

/// In which form the prompt reaches the engine.
#[derive(Clone, Copy)]
enum Form {
    /// As it is.
    Raw,
    /// Through the template that came with it.
    Template,
    /// Around a gap (§6.6): no system prompt, no messages, no thoughts.
    Gap(&'static FillIn),
    /// Through the chat template, after the tokens of an earlier exchange (§6.3).
    Continued,
    /// Through the chat template.
    Turns,
}

impl Form {
    /// # Errors
    /// [`ApiError::NotSupported`] for images where only text can go.
    fn of(request: &GenerateRequest<'_>, way: Option<&'static FillIn>) -> Result<Self, ApiError> {
        let form = match way {
            _ if request.raw => Self::Raw,
            _ if !request.template.is_empty() => Self::Template,
            Some(way) => Self::Gap(way),
            None if !request.context.is_empty() => Self::Continued,
            None => Self::Turns,
        };
        let beside = match form {
            _ if request.images.is_empty() => return Ok(form),
            Self::Turns => return Ok(form),
            Self::Raw => "a raw prompt",
            Self::Template => "`template`",
            Self::Gap(_) => "`suffix`",
            Self::Continued => "`context`",
        };
        Err(ApiError::NotSupported(format!(
            "vllama cannot send images with {beside}: vLLM takes images through the model's own chat template only; leave \
             it out, or send the conversation to /api/chat"
        )))
    }
}

/// A text for the engine as it is, without a second mark of its beginning.
fn verbatim<'a>(text: Cow<'a, str>, card: &Card) -> Verbatim<'a> {
    let known = |mark: &&str| card.tokens.as_ref().is_some_and(|tokens| tokens.contains(*mark));
    let begun = BEGINNINGS.iter().filter(|mark| known(mark)).any(|mark| text.starts_with(mark));
    let specials = Specials { add_special_tokens: begun.then_some(false), skip_special_tokens: None };
    Verbatim { text, specials, whole: false }
}

/// The text of an earlier exchange and this one after it.
async fn after(run: &Run, context: &[u32], text: String) -> Result<String, ApiError> {
    if context.is_empty() {
        return Ok(text);
    }
    Ok(run.text_of(context).await? + &text)
}

/// The tokens of an earlier exchange and of these turns after them.
async fn continued(run: &Run, context: &[u32], turns: &[Turn<'_>], thinking: Thinking) -> Result<Vec<u32>, ApiError> {
    let body = request::tokenize(run.served_name(), turns, None, thinking);
    let mut tokens = context.to_vec();
    tokens.extend(request::tokens(&run.fetch("/tokenize", body).await?)?);
    Ok(tokens)
}

/// The prompt through the template of its request, made on a thread that may be busy: anybody may have written it.
async fn rendered(
    request: &GenerateRequest<'_>,
    prelude: &Prelude<'_>,
    own: &[Message<'_>],
    think: Option<think::Think>,
) -> Result<String, ApiError> {
    let system = prelude.system_of(request);
    let own = if request.context.is_empty() { own } else { &[] };
    let values = go_template::Values {
        system: system.to_owned(),
        messages: own
            .iter()
            .map(|message| (message.role.to_ascii_lowercase(), message.content.to_string()))
            .chain([("user".to_owned(), request.prompt.to_string())])
            .collect(),
        suffix: request.suffix.to_string(),
        think: think.map(think::Think::wanted),
    };
    let template = request.template.to_string();
    let work = tokio::task::spawn_blocking(move || go_template::render(&template, &values));
    match work.await {
        Ok(rendered) => rendered.map_err(ApiError::BadTemplate),
        Err(_) => Err(ApiError::BadTemplate("it could not be rendered".to_owned())),
    }
}
