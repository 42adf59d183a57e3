//! Where a collector is: `http://host[:port][/path]`.

use std::fmt;

/// Port of OTLP over HTTP.
const PORT: u16 = 4318;
/// Where a collector takes traces.
const PATH: &str = "/v1/traces";

/// A collector's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port.
    pub authority: String,
    /// The path of a request.
    pub path: String,
}

impl Endpoint {
    /// Reads one.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.trim().strip_prefix("http://") else {
            return Err("it must begin with http://; for TLS run a collector beside vllama that passes spans on");
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let uri: http::uri::Authority = authority.parse().map_err(|_| "it names no host")?;
        if uri.host().is_empty() || authority.contains('@') {
            return Err("it names no host");
        }
        let authority = match uri.port_u16() {
            Some(_) => authority.to_owned(),
            None => format!("{}:{PORT}", uri.host()),
        };
        let path = if path.is_empty() { PATH.to_owned() } else { format!("/{path}") };
        path.parse::<http::uri::PathAndQuery>().map_err(|_| "its path is none")?;
        Ok(Self { authority, path })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collectors_port_and_path_need_not_be_told() {
        for (text, endpoint) in [
            ("http://collector", "http://collector:4318/v1/traces"),
            ("http://127.0.0.1:9/", "http://127.0.0.1:9/v1/traces"),
            ("http://[::1]:9/otlp/v1/traces", "http://[::1]:9/otlp/v1/traces"),
            ("http://[::1]", "http://[::1]:4318/v1/traces"),
        ] {
            assert_eq!(Endpoint::parse(text).map(|endpoint| endpoint.to_string()), Ok(endpoint.to_owned()), "{text}");
        }
        for text in ["", "collector:4318", "https://collector", "http://", "http://:4318", "http://a b", "http://u:p@h"]
        {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}
