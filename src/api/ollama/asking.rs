//! The last step of `/api/chat` and `/api/generate` alike: a prompt is made to fit, put to the engine, and the answer
//! told; or the prompt itself is told (ollama-api §6.10).

use serde_json::value::RawValue;

use super::debug;
use super::error::ApiError;
use super::fit::{Draft, Fit, Fitted, Verbatim};
use super::format::Format;
use super::messages::Turn;
use super::options::{Limit, Options};
use super::request::{self, Common, Cut, Endpoint, Prompt};
use super::response::Asked;
use super::run::{Opened, Question, Run, Thoughts};
use super::think::Thinking;
use super::window::Window;
use crate::api::Reply;

/// Where a request is after its checks. The request itself, with images of many megabytes perhaps, is needed no more.
pub enum Step {
    /// It has its answer.
    Answered(Reply),
    /// The engine is to be asked.
    Ask(Run, Box<Question>),
    /// The engine has begun to answer.
    Opened(Run, Box<Question>, Box<Opened>),
}

impl Step {
    /// Goes on to the answer.
    ///
    /// # Errors
    /// What goes wrong before the answer has begun.
    pub async fn answer(self) -> Result<Reply, ApiError> {
        match self {
            Self::Answered(reply) => Ok(reply),
            Self::Ask(run, question) => {
                let opened = run.open(&question).await?;
                run.tell(*question, opened).await
            }
            Self::Opened(run, question, opened) => run.tell(*question, *opened).await,
        }
    }
}

/// All of a request but its prompt.
pub struct Asking<'a> {
    /// Its lease.
    pub run: Run,
    /// Sampling and limits.
    pub options: &'a Options,
    /// The room for its prompt.
    pub window: Window,
    /// What the answer must look like.
    pub response_format: Option<Format<'a>>,
    /// Functions the model may call.
    pub tools: Option<&'a RawValue>,
    /// Whether the model is to think.
    pub thinking: Thinking,
    /// How the answer is told.
    pub asked: Asked<'a>,
    /// Whether it is streamed.
    pub stream: bool,
    /// Whether the prompt is told instead.
    pub debug: bool,
}

impl Asking<'_> {
    /// Puts a prompt to the engine.
    ///
    /// # Errors
    /// [`ApiError::TooLong`], and what the engine says.
    pub async fn put(self, draft: Draft<'_>) -> Result<Step, ApiError> {
        if self.debug {
            return self.render(draft).await.map(Step::Answered);
        }
        let (fitted, may_be_refused) = self.fit().at_first(draft).await?;
        let question = self.question(&fitted);
        if !may_be_refused {
            return Ok(Step::Ask(self.run, Box::new(question)));
        }
        match self.run.open(&question).await {
            Err(ApiError::TooLong) if self.window.drops_messages() => {
                let fitted = self.fit().shorten(fitted.draft).await?;
                let question = self.question(&fitted);
                Ok(Step::Ask(self.run, Box::new(question)))
            }
            opened => Ok(Step::Opened(self.run, Box::new(question), Box::new(opened?))),
        }
    }

    fn fit(&self) -> Fit<'_> {
        Fit { run: &self.run, window: self.window, tools: self.tools, thinking: self.thinking }
    }

    fn question(&self, fitted: &Fitted<'_>) -> Question {
        let (endpoint, thoughts) = match &fitted.draft {
            Draft::Turns(_) => (Endpoint::Chat, Thoughts::Templated),
            Draft::Tokens(_) => (Endpoint::Completions, Thoughts::Templated),
            // A gap is filled without thoughts, and a raw prompt answered as it comes.
            Draft::Text(verbatim) if verbatim.whole || !self.asked.context => {
                (Endpoint::Completions, Thoughts::Nowhere)
            }
            Draft::Text(_) => (Endpoint::Completions, Thoughts::Tagged),
        };
        let limit = Limit {
            max_model_len: self.run.max_model_len(),
            answer: self.window.answer(fitted.tokens),
            always: endpoint == Endpoint::Completions,
        };
        let common = Common {
            model: self.run.served_name(),
            stream: self.stream,
            sampling: self.options.sampling(&self.run.model().card.generation, limit),
            response_format: self.response_format,
            return_token_ids: self.asked.context,
            cut: fitted.cut.map(Cut::to),
        };
        let logprobs = self.asked.logprobs;
        let body = match &fitted.draft {
            Draft::Turns(turns) => request::chat(common, turns, self.tools, self.thinking, logprobs),
            Draft::Text(Verbatim { text, specials, .. }) => {
                request::completion(common, Prompt::Text(text), *specials, logprobs)
            }
            Draft::Tokens(tokens) => {
                request::completion(common, Prompt::Tokens(tokens), request::Specials::default(), logprobs)
            }
        };
        self.run.question(&self.asked, (endpoint, thoughts), self.stream, body)
    }

    /// Tells the prompt. vLLM tells none by itself, so it is what the engine's tokens say.
    async fn render(&self, draft: Draft<'_>) -> Result<Reply, ApiError> {
        let fit = self.fit();
        let (mut fitted, may_be_refused) = fit.at_first(draft).await?;
        if may_be_refused {
            fitted = fit.shorten(fitted.draft).await?;
        }
        let name = self.run.served_name();
        let (body, images) = match fitted.draft {
            Draft::Turns(turns) => {
                let images = turns.iter().map(Turn::images).sum();
                (request::tokenize(name, &turns, self.tools, self.thinking), images)
            }
            Draft::Text(verbatim) if fitted.cut.is_none() => {
                return Ok(debug::reply(&self.asked, &verbatim.text, 0));
            }
            Draft::Text(verbatim) => (request::tokenize_text(name, &verbatim.text, verbatim.specials), 0),
            Draft::Tokens(tokens) => {
                return Ok(debug::reply(&self.asked, &self.run.text_of(&tokens).await?, 0));
            }
        };
        let tokens = request::tokens(&self.run.fetch("/tokenize", body).await?)?;
        let most = fitted.cut.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let tokens = &tokens[tokens.len().saturating_sub(most)..];
        Ok(debug::reply(&self.asked, &self.run.text_of(tokens).await?, images))
    }
}
