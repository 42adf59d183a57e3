//! Token counts of an answer, for the access log: looked for only by their name, and read without the rest.

use memchr::memmem::Finder;
use serde::Deserialize;

use crate::telemetry::Facts;

const NAME: &[u8] = b"\"usage\":{";

/// Token counters, by the names that the dialects have for them.
#[derive(Debug, Deserialize)]
struct Usage {
    #[serde(alias = "input_tokens", default)]
    prompt_tokens: u64,
    #[serde(alias = "output_tokens", default)]
    completion_tokens: u64,
}

/// Looks for token counts. A text of the model cannot be mistaken for them: its quotes are escaped.
#[derive(Debug)]
pub struct UsageFinder(Finder<'static>);

impl Default for UsageFinder {
    fn default() -> Self {
        Self(Finder::new(NAME))
    }
}

impl UsageFinder {
    /// Notes the counts of an event; false where it has none.
    pub fn note_event(&self, event: &[u8], facts: &Facts) -> bool {
        let start = self.0.find(event);
        if let Some(start) = start {
            note(&event[start..], facts);
        }
        start.is_some()
    }
}

/// Notes the counts of a whole answer: they come near its end.
pub fn note_answer(answer: &[u8], facts: &Facts) {
    if let Some(start) = memchr::memmem::rfind(answer, NAME) {
        note(&answer[start..], facts);
    }
}

fn note(text: &[u8], facts: &Facts) {
    let object = &text[NAME.len() - 1..];
    // What follows the object is not read.
    if let Ok(usage) = Usage::deserialize(&mut serde_json::Deserializer::from_slice(object)) {
        facts.set_tokens(usage.prompt_tokens, usage.completion_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_by_any_of_their_names() {
        for (answer, tokens) in [
            (r#"{"id":"x","usage":{"prompt_tokens":37,"total_tokens":45,"completion_tokens":8,"x":null}}"#, (37, 8)),
            (r#"{"usage":{"input_tokens":5,"input_tokens_details":{"a":[]},"output_tokens":7},"user":null}"#, (5, 7)),
            (r#"{"data":[],"usage":{"prompt_tokens":6,"total_tokens":6}}"#, (6, 0)),
            (r#"{"choices":[{"text":"\"usage\":{\"prompt_tokens\":1}"}]}"#, (0, 0)),
            (r#"{"usage":null}"#, (0, 0)),
        ] {
            let facts = Facts::default();
            note_answer(answer.as_bytes(), &facts);
            assert_eq!(facts.tokens(), tokens, "{answer}");
            let facts = Facts::default();
            UsageFinder::default().note_event(answer.as_bytes(), &facts);
            assert_eq!(facts.tokens(), tokens, "{answer}");
        }
    }
}
