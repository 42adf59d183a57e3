//! The HTTP server on the Unix socket.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::body::{Body, CutOff, GARBAGE, empty, event_stream, json_answer, refused, typed};
use crate::engine::Engine;
use crate::fault::{Fault, Planned};
use crate::messages::{self, Accepted};
use crate::openai::{self, Job, Kind, Refusal};
use crate::run::{Run, Step};
use crate::stream::{Pieces, events, replay, replay_file, replay_whole, stream};
use crate::{embeddings, metrics, responses, scores, sleep, speech};

/// Serves connections for ever.
pub async fn accept(listener: UnixListener, engine: Arc<Engine>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, Arc::clone(&engine)));
    }
}

async fn connection(stream: UnixStream, engine: Arc<Engine>) {
    // The second handle writes half a head past the HTTP server when a test asks for it.
    let Ok(stream) = stream.into_std() else { return };
    let Ok(raw) = stream.try_clone().map(Arc::new) else {
        return;
    };
    let Ok(stream) = UnixStream::from_std(stream) else {
        return;
    };
    let service = service_fn(move |request| answer(request, Arc::clone(&engine), Arc::clone(&raw)));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Raw = Arc<std::os::unix::net::UnixStream>;

async fn answer(request: Request<Incoming>, engine: Arc<Engine>, raw: Raw) -> Result<Response<Body>, CutOff> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| CutOff)?.to_bytes();
    let path = head.uri.path();
    if head.method == Method::GET {
        if path == "/metrics" && engine.settings.metrics_hang {
            std::future::pending::<()>().await;
        }
        return Ok(get(path, &engine));
    }
    // A pooling engine has other routes than one that generates.
    let asked = match (path, engine.arguments.pooling) {
        ("/v1/chat/completions", false) => Asked::Generation(Kind::Chat),
        ("/v1/completions", false) => Asked::Generation(Kind::Text),
        ("/v1/messages", false) => Asked::Message,
        ("/v1/messages/count_tokens", false) => Asked::Count,
        ("/v1/responses", false) => Asked::Response,
        ("/v1/embeddings", true) => Asked::Vectors,
        ("/v1/score" | "/v1/rerank" | "/pooling", true) => Asked::Scores,
        ("/v1/audio/transcriptions", false) if speech::listens(&engine) => {
            let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            engine.record(json!({"path": path, "headers": {"content-type": kind}, "body": null}));
            return Ok(match speech::answer(&engine, kind, &body) {
                Ok(answer) => json_answer(200, &answer),
                Err(refusal) => refused(&refusal),
            });
        }
        ("/tokenize" | "/detokenize", _) => return Ok(tokens(path, &body, &engine)),
        _ => {
            let answer = sleep::post(path, head.uri.query().unwrap_or_default(), &body, &engine).await;
            if answer.is_some() {
                engine.record(
                    json!({"path": head.uri.to_string(), "headers": {}, "body": String::from_utf8_lossy(&body)}),
                );
            }
            let (status, value) = answer.unwrap_or((404, json!({"detail": "Not Found"})));
            return Ok(json_answer(status, &value));
        }
    };
    let is_json = head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let value: Value = match serde_json::from_slice(&body) {
        Ok(value) if is_json => value,
        Ok(_) => {
            return Ok(refused(&Refusal::new(
                400,
                "Bad Request",
                "Unsupported Media Type: Only 'application/json' is allowed",
            )));
        }
        Err(error) => {
            return Ok(refused(&openai::invalid("body", &format!("JSON decode error: {error}"))));
        }
    };
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let names: serde_json::Map<String, Value> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    engine.record(json!({"path": path, "headers": names, "body": value}));
    engine.sleep.awake().await;
    if *engine.core_dead.borrow() || engine.sleep.weights_lost() {
        return Ok(refused(&Refusal::engine_dead()));
    }
    let id = header("x-request-id");
    let answer = match asked {
        Asked::Response => return respond(engine, &value, &raw).await,
        Asked::Vectors => return embed(&engine, &value, &raw).await,
        Asked::Scores => {
            return Ok(match scores::answer(&engine, path, &value) {
                Ok(answer) => json_answer(200, &answer),
                Err(refusal) => refused(&refusal),
            });
        }
        Asked::Count => {
            return Ok(match messages::count(&engine, &value) {
                Ok(count) => json_answer(200, &count),
                Err(refusal) => json_answer(refusal.status, &messages::refused(&refusal)),
            });
        }
        Asked::Message => match Accepted::new(&engine, &value, id.as_deref()) {
            Ok(accepted) => Answer::Message(accepted),
            Err(refusal) => return Ok(json_answer(refusal.status, &messages::refused(&refusal))),
        },
        Asked::Generation(kind) => match Job::new(&engine, kind, &value, id.as_deref()) {
            Ok(job) => Answer::Generation(job),
            Err(refusal) => return Ok(refused(&refusal)),
        },
    };
    let job = answer.job();
    let run = Run::new(engine.start_running(), job.tokens.clone(), job.fault).rushing(job.rush);
    if let Some(fault) = job.fault.filter(|planned| planned.fault.comes_first()).map(|planned| planned.fault) {
        return instead(fault, &raw);
    }
    if let Some((file, piece)) = replay_file(job, &engine) {
        return Ok(if job.stream { replay(&file, piece, run) } else { replay_whole(&file) });
    }
    if job.stream { Ok(stream(answer, run, engine)) } else { whole(answer, run, &engine).await }
}

/// What a request is for.
enum Asked {
    Generation(Kind),
    Message,
    Count,
    Response,
    Vectors,
    Scores,
}

/// An answer to be made, and its shape.
pub enum Answer {
    Generation(Job),
    Message(Accepted),
}

impl Answer {
    /// Whose it is.
    pub fn job(&self) -> &Job {
        match self {
            Self::Generation(job) => job,
            Self::Message(accepted) => &accepted.job,
        }
    }

    /// Sends its events.
    pub async fn events(&self, run: Run, engine: &Engine, sender: &Pieces) -> Option<()> {
        match self {
            Self::Generation(job) => events(job, run, engine, sender).await,
            Self::Message(accepted) => accepted.events(run, engine, sender).await,
        }
    }

    fn whole(&self, sent: usize, aborted: bool, run: &Run) -> Value {
        match self {
            Self::Generation(job) => job.whole(sent, aborted, run.times()),
            Self::Message(accepted) => accepted.whole(sent, aborted),
        }
    }
}

/// A response, in one piece or as events.
async fn respond(engine: Arc<Engine>, body: &Value, raw: &Raw) -> Result<Response<Body>, CutOff> {
    let job = responses::as_chat(body).and_then(|chat| Job::new(&engine, Kind::Chat, &chat, None));
    let job = match job {
        Ok(job) => job,
        Err(refusal) => return Ok(refused(&refusal)),
    };
    if let Some(fault) = job.fault.filter(|planned| planned.fault.comes_first()).map(|planned| planned.fault) {
        return instead(fault, raw);
    }
    let mut run = Run::new(engine.start_running(), job.tokens.clone(), job.fault);
    if let Some((file, piece)) = replay_file(&job, &engine) {
        return Ok(replay(&file, piece, run));
    }
    if !job.stream {
        loop {
            match run.step().await {
                Step::Token(_) => {}
                Step::EngineError => return Ok(refused(&Refusal::engine_dead())),
                Step::Cut | Step::Garbage => return Err(CutOff),
                _ => {
                    let text: String = job.tokens.iter().map(|token| token.text.as_str()).collect();
                    return Ok(json_answer(200, &responses::response(&job, "completed", Some(&text))));
                }
            }
        }
    }
    let (sender, pieces) = mpsc::channel(8);
    tokio::spawn(async move {
        let closed = sender.clone();
        let events = async {
            let mut number = 0;
            let mut event = |mut event: Value| {
                event["sequence_number"] = json!(number);
                number += 1;
                let name = event["type"].as_str().unwrap_or_default();
                Ok(Bytes::from(format!("event: {name}\ndata: {event}\n\n")))
            };
            for opening in responses::opening(&job) {
                sender.send(event(opening)).await.ok()?;
            }
            loop {
                match run.step().await {
                    Step::Token(index) => {
                        sender.send(event(responses::delta(&job, &job.tokens[index].text))).await.ok()?;
                    }
                    Step::Finished => break,
                    Step::NoDone => return None,
                    // vLLM has no event for it here: the connection breaks off.
                    _ => return sender.send(Err(CutOff)).await.ok(),
                }
            }
            for closing in responses::closing(&job) {
                sender.send(event(closing)).await.ok()?;
            }
            Some(())
        };
        tokio::select! {
            () = closed.closed() => {}
            _ = events => {}
        }
    });
    Ok(event_stream(pieces))
}

/// Vectors, after the time that the first token of another answer takes.
async fn embed(engine: &Arc<Engine>, body: &Value, raw: &Raw) -> Result<Response<Body>, CutOff> {
    let _running = engine.start_running();
    tokio::time::sleep(engine.settings.first_token).await;
    let first = if body["input"].is_array() { &body["input"][0] } else { &body["input"] };
    let planned = first.as_str().and_then(Planned::in_prompt).or(engine.settings.fault);
    if let Some(planned) = planned.filter(|planned| planned.fault.comes_first()) {
        return instead(planned.fault, raw);
    }
    Ok(match embeddings::answer(engine, body) {
        Ok(answer) => json_answer(200, &answer),
        Err(refusal) => refused(&refusal),
    })
}

fn get(path: &str, engine: &Engine) -> Response<Body> {
    match path {
        "/v1/embeddings" if engine.arguments.pooling => json_answer(405, &json!({"detail": "Method Not Allowed"})),
        "/v1/chat/completions" | "/v1/completions" if engine.arguments.pooling => {
            json_answer(404, &json!({"detail": "Not Found"}))
        }
        "/health" | "/ping" => empty(if *engine.core_dead.borrow() { 503 } else { 200 }),
        "/version" => json_answer(200, &json!({"version": "0.32.0"})),
        "/metrics" => typed(200, "text/plain; version=1.0.0; charset=utf-8", metrics::render(engine)),
        "/v1/models" => json_answer(200, &models(engine)),
        "/fake/requests" => json_answer(200, &engine.last_request()),
        "/v1/chat/completions" | "/v1/completions" | "/v1/responses" | "/v1/messages" | "/tokenize" | "/detokenize" => {
            json_answer(405, &json!({"detail": "Method Not Allowed"}))
        }
        _ => {
            let (status, value) = sleep::get(path, engine).unwrap_or((404, json!({"detail": "Not Found"})));
            json_answer(status, &value)
        }
    }
}

fn models(engine: &Engine) -> Value {
    let entry = |name: &String| {
        json!({
            "id": name, "object": "model", "created": 1_795_400_000, "owned_by": "vllm",
            "root": engine.arguments.model, "parent": null, "max_model_len": engine.max_model_len,
            "permission": [{
                "id": "modelperm-0123456789abcdef", "object": "model_permission", "created": 1_795_400_000,
                "allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true, "allow_search_indices": false,
                "allow_view": true, "allow_fine_tuning": false, "organization": "*", "group": null, "is_blocking": false,
            }],
        })
    };
    json!({"object": "list", "data": engine.arguments.served_names.iter().map(entry).collect::<Vec<_>>()})
}

fn tokens(path: &str, body: &[u8], engine: &Arc<Engine>) -> Response<Body> {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return refused(&Refusal::new(400, "Bad Request", "1 validation error: JSON decode error"));
    };
    engine.note(&json!({"path": path, "headers": {}, "body": value}));
    if let Err(refusal) = openai::known_model(engine, &value) {
        return refused(&refusal);
    }
    if path == "/detokenize" {
        let ids = value["tokens"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        let ids: Vec<u32> = ids.filter_map(|id| u32::try_from(id).ok()).collect();
        return json_answer(200, &json!({"prompt": engine.vocabulary.text(&ids)}));
    }
    let kind = if value["messages"].is_array() { Kind::Chat } else { Kind::Text };
    let found = match value["prompt"].as_str() {
        Some(prompt) if engine.arguments.pooling => Ok((embeddings::marked(engine, prompt), String::new())),
        _ => openai::prompt(engine, kind, &value),
    };
    match found {
        Err(refusal) => refused(&refusal),
        Ok((tokens, _)) => {
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
            let texts = if value["return_token_strs"] == json!(true) { json!(texts) } else { Value::Null };
            let length = engine.max_model_len;
            json_answer(200, &json!({"count": ids.len(), "max_model_len": length, "tokens": ids, "token_strs": texts}))
        }
    }
}

/// The answer in one piece, after all its tokens have come.
async fn whole(answer: Answer, mut run: Run, engine: &Engine) -> Result<Response<Body>, CutOff> {
    let mut sent = 0;
    loop {
        match run.step().await {
            Step::Token(index) => sent = index + 1,
            Step::EngineError => return Ok(refused(&Refusal::engine_dead())),
            Step::Cut => return Err(CutOff),
            Step::Garbage => return Ok(typed(200, "application/json", GARBAGE)),
            Step::Aborted => return Ok(json_answer(200, &answer.whole(sent, true, &run))),
            Step::Finished | Step::NoDone => {
                answer.job().count(engine);
                return Ok(json_answer(200, &answer.whole(sent, false, &run)));
            }
        }
    }
}

/// What comes instead of an answer.
fn instead(fault: Fault, raw: &Raw) -> Result<Response<Body>, CutOff> {
    match fault {
        Fault::CutHead => {
            let _ = raw.as_ref().write_all(b"HTTP/1.1 200 OK\r\ncontent-ty");
            Err(CutOff)
        }
        Fault::Http400 => Ok(refused(&Refusal::new(400, "BadRequestError", "the fake refuses this request"))),
        Fault::Http503 => Ok(refused(&Refusal::new(503, "Service Unavailable", "the queue is full"))),
        Fault::NotJson => Ok(typed(200, "application/json", "<html>this is no JSON</html>".to_owned())),
        _ => Ok(refused(&Refusal::new(500, "InternalServerError", "the fake failed"))),
    }
}
