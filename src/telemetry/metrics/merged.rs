//! The pages of several engines as one: each family once, with the samples of all engines under it, as the formats demand.
//! What an engine says is copied, not believed: a line that is no sample is left out.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::format::Format;
use super::labels;

/// Families of engines that are told; what their HTTP server and their Python tell of themselves is not.
const OWN: &str = "vllm:";
/// Most families that are told, whatever engines say: vLLM has some hundred.
const MOST: usize = 1000;

/// Families of several engines, in the order in which they were met.
#[derive(Debug, Default)]
pub(super) struct Merged {
    families: Vec<Family>,
    places: HashMap<String, usize>,
}

/// What the values of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Info,
    Unknown,
}

/// One family.
#[derive(Debug)]
struct Family {
    /// Its name without what the formats add to it.
    name: String,
    kind: Kind,
    help: String,
    samples: String,
}

impl Kind {
    /// Both formats' words; `None` for what vLLM does not have.
    fn read(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "info" => Self::Info,
            "unknown" | "untyped" => Self::Unknown,
            _ => return None,
        })
    }

    /// The ends that names of its samples may have.
    fn ends(self) -> &'static [&'static str] {
        match self {
            Self::Counter => &["_total"],
            Self::Gauge | Self::Unknown => &[""],
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["", "_sum", "_count"],
            Self::Info => &["_info"],
        }
    }

    /// What a format calls it, and what it adds to the family's name in its descriptions.
    fn told(self, format: Format) -> (&'static str, &'static str) {
        match (self, format) {
            (Self::Counter, Format::Text) => ("counter", "_total"),
            (Self::Counter, Format::OpenMetrics) => ("counter", ""),
            (Self::Gauge, _) => ("gauge", ""),
            (Self::Histogram, _) => ("histogram", ""),
            (Self::Summary, _) => ("summary", ""),
            (Self::Info, Format::Text) => ("gauge", "_info"),
            (Self::Info, Format::OpenMetrics) => ("info", ""),
            (Self::Unknown, Format::Text) => ("untyped", ""),
            (Self::Unknown, Format::OpenMetrics) => ("unknown", ""),
        }
    }
}

impl Merged {
    /// Takes in what an engine tells, in either format. Python's client tells when each counter was made, as families of
    /// their own (`…_created`); they are left out, since OpenMetrics has the name for something else (vllm-engine §4).
    pub fn add(&mut self, engine: &str, page: &str) {
        let engine = labels::escaped(engine);
        let mut help = ("", "");
        let mut current = None;
        for line in page.lines() {
            if let Some(told) = line.strip_prefix("# HELP ") {
                help = told.split_once(' ').unwrap_or((told, ""));
            } else if let Some(told) = line.strip_prefix("# TYPE ") {
                current = told.split_once(' ').and_then(|(name, kind)| {
                    let text = if help.0 == name { help.1 } else { "" };
                    self.family(name, Kind::read(kind.trim())?, text)
                });
            } else if let Some(at) = current.filter(|_| line.starts_with(OWN)) {
                self.families[at].add(&engine, line);
            }
        }
    }

    /// The place of a family, which is made when it is new. `None` for one that is not told.
    fn family(&mut self, name: &str, kind: Kind, help: &str) -> Option<usize> {
        let bare = match kind {
            Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
            Kind::Info => name.strip_suffix("_info").unwrap_or(name),
            _ => name,
        };
        let is_name = bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'));
        if !bare.starts_with(OWN) || !is_name || bare.ends_with("_created") {
            return None;
        }
        if let Some(at) = self.places.get(bare) {
            // Engines of one version agree; of others the first one is right.
            return (self.families[*at].kind == kind).then_some(*at);
        }
        if self.families.len() >= MOST {
            return None;
        }
        self.places.insert(bare.to_owned(), self.families.len());
        // Python's client escapes no quotes here, and OpenMetrics wants them escaped.
        let help = help.replace("\\\"", "\"");
        self.families.push(Family { name: bare.to_owned(), kind, help, samples: String::new() });
        Some(self.families.len() - 1)
    }

    /// Writes all of it.
    pub fn write(&self, format: Format, out: &mut String) {
        for Family { name, kind, help, samples } in &self.families {
            let (word, end) = kind.told(format);
            let help = match format {
                Format::Text => help.clone(),
                Format::OpenMetrics => help.replace('"', "\\\""),
            };
            // A string takes everything.
            let _ = if help.is_empty() { Ok(()) } else { writeln!(out, "# HELP {name}{end} {help}") };
            let _ = write!(out, "# TYPE {name}{end} {word}\n{samples}");
        }
    }
}

impl Family {
    /// Takes in a sample, or leaves it out where it is none of this family.
    fn add(&mut self, engine: &str, line: &str) {
        let before = self.samples.len();
        if self.copy(engine, line).is_none() {
            self.samples.truncate(before);
        }
    }

    fn copy(&mut self, engine: &str, line: &str) -> Option<()> {
        let end = line.find(['{', ' '])?;
        let name = &line[..end];
        name.strip_prefix(self.name.as_str()).filter(|end| self.kind.ends().contains(end))?;
        let out = &mut self.samples;
        out.push_str(name);
        out.push_str("{engine=\"");
        out.push_str(engine);
        out.push('"');
        let rest = match line[end..].strip_prefix('{') {
            Some(labels) => labels::copy(labels, out)?,
            None => &line[end..],
        };
        // What may follow is the time of the sample and an example, which pages of engines lack and ours does not need.
        let value = rest.split_ascii_whitespace().next()?;
        value.parse::<f64>().ok()?;
        out.push_str("} ");
        out.push_str(value);
        out.push('\n');
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of a real engine.
    const REAL: &str = include_str!("../../../tests/golden/vllm/metrics.response.txt");

    fn merged(pages: &[(&str, &str)], format: Format) -> String {
        let mut merged = Merged::default();
        pages.iter().for_each(|(engine, page)| merged.add(engine, page));
        let mut out = String::new();
        merged.write(format, &mut out);
        out
    }

    #[test]
    fn every_family_comes_once_with_the_samples_of_all_engines_together() {
        let page = merged(&[("a:x", REAL), ("b:y", REAL)], Format::Text);
        let families: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(families.len() > 10 && families.contains(&"vllm:prompt_tokens_total counter"), "{families:?}");
        let mut unique = families.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), families.len());
        for engine in ["a:x", "b:y"] {
            let sample = format!(
                "vllm:num_requests_running{{engine=\"{engine}\",exported_engine=\"0\",model_name=\"smollm2:135m\"}} 0.0\n"
            );
            assert!(page.contains(&sample), "{page}");
        }
        assert!(!page.contains("_created") && !page.contains("process_") && !page.contains("http_"), "{page}");
        let real = REAL.lines().filter(|line| line.starts_with("vllm:") && !line.contains("_created")).count();
        let told = page.lines().filter(|line| line.starts_with("vllm:")).count();
        assert_eq!(told, 2 * real);
    }

    #[test]
    fn both_formats_have_their_own_names_for_one_thing() {
        let python = "# HELP vllm:n_total Say \"n\".\n# TYPE vllm:n_total counter\nvllm:n_total 1.0\n";
        let rust = "# HELP vllm:n Say \\\"n\\\".\n# TYPE vllm:n counter\nvllm:n_total{engine=\"1\"} 2\n# EOF\n";
        let samples = "vllm:n_total{engine=\"a\"} 1.0\nvllm:n_total{engine=\"b\",exported_engine=\"1\"} 2\n";
        let pages = [("a", python), ("b", rust)];
        let text = format!("# HELP vllm:n_total Say \"n\".\n# TYPE vllm:n_total counter\n{samples}");
        assert_eq!(merged(&pages, Format::Text), text);
        let open = format!("# HELP vllm:n Say \\\"n\\\".\n# TYPE vllm:n counter\n{samples}");
        assert_eq!(merged(&pages, Format::OpenMetrics), open);
    }

    #[test]
    fn rubbish_is_left_out_and_the_rest_is_told() {
        let page = "# TYPE vllm:x gauge\nvllm:x{a=\"1\"} 1\nvllm:x{a=\"2} 2\nvllm:x{a=\"3\"}\nvllm:x{a=\"4\"} nonsense\n\
                    vllm:other 5\nvllm:xy 6\nvllm:x{a=\"7\"} NaN\nvllm:x{a=\"8\"} +Inf 1700000000 # {t=\"1\"} 1\n\
                    # TYPE go_x gauge\ngo_x 1\n# TYPE vllm:bad\u{e9} gauge\nvllm:bad\u{e9} 1\n# TYPE vllm:x counter\nvllm:x_total 9\n";
        let told = "# TYPE vllm:x gauge\nvllm:x{engine=\"q\\\"\",a=\"1\"} 1\nvllm:x{engine=\"q\\\"\",a=\"7\"} NaN\n\
                    vllm:x{engine=\"q\\\"\",a=\"8\"} +Inf\n";
        assert_eq!(merged(&[("q\"", page)], Format::Text), told);
    }

    #[test]
    fn an_engine_cannot_make_the_page_larger_than_it_is_itself_many_times_over() {
        let many: String = (0..2 * MOST).map(|at| format!("# TYPE vllm:f{at} gauge\nvllm:f{at} 1\n")).collect();
        assert_eq!(merged(&[("a", &many)], Format::Text).matches("# TYPE").count(), MOST);
    }
}
