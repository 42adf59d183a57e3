//! Bodies that come compressed (ollama-api §1.1): `zstd` on the routes of the dialects beside Ollama's own, which Codex
//! sends.

use std::io::Read;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap};
use http::{HeaderValue, StatusCode};
use ruzstd::decoding::StreamingDecoder;

use crate::api::Refused;

/// Longest body after unpacking, in bytes.
const LIMIT: usize = 20 << 20;

/// What is taken, for whoever sends something else.
pub const TAKEN: HeaderValue = HeaderValue::from_static("zstd");

/// Unpacks a body where its headers say that it is packed.
///
/// # Errors
/// [`Refused`] with 415 for a way of packing that is not known, 413 when it is longer than 20 MiB unpacked, and 400 when it
/// cannot be unpacked.
pub async fn unpacked(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Refused> {
    let coding = headers.get(CONTENT_ENCODING).map(|coding| coding.as_bytes().trim_ascii()).unwrap_or_default();
    if coding.is_empty() || coding.eq_ignore_ascii_case(b"identity") {
        return Ok(body);
    }
    if !coding.eq_ignore_ascii_case(b"zstd") || headers.get_all(CONTENT_ENCODING).iter().count() > 1 {
        let coding = String::from_utf8_lossy(coding);
        let text =
            format!("request bodies with Content-Encoding {coding:?} are not taken; send them as they are, or in zstd");
        return Err(Refused { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, text });
    }
    // Megabytes take their time, which other requests should not have to wait for.
    let unpacking = tokio::task::spawn_blocking(move || unpack(&body, LIMIT));
    unpacking.await.unwrap_or_else(|_| Err(broken(&"it is damaged")))
}

/// Unpacks all frames.
fn unpack(mut packed: &[u8], limit: usize) -> Result<Bytes, Refused> {
    let mut whole = Vec::new();
    while !packed.is_empty() {
        let room = (limit - whole.len()) as u64;
        let decoder = StreamingDecoder::new(&mut packed).map_err(|error| broken(&error))?;
        let read = decoder.take(room + 1).read_to_end(&mut whole).map_err(|error| broken(&error))?;
        if read as u64 > room {
            let text = format!("request body too large: the limit is {limit} bytes after unpacking");
            return Err(Refused { status: StatusCode::PAYLOAD_TOO_LARGE, text });
        }
    }
    Ok(whole.into())
}

fn broken(error: &dyn std::fmt::Display) -> Refused {
    Refused { status: StatusCode::BAD_REQUEST, text: format!("request body could not be unpacked as zstd: {error}") }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn packed(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    async fn read(coding: &str, body: Vec<u8>) -> Result<Bytes, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, coding.parse().expect("a header"));
        unpacked(&headers, body.into()).await.map_err(|refused| refused.status.as_u16())
    }

    #[tokio::test]
    async fn packed_bodies_are_unpacked_and_others_left_alone() {
        let text = br#"{"model":"m"}"#;
        for coding in ["zstd", "ZSTD"] {
            assert_eq!(read(coding, packed(text)).await, Ok(Bytes::from_static(text)), "{coding}");
        }
        let twice = [packed(b"{\"a\":"), packed(b"1}")].concat();
        assert_eq!(read("zstd", twice).await, Ok(Bytes::from_static(b"{\"a\":1}")));
        assert_eq!(read("identity", text.to_vec()).await, Ok(Bytes::from_static(text)));
        assert_eq!(unpacked(&HeaderMap::new(), Bytes::from_static(text)).await, Ok(Bytes::from_static(text)));
    }

    #[tokio::test]
    async fn what_cannot_be_unpacked_is_refused() {
        for coding in ["gzip", "br", "zstd, gzip", "deflate"] {
            assert_eq!(read(coding, packed(b"{}")).await, Err(415), "{coding}");
        }
        assert_eq!(read("zstd", b"{}".to_vec()).await, Err(400));
        let whole = packed(b"a text that is long enough to be cut");
        for length in 1..whole.len() {
            assert_eq!(read("zstd", whole[..length].to_vec()).await, Err(400), "{length}");
        }
    }

    #[test]
    fn a_small_body_does_not_become_an_endless_one() {
        let zeros = vec![0; 1000];
        assert_eq!(unpack(&packed(&zeros), 1000), Ok(Bytes::from(zeros.clone())));
        for body in [packed(&zeros), [packed(&zeros[..999]), packed(b"")].concat()] {
            let refused = unpack(&body, 998).expect_err("too much");
            assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        }
    }
}
