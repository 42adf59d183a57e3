//! Addresses to listen on, as `OLLAMA_HOST` has them: `[scheme://]host[:port][/path]` (ollama-api §8.4).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::ConfigError;

/// A setting that is an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listening {
    /// How it is set, for errors.
    setting: &'static str,
    /// The port where none is given.
    port: u16,
}

/// Where clients come in.
pub(super) const CLIENTS: Listening = Listening { setting: "OLLAMA_HOST or --host", port: 11434 };
/// Where monitoring comes in.
pub(super) const MONITORING: Listening =
    Listening { setting: "VLLAMA_METRICS_LISTEN or --metrics-listen", port: 11435 };

/// The address to listen on. Names other than `localhost` are refused: a static binary has no resolver to trust.
pub(super) fn parse(text: &str, listening: Listening) -> Result<SocketAddr, ConfigError> {
    let wrong = |text: &str, why: &str| listening.wrong(text, why);
    let text = text.trim().trim_matches(['"', '\'']).trim();
    let (rest, default_port) = match text.split_once("://") {
        Some(("http", rest)) => (rest, 80),
        Some(("https", rest)) => (rest, 443),
        Some((scheme, _)) => return Err(wrong(text, &format!("'{scheme}' is neither http nor https"))),
        None => (text, listening.port),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = split(authority);
    let port = match port {
        None | Some("") => default_port,
        Some(port) => port.parse().map_err(|_| wrong(text, &format!("'{port}' is no port (0–65535)")))?,
    };
    let address = match host.trim_matches(['[', ']']) {
        "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().map_err(|_| wrong(text, &format!("'{host}' is no IP address")))?,
    };
    // `:8080` means every address, as in Ollama; an empty text means the default.
    let address = if host.is_empty() && !authority.is_empty() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { address };
    Ok(SocketAddr::new(address, port))
}

/// Host and port; an IPv6 address may stand with brackets, or bare when there is no port.
fn split(authority: &str) -> (&str, Option<&str>) {
    match authority.rfind(':') {
        Some(colon)
            if !authority[colon..].contains(']') && authority[..colon].parse::<std::net::Ipv6Addr>().is_err() =>
        {
            let bare_ipv6 = authority.parse::<std::net::Ipv6Addr>().is_ok();
            if bare_ipv6 { (authority, None) } else { (&authority[..colon], Some(&authority[colon + 1..])) }
        }
        _ => (authority, None),
    }
}

impl Listening {
    fn wrong(self, text: &str, why: &str) -> ConfigError {
        let Self { setting, port } = self;
        ConfigError(format!(
            "cannot listen on '{text}': {why}; set {setting} to an address such as 127.0.0.1:{port} or 0.0.0.0"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_ollama_reads_is_read() {
        for (text, address) in [
            ("", "127.0.0.1:11434"),
            ("127.0.0.1", "127.0.0.1:11434"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("0.0.0.0", "0.0.0.0:11434"),
            (":8080", "0.0.0.0:8080"),
            ("http://10.1.2.3", "10.1.2.3:80"),
            ("https://10.1.2.3/path", "10.1.2.3:443"),
            ("http://10.1.2.3:7/path", "10.1.2.3:7"),
            ("[::]:11434", "[::]:11434"),
            ("[::1]", "[::1]:11434"),
            ("::1", "[::1]:11434"),
            (" \"127.0.0.1:0\" ", "127.0.0.1:0"),
        ] {
            assert_eq!(parse(text, CLIENTS).map(|address| address.to_string()), Ok(address.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused_with_what_to_do() {
        for text in ["example.com", "127.0.0.1:99999", "ftp://127.0.0.1", "127.0.0.1:x"] {
            for (listening, variable) in [(CLIENTS, "OLLAMA_HOST"), (MONITORING, "VLLAMA_METRICS_LISTEN")] {
                let error = parse(text, listening).expect_err(text).0;
                assert!(error.contains(variable), "{error}");
            }
        }
        assert_eq!(parse("0.0.0.0", MONITORING).map(|address| address.port()), Ok(11435));
    }
}
