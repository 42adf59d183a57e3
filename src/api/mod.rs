//! The dialects vllama speaks, and what they share: a request as they get it, an answer as they give it.
//!
//! In: a [`Call`] from `server`. Out: a [`Reply`]. Each dialect is a folder: routes, types, request (inward),
//! response (outward), error. Knows the scheduler's leases and the installed models, but no socket and no process.

pub mod anthropic;
pub mod ollama;
pub mod openai;
pub mod pass;
pub mod stream;
mod upload;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};

use crate::access::{Access, Grant};
use crate::model::pull::Pulls;
use crate::model::python::Python;
use crate::model::{Installed, ModelName, Store};
pub use crate::scheduler::Trace;
use crate::scheduler::{KeepAlive, Lease, LeaseError, Origin, Scheduler, Snapshot};
use crate::telemetry::metrics::{Format, House};
use crate::telemetry::{Facts, Health, Metrics, Queue, Tracer};

pub use upload::{Refused, Upload};

/// All that the answers are made from. Assembled once, before the port is opened.
pub struct App {
    /// Gives leases on engines.
    pub scheduler: Scheduler,
    /// The installed models.
    pub store: Store,
    /// The engine's Python, which imports and downloads models.
    pub python: Python,
    /// Pulls models.
    pub pulls: Pulls,
    /// The model that is loaded at the start and whose health is the server's; `None` when there is none.
    pub default_model: Option<ModelName>,
    /// What the hardware helper last said about the GPUs; `None` when there are none or nothing is known. Must not wait.
    pub gpus: Box<dyn Fn() -> Option<serde_json::Value> + Send + Sync>,
    /// Whether vllama is on its way out: ready for nobody, whatever its engines do.
    pub stopping: AtomicBool,
    /// `num_ctx` of requests and models that say nothing, in tokens; `None` = what the engine takes.
    pub context_length: Option<u64>,
    /// When vllama started.
    pub started: Instant,
    /// Counts what `/metrics` tells.
    pub metrics: Arc<Metrics>,
    /// Takes the spans of requests, where somebody collects them.
    pub tracer: Option<Tracer>,
}

impl App {
    /// How vllama is now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.report(&self.scheduler.measured())
    }

    /// As [`App::health`], without what has to be measured: orchestrators ask this every second.
    #[must_use]
    pub fn readiness(&self) -> Health {
        self.report(&self.scheduler.snapshot())
    }

    /// The installed models that a request may see, newest first.
    #[must_use]
    pub fn visible(&self, grant: &Grant) -> Vec<Arc<Installed>> {
        let seen = self.store.list().into_iter().filter(|model| grant.allows(&model.name));
        seen.map(|model| self.as_served(model)).collect()
    }

    /// The installed model of this name, as its engine serves it.
    #[must_use]
    pub fn find(&self, name: &ModelName) -> Option<Arc<Installed>> {
        self.store.find(name).map(|model| self.as_served(model))
    }

    /// The model without what its engine cannot do, though the checkpoint could.
    fn as_served(&self, model: Arc<Installed>) -> Arc<Installed> {
        let given_up = self.scheduler.given_up(&model);
        model.read_like(given_up)
    }

    /// What waits and what runs, for people on call.
    #[must_use]
    pub fn queue(&self) -> Vec<Queue> {
        Queue::report(&self.scheduler.snapshot())
    }

    /// The page of `/metrics`. Takes at most a second, whatever the engines and the machine do.
    pub async fn metrics(&self, format: Format) -> String {
        let snapshot = self.scheduler.snapshot();
        let ready = self.report(&snapshot).ready();
        let house = House { snapshot: &snapshot, ready, store_bytes: self.store.bytes() };
        self.metrics.page(&house, self.scheduler.meters(), format).await
    }

    /// Waits until the model's engine has a place for this request, and takes it.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub async fn lease(
        &self,
        call: &Call,
        model: &Arc<Installed>,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Lease, LeaseError> {
        let begun = Instant::now();
        let lease = self.scheduler.lease_within(model, keep_alive, call.patience).await?;
        call.facts.set_waited(begun.elapsed());
        Ok(lease)
    }

    fn report(&self, snapshot: &Snapshot) -> Health {
        let default =
            self.default_model.as_ref().map(|name| (name, self.store.find(name).map(|model| model.engine_key())));
        let health = Health::report(snapshot, default, (self.gpus)(), self.started.elapsed());
        if self.stopping.load(Ordering::Relaxed) { health.stopping() } else { health }
    }
}

/// The routes at which a model works for a client; how many of them one client may have at a time can be limited.
/// Counting tokens is none of them: it takes a moment.
pub const ASKS_A_MODEL: &[&str] = &[
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/audio/transcriptions",
    "/v1/score",
    "/v1/rerank",
    "/pooling",
    anthropic::routes::MESSAGES,
];

/// Routes whose work takes long without a model.
const TAKES_LONG: &[&str] = &["/api/pull", "/api/push", "/api/create"];

/// Whether the work of a route is given up as soon as its client may have left; others are answered even so.
#[must_use]
pub fn ends_with_its_client(path: &str) -> bool {
    ASKS_A_MODEL.contains(&path) || TAKES_LONG.contains(&path)
}

/// One request.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// What stands in the path for the `{…}` of the route; empty for a route without.
    pub parameter: String,
    /// The body; empty for GET and HEAD, and for routes that take it as it comes.
    pub body: Bytes,
    /// The body of a route that takes it as it comes.
    pub upload: Upload,
    /// Identity of the request in the logs of vllama and of the engine.
    pub request_id: Arc<str>,
    /// What the request may.
    pub grant: Grant,
    /// The trace that the request is part of.
    pub trace: Option<Arc<Trace>>,
    /// Where to note what the access log and the metrics want to know.
    pub facts: Arc<Facts>,
    /// What the client wants to be answered in; empty when it does not say.
    pub accept: String,
    /// When the head of the request had been read.
    pub arrived: Instant,
    /// How long the client is willing to wait for its model; `None` = as long as it takes.
    pub patience: Option<Duration>,
}

impl Call {
    /// Where the request comes from, for the engine.
    #[must_use]
    pub fn origin(&self) -> Origin<'_> {
        Origin { request_id: &self.request_id, trace: self.trace.as_deref() }
    }
}

/// An answer. Its body may still be in the making; dropping it gives back the lease and stops the engine's work.
pub type Reply = http::Response<Body>;

/// A handler at work.
pub type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// One line of a dialect's route table.
pub struct Route {
    /// Methods it answers.
    pub methods: &'static [Method],
    /// The exact path; a `{…}` stands for any one part, a `{*…}` at its end for all the rest.
    pub path: &'static str,
    /// What it asks of a key, where the server asks for keys.
    pub access: Access,
    /// Answers the request.
    pub handler: fn(Arc<App>, Call) -> Answering,
    /// Refuses in the dialect's shape.
    pub refuse: Refuse,
}

/// Puts a refusal that `server` decided on (too large, too slow, a panic) into a dialect's shape: the status, the words,
/// and the identity of the request.
pub type Refuse = fn(StatusCode, &str, &str) -> Reply;

/// The body of a [`Reply`].
pub enum Body {
    /// Known completely.
    Whole(Option<Bytes>),
    /// Written while the engine works.
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = Infallible> + Send>>),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

/// An answer that is known completely.
#[must_use]
pub fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Reply::new(Body::from(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    reply
}
