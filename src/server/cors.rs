//! Which web pages may talk to vllama (ollama-api §8.1).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

/// Pages that are always allowed: those of this machine, on any port, and those inside of programs.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];
const PROGRAMS: [&str; 5] = ["app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"];

const METHODS: &str = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS";
const HEADERS: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta,x-stainless-arch,\
    x-stainless-async,x-stainless-custom-poll-interval,x-stainless-helper-method,x-stainless-lang,x-stainless-os,\
    x-stainless-package-version,x-stainless-poll-helper,x-stainless-retry-count,x-stainless-runtime,\
    x-stainless-runtime-version,x-stainless-timeout,x-api-key,anthropic-version,anthropic-beta,\
    anthropic-dangerous-direct-browser-access";
const TWELVE_HOURS: &str = "43200";

/// The allowed origins.
#[derive(Clone, Debug)]
pub struct Origins {
    patterns: Vec<String>,
}

/// What is to become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No page of another origin is behind it.
    NotCrossOrigin,
    /// A page of an allowed origin is; this goes into `Access-Control-Allow-Origin`.
    Allowed(HeaderValue),
    /// A page of any other origin is: 403, whatever the method, so that it cannot even cause something.
    Forbidden,
}

impl Origins {
    /// The origins that are always allowed, and those listed, each with at most one `*`; `*` alone is all.
    #[must_use]
    pub fn new(listed: &[String]) -> Self {
        let local = LOCAL_HOSTS.iter().flat_map(|host| {
            ["http", "https"]
                .into_iter()
                .flat_map(move |scheme| [format!("{scheme}://{host}"), format!("{scheme}://{host}:*")])
        });
        let programs = PROGRAMS.iter().map(ToString::to_string);
        Self { patterns: listed.iter().cloned().chain(local).chain(programs).collect() }
    }

    /// Judges a request by its `Origin` and `Host`.
    pub fn judge(&self, headers: &HeaderMap) -> Verdict {
        let Some(value) = headers.get(ORIGIN) else {
            return Verdict::NotCrossOrigin;
        };
        let Ok(origin) = value.to_str() else {
            return Verdict::Forbidden;
        };
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let own = ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(host));
        if origin.is_empty() || own {
            Verdict::NotCrossOrigin
        } else if self.patterns.iter().any(|pattern| pattern == "*") {
            Verdict::Allowed(HeaderValue::from_static("*"))
        } else if self.patterns.iter().any(|pattern| matches(pattern, origin)) {
            Verdict::Allowed(value.clone())
        } else {
            Verdict::Forbidden
        }
    }
}

/// Adds what a browser wants to see before it hands an answer to the page.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    if origin != "*" {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
}

/// Adds what a browser asks before it sends the request itself.
pub fn preflight(headers: &mut HeaderMap) {
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (ACCESS_CONTROL_MAX_AGE, TWELVE_HOURS),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.append(VARY, HeaderValue::from_static("Access-Control-Request-Method"));
    headers.append(VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
}

fn matches(pattern: &str, origin: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == origin,
        Some((start, end)) => {
            origin.len() >= start.len() + end.len() && origin.starts_with(start) && origin.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(listed: &[&str], origin: &str, host: &str) -> Verdict {
        let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().expect("a header value"));
        headers.insert(HOST, host.parse().expect("a header value"));
        Origins::new(&listed).judge(&headers)
    }

    #[test]
    fn pages_of_this_machine_and_listed_ones_are_allowed() {
        let host = "192.168.1.5:11434";
        for (listed, origin, allowed) in [
            (&[][..], "http://localhost", true),
            (&[], "https://localhost:3000", true),
            (&[], "http://127.0.0.1:8080", true),
            (&[], "http://0.0.0.0", true),
            (&[], "app://obsidian.md", true),
            (&[], "vscode-webview://abc", true),
            (&[], "http://localhost.evil.example", false),
            (&[], "https://evil.example", false),
            (&[], "chrome-extension://abc", false),
            (&["chrome-extension://*"], "chrome-extension://abc", true),
            (&["https://*.example.org"], "https://chat.example.org", true),
            (&["https://*.example.org"], "https://.example.org.evil", false),
            (&[], "null", false),
        ] {
            let expected =
                if allowed { Verdict::Allowed(origin.parse().expect("a header value")) } else { Verdict::Forbidden };
            assert_eq!(judge(listed, origin, host), expected, "{origin}");
        }
    }

    #[test]
    fn its_own_pages_and_programs_need_no_permission() {
        assert_eq!(judge(&[], "https://llm.example.org", "llm.example.org"), Verdict::NotCrossOrigin);
        assert_eq!(Origins::new(&[]).judge(&HeaderMap::new()), Verdict::NotCrossOrigin);
    }

    #[test]
    fn a_star_allows_all_and_says_so() {
        let star = Verdict::Allowed(HeaderValue::from_static("*"));
        assert_eq!(judge(&["*"], "https://evil.example", "h"), star);
        assert_eq!(judge(&["*"], "http://localhost", "h"), star);
    }
}
