//! The whole contract between scheduler and dialects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use tokio::sync::{SemaphorePermit, mpsc, watch};
use tokio::time::{timeout, timeout_at};

use super::core::EngineId;
use super::held::hopeless;
use super::keeper::Command;
use super::suspects::Suspects;
use crate::engine::{Client, Content, EngineBody, EngineGone, Origin, State, Status};
use crate::model::ParserChoice;

/// Longest time from a death until it shows in the engine's status.
const DEATH_SHOWS: Duration = Duration::from_secs(1);
/// How long a request that has seen an engine die has the next one, among its like, for itself.
const TURN: Duration = Duration::from_secs(1);

/// The right to use a ready engine. Dropping it frees the place; keep-alive starts when the last one is dropped.
#[derive(Debug)]
pub struct Lease {
    pub(super) id: EngineId,
    pub(super) engine: watch::Receiver<Status>,
    pub(super) max_model_len: u64,
    pub(super) served_name: Arc<str>,
    pub(super) given_up: ParserChoice,
    /// Times a request may be asked again after a death.
    pub(super) replays: u32,
    /// How long a request may wait for the next engine when this one dies; `None` = as long as it takes.
    pub(super) patience: Option<Duration>,
    pub(super) suspects: Arc<Suspects>,
    /// Counts the requests that were asked again.
    pub(super) replayed: Arc<AtomicU64>,
    /// Weak, so that a forgotten lease does not keep the scheduler's task alive.
    pub(super) commands: mpsc::WeakUnboundedSender<Command>,
}

impl Lease {
    /// Longest sequence (prompt and answer) the engine takes, in tokens.
    #[must_use]
    pub fn max_model_len(&self) -> u64 {
        self.max_model_len
    }

    /// The name the engine knows the model by; goes into `model` of every engine request.
    #[must_use]
    pub fn served_name(&self) -> &str {
        &self.served_name
    }

    /// What the engine does not read although the model's card says that it does. The request may have waited for it, so
    /// this is newer than what [`super::Scheduler::given_up`] said before.
    #[must_use]
    pub fn given_up(&self) -> ParserChoice {
        self.given_up
    }

    /// Sends a request, JSON unless its content says otherwise, to the engine and waits for the first bytes of its answer.
    /// Dropping the future, or the body of the response, closes the connection, which makes vLLM abort the request
    /// (vllm-engine §3.5).
    ///
    /// An engine may die meanwhile. A request that did not reach it waits for the next generation; one that did, and has
    /// no byte of its answer yet, is asked again there, at most as often as the operator allows (issue 5). It waits for
    /// that no longer than it is willing to.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine hung up without an answer, does not come back, or not in time, or has died of the
    /// request.
    pub async fn post(
        &self,
        path: &'static str,
        content: impl Into<Content>,
        origin: impl Into<Origin<'_>>,
    ) -> Result<Response<EngineBody>, EngineGone> {
        let (content, origin) = (content.into(), origin.into());
        let request_id = origin.request_id;
        if self.suspects.knows(path, &content.bytes, Instant::now()) {
            return Err(EngineGone::Poisoned);
        }
        let mut dead = None;
        let mut deaths = 0;
        let mut turn = None;
        let mut patience = self.patience;
        loop {
            let (client, generation) = used_up(self.client_after(dead, patience), &mut patience).await?;
            let asking = begin(&client, path, content.clone(), origin);
            let (answer, own_turn) = in_turn(asking, turn.take()).await;
            let gone = match answer {
                Ok(answer) => return Ok(answer),
                Err(gone) => gone,
            };
            dead = Some(generation);
            if let Gone::Unreached = gone {
                continue;
            }
            if !self.has_died(generation).await {
                return gone.into_answer();
            }
            deaths += 1;
            if deaths > self.replays {
                if own_turn.is_some() {
                    tracing::error!(
                        request_id,
                        path,
                        deaths,
                        "the engine has died of a request, which is refused from now on"
                    );
                    self.suspects.convict(path, &content.bytes, generation, Instant::now());
                    return Err(EngineGone::Poisoned);
                }
                // It may have been the doing of the one whose turn it was, which is known when that turn is over.
                turn = used_up(self.turn_within(patience), &mut patience).await?;
                if !self.suspects.has_convict(generation) {
                    return gone.into_answer();
                }
                deaths -= 1;
                self.replayed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            tracing::warn!(request_id, path, "the engine died before it answered; the request is asked again");
            self.replayed.fetch_add(1, Ordering::Relaxed);
            turn = used_up(self.turn_within(patience), &mut patience).await?;
        }
    }

    /// Whether a generation has died; its death may take a moment to show.
    async fn has_died(&self, generation: u64) -> bool {
        let mut engine = self.engine.clone();
        let is_over = |status: &Status| status.client.is_none() || status.generation != generation;
        let shown = timeout(DEATH_SHOWS, engine.wait_for(is_over)).await;
        shown.is_ok_and(|status| status.is_ok())
    }

    /// The turn of a request that has seen an engine die. Whoever has it may be waiting for the next engine, so it ends as
    /// [`Lease::client_after`] does.
    async fn turn_within(&self, patience: Option<Duration>) -> Result<Option<SemaphorePermit<'_>>, EngineGone> {
        let Some(patience) = patience else { return Ok(self.suspects.turn().await) };
        if self.engine.borrow().ready_in(Instant::now()).is_some_and(|wait| wait > patience) {
            return Err(self.too_slow());
        }
        timeout(patience, self.suspects.turn()).await.map_err(|_| self.too_slow())
    }

    fn too_slow(&self) -> EngineGone {
        EngineGone::TooSlow { retry_after: self.engine.borrow().ready_in(Instant::now()).unwrap_or_default() }
    }

    /// The client of the first generation that is not `dead`, and its number. Ends as soon as it is known that this would take
    /// longer than `patience`, and at the latest when that is over.
    async fn client_after(&self, dead: Option<u64>, patience: Option<Duration>) -> Result<(Client, u64), EngineGone> {
        let mut engine = self.engine.clone();
        let until = patience.and_then(|patience| Instant::now().checked_add(patience));
        let is_up = |status: &Status| status.client.is_some() && Some(status.generation) != dead;
        let is_down = |status: &Status| status.state == State::Stopped || hopeless(status).is_some();
        let comes_late = |status: &Status| {
            let now = Instant::now();
            until.zip(status.ready_in(now)).is_some_and(|(until, wait)| now + wait > until)
        };
        let news = engine.wait_for(|status| is_up(status) || is_down(status) || comes_late(status));
        let waited = async {
            match until {
                Some(until) => timeout_at(until.into(), news).await.ok(),
                None => Some(news.await),
            }
        };
        if let Some(status) = waited.await {
            // An error means that the engine's task is gone, and with it the engine.
            let status = status.map_err(|_| EngineGone::Unreached)?;
            if is_up(&status) {
                return status.client.clone().map(|client| (client, status.generation)).ok_or(EngineGone::Unreached);
            }
            if is_down(&status) {
                return Err(EngineGone::Unreached);
            }
        }
        Err(self.too_slow())
    }
}

/// Waits, and takes the time that it took from the patience.
async fn used_up<T>(waiting: impl Future<Output = T>, patience: &mut Option<Duration>) -> T {
    let since = Instant::now();
    let waited = waiting.await;
    *patience = patience.map(|patience| patience.saturating_sub(since.elapsed()));
    waited
}

/// Why an answer has not begun.
enum Gone {
    Unreached,
    HungUp,
    /// The engine's front still answers, and says that there is nothing behind it.
    Hollow(Box<Response<EngineBody>>),
}

impl Gone {
    /// What whoever asked is told when it is not asked again.
    fn into_answer(self) -> Result<Response<EngineBody>, EngineGone> {
        match self {
            Self::Unreached => Err(EngineGone::Unreached),
            Self::HungUp => Err(EngineGone::HungUp),
            Self::Hollow(answer) => Ok(*answer),
        }
    }
}

/// Asks, and waits for the first bytes of the answer.
async fn begin(
    client: &Client,
    path: &'static str,
    content: Content,
    origin: Origin<'_>,
) -> Result<Response<EngineBody>, Gone> {
    let asked = async {
        let mut answer = client.post(path, content, origin).await?;
        let status = answer.status();
        let is_hollow = tells_of_a_death(status, answer.body_mut().begin().await?);
        Ok((answer, is_hollow))
    };
    match asked.await {
        Ok((answer, false)) => Ok(answer),
        Ok((answer, true)) => Err(Gone::Hollow(Box::new(answer))),
        Err(EngineGone::Unreached) => Err(Gone::Unreached),
        Err(_) => Err(Gone::HungUp),
    }
}

/// Asks while it is this request's turn, and goes on when the turn is over: what kills an engine does so at once, and
/// the others shall not wait for whole answers. Gives the turn back when it was not over at the end.
async fn in_turn<'a, T>(
    asking: impl Future<Output = T>,
    turn: Option<SemaphorePermit<'a>>,
) -> (T, Option<SemaphorePermit<'a>>) {
    let Some(turn) = turn else { return (asking.await, None) };
    tokio::pin!(asking);
    if let Ok(answer) = timeout(TURN, &mut asking).await {
        return (answer, Some(turn));
    }
    drop(turn);
    (asking.await, None)
}

/// Whether an answer is vLLM's way to say that its core is dead (vllm-engine §1.3).
fn tells_of_a_death(status: StatusCode, begin: &[u8]) -> bool {
    let may = status == StatusCode::INTERNAL_SERVER_ERROR || begin.starts_with(b"data: {\"error\"");
    may && memchr::memmem::find(begin, b"EngineCore encountered an issue").is_some()
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.upgrade() {
            // Without a task there is no book to correct.
            let _ = commands.send(Command::Released(self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hollow_answer_is_told_from_one_that_only_speaks_of_it() {
        let dead = br#"{"error":{"message":"EngineCore encountered an issue. See stack trace (above)","code":500}}"#;
        assert!(tells_of_a_death(StatusCode::INTERNAL_SERVER_ERROR, dead));
        assert!(tells_of_a_death(StatusCode::OK, &[b"data: ", dead.as_slice()].concat()));
        let told = br#"{"choices":[{"message":{"content":"EngineCore encountered an issue"}}]}"#;
        assert!(!tells_of_a_death(StatusCode::OK, told));
        assert!(!tells_of_a_death(StatusCode::INTERNAL_SERVER_ERROR, br#"{"error":{"message":"no"}}"#));
    }
}
