//! Answers that come piece by piece: made as their tokens come, or replayed from a file.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::body::{Body, CutOff, GARBAGE, event_stream, typed};
use crate::engine::Engine;
use crate::openai::{Job, Refusal};
use crate::run::{Run, Step};
use crate::server::Answer;

/// The answer as events, each sent when its token comes.
pub fn stream(answer: Answer, run: Run, engine: Arc<Engine>) -> Response<Body> {
    let (sender, pieces) = mpsc::channel(8);
    tokio::spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            // Hanging up is an abort, even while no token comes.
            () = closed.closed() => {}
            _ = answer.events(run, &engine, &sender) => {}
        }
    });
    event_stream(pieces)
}

/// Takes the pieces of a stream.
pub type Pieces = mpsc::Sender<Result<Bytes, CutOff>>;

pub async fn events(job: &Job, mut run: Run, engine: &Engine, sender: &Pieces) -> Option<()> {
    let event = |value: &Value| Ok(Bytes::from(format!("data: {value}\n\n")));
    let mut opened = false;
    let mut sent = 0;
    // Most events differ in the text alone, and load tests want many of them.
    let plain = job.is_plain().then(|| job.plain_event("@@@").to_string());
    let plain = plain.as_deref().and_then(|event| event.split_once("\"@@@\""));
    loop {
        let step = run.step().await;
        // vLLM sends the first chunk together with the first output, not before.
        if !opened && !matches!(step, Step::Cut | Step::Garbage | Step::EngineError) {
            opened = true;
            if let Some(opening) = job.opening() {
                sender.send(event(&opening)).await.ok()?;
            }
        }
        match step {
            Step::Token(index) => {
                sent = index + 1;
                let bytes = match plain {
                    Some((before, after)) if sent > 1 && sent < job.tokens.len() => {
                        let text = if engine.settings.stamp { json!(now()) } else { json!(job.tokens[index].text) };
                        Ok(Bytes::from(format!("data: {before}{text}{after}\n\n")))
                    }
                    _ => event(&job.event(index)),
                };
                sender.send(bytes).await.ok()?;
                continue;
            }
            Step::Finished => job.count(engine),
            Step::EngineError => {
                sender.send(event(&Refusal::engine_dead().body())).await.ok()?;
                return sender.send(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).await.ok();
            }
            Step::Cut => return sender.send(Err(CutOff)).await.ok(),
            Step::Garbage => {
                sender.send(Ok(Bytes::from_static(GARBAGE))).await.ok()?;
                return sender.send(Err(CutOff)).await.ok();
            }
            Step::NoDone => return None,
            Step::Aborted => sender.send(event(&job.abort())).await.ok()?,
        }
        if let Some(closing) = job.closing(sent, run.times()) {
            sender.send(event(&closing)).await.ok()?;
        }
        return sender.send(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).await.ok();
    }
}

/// Nanoseconds since 1970, as text.
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos()).to_string()
}

pub fn replay_file(job: &Job, engine: &Engine) -> Option<(std::path::PathBuf, usize)> {
    let asked = job.replay.as_ref().map(|(name, piece)| (engine.settings.replay_directory.join(name), *piece));
    asked.or_else(|| engine.settings.replay.clone())
}

/// The bytes of a file as the event stream, cut into pieces that arrive one by one.
pub fn replay(file: &Path, piece: usize, run: Run) -> Response<Body> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => panic!("replay: {}: {error}", file.display()),
    };
    let (sender, pieces) = mpsc::channel(1);
    tokio::spawn(async move {
        let _running = run;
        for start in (0..bytes.len()).step_by(piece.max(1)) {
            let end = (start + piece.max(1)).min(bytes.len());
            if sender.send(Ok(bytes.slice(start..end))).await.is_err() {
                return;
            }
            // Lets the server write this piece before the next one joins it.
            tokio::task::yield_now().await;
        }
    });
    event_stream(pieces)
}

/// A whole answer: NAME.json where a recorded stream of that NAME has one beside it, else the file itself.
pub fn replay_whole(file: &Path) -> Response<Body> {
    let beside = file.with_added_extension("json");
    let file = if beside.exists() { &beside } else { file };
    match std::fs::read_to_string(file) {
        Ok(text) => typed(200, "application/json", text),
        Err(error) => panic!("replay: {}: {error}", file.display()),
    }
}
