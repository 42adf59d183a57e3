//! What a check found, and how it is told: to people in columns, to programs as JSON.

use serde::Serialize;

use crate::cli::problem::Problem;

/// What a finding means for an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Level {
    /// All is well.
    Ok,
    /// It works, but not for everything, not as fast or not for long.
    Warning,
    /// No engine can start, or nobody can reach it.
    Error,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Finding {
    /// Name of the check, e.g. `shared memory`.
    pub check: &'static str,
    /// What it means.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// Why that matters; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What to do; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

/// What a check says of its subject, before it has the check's name.
pub(super) fn well(what: impl Into<String>) -> Finding {
    Finding { check: "", level: Level::Ok, what: what.into(), why: String::new(), fix: String::new() }
}

/// It works, but.
pub(super) fn warning(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check: "", level: Level::Warning, what: what.into(), why: why.into(), fix: fix.into() }
}

/// It cannot work.
pub(super) fn error(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { level: Level::Error, ..warning(what, why, fix) }
}

impl Finding {
    /// As a problem that ends a verb.
    pub(in crate::cli) fn problem(&self) -> Problem {
        Problem::new(&*self.what, &self.why, &*self.fix)
    }
}

/// All findings for people: one line each, and what to do below those that need it.
pub(super) fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, level, what, why, fix } in findings {
        let sign = match level {
            Level::Ok => "✓",
            Level::Warning => "!",
            Level::Error => "✗",
        };
        text.push_str(&format!("{sign} {check:width$}  {what}"));
        if *level != Level::Ok {
            let margin = width + 4;
            text.push_str(&format!(": {why}\n{:margin$}→ {fix}", ""));
        }
        text.push('\n');
    }
    text.push_str(&summary(findings));
    text.push('\n');
    text
}

/// How many findings are errors.
pub(super) fn errors(findings: &[Finding]) -> usize {
    count(findings, Level::Error)
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

fn summary(findings: &[Finding]) -> String {
    let (errors, warnings) = (errors(findings), count(findings, Level::Warning));
    let warnings = match warnings {
        0 => "no warnings".to_owned(),
        1 => "1 warning".to_owned(),
        more => format!("{more} warnings"),
    };
    match errors {
        0 => format!("an engine can start here; {warnings}"),
        1 => format!("1 finding keeps vllama from serving; {warnings}"),
        more => format!("{more} findings keep vllama from serving; {warnings}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_to_do_and_programs_see_the_same_words() {
        let findings = [
            Finding { check: "engine", ..well("vLLM 0.32.0") },
            Finding { check: "port", ..error("127.0.0.1:1 is taken", "somebody listens", "choose another") },
        ];
        let text = "✓ engine  vLLM 0.32.0\n✗ port    127.0.0.1:1 is taken: somebody listens\n          → choose another\n\
                    1 finding keeps vllama from serving; no warnings\n";
        assert_eq!(table(&findings), text);
        let json = serde_json::to_value(&findings).expect("JSON");
        assert_eq!(json[0], serde_json::json!({"check": "engine", "level": "ok", "what": "vLLM 0.32.0"}));
        assert_eq!((&json[1]["level"], &json[1]["fix"]), (&"error".into(), &"choose another".into()));
    }
}
