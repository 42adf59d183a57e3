//! The whole contract between scheduler and dialects.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tokio::sync::mpsc;

use super::keeper::Command;
use crate::engine::{Client, EngineBody, EngineGone};

/// The right to use a ready engine. Dropping it frees the place; keep-alive starts when the last one is dropped.
#[derive(Debug)]
pub struct Lease {
    pub(super) client: Client,
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

    /// Sends a JSON request to the engine and waits for the head of the answer. Dropping the future, or the body of the
    /// response, closes the connection, which makes vLLM abort the request (vllm-engine §3.5).
    ///
    /// # Errors
    /// [`EngineGone`] when the engine died or hung up before the head arrived.
    pub async fn post(
        &self,
        path: &'static str,
        body: Bytes,
        request_id: &str,
    ) -> Result<Response<EngineBody>, EngineGone> {
        self.client.post(path, body, request_id).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.upgrade() {
            // Without a task there is no book to correct.
            let _ = commands.send(Command::Released);
        }
    }
}
