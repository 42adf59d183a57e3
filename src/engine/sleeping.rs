//! How an engine is sent to sleep and woken, as vLLM wants it done (vllm-engine §6.1), and which of the two comes next.
//!
//! Works on engines started with `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1` alone; any other answers 404. Every
//! step is taken for fallible: what answers anything but what it should has failed, and the life of the engine decides
//! what that means.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use super::client::{Client, EngineGone};

/// Longest answer to one of these calls, in bytes; a reload answers one line a worker.
const ANSWER_LIMIT: usize = 1 << 20;

/// Where an engine can stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Awake,
    /// With this level of vLLM's.
    Asleep(u8),
}

/// The way from one resting place to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    FallAsleep(u8),
    /// From this level.
    Wake(u8),
}

impl Way {
    /// Where it leads.
    pub(super) fn end(self) -> Rest {
        match self {
            Self::FallAsleep(level) => Rest::Asleep(level),
            Self::Wake(_) => Rest::Awake,
        }
    }
}

/// The way to take from `at` when `wanted` is wanted; `None` to stay. An engine asleep keeps its level: vLLM ignores a
/// second sleep.
pub(super) fn next(at: Rest, wanted: Rest) -> Option<Way> {
    match (at, wanted) {
        (Rest::Awake, Rest::Asleep(level)) => Some(Way::FallAsleep(level)),
        (Rest::Asleep(level), Rest::Awake) => Some(Way::Wake(level)),
        (Rest::Awake, Rest::Awake) | (Rest::Asleep(_), Rest::Asleep(_)) => None,
    }
}

/// How long the calls may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Any call but a reload.
    pub(super) call: Duration,
    /// Loading the weights again from disk.
    pub(super) reload: Duration,
}

/// Why an engine does not sleep or wake.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{path} was not answered within {} s", .limit.as_secs_f32())]
    Late { path: &'static str, limit: Duration },
    #[error("{path}: {gone}")]
    Gone { path: &'static str, gone: EngineGone },
    #[error("{path} was answered with status {}", .status.as_u16())]
    Status { path: &'static str, status: StatusCode },
    #[error("the engine says that it is still {0}")]
    Unchanged(&'static str),
    #[error("the engine kept its prefix cache, which belongs to weights that are gone")]
    StaleCache,
}

/// Takes the way; done when the engine itself says that it has arrived.
pub(super) async fn go(client: Client, way: Way, limits: Limits) -> Result<Rest, Refused> {
    let calls = Calls { client, limits };
    match way {
        Way::FallAsleep(level) => calls.fall_asleep(level).await?,
        Way::Wake(level) => calls.wake(level).await?,
    }
    Ok(way.end())
}

struct Calls {
    client: Client,
    limits: Limits,
}

impl Calls {
    async fn fall_asleep(&self, level: u8) -> Result<(), Refused> {
        self.post(if level < 2 { "/sleep?level=1" } else { "/sleep?level=2" }).await?;
        if self.is_sleeping().await? { Ok(()) } else { Err(Refused::Unchanged("awake")) }
    }

    /// Level 1 has its weights in main memory; level 2 must load them again between waking its two kinds of memory.
    async fn wake(&self, level: u8) -> Result<(), Refused> {
        if level < 2 {
            self.post("/wake_up").await?;
        } else {
            self.post("/wake_up?tags=weights").await?;
            let reload = Bytes::from_static(br#"{"method":"reload_weights"}"#);
            self.send("/collective_rpc", reload, self.limits.reload).await?;
            self.post("/wake_up?tags=kv_cache").await?;
            let answer = self.post("/reset_prefix_cache").await?;
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
            if answer["success"] == false {
                return Err(Refused::StaleCache);
            }
        }
        if self.is_sleeping().await? { Err(Refused::Unchanged("asleep")) } else { Ok(()) }
    }

    async fn is_sleeping(&self) -> Result<bool, Refused> {
        let path = "/is_sleeping";
        let answer = timeout(self.limits.call, self.client.get(path)).await;
        let (status, body) = answer
            .map_err(|_| Refused::Late { path, limit: self.limits.call })?
            .map_err(|gone| Refused::Gone { path, gone })?;
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        answer["is_sleeping"].as_bool().filter(|_| status.is_success()).ok_or(Refused::Status { path, status })
    }

    async fn post(&self, path: &'static str) -> Result<Bytes, Refused> {
        self.send(path, Bytes::new(), self.limits.call).await
    }

    async fn send(&self, path: &'static str, body: Bytes, limit: Duration) -> Result<Bytes, Refused> {
        let call = async {
            let answer = self.client.post(path, body, "").await.map_err(|gone| Refused::Gone { path, gone })?;
            let status = answer.status();
            if !status.is_success() {
                return Err(Refused::Status { path, status });
            }
            let whole = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
            let whole = whole.map_err(|_| Refused::Gone { path, gone: EngineGone::HungUp })?;
            Ok(whole.to_bytes())
        };
        timeout(limit, call).await.unwrap_or(Err(Refused::Late { path, limit }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_wish_decides_where_it_goes_and_a_level_is_kept() {
        assert_eq!(next(Rest::Awake, Rest::Awake), None);
        assert_eq!(next(Rest::Awake, Rest::Asleep(2)), Some(Way::FallAsleep(2)));
        assert_eq!(next(Rest::Asleep(1), Rest::Asleep(2)), None);
        assert_eq!(next(Rest::Asleep(2), Rest::Awake), Some(Way::Wake(2)));
        assert_eq!(Way::Wake(2).end(), Rest::Awake);
        assert_eq!(Way::FallAsleep(1).end(), Rest::Asleep(1));
    }
}
