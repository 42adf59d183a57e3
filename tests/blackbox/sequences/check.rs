//! What a client looks at in an answer: a place and what must hold there.

use serde_json::Value;

/// One thing a client relies on.
#[derive(Clone, Debug)]
pub struct Check {
    /// A JSON pointer; `*` stands for every element, `-1` for the last one.
    place: String,
    verb: Verb,
    /// As it was written, for messages.
    text: String,
}

#[derive(Clone, Debug)]
enum Verb {
    /// Exactly this value.
    Is(Value),
    /// A value of this kind.
    Kind(String),
    /// A list or object with this element or member, or a text with these words in it.
    Has(Value, bool),
    /// A number, or the length of a text or list.
    AtLeast(f64),
    /// The same the other way.
    AtMost(f64),
    /// Nothing is there.
    Absent,
    /// The texts at all these places, one after the other.
    Joins(String),
    /// A version that is not older.
    Version(Vec<u64>),
}

impl Check {
    /// Reads `PLACE VERB [VALUE]`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let (place, verb, rest) = (words.next()?, words.next()?, words.next().unwrap_or_default());
        let json = || serde_json::from_str::<Value>(rest).ok();
        let verb = match verb {
            "is" => Verb::Is(json()?),
            "is-a" => Verb::Kind(rest.to_owned()),
            "has" => Verb::Has(json()?, true),
            "has-not" => Verb::Has(json()?, false),
            "at-least" => Verb::AtLeast(json()?.as_f64()?),
            "at-most" => Verb::AtMost(json()?.as_f64()?),
            "absent" => Verb::Absent,
            "joins-to" => Verb::Joins(json()?.as_str()?.to_owned()),
            "version-at-least" => Verb::Version(version(rest)?),
            _ => return None,
        };
        Some(Self { place: place.to_owned(), verb, text: text.to_owned() })
    }

    /// Puts a kept value in where the check has its name.
    pub fn with(&self, fill: &impl Fn(&str) -> String) -> Self {
        let text = fill(&self.text);
        Self::parse(&text).unwrap_or_else(|| panic!("{text}: no check any more"))
    }

    /// What is wrong, if anything.
    pub fn complaint(&self, whole: &Value) -> Option<String> {
        let found = find(whole, &self.place);
        let holds = match &self.verb {
            Verb::Absent => found.is_empty(),
            Verb::Joins(text) => *text == found.iter().filter_map(|value| value.as_str()).collect::<String>(),
            verb => !found.is_empty() && found.iter().all(|value| verb.holds(value)),
        };
        let list = || found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        (!holds).then(|| format!("{} (found: {})", self.text, if found.is_empty() { "nothing".into() } else { list() }))
    }
}

impl Verb {
    fn holds(&self, value: &Value) -> bool {
        let size = || match value {
            Value::String(text) => Some(text.len() as f64),
            Value::Array(list) => Some(list.len() as f64),
            other => other.as_f64(),
        };
        match self {
            Self::Is(wanted) => value == wanted,
            Self::Kind(kind) => is_a(value, kind),
            Self::Has(wanted, present) => has(value, wanted) == *present,
            Self::AtLeast(least) => size().is_some_and(|size| size >= *least),
            Self::AtMost(most) => size().is_some_and(|size| size <= *most),
            Self::Version(least) => value.as_str().and_then(version).is_some_and(|version| version >= *least),
            Self::Absent | Self::Joins(_) => unreachable!("looked at together"),
        }
    }
}

/// The values at a place.
pub fn find<'a>(value: &'a Value, place: &str) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in place.split('/').filter(|step| !step.is_empty()) {
        found = found.into_iter().flat_map(|value| inside(value, step)).collect();
    }
    found
}

fn inside<'a>(value: &'a Value, step: &str) -> Vec<&'a Value> {
    match value {
        Value::Array(list) if step == "*" => list.iter().collect(),
        Value::Array(list) if step == "-1" => list.last().into_iter().collect(),
        Value::Array(list) => step.parse::<usize>().ok().and_then(|place| list.get(place)).into_iter().collect(),
        Value::Object(members) if step == "*" => members.values().collect(),
        Value::Object(members) => members.get(step).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn has(value: &Value, wanted: &Value) -> bool {
    match value {
        Value::Array(list) => list.contains(wanted),
        Value::Object(members) => wanted.as_str().is_some_and(|name| members.contains_key(name)),
        Value::String(text) => wanted.as_str().is_some_and(|part| text.contains(part)),
        _ => false,
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "list" => value.is_array(),
        "object" => value.is_object(),
        "boolean" => value.is_boolean(),
        // Clients in Go and Rust take no 12.0 for a count (ollama-api §13.31).
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "time" => value.as_str().is_some_and(is_time),
        "version" => value.as_str().and_then(version).is_some(),
        // What Continue takes: one `name value` a line, texts in quotes (ollama-api §13.15).
        "parameters" => value.as_str().is_some_and(|text| text.split('\n').all(is_parameter)),
        other => panic!("{other}: no kind of value"),
    }
}

/// A time that Go, JavaScript and Python before 3.11 can read: `2026-01-02T03:04:05.123456Z` or with an offset, with no
/// more than nine digits after the point (ollama-api §13.17, §13.31).
fn is_time(text: &str) -> bool {
    let Some((date, rest)) = text.split_at_checked(19) else { return false };
    let pattern = "0000-00-00T00:00:00";
    let shaped = date
        .chars()
        .zip(pattern.chars())
        .all(|(found, wanted)| if wanted == '0' { found.is_ascii_digit() } else { found == wanted });
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("0", rest),
    };
    let offset = || zone.len() == 6 && zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':';
    shaped && (1..=9).contains(&fraction.len()) && (zone == "Z" || offset()) && !text.starts_with("0001")
}

/// Dotted integers, as clients read a version: without a leading `v`, up to the first `-` (ollama-api §13.1).
fn version(text: &str) -> Option<Vec<u64>> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let text = text.split('-').next()?;
    text.split('.').map(|part| part.parse().ok()).collect()
}

fn is_parameter(line: &str) -> bool {
    let Some((name, value)) = line.split_once(' ') else { return false };
    let value = value.trim_start();
    let quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
    !name.is_empty() && !value.is_empty() && (!value.contains(' ') || quoted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Check;

    fn complaint(check: &str) -> Option<String> {
        let answer = json!([
            {"text": "It ", "count": 3, "time": "2026-01-02T03:04:05.123456Z", "list": ["a"], "version": "0.32.15"},
            {"text": "is.", "count": 4.5, "time": "soon", "list": [], "version": "vllama 1.0", "parameters": "stop  \"a b\""},
        ]);
        Check::parse(check).unwrap_or_else(|| panic!("{check}: no check")).complaint(&answer)
    }

    #[test]
    fn what_holds_is_no_reason_to_complain() {
        for check in [
            "/0/text is \"It \"",
            "/*/text joins-to \"It is.\"",
            "/*/text is-a string",
            "/0/count is-a integer",
            "/0/time is-a time",
            "/0/version version-at-least 0.6.4",
            "/0/list has \"a\"",
            "/-1/list has-not \"a\"",
            "/-1 has \"parameters\"",
            "/-1/parameters is-a parameters",
            "/*/count at-least 3",
            "/0/text at-most 3",
            "/*/error absent",
        ] {
            assert_eq!(complaint(check), None);
        }
    }

    #[test]
    fn what_does_not_hold_is_told_with_what_was_found() {
        for check in [
            "/0/text is \"it\"",
            "/*/text joins-to \"It is\"",
            "/*/count is-a integer",
            "/*/time is-a time",
            "/*/version is-a version",
            "/0/version version-at-least 0.33",
            "/*/list has \"a\"",
            "/0/list has-not \"a\"",
            "/0/text is-a parameters",
            "/*/count at-least 4",
            "/0/text absent",
            "/0/nothing is-a string",
            "/2/text is-a string",
        ] {
            let complaint = complaint(check).unwrap_or_else(|| panic!("{check} does not hold"));
            assert!(complaint.starts_with(check), "{complaint}");
        }
        assert!(complaint("/1/count is 4").is_some_and(|complaint| complaint.ends_with("(found: 4.5)")));
    }
}
