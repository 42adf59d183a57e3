//! Answers of an engine: whatever it says, and wherever the network cuts it, the client gets good lines or an error.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use serde_json::Value;
use vllama::api::ollama::error::ApiError;
use vllama::api::ollama::response::{Asked, Clock, Shape, Translator};
use vllama::api::ollama::stream::Lines;
use vllama::api::ollama::vectors::Embedded;
use vllama::api::openai;
use vllama::api::pass::events::Events;
use vllama::scheduler::EngineGone;
use vllama::telemetry::Facts;

use super::{Target, seeds};

const FIELDS: &[&str] = &[
    "choices",
    "delta",
    "content",
    "reasoning",
    "tool_calls",
    "index",
    "function",
    "name",
    "arguments",
    "id",
    "text",
    "finish_reason",
    "stop",
    "length",
    "tool_calls",
    "abort",
    "error",
    "message",
    "code",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "logprobs",
    "top_logprobs",
    "token",
    "logprob",
    "bytes",
    "prompt_token_ids",
    "token_ids",
    "role",
    "metrics",
    "time_to_first_token_ms",
    "generation_time_ms",
];

pub const STREAM: Target = Target {
    name: "stream",
    run: stream,
    seeds: || {
        let names = ["chat-stream", "completions-stream", "completion-stream", "tools-"];
        names.into_iter().flat_map(seeds::recorded_answers).filter(|body| body.starts_with(b"data:")).collect()
    },
    words: FIELDS,
};

pub const PASSED_STREAM: Target = Target { name: "passed_stream", run: passed_stream, ..STREAM };

pub const WHOLE: Target = Target {
    name: "whole_answer",
    run: whole,
    seeds: || {
        let names = ["chat", "completion", "error", "tools"];
        names.into_iter().flat_map(seeds::recorded_answers).filter(|body| body.starts_with(b"{")).collect()
    },
    words: FIELDS,
};

pub const VECTORS: Target = Target {
    name: "vectors",
    run: vectors,
    seeds: || {
        let mut answers = seeds::recorded_answers("embeddings");
        answers.push(br#"{"data":[{"index":0,"embedding":"AACAPwAAAAA="}],"usage":{"prompt_tokens":2}}"#.to_vec());
        answers
    },
    words: &["data", "index", "embedding", "usage", "prompt_tokens", "AACAPwAAAAA=", "AADAfw==", "AACAfw==", "="],
};

/// A body that has all come, in pieces.
struct Pieces(VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = EngineGone;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, EngineGone>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

fn translator(shape: Shape) -> Translator {
    let asked = Asked { shape, model: "m\"\n", logprobs: Some(2), context: shape == Shape::Generate };
    let now = Instant::now();
    Translator::new(&asked, Clock { arrived: now, leased: now, first: None }, Arc::new(Facts::default()))
}

/// What a client gets.
#[derive(Debug, PartialEq)]
struct Told {
    /// The lines, without what depends on the time.
    lines: Vec<Value>,
    /// The error, as a status of its own or as the last line.
    error: Option<String>,
    /// Whether anything had been sent before the error.
    begun: bool,
}

thread_local! {
    static RUNTIME: RefCell<tokio::runtime::Runtime> = RefCell::new(
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime without any driver"),
    );
}

fn told(pieces: &[&[u8]], shape: Shape) -> Told {
    let pieces = Pieces(pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect());
    let text = RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let lines = Lines::open(pieces, (), translator(shape)).await?;
            Ok::<_, ApiError>(lines.collect().await.expect("lines do not fail").to_bytes())
        })
    });
    match text {
        Ok(text) => checked(&text, shape),
        Err(error) => Told { lines: Vec::new(), error: Some(error.to_string()), begun: false },
    }
}

/// Takes an answer apart and checks what every client relies on (§1.2, §3.4, §13).
fn checked(text: &[u8], shape: Shape) -> Told {
    let text = std::str::from_utf8(text).expect("lines are UTF-8");
    assert!(text.ends_with('\n'), "the last line is complete: {text:?}");
    let mut lines: Vec<Value> = Vec::new();
    let mut error = None;
    for line in text.trim_end_matches('\n').split('\n') {
        assert!(error.is_none(), "an error is the last line: {text}");
        assert!(lines.last().is_none_or(|last| last["done"] == false), "done is the last line: {text}");
        let mut line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        let members = line.as_object_mut().expect("a line is an object");
        if let Some(told) = members.get("error") {
            error = Some(told.as_str().expect("an error is a text").to_owned());
            assert_eq!(members.len(), 1, "{text}");
            continue;
        }
        assert_eq!(members["model"], "m\"\n");
        assert!(members.remove("created_at").is_some_and(|at| at.is_string()), "{text}");
        for name in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
            let duration = members.remove(name);
            assert!(duration.is_none_or(|duration| duration.as_u64().is_some_and(|nanos| nanos > 0)), "{name}: {text}");
        }
        let done = members["done"].as_bool().expect("done is a boolean");
        assert_eq!(done, members.contains_key("done_reason"), "{text}");
        let said = match shape {
            Shape::Chat => &members["message"]["content"],
            Shape::Generate => &members["response"],
        };
        assert!(said.is_string(), "{text}");
        let calls = match shape {
            Shape::Chat => members.get_mut("message").and_then(|message| message.get_mut("tool_calls")),
            Shape::Generate => members.get_mut("tool_calls"),
        };
        for call in calls.and_then(Value::as_array_mut).into_iter().flatten() {
            assert!(call["function"]["arguments"].is_object() && call["function"]["name"].is_string(), "{call}");
            // Made up anew each time, where the engine's own is not handed on.
            let id = call.as_object_mut().and_then(|call| call.remove("id"));
            assert!(id.is_none_or(|id| id.as_str().is_some_and(|id| !id.is_empty())), "{call}");
        }
        lines.push(line);
    }
    let done = lines.last().is_some_and(|last| last["done"] == true);
    assert!(done != error.is_some(), "an answer ends with done or with an error, and not with both: {text}");
    Told { lines, error, begun: true }
}

/// The same answer at every cut. What is said before an error may be kept back when both come together, as the error can
/// then still have its status; an error is an error either way.
fn stream(data: &[u8]) {
    for shape in [Shape::Chat, Shape::Generate] {
        let reference = told(&data.chunks(1).collect::<Vec<_>>(), shape);
        let middle = data.len() / 2;
        let odd = data.iter().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        let odd = odd % (data.len() + 1);
        let cuts = [vec![data], vec![&data[..odd], &data[odd..]], vec![&data[..middle], b"", &data[middle..]]];
        for pieces in cuts {
            let other = told(&pieces, shape);
            assert_eq!(other.error, reference.error, "cut into {:?}", lengths(&pieces));
            if other.begun && reference.begun {
                assert_eq!(other.lines, reference.lines, "cut into {:?}", lengths(&pieces));
            }
        }
    }
}

fn lengths(pieces: &[&[u8]]) -> Vec<usize> {
    pieces.iter().map(|piece| piece.len()).collect()
}

/// A stream that passes through is the same at every cut, with nothing but the name changed.
fn passed_stream(data: &[u8]) {
    let passed = |pieces: &[&[u8]]| {
        let mut events = Events::new(&openai::stream::DIALECT, "smollm2:135m", "q\"x");
        let (mut out, facts) = (BytesMut::new(), Facts::default());
        let failed = pieces.iter().find_map(|piece| events.read(piece, &mut out, &facts).err());
        (out, failed, events.progress(), events.count(), facts.tokens())
    };
    let reference = passed(&data.chunks(1).collect::<Vec<_>>());
    let middle = data.len() / 2;
    for pieces in [vec![data], vec![&data[..middle], b"", &data[middle..]], data.chunks(7).collect()] {
        assert_eq!(passed(&pieces), reference, "cut into {:?}", lengths(&pieces));
    }
    // Undone, nothing is left of the change.
    if reference.1.is_none() && !contains(data, b"q\\\"x") {
        let undone = String::from_utf8_lossy(&reference.0).replace("\"q\\\"x\"", "\"smollm2:135m\"");
        let complete = data.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let before = String::from_utf8_lossy(&data[..complete]);
        if before.matches("\"model\"").count() == before.matches("\"model\":\"smollm2:135m\"").count() {
            assert!(before.starts_with(&*undone), "{undone}");
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn whole(data: &[u8]) {
    for shape in [Shape::Chat, Shape::Generate] {
        let mut out = BytesMut::new();
        if translator(shape).whole(data, &mut out).is_ok() {
            let told = checked(&out, shape);
            assert_eq!(told.lines.len(), 1, "one object");
        }
    }
    let error = ApiError::from_engine(http::StatusCode::BAD_REQUEST, data);
    assert!(serde_json::from_slice::<Value>(&error.line()).is_ok_and(|line| line["error"].is_string()));
}

fn vectors(data: &[u8]) {
    for texts in 0..3 {
        let Ok(embedded) = Embedded::read(data, texts) else { continue };
        for dimensions in [0, 1, 3] {
            let mut out = Vec::new();
            if embedded.write_normalised(dimensions, &mut out).is_ok() {
                let vectors: Vec<Vec<f64>> = serde_json::from_slice(&out).expect("lists of numbers");
                assert_eq!(vectors.len(), texts);
                for vector in vectors {
                    let norm = vector.iter().map(|number| number * number).sum::<f64>().sqrt();
                    assert!(norm < 1.01, "{norm}");
                    assert!(dimensions == 0 || vector.len() <= dimensions, "{vector:?}");
                }
            }
        }
    }
}
