//! The whole contract between scheduler and dialects.

use std::sync::Arc;

use http::Response;
use tokio::sync::{mpsc, watch};

use super::core::EngineId;
use super::held::hopeless;
use super::keeper::Command;
use crate::engine::{Client, Content, EngineBody, EngineGone, State, Status};

/// The right to use a ready engine. Dropping it frees the place; keep-alive starts when the last one is dropped.
#[derive(Debug)]
pub struct Lease {
    pub(super) id: EngineId,
    pub(super) engine: watch::Receiver<Status>,
    pub(super) max_model_len: u64,
    pub(super) served_name: Arc<str>,
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

    /// Sends a request, JSON unless its content says otherwise, to the engine and waits for the head of the answer. Dropping the future, or the body of the
    /// response, closes the connection, which makes vLLM abort the request (vllm-engine §3.5).
    ///
    /// An engine may have died since the lease was given. A request that did not reach it waits for the next generation.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine died or hung up before the head arrived, or does not come back.
    pub async fn post(
        &self,
        path: &'static str,
        content: impl Into<Content>,
        request_id: &str,
    ) -> Result<Response<EngineBody>, EngineGone> {
        let content = content.into();
        let mut dead = None;
        loop {
            let (client, generation) = self.client_after(dead).await?;
            match client.post(path, content.clone(), request_id).await {
                Err(EngineGone::Unreached) => dead = Some(generation),
                answer => return answer,
            }
        }
    }

    /// The client of the first generation that is not `dead`, and its number.
    async fn client_after(&self, dead: Option<u64>) -> Result<(Client, u64), EngineGone> {
        let mut engine = self.engine.clone();
        let is_down = |status: &Status| status.state == State::Stopped || hopeless(status).is_some();
        let is_up = |status: &Status| status.client.is_some() && Some(status.generation) != dead;
        // An error means that the engine's task is gone, and with it the engine.
        let status = engine.wait_for(|status| is_up(status) || is_down(status)).await;
        let status = status.map_err(|_| EngineGone::Unreached)?;
        status
            .client
            .clone()
            .filter(|_| is_up(&status))
            .map(|client| (client, status.generation))
            .ok_or(EngineGone::Unreached)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.upgrade() {
            // Without a task there is no book to correct.
            let _ = commands.send(Command::Released(self.id));
        }
    }
}
