//! Which handler answers which path: one list of all there is.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde::Serialize;

use crate::access::{Access, Grant, Scope};
use crate::api::{self, Answering, App, Call, Refuse, Reply, anthropic, ollama, openai};
use crate::telemetry::metrics::Format;
use crate::telemetry::{Health, Queue};

/// A route, ready to be called.
pub struct Entry {
    /// Methods it answers.
    pub methods: &'static [Method],
    /// The exact path; a `{…}` stands for any one part, a `{*…}` at its end for all the rest.
    pub path: &'static str,
    /// How it takes its body.
    pub intake: Intake,
    /// What it asks of a key.
    pub access: Access,
    /// Answers.
    pub handler: Box<dyn Fn(Call) -> Answering + Send + Sync>,
    /// Refuses, in the shape of the route's dialect.
    pub refuse: Refuse,
}

/// How a route takes the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// Read completely before the handler is called.
    Whole,
    /// The same, and unpacked where it is compressed.
    Unpacked,
    /// Handed to the handler as it comes.
    Stream,
}

impl Entry {
    /// Whether it tells operators how vllama is, which they want to know most when it is full.
    pub fn is_for_operators(&self) -> bool {
        OPERATORS.iter().any(|(path, ..)| *path == self.path)
    }

    /// What the path has where the route has its `{…}`; `None` when it is another path.
    pub fn parameter<'a>(&self, path: &'a str) -> Option<&'a str> {
        let Some((start, (name, end))) =
            self.path.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?)))
        else {
            return (self.path == path).then_some("");
        };
        let found = path.strip_prefix(start)?.strip_suffix(end).filter(|found| !found.is_empty())?;
        let whole = if name.starts_with('*') { !found.ends_with('/') } else { !found.contains('/') };
        whole.then_some(found)
    }
}

/// All routes.
pub struct Router {
    entries: Vec<Entry>,
    /// Whether nobody is asked for a key here.
    open: bool,
}

/// What there is at a path.
pub enum Found<'a> {
    /// A route.
    Route(&'a Entry),
    /// Routes for other methods only.
    OtherMethods(Vec<&'a Method>),
    /// Nothing, but a route without the slash at the end.
    WithoutSlash(&'a str),
    /// Nothing.
    Nothing,
}

const GET: &[Method] = &[Method::GET, Method::HEAD];

/// What answers a route of the operators.
type Answer = fn(Arc<App>, Call) -> Answering;

/// What operators ask: path, what it asks of a key, and answer. Health is for load balancers, which have no key; what is
/// more than the status is for those who may see it.
pub static OPERATORS: &[(&str, Access, Answer)] = &[
    ("/health", Access::Open, |app, call| now(health(&call.grant, &app.health()))),
    ("/health/live", Access::Open, |_, _| now(json(StatusCode::OK, br#"{"status":"ok"}"#.to_vec()))),
    ("/health/ready", Access::Open, |app, call| now(health(&call.grant, &app.readiness()))),
    ("/metrics", Access::METRICS, |app, call| Box::pin(metrics(app, call))),
    ("/vllama/queue", Access::METRICS, |app, _| now(queue(&app.queue()))),
];

/// Those of them that a port for monitoring alone has.
fn is_for_monitoring(path: &str) -> bool {
    path == "/metrics" || path.starts_with("/health")
}

impl Router {
    /// The routes of this version: the native API, OpenAI's, Anthropic's, then what operators ask.
    pub fn new(app: Arc<App>) -> Self {
        let whole = ollama::routes::ROUTES.iter().map(|route| (route, Intake::Whole));
        let unpacked = openai::routes::ROUTES.iter().chain(anthropic::routes::ROUTES);
        let unpacked = unpacked.map(|route| (route, Intake::Unpacked));
        let streams = ollama::routes::UPLOADS.iter().map(|route| (route, Intake::Stream));
        let dialects = whole.chain(unpacked).chain(streams).map(|(route, intake)| {
            let app = app.clone();
            Entry {
                methods: route.methods,
                path: route.path,
                intake,
                access: route.access,
                handler: Box::new(move |call| (route.handler)(app.clone(), call)),
                refuse: route.refuse,
            }
        });
        let operators = OPERATORS.iter().map(|(path, access, answer)| entry(path, *access, &app, *answer));
        Self::of(dialects.chain(operators))
    }

    /// The routes of a port for monitoring: `/metrics` and `/health`, and nothing that costs an engine anything. Whoever the
    /// operator lets reach it needs no key.
    pub fn monitoring(app: &Arc<App>) -> Self {
        let routes = OPERATORS.iter().filter(|(path, ..)| is_for_monitoring(path));
        let open = true;
        Self { open, ..Self::of(routes.map(|(path, access, answer)| entry(path, *access, app, *answer))) }
    }

    /// Any routes.
    pub fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self { entries: entries.into_iter().collect(), open: false }
    }

    /// Whether nobody is asked for a key here.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The shape of a refusal at a path without a route for it: plain text, as in Ollama, but where a dialect has a part
    /// of the paths to itself.
    pub fn stray(path: &str) -> Refuse {
        if anthropic::routes::owns(path) { anthropic::error::refuse } else { plain }
    }

    /// Finds what there is.
    pub fn find<'a>(&'a self, method: &Method, path: &'a str) -> Found<'a> {
        let here = || self.entries.iter().filter(|entry| entry.parameter(path).is_some());
        if let Some(entry) = here().find(|entry| entry.methods.contains(method)) {
            return Found::Route(entry);
        }
        let methods: Vec<&Method> = here().flat_map(|entry| entry.methods).collect();
        if !methods.is_empty() {
            return Found::OtherMethods(methods);
        }
        match path.strip_suffix('/') {
            Some(bare) if !bare.is_empty() && self.entries.iter().any(|entry| entry.parameter(bare).is_some()) => {
                Found::WithoutSlash(bare)
            }
            _ => Found::Nothing,
        }
    }
}

fn entry(path: &'static str, access: Access, app: &Arc<App>, answer: Answer) -> Entry {
    let app = app.clone();
    let handler = Box::new(move |call| answer(app.clone(), call));
    Entry { methods: GET, path, intake: Intake::Whole, access, handler, refuse: native }
}

/// An answer that is there at once.
fn now(reply: Reply) -> Answering {
    Box::pin(std::future::ready(reply))
}

fn plain(status: StatusCode, text: &str, _request_id: &str) -> Reply {
    api::whole(status, "text/plain", text.to_owned())
}

fn native(status: StatusCode, text: &str, _request_id: &str) -> Reply {
    ollama::error::refuse(status, text)
}

/// The status says whether the default model can answer, the body why not. Who may not see that gets one word.
fn health(grant: &Grant, health: &Health) -> Reply {
    let status = if health.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = if grant.may(Scope::Metrics) { serde_json::to_vec(health) } else { serde_json::to_vec(&health.brief()) };
    // Strings, numbers and JSON always become JSON.
    json(status, body.unwrap_or_default())
}

/// The page of metrics, in the format that the client wants.
async fn metrics(app: Arc<App>, call: Call) -> Reply {
    let format = Format::wanted(&call.accept);
    api::whole(StatusCode::OK, format.content_type(), app.metrics(format).await)
}

/// What waits and what runs.
fn queue(models: &[Queue]) -> Reply {
    #[derive(Serialize)]
    struct Report<'a> {
        models: &'a [Queue],
    }
    // Strings and finite numbers always become JSON.
    json(StatusCode::OK, serde_json::to_vec(&Report { models }).unwrap_or_default())
}

fn json(status: StatusCode, body: Vec<u8>) -> Reply {
    api::whole(status, "application/json; charset=utf-8", body)
}
