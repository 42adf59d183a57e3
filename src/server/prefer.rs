//! How long a client is willing to wait, where it says so: `Prefer: wait=SECONDS` (RFC 7240, §4.3).

use std::time::Duration;

use http::{HeaderMap, HeaderName};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The time; `None` where there is none, or what is said is no number of seconds.
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    let lists = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
    let mut preferences = lists.flat_map(|list| list.split(',')).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').parse().ok())
    });
    // Of several the first counts.
    preferences.next().flatten().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_time_is_found_among_other_preferences() {
        for (values, seconds) in [
            (&["wait=10"][..], Some(10)),
            (&["respond-async, Wait = 5 ; x=y"], Some(5)),
            (&["return=minimal", "wait=\"7\""], Some(7)),
            (&["wait=1, wait=9"], Some(1)),
            (&["wait=0"], Some(0)),
            (&["wait"], None),
            (&["wait=soon"], None),
            (&["wait=-1"], None),
            (&["awaits=3"], None),
            (&[], None),
        ] {
            let headers = values.iter().map(|value| (PREFER, HeaderValue::from_static(value))).collect();
            assert_eq!(wait(&headers), seconds.map(Duration::from_secs), "{values:?}");
        }
    }
}
