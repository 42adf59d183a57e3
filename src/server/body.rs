//! Reads a request body, but not for ever and not without end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::crowd::Held;
use crate::api::Refused;

/// How long a body that is too large is read all the same, and thrown away. A client that is still sending would not
/// see the answer otherwise, only a broken connection.
const POLITENESS: Duration = Duration::from_secs(5);

/// For a client whose body is one too many.
const TOO_MANY: &str = "server busy: too many large requests at a time; try again in a moment";

/// Reads a whole body. `asks_first` says that the client waits for leave to send it (`Expect: 100-continue`), which is
/// given by the first read; `held` counts its bytes.
///
/// # Errors
/// [`Refused`] when it is longer than `limit` bytes, when the client is silent for longer than `silence`, or breaks off, and
/// when there is too much in memory already.
pub async fn read<B>(
    mut body: B,
    asks_first: bool,
    (limit, held): (usize, &mut Held),
    silence: Duration,
) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    if body.size_hint().lower() > limit as u64 {
        if !asks_first {
            discard(&mut body).await;
        }
        return Err(too_large(limit));
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(bytes) = next(&mut body, silence).await? {
        if first.len() + whole.len() + bytes.len() > limit {
            drop((first, whole));
            discard(&mut body).await;
            return Err(too_large(limit));
        }
        if !held.add(bytes.len()) {
            drop((first, whole));
            discard(&mut body).await;
            return Err(Refused { status: StatusCode::SERVICE_UNAVAILABLE, text: TOO_MANY.to_owned() });
        }
        // Most bodies come in one piece and need no copy.
        if first.is_empty() && whole.is_empty() {
            first = bytes;
        } else {
            if whole.is_empty() {
                whole = BytesMut::from(&*std::mem::take(&mut first));
            }
            whole.extend_from_slice(&bytes);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// Reads the rest of a body for a while, for the sake of a client that is still sending.
pub async fn discard<B>(body: &mut B)
where
    B: Body<Data = Bytes> + Unpin,
{
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whoever sends for longer gets the answer late or never.
    let _ = timeout(POLITENESS, all).await;
}

async fn next<B>(body: &mut B, silence: Duration) -> Result<Option<Bytes>, Refused>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    match timeout(silence, body.frame()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        Ok(Some(Err(error))) => Err(unreadable(&error)),
        Err(_) => Err(silent(silence)),
    }
}

/// The connection broke, or what came is no HTTP.
pub fn unreadable(error: &impl std::fmt::Display) -> Refused {
    Refused { status: StatusCode::BAD_REQUEST, text: format!("request body could not be read: {error}") }
}

/// The client has said nothing for this long.
pub fn silent(silence: Duration) -> Refused {
    Refused {
        status: StatusCode::REQUEST_TIMEOUT,
        text: format!("request body was not received in time: nothing came for {} seconds", silence.as_secs()),
    }
}

fn too_large(limit: usize) -> Refused {
    Refused {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        text: format!("request body too large: the limit is {limit} bytes; send fewer or smaller images or messages"),
    }
}
