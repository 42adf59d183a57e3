//! Keys in HTTP's words: where a request shows one, how it is told that it may not come in, and what is left of its limits.

use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::access::{Denied, Quota, Share};
use crate::api::{Refuse, Reply, anthropic};

/// Where Anthropic's clients show their key; taken on every route.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The names of the headers for a limit, what is left, and when all of it is there again.
type Names = [HeaderName; 3];

const fn names(limit: &'static str, remaining: &'static str, reset: &'static str) -> Names {
    [HeaderName::from_static(limit), HeaderName::from_static(remaining), HeaderName::from_static(reset)]
}

const REQUESTS: Names =
    names("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests");
const TOKENS: Names = names("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens");
const ANTHROPIC_REQUESTS: Names = names(
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
);
const ANTHROPIC_TOKENS: Names = names(
    "anthropic-ratelimit-tokens-limit",
    "anthropic-ratelimit-tokens-remaining",
    "anthropic-ratelimit-tokens-reset",
);

/// All that a request shows as its key. Agents send `Authorization` and `x-api-key` at once, one of them for somebody else.
pub fn shown(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearers = headers.get_all(AUTHORIZATION).iter().filter_map(|value| bearer(value.to_str().ok()?));
    let keys = headers.get_all(X_API_KEY).iter().filter_map(|value| value.to_str().ok());
    bearers.chain(keys).map(str::trim).filter(|shown| !shown.is_empty())
}

/// The scheme's name is read in any case (RFC 9110 §11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, rest) = value.trim_start().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(rest)
}

/// Refuses a request in the shape of its route, with what its client has to know (RFC 6750 §3).
pub fn refuse(denied: &Denied, refuse: Refuse, path: &str, request_id: &str) -> Reply {
    let (status, challenge) = match denied {
        Denied::NoKey => (StatusCode::UNAUTHORIZED, Some("Bearer realm=\"vllama\"".to_owned())),
        Denied::UnknownKey => {
            (StatusCode::UNAUTHORIZED, Some("Bearer realm=\"vllama\", error=\"invalid_token\"".to_owned()))
        }
        Denied::Scope { needed, .. } => {
            let scopes: Vec<_> = needed.scopes().iter().map(|scope| scope.name()).collect();
            let challenge = "Bearer realm=\"vllama\", error=\"insufficient_scope\", scope=";
            (StatusCode::FORBIDDEN, Some(format!("{challenge}\"{}\"", scopes.join(" "))))
        }
        Denied::Requests { .. } | Denied::Concurrent { .. } | Denied::Tokens { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, None)
        }
    };
    let mut reply = refuse(status, &denied.to_string(), request_id);
    let headers = reply.headers_mut();
    if let Some(challenge) = challenge.and_then(|challenge| HeaderValue::from_str(&challenge).ok()) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = denied.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(quota) = denied.quota() {
        tell(quota, path, headers);
    }
    reply
}

/// Tells what is left of a key's limits: Anthropic's clients look for a time, all others for a duration.
pub fn tell(quota: &Quota, path: &str, headers: &mut HeaderMap) {
    let anthropic = anthropic::routes::owns(path);
    let (requests, tokens) = if anthropic { (ANTHROPIC_REQUESTS, ANTHROPIC_TOKENS) } else { (REQUESTS, TOKENS) };
    for (share, [limit, remaining, reset]) in [(quota.requests, requests), (quota.tokens, tokens)] {
        let Some(share) = share else { continue };
        headers.insert(limit, HeaderValue::from(share.limit));
        headers.insert(remaining, HeaderValue::from(share.remaining));
        if let Ok(time) = HeaderValue::from_str(&self::reset(share, anthropic)) {
            headers.insert(reset, time);
        }
    }
}

/// `2026-11-24T21:00:07Z`, or `6m0s`.
fn reset(share: Share, as_time: bool) -> String {
    let seconds = share.reset.as_secs() + u64::from(share.reset.subsec_nanos() > 0);
    if as_time {
        return humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(seconds)).to_string();
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        (_, _) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_wherever_clients_show_them() {
        for (headers, expected) in [
            (&[("authorization", "Bearer a")][..], &["a"][..]),
            (&[("authorization", "bearer  a ")], &["a"]),
            (&[("x-api-key", "a")], &["a"]),
            (&[("x-api-key", "b"), ("authorization", "Bearer a")], &["a", "b"]),
            (&[("authorization", "Basic YTpi"), ("authorization", "Bearer"), ("authorization", "a")], &[]),
            (&[("authorization", "Bearer "), ("x-api-key", "")], &[]),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(shown(&map).collect::<Vec<_>>(), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_is_left_is_told_in_the_headers_of_the_dialect() {
        let share = |limit, remaining, seconds| Share { limit, remaining, reset: Duration::from_secs(seconds) };
        let quota = Quota { requests: Some(share(60, 59, 1)), tokens: Some(share(1000, 0, 7261)) };
        let mut headers = HeaderMap::new();
        tell(&quota, "/v1/chat/completions", &mut headers);
        let expected = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "2h1m1s"),
        ];
        assert_eq!(headers.len(), expected.len());
        for (name, value) in expected {
            assert_eq!(headers.get(name).map(HeaderValue::as_bytes), Some(value.as_bytes()), "{name}");
        }
        let mut headers = HeaderMap::new();
        tell(&Quota { tokens: None, ..quota }, "/v1/messages", &mut headers);
        let reset = headers.get("anthropic-ratelimit-requests-reset").expect("a time").to_str().expect("text");
        assert!(humantime::parse_rfc3339(reset).is_ok_and(|time| time > SystemTime::now()), "{reset}");
        assert_eq!(headers.len(), 3);
        assert_eq!(self::reset(share(1, 1, 360), false), "6m0s");
    }
}
