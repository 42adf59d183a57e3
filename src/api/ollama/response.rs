//! The engine's answer in Ollama's shape (ollama-api §3.2, §3.4, §7), piece by piece or whole.
//!
//! The way of every token: pieces are parsed without a tree, strings are borrowed, constant parts are copied.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{BufMut, BytesMut};
use http::StatusCode;
use serde_json::value::RawValue;

use super::engine::{Metrics, Piece, Usage};
use super::error::ApiError;
use super::json;
use super::logprobs;
use super::pattern::Pattern;
use super::request::Logprobs;
use super::thoughts::{Parts, Splitter};
use super::tool_calls::{ToolCall, ToolCalls};
use crate::api::stream::Progress;
use crate::telemetry::{Facts, Timestamp};

/// Which of the two objects an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"response":…}` of `/api/generate`.
    Generate,
    /// `{"message":{…}}` of `/api/chat`.
    Chat,
}

/// Moments of a request, for the durations of its last line.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// It had been read.
    pub arrived: Instant,
    /// It had its lease.
    pub leased: Instant,
    /// The first text came.
    pub first: Option<Instant>,
}

/// What an answer needs to know about its request.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Which object.
    pub shape: Shape,
    /// The model as the client wrote it; it is echoed.
    pub model: &'a str,
    /// Log-probabilities asked for.
    pub logprobs: Logprobs,
    /// Whether the last line holds `context` (§6.3).
    pub context: bool,
}

/// Turns one answer of the engine into Ollama's.
#[derive(Debug)]
pub struct Translator {
    shape: Shape,
    logprobs: Logprobs,
    keep_context: bool,
    /// `{"model":"…","created_at":"`, the same on every line.
    head: Vec<u8>,
    pattern: Pattern,
    /// When the last line was written.
    written: Timestamp,
    clock: Clock,
    facts: Arc<Facts>,
    thought: bool,
    answered: bool,
    /// For models that mark their thoughts with tags.
    splitter: Option<Splitter>,
    calls: ToolCalls,
    context: Vec<u32>,
    /// Log-probabilities of one piece; its room is used again.
    entries: Vec<u8>,
    finish: Option<&'static str>,
    usage: Usage,
    metrics: Metrics,
}

/// What one line carries.
#[derive(Clone, Copy, Default)]
struct Line<'a> {
    content: &'a str,
    thinking: &'a str,
    calls: &'a [ToolCall],
    /// Entries without their brackets.
    logprobs: &'a [u8],
}

/// What a piece of the engine's answer holds for the client.
#[derive(Default)]
struct News<'a> {
    content: Cow<'a, str>,
    thinking: Cow<'a, str>,
    logprobs: Vec<u8>,
    /// Whether it shows that the engine is at work.
    begun: bool,
}

impl Translator {
    /// Makes ready for one answer.
    #[must_use]
    pub fn new(asked: &Asked<'_>, clock: Clock, facts: Arc<Facts>) -> Self {
        Self {
            shape: asked.shape,
            logprobs: asked.logprobs,
            keep_context: asked.context,
            head: head(asked.model),
            pattern: Pattern::default(),
            written: Timestamp::now(),
            clock,
            facts,
            thought: false,
            answered: false,
            splitter: None,
            calls: ToolCalls::default(),
            context: Vec::new(),
            entries: Vec::new(),
            finish: None,
            usage: Usage::default(),
            metrics: Metrics::default(),
        }
    }

    /// Looks for the tags of thoughts in what the engine sends.
    #[must_use]
    pub fn splitting(self, splitter: Option<Splitter>) -> Self {
        Self { splitter, ..self }
    }

    /// Takes in the data of one event of a stream and writes the lines it gives, which may be none.
    ///
    /// # Errors
    /// [`ApiError`] when the engine reports one, aborts, or says what cannot be understood.
    pub fn event(&mut self, data: &[u8], out: &mut BytesMut) -> Result<Progress, ApiError> {
        if data == b"[DONE]" {
            if self.finish.is_none() {
                return Err(ApiError::Gone);
            }
            self.line(out, Line::default(), true);
            self.facts.set_complete();
            return Ok(Progress::Done);
        }
        self.facts.add_event();
        let piece = match self.pattern.read(data) {
            Some(piece) => piece,
            None => {
                let piece = understood(data)?;
                self.pattern.learn(data, &piece);
                piece
            }
        };
        let news = self.take(&piece)?;
        let mut logprobs = &*news.logprobs;
        if !news.thinking.is_empty() {
            // They belong to the last line of the piece.
            let logprobs = if news.content.is_empty() { std::mem::take(&mut logprobs) } else { &[] };
            self.line(out, Line { thinking: &news.thinking, logprobs, ..Line::default() }, false);
        }
        if !news.content.is_empty() || !logprobs.is_empty() {
            self.line(out, Line { content: &news.content, logprobs, ..Line::default() }, false);
        }
        if self.finish.is_some() {
            for call in self.calls.take(self.finish == Some("length")) {
                self.line(out, Line { calls: &[call], ..Line::default() }, false);
            }
        }
        self.entries = news.logprobs;
        Ok(if news.begun { Progress::Begun } else { Progress::Waiting })
    }

    /// Notes that the first token of a stream has come.
    pub fn begin(&self) {
        self.facts.set_first_token();
    }

    /// Turns a whole answer into one object.
    ///
    /// # Errors
    /// As [`Translator::event`].
    pub fn whole(&mut self, answer: &[u8], out: &mut BytesMut) -> Result<(), ApiError> {
        let piece = understood(answer)?;
        let news = self.take(&piece)?;
        if self.finish.is_none() {
            return Err(ApiError::Failed("the engine gave no answer".to_owned()));
        }
        self.guess_first();
        let calls = self.calls.take(self.finish == Some("length"));
        let line = Line { content: &news.content, thinking: &news.thinking, calls: &calls, logprobs: &news.logprobs };
        self.line(out, line, true);
        Ok(())
    }

    /// Notes what is for the last line and hands out what is for this one.
    fn take<'a>(&mut self, piece: &'a Piece<'_>) -> Result<News<'a>, ApiError> {
        if let Some(usage) = piece.usage {
            self.usage = usage;
            self.metrics = piece.metrics.unwrap_or_default();
            self.facts.set_tokens(usage.prompt_tokens, usage.completion_tokens);
        }
        let mut news = News { begun: piece.usage.is_some(), ..News::default() };
        let Some(choice) = &piece.choices.0 else {
            return Ok(news);
        };
        self.collect_context(piece.prompt_token_ids.or(choice.prompt_token_ids), choice.token_ids)?;
        if let Some(pieces) = &choice.delta.tool_calls {
            self.calls.add(pieces);
            news.begun |= !pieces.is_empty();
        }
        if let (Some(alternatives), Some(raw)) = (self.logprobs, choice.logprobs) {
            news.logprobs = std::mem::take(&mut self.entries);
            news.logprobs.clear();
            logprobs::write(raw, alternatives, &mut news.logprobs);
        }
        if let Some(reason) = &choice.finish_reason {
            self.finish = Some(done_reason(reason)?);
            news.begun = true;
        }
        let reasoning = choice.delta.reasoning.as_deref().unwrap_or_default();
        let text = choice.delta.content.as_deref().or(choice.text.as_deref()).unwrap_or_default();
        let parts = match &mut self.splitter {
            Some(splitter) => splitter.split(reasoning, text, self.finish.is_some()),
            None => Parts { thinking: reasoning.into(), content: text.into() },
        };
        // Reasoning parsers leave the line breaks around their tags; Ollama does not (§6.5).
        news.thinking = if self.thought { parts.thinking } else { without_leading_space(parts.thinking) };
        self.thought |= !news.thinking.is_empty();
        let begins = self.thought && !self.answered;
        news.content = if begins { without_leading_space(parts.content) } else { parts.content };
        self.answered |= !news.content.is_empty();
        news.begun |= !news.thinking.is_empty() || !news.content.is_empty() || !news.logprobs.is_empty();
        if news.begun && self.clock.first.is_none() {
            self.clock.first = Some(Instant::now());
        }
        Ok(news)
    }

    fn collect_context(&mut self, prompt: Option<&RawValue>, answer: Option<&RawValue>) -> Result<(), ApiError> {
        if self.keep_context {
            let prompt = prompt.filter(|_| self.context.is_empty());
            for list in [prompt, answer].into_iter().flatten() {
                json::append(list, &mut self.context).map_err(|error| strange(&error))?;
            }
        }
        Ok(())
    }

    /// Writes one object and a line break.
    fn line(&mut self, out: &mut BytesMut, line: Line<'_>, done: bool) {
        self.written.move_to(SystemTime::now());
        begin(out, &self.head, &self.written);
        match self.shape {
            Shape::Chat => out.put_slice(br#","message":{"role":"assistant","content":"#),
            Shape::Generate => out.put_slice(br#","response":"#),
        }
        string(out, line.content);
        if !line.thinking.is_empty() {
            out.put_slice(br#","thinking":"#);
            string(out, line.thinking);
        }
        if !line.calls.is_empty() {
            out.put_slice(br#","tool_calls":"#);
            // Calls hold strings, numbers and JSON that has been read before: writing them into memory does not fail.
            let _ = serde_json::to_writer((&mut *out).writer(), line.calls);
        }
        if self.shape == Shape::Chat {
            out.put_u8(b'}');
        }
        if done {
            self.end(out);
        } else {
            out.put_slice(br#","done":false"#);
        }
        if !line.logprobs.is_empty() {
            out.put_slice(br#","logprobs":["#);
            out.put_slice(line.logprobs);
            out.put_u8(b']');
        }
        out.put_slice(b"}\n");
    }

    /// Writes what only the last line holds.
    fn end(&mut self, out: &mut BytesMut) {
        let reason = self.finish.unwrap_or("stop");
        // Writing into memory does not fail.
        let _ = write!(out, r#","done":true,"done_reason":"{reason}""#);
        if self.keep_context && !self.context.is_empty() {
            out.put_slice(br#","context":"#);
            let _ = serde_json::to_writer((&mut *out).writer(), &self.context);
        }
        let (prompt, answer) = self.durations();
        let counters = [
            ("total_duration", nanoseconds(self.clock.arrived.elapsed())),
            ("load_duration", nanoseconds(self.clock.leased - self.clock.arrived)),
            ("prompt_eval_count", self.usage.prompt_tokens),
            ("prompt_eval_duration", nanoseconds(prompt)),
            ("eval_count", self.usage.completion_tokens),
            ("eval_duration", nanoseconds(answer)),
        ];
        for (name, value) in counters {
            if value > 0 {
                let _ = write!(out, r#","{name}":{value}"#);
            }
        }
    }

    /// When the first token of a whole answer may have come, for engines that do not tell: reading the prompt was one of
    /// their steps, and each further token another.
    fn guess_first(&mut self) {
        let steps = u32::try_from(self.usage.completion_tokens).unwrap_or(u32::MAX).max(1);
        self.clock.first = Some(self.clock.leased + self.clock.leased.elapsed() / steps);
    }

    /// How long the engine read the prompt and wrote the answer: by its own clock, else as seen from here.
    fn durations(&self) -> (Duration, Duration) {
        let first = self.clock.first.unwrap_or_else(Instant::now);
        let told = |millis: Option<f64>| {
            millis.filter(|millis| *millis > 0.0).and_then(|millis| Duration::try_from_secs_f64(millis / 1e3).ok())
        };
        let prompt = told(self.metrics.time_to_first_token_ms).unwrap_or(first - self.clock.leased);
        let answer = told(self.metrics.generation_time_ms).unwrap_or_else(|| first.elapsed());
        (prompt, answer)
    }
}

/// Answers of requests without a prompt: `load` and `unload` (§6.1).
#[must_use]
pub fn loaded(shape: Shape, model: &str, reason: &'static str) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(160);
    begin(&mut out, &head(model), &Timestamp::now());
    out.put_slice(match shape {
        Shape::Chat => br#","message":{"role":"assistant","content":""}"#,
        Shape::Generate => br#","response":"""#.as_slice(),
    });
    // Writing into memory does not fail.
    let _ = write!(out, r#","done":true,"done_reason":"{reason}"}}"#);
    out.into()
}

fn head(model: &str) -> Vec<u8> {
    let mut head = BytesMut::from(br#"{"model":"#.as_slice());
    string(&mut head, model);
    head.put_slice(br#","created_at":""#);
    head.into()
}

fn begin(out: &mut BytesMut, head: &[u8], now: &Timestamp) {
    out.put_slice(head);
    out.put_slice(&now.zulu());
    out.put_u8(b'"');
}

fn string(out: &mut BytesMut, text: &str) {
    // Writing a string into memory does not fail.
    let _ = serde_json::to_writer(out.writer(), text);
}

fn without_leading_space(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => text.trim_start().into(),
        Cow::Owned(text) => text.trim_start().to_owned().into(),
    }
}

/// Whole nanoseconds, and never 0: clients divide by them, and Ollama leaves zeros out (§7).
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// Parses a piece, or the error it reports.
fn understood(data: &[u8]) -> Result<Piece<'_>, ApiError> {
    let piece: Piece<'_> = serde_json::from_slice(data).map_err(|error| strange(&error))?;
    let Some(error) = piece.error else { return Ok(piece) };
    let error: serde_json::Value = super::json::read(error).unwrap_or_default();
    let status = error["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let status = status.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Err(ApiError::from_engine(status, data))
}

fn strange(error: &serde_json::Error) -> ApiError {
    tracing::error!(%error, "the engine sent an event that vllama does not understand");
    ApiError::Failed("the engine sent an event that vllama does not understand".to_owned())
}

/// Ollama knows two reasons (§13.33).
fn done_reason(reason: &str) -> Result<&'static str, ApiError> {
    match reason {
        "length" => Ok("length"),
        "abort" => Err(ApiError::Failed("the engine aborted the request".to_owned())),
        "error" => Err(ApiError::Failed("the engine failed while it answered".to_owned())),
        _ => Ok("stop"),
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
