//! The identity of a request, in every log line of vllama and of the engine.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// Where a client or a proxy puts it, and where it finds it again.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

const LONGEST: usize = 128;

/// The client's own id when it is sane (short, visible ASCII, nothing that could be taken for more than an id), else a
/// new one.
pub fn of(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(HEADER).and_then(|value| value.to_str().ok());
    match given.filter(|id| is_sane(id)) {
        Some(id) => id.into(),
        None => uuid::Uuid::new_v4().to_string().into(),
    }
}

fn is_sane(id: &str) -> bool {
    (1..=LONGEST).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_sane_id_is_kept_and_any_other_is_replaced() {
        let of = |bytes: &[u8]| {
            let value = HeaderValue::from_bytes(bytes).expect("a header value");
            super::of(&HeaderMap::from_iter([(HEADER, value)]))
        };
        assert_eq!(&*of(b"abc-123_./:"), "abc-123_./:");
        let long = "x".repeat(129);
        for given in [&b""[..], b"two words", b"tab\there", "ü".as_bytes(), long.as_bytes()] {
            assert_eq!(of(given).len(), 36, "{given:?}");
        }
        assert_eq!(super::of(&HeaderMap::new()).len(), 36);
    }
}
