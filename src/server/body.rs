//! Reads a request body, but not for ever and not without end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

/// Why a body was not taken. The connection is closed after the answer, since the rest of the body is still on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Status of the answer.
    pub status: StatusCode,
    /// What the client is told.
    pub text: String,
}

/// How much of a body that is too large is read all the same. A client that is still sending would not see the answer
/// otherwise, only a broken connection.
const POLITENESS: usize = 8 * 1024 * 1024;

/// Reads a whole body.
///
/// # Errors
/// [`Refused`] when it is longer than `limit` bytes, when the client is silent for longer than `silence`, or breaks off.
pub async fn read<B>(body: B, limit: usize, silence: Duration) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    // Said before a byte was read: a client that asks first (`Expect: 100-continue`) then sends nothing.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    let mut body = body;
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(bytes) = next(&mut body, silence).await? {
        if first.len() + whole.len() + bytes.len() > limit {
            let mut rest = POLITENESS;
            while let Ok(Some(bytes)) = next(&mut body, Duration::from_secs(1)).await {
                rest = rest.saturating_sub(bytes.len());
                if rest == 0 {
                    break;
                }
            }
            return Err(too_large(limit));
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

async fn next<B>(body: &mut B, silence: Duration) -> Result<Option<Bytes>, Refused>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    match timeout(silence, body.frame()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        Ok(Some(Err(error))) => {
            Err(Refused { status: StatusCode::BAD_REQUEST, text: format!("request body could not be read: {error}") })
        }
        Err(_) => Err(Refused {
            status: StatusCode::REQUEST_TIMEOUT,
            text: format!("request body was not received in time: nothing came for {} seconds", silence.as_secs()),
        }),
    }
}

fn too_large(limit: usize) -> Refused {
    Refused {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        text: format!("request body too large: the limit is {limit} bytes; send fewer or smaller images or messages"),
    }
}
