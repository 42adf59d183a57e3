//! Reads a recorded sequence of requests. `tests/golden/clients/README.md` says how one is written.

use std::path::PathBuf;

use super::check::Check;

/// What a client does, step by step.
pub struct Script {
    /// Its file, for messages.
    pub name: String,
    /// Its requests, in order.
    pub steps: Vec<Step>,
}

/// One request and what the client looks at in its answer. Texts may hold `{{name}}` for a value that was kept before.
#[derive(Debug, Default)]
pub struct Step {
    /// Line of the request in the file.
    pub line: usize,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
    pub status: u16,
    /// The beginning of the answer's content type, where the client looks at it.
    pub content_type: Option<String>,
    /// What must hold, of the answer or of what the engine was asked.
    pub checks: Vec<(Side, Check)>,
    /// Whether the client asks again until all that holds, since the server did not promise it at once.
    pub repeated: bool,
    /// Names for values of the answer, and where they are.
    pub kept: Vec<(String, String)>,
}

/// Where a check looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The answer to the client.
    Answer,
    /// The last request to the engine.
    Engine,
}

/// Where the sequences lie.
pub fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/clients")
}

impl Script {
    /// Reads a sequence; a line that makes no sense fails the test.
    pub fn read(name: &str) -> Self {
        let file = directory().join(format!("{name}.txt"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut steps: Vec<Step> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let Some((sign, rest)) = line.split_once(' ').filter(|(sign, _)| *sign != "#") else { continue };
            if sign == ">" && steps.last().is_none_or(|step| step.status != 0) {
                let (method, path) = rest.split_once(' ').unwrap_or_else(|| panic!("{name}:{number}: {line}"));
                let (method, path) = (method.to_owned(), path.to_owned());
                steps.push(Step { line: number + 1, method, path, ..Step::default() });
                continue;
            }
            let step = steps.last_mut().unwrap_or_else(|| panic!("{name}: a request comes first"));
            step.add(sign, rest).unwrap_or_else(|| panic!("{name}:{}: {line}", number + 1));
        }
        assert!(steps.iter().all(|step| step.status != 0), "{name}: every request has its answer");
        Self { name: name.to_owned(), steps }
    }
}

impl Step {
    /// Takes one line that follows the request.
    fn add(&mut self, sign: &str, rest: &str) -> Option<()> {
        match sign {
            ">" if rest.starts_with('{') => self.body = Some(rest.to_owned()),
            ">" if rest.starts_with("bytes: ") => self.body = Some(rest["bytes: ".len()..].to_owned()),
            ">" => {
                let (name, value) = rest.split_once(": ")?;
                self.headers.push((name.to_owned(), value.to_owned()));
            }
            "=" => {
                let (status, kind) = rest.split_once(' ').unwrap_or((rest, ""));
                self.status = status.parse().ok()?;
                self.content_type = (!kind.is_empty()).then(|| kind.to_owned());
            }
            "@" if rest == "until this holds" => self.repeated = true,
            "?" => self.checks.push((Side::Answer, Check::parse(rest)?)),
            "~" => self.checks.push((Side::Engine, Check::parse(rest)?)),
            "$" => {
                let (name, place) = rest.split_once(' ')?;
                self.kept.push((name.to_owned(), place.to_owned()));
            }
            _ => return None,
        }
        Some(())
    }
}
