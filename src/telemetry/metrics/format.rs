//! The two formats of the page, and which of them a client wants.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

/// How the page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text, version 0.0.4.
    Text,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// By the `Accept` of a request: OpenMetrics where it is wanted at least as much as plain text.
    #[must_use]
    pub fn wanted(accept: &str) -> Self {
        let (mut open, mut plain) = (None, None);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let parameters = || parts.clone().filter_map(|part| part.split_once('='));
            let weight = parameters().find(|(name, _)| name.eq_ignore_ascii_case("q"));
            let weight = weight.map_or(Some(1.0), |(_, weight)| weight.parse::<f32>().ok()).unwrap_or_default();
            let version =
                parameters().find(|(name, _)| name.eq_ignore_ascii_case("version")).map(|(_, version)| version);
            let better = |before: Option<f32>| Some(before.unwrap_or_default().max(weight));
            if kind.eq_ignore_ascii_case("application/openmetrics-text") {
                if version.is_none_or(|version| matches!(version, "1.0.0" | "0.0.1")) {
                    open = better(open);
                }
            } else if ["text/plain", "text/*", "*/*"].iter().any(|known| kind.eq_ignore_ascii_case(known)) {
                plain = better(plain);
            }
        }
        match open {
            Some(open) if open > 0.0 && open >= plain.unwrap_or_default() => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    /// Its content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The last line of a page.
    pub(super) fn end(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::OpenMetrics => "# EOF\n",
        }
    }

    /// The text of a page, without the end that OpenMetrics demands.
    pub(super) fn write(self, page: impl Collector) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(page));
        let mut out = String::with_capacity(64 << 10);
        let written = match self {
            Self::Text => prometheus_text::encode(&mut out, &registry),
            Self::OpenMetrics => text::encode_registry(&mut out, &registry),
        };
        debug_assert!(written.is_ok(), "a string takes everything");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                            q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;\
                            version=0.0.4;q=0.3,*/*;q=0.2";
        let only_protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.7,*/*;q=0.1";
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain", Format::Text),
            ("text/html, */*;q=0.1", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics),
            ("application/openmetrics-text; version=2.0.0, text/plain;q=0.1", Format::Text),
            ("application/openmetrics-text;q=0.2, text/plain", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            (prometheus_2, Format::OpenMetrics),
            (prometheus_3, Format::OpenMetrics),
            (only_protobuf, Format::Text),
        ] {
            assert_eq!(Format::wanted(accept), format, "{accept}");
        }
    }
}
