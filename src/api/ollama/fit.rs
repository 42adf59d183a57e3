//! Makes a prompt fit into its window: the engine counts, [`window`] decides (ollama-api §6.9).

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::error::ApiError;
use super::messages::Turn;
use super::request::{self, Specials};
use super::run::Run;
use super::think::Thinking;
use super::window::{self, Search, Window};

/// A prompt as the client means it.
pub enum Draft<'a> {
    /// To go through the chat template.
    Turns(Vec<Turn<'a>>),
    /// As it is.
    Text(Verbatim<'a>),
    /// As token ids.
    Tokens(Vec<u32>),
}

/// A text for the engine as it is.
pub struct Verbatim<'a> {
    /// The text.
    pub text: Cow<'a, str>,
    /// What becomes of special tokens.
    pub specials: Specials,
    /// Whether it means nothing without its beginning, as the marks around a gap do.
    pub whole: bool,
}

/// A prompt that fits, as far as is known.
pub struct Fitted<'a> {
    /// What is left of it.
    pub draft: Draft<'a>,
    /// The engine is to cut off its beginning where it is longer than this, in tokens.
    pub cut: Option<u64>,
    /// Number of its tokens, where they were counted.
    pub tokens: Option<u64>,
}

impl<'a> Fitted<'a> {
    fn whole(draft: Draft<'a>) -> Self {
        Self { draft, cut: None, tokens: None }
    }
}

/// What a prompt is fitted into, and who counts.
pub struct Fit<'f> {
    /// A request with its lease.
    pub run: &'f Run,
    /// The room there is.
    pub window: Window,
    /// Tools the template writes into the prompt.
    pub tools: Option<&'f RawValue>,
    /// What the template is told about thinking.
    pub thinking: Thinking,
}

impl Fit<'_> {
    /// Fits a prompt before the engine is asked. Most are short enough at a glance. Where only the engine's own limit
    /// counts, one that may be too long is left as it is: the second value says that the engine may refuse it, and then
    /// it is time to [`Fit::shorten`] it.
    ///
    /// # Errors
    /// [`ApiError::TooLong`] for a prompt that may not be shortened, and what the engine says against counting it.
    pub async fn at_first<'a>(&self, draft: Draft<'a>) -> Result<(Fitted<'a>, bool), ApiError> {
        let bound = self.bound(&draft);
        if self.window.surely_holds(bound) && !self.window.limits_the_sum(bound) {
            // What an image takes is a guess: the engine knows better.
            let may_be_longer = matches!(&draft, Draft::Turns(turns) if has_images(turns));
            return Ok((Fitted::whole(draft), may_be_longer));
        }
        if self.window.is_the_engines() && !matches!(draft, Draft::Tokens(_)) {
            return Ok((Fitted::whole(draft), true));
        }
        Ok((self.shorten(draft).await?, false))
    }

    /// Counts a prompt and makes it shorter where it must be.
    ///
    /// # Errors
    /// As [`Fit::at_first`].
    pub async fn shorten<'a>(&self, draft: Draft<'a>) -> Result<Fitted<'a>, ApiError> {
        match draft {
            Draft::Turns(turns) => self.shorten_turns(turns).await,
            Draft::Text(verbatim) => self.shorten_text(verbatim).await,
            Draft::Tokens(tokens) => self.shorten_tokens(tokens),
        }
    }

    /// More tokens than a prompt can have.
    fn bound(&self, draft: &Draft<'_>) -> u64 {
        match draft {
            Draft::Turns(turns) => {
                // Most of a template is orders, not words. Tools may get more space than they came with, but never a token
                // for each of their bytes.
                let template = self.run.model().card.templates().map(str::len).max().unwrap_or_default() / 4;
                window::bound(turns, template + self.tools.map_or(0, |tools| tools.get().len()))
            }
            // The engine may put one token before it.
            Draft::Text(verbatim) => verbatim.text.len() as u64 + 1,
            Draft::Tokens(tokens) => tokens.len() as u64,
        }
    }

    async fn shorten_turns<'a>(&self, turns: Vec<Turn<'a>>) -> Result<Fitted<'a>, ApiError> {
        let all = self.count(&turns).await?;
        if all <= self.window.longest() {
            return Ok(Fitted { draft: Draft::Turns(turns), cut: None, tokens: Some(all) });
        }
        if !self.window.drops_messages() {
            return Err(ApiError::TooLong);
        }
        let beginnings = [0].into_iter().chain(window::beginnings(&turns)).collect::<Vec<_>>();
        let size = |beginning: &usize| window::from(&turns, *beginning).map(Turn::bytes).sum();
        let sizes: Vec<usize> = beginnings.iter().map(size).collect();
        let rest = |candidate: usize| window::from(&turns, beginnings[candidate]).cloned().collect::<Vec<Turn<'a>>>();
        let mut counts = vec![all; sizes.len()];
        let mut search = Search::new(&sizes, all, self.window.goal());
        while let Some(candidate) = search.next() {
            counts[candidate] = self.count(&rest(candidate)).await?;
            search.measured(candidate, counts[candidate]);
        }
        let (candidate, cut) = match search.found() {
            Some(candidate) => (candidate, None),
            // The engine does not cut through an image, nor before one.
            None if self.window.cuts() && !has_images(&rest(beginnings.len() - 1)) => {
                (beginnings.len() - 1, Some(self.window.goal()))
            }
            None => return Err(ApiError::TooLong),
        };
        tracing::debug!(
            tokens = all,
            left = counts[candidate],
            from_turn = beginnings[candidate],
            "a conversation was longer than its context: the oldest turns were left out"
        );
        Ok(Fitted { draft: Draft::Turns(rest(candidate)), cut, tokens: Some(cut.unwrap_or(counts[candidate])) })
    }

    async fn shorten_text<'a>(&self, verbatim: Verbatim<'a>) -> Result<Fitted<'a>, ApiError> {
        if self.window.cuts() && !verbatim.whole {
            // The engine counts while it cuts.
            return Ok(Fitted { draft: Draft::Text(verbatim), cut: Some(self.window.goal()), tokens: None });
        }
        let body = request::tokenize_text(self.run.served_name(), &verbatim.text, verbatim.specials);
        let tokens = request::count(&self.run.fetch("/tokenize", body).await?)?;
        if tokens > self.window.longest() {
            return Err(ApiError::TooLong);
        }
        Ok(Fitted { draft: Draft::Text(verbatim), cut: None, tokens: Some(tokens) })
    }

    fn shorten_tokens<'a>(&self, mut tokens: Vec<u32>) -> Result<Fitted<'a>, ApiError> {
        if tokens.len() as u64 > self.window.longest() {
            if !self.window.cuts() {
                return Err(ApiError::TooLong);
            }
            let goal = usize::try_from(self.window.goal()).unwrap_or(usize::MAX);
            tokens.drain(..tokens.len().saturating_sub(goal));
        }
        let number = tokens.len() as u64;
        Ok(Fitted { draft: Draft::Tokens(tokens), cut: None, tokens: Some(number) })
    }

    /// Tokens of these turns, with what their images and sounds take.
    async fn count(&self, turns: &[Turn<'_>]) -> Result<u64, ApiError> {
        let body = request::tokenize(self.run.served_name(), turns, self.tools, self.thinking);
        request::count(&self.run.fetch("/tokenize", body).await?)
    }
}

fn has_images(turns: &[Turn<'_>]) -> bool {
    turns.iter().any(|turn| turn.images() > 0)
}
