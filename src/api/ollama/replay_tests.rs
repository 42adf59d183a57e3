//! Every stream in `tests/golden/vllm`, put through the reader and the translator: the lines are those of the file beside
//! it, wherever the bytes are cut. `VLLAMA_BLESS=1` writes those files anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use serde_json::Value;

use super::error::ApiError;
use super::response::{Asked, Clock, Shape, Translator};
use super::sse::Events;
use super::thoughts::Splitter;
use crate::api::stream::Progress;
use crate::telemetry::Facts;

/// A stream up to this many bytes is replayed as a whole for every cut. Of longer ones each line is cut for itself: what
/// a cut can change is the line it is in, and events are all the translator gets.
const SHORT: usize = 900;

struct Stream {
    name: String,
    request: Value,
    bytes: Vec<u8>,
}

impl Stream {
    fn read(file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_str()?.strip_suffix(".response.txt")?.to_owned();
        let request = std::fs::read_to_string(file.with_file_name(format!("{name}.request.json"))).ok()?;
        let request: Value = serde_json::from_str(&request).expect("a request");
        if !matches!(request["path"].as_str(), Some("/v1/chat/completions" | "/v1/completions")) {
            return None;
        }
        let answer = std::fs::read(file).expect("an answer");
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head and a body") + 4;
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let stream = head.contains("content-type: text/event-stream");
        stream.then(|| Self { name, bytes: answer[end..].to_vec(), request })
    }

    fn all() -> Vec<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(directory).expect("recordings").flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.iter().filter_map(|file| Self::read(file)).collect()
    }

    fn translator(&self) -> Translator {
        let body = &self.request["body"];
        let top = body["top_logprobs"].as_u64().or(body["logprobs"].as_u64()).unwrap_or_default();
        let shape = if self.request["path"] == "/v1/chat/completions" { Shape::Chat } else { Shape::Generate };
        let asked = Asked {
            shape,
            model: "m",
            logprobs: body.get("logprobs").filter(|wanted| **wanted != false).map(|_| u8::try_from(top).expect("few")),
            context: body["return_token_ids"] == true,
        };
        let now = Instant::now();
        // As for the models that made them: with tools and thoughts, or thoughts that nobody reads.
        let thinks = self.name.starts_with("forced-") || self.name.starts_with("written-t");
        let splitter = thinks.then(|| Splitter::new(false));
        Translator::new(&asked, Clock { arrived: now, leased: now, first: None }, Arc::new(Facts::default()))
            .splitting(splitter)
    }

    /// The lines a client gets when the bytes come in these pieces.
    fn replay<'a>(&self, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
        let (mut translator, mut events, mut out) = (self.translator(), Events::default(), BytesMut::new());
        let mut outcome = Ok(Progress::Waiting);
        for piece in pieces {
            events.read(piece, |data| {
                outcome = translator.event(data, &mut out);
                matches!(outcome, Ok(Progress::Waiting | Progress::Begun))
            });
            if !matches!(outcome, Ok(Progress::Waiting | Progress::Begun)) {
                break;
            }
        }
        match outcome {
            Ok(Progress::Done) => {}
            Ok(_) => out.extend_from_slice(&ApiError::Gone.line()),
            Err(error) => out.extend_from_slice(&error.line()),
        }
        String::from_utf8(out.to_vec()).expect("lines are UTF-8").lines().map(without_chance).collect()
    }
}

/// A line without what differs from run to run.
fn without_chance(line: &str) -> String {
    let mut object: Value = serde_json::from_str(line).expect("a line is JSON");
    let members = object.as_object_mut().expect("a line is an object");
    for member in ["created_at", "model", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
        members.shift_remove(member);
    }
    if let Some(calls) = object.pointer_mut("/message/tool_calls").and_then(Value::as_array_mut) {
        for call in calls {
            let made = call["id"].as_str().is_some_and(|id| id.len() == 13 && id.starts_with("call_"));
            if made {
                call["id"] = "call_made".into();
            }
        }
    }
    object.to_string()
}

fn events(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let (mut reader, mut found) = (Events::default(), Vec::new());
    for piece in pieces {
        reader.read(piece, |data| {
            found.push(data.to_vec());
            true
        });
    }
    found
}

#[test]
fn every_stream_is_told_in_the_lines_beside_it() {
    let streams = Stream::all();
    assert!(streams.len() > 25, "{}", streams.len());
    for stream in streams {
        let lines = stream.replay(std::iter::once(&*stream.bytes)).join("\n") + "\n";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/vllm/{}.lines", stream.name));
        if std::env::var_os("VLLAMA_BLESS").is_some() {
            std::fs::write(&file, &lines).expect("written");
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(lines, expected, "{}; VLLAMA_BLESS=1 writes {}", stream.name, file.display());
    }
}

#[test]
fn no_line_shows_a_tag_or_says_a_call_twice() {
    for stream in Stream::all() {
        let lines = stream.replay(std::iter::once(&*stream.bytes));
        if lines.iter().any(|line| line.starts_with("{\"error\"")) {
            continue;
        }
        let calls: usize = lines.iter().map(|line| line.matches("\"arguments\":{").count()).sum();
        let asked = String::from_utf8_lossy(&stream.bytes).matches("\"type\":\"function\"").count();
        let cut = usize::from(stream.name.contains("cut-short"));
        assert_eq!(calls + cut, asked, "{}: {lines:#?}", stream.name);
        // What a parser could not read is all the client can get of it.
        let broken = stream.name.contains("broken");
        for line in lines.iter().filter(|_| !broken) {
            let line: Value = serde_json::from_str(line).expect("a line is JSON");
            for tag in ["<think>", "</think>", "<tool_call>", "</tool_call>"] {
                assert!(!line["message"].to_string().contains(tag), "{}: {line}", stream.name);
            }
        }
    }
}

/// What a client has of an answer when all its lines are put together.
fn together(lines: &[Value]) -> Value {
    let text = |field: &str| -> String { lines.iter().filter_map(|line| line["message"][field].as_str()).collect() };
    let list = |path: &str| -> Vec<Value> {
        lines.iter().filter_map(|line| line.pointer(path)?.as_array()).flatten().cloned().collect()
    };
    let last = lines.last().expect("a last line");
    serde_json::json!({
        "thinking": text("thinking"), "content": text("content"), "calls": list("/message/tool_calls"),
        "probabilities": list("/logprobs").len(), "done_reason": last["done_reason"], "eval_count": last["eval_count"],
    })
}

#[test]
fn a_whole_answer_says_what_its_stream_says() {
    let mut compared = 0;
    for stream in Stream::all() {
        let Some(name) = stream.name.strip_prefix("forced-").and_then(|name| name.strip_suffix("-stream")) else {
            continue;
        };
        let file = format!("tests/golden/vllm/forced-{name}.response.txt");
        let answer = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("the whole answer");
        let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a body") + 4;
        let mut out = BytesMut::new();
        stream.translator().whole(&answer[body..], &mut out).expect("an answer");
        let whole = without_chance(std::str::from_utf8(&out).expect("a line is UTF-8"));
        let parsed = |lines: &[String]| -> Vec<Value> {
            lines.iter().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
        };
        let streamed = together(&parsed(&stream.replay(std::iter::once(&*stream.bytes))));
        if matches!(name, "tools-broken-json" | "tools-cut-short") {
            // vLLM's parser finds a call in such a stream, and none in the whole answer, which then is text.
            continue;
        }
        assert_eq!(streamed, together(&parsed(&[whole])), "{name}");
        compared += 1;
    }
    assert!(compared >= 10, "{compared}");
}

#[test]
fn every_stream_gives_the_same_lines_wherever_it_is_cut() {
    for stream in Stream::all() {
        let bytes = &*stream.bytes;
        let lines = stream.replay(std::iter::once(bytes));
        for length in [1, 7, 61, 1000] {
            assert_eq!(stream.replay(bytes.chunks(length)), lines, "{} by {length} bytes", stream.name);
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = events(&[line]);
            for cut in 0..line.len() {
                let (one, two) = line.split_at(cut);
                assert!(events(&[one, two]) == whole, "{} cut at {cut} of {line:?}", stream.name);
            }
        }
        for cut in 0..if bytes.len() <= SHORT { bytes.len() } else { 0 } {
            let (one, two) = bytes.split_at(cut);
            assert_eq!(stream.replay([one, two].into_iter()), lines, "{} cut at {cut}", stream.name);
        }
    }
}
