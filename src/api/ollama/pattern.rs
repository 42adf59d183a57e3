//! Chunks of a stream are the same bytes but for the text in them. Once one has been parsed, the next ones of its kind
//! are read by comparing: that costs a sixth of parsing them (docs/performance.md has the figures).

use std::borrow::Cow;

use super::engine::{Choice, Delta, Piece};
use super::json::{First, Text};

/// What stands around the text of the last chunk that held nothing else for the client.
#[derive(Debug, Default)]
pub struct Pattern {
    before: Vec<u8>,
    after: Vec<u8>,
    place: Option<Place>,
}

/// Which field the text is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Content,
    Reasoning,
    Text,
}

impl Pattern {
    /// The chunk in these bytes, where it is like the last one in all but its text. As JSON it is then the same but for
    /// that one string, which holds nothing that would end it or would have to be decoded.
    #[must_use]
    pub fn read<'a>(&self, data: &'a [u8]) -> Option<Piece<'a>> {
        let place = self.place?;
        let text = data.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        if text.iter().any(|byte| matches!(byte, b'"' | b'\\' | ..b' ')) {
            return None;
        }
        let text = Some(Text(Cow::Borrowed(std::str::from_utf8(text).ok()?)));
        let mut choice = Choice::default();
        match place {
            Place::Content => choice.delta = Delta { content: text, ..Delta::default() },
            Place::Reasoning => choice.delta = Delta { reasoning: text, ..Delta::default() },
            Place::Text => choice.text = text,
        }
        Some(Piece { choices: First(Some(choice)), ..Piece::default() })
    }

    /// Learns from a chunk that was parsed from these bytes.
    pub fn learn(&mut self, data: &[u8], piece: &Piece<'_>) {
        let Some((place, text)) = only_text(piece) else { return };
        // Both are parts of the same memory, since the text was borrowed from there.
        let Some(start) = text.as_ptr().addr().checked_sub(data.as_ptr().addr()) else { return };
        let (Some(before), Some(after)) = (data.get(..start), data.get(start + text.len()..)) else { return };
        self.before.clear();
        self.before.extend_from_slice(before);
        self.after.clear();
        self.after.extend_from_slice(after);
        self.place = Some(place);
    }
}

/// The text of a chunk that holds one text, written without escapes, and nothing else.
fn only_text<'a>(piece: &'a Piece<'_>) -> Option<(Place, &'a str)> {
    let Piece { choices: First(Some(choice)), usage: None, metrics: None, prompt_token_ids: None, error: None } = piece
    else {
        return None;
    };
    let Choice { delta, text, logprobs: None, finish_reason: None, token_ids: None, prompt_token_ids: None } = choice
    else {
        return None;
    };
    let (place, text) = match (delta, text) {
        (Delta { content: Some(text), reasoning: None, tool_calls: None }, None) => (Place::Content, text),
        (Delta { content: None, reasoning: Some(text), tool_calls: None }, None) => (Place::Reasoning, text),
        (Delta { content: None, reasoning: None, tool_calls: None }, Some(text)) => (Place::Text, text),
        _ => return None,
    };
    match &text.0 {
        Cow::Borrowed(text) => Some((place, text)),
        Cow::Owned(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(data: &str) -> Piece<'_> {
        serde_json::from_str(data).expect("the test's JSON")
    }

    fn learnt(data: &str) -> Pattern {
        let mut pattern = Pattern::default();
        pattern.learn(data.as_bytes(), &parsed(data));
        pattern
    }

    fn chat(text: &str) -> String {
        format!(r#"{{"id":"x","choices":[{{"index":0,"delta":{{"content":{text}}},"finish_reason":null}}]}}"#)
    }

    #[test]
    fn a_chunk_like_the_last_one_is_the_same_as_if_it_were_parsed() {
        let kinds: [fn(&str) -> String; 3] = [
            chat,
            |text| format!(r#"{{"choices":[{{"delta":{{"reasoning":{text}}},"logprobs":null}}],"usage":null}}"#),
            |text| format!(r#"{{"choices":[{{"text":{text}}}]}}"#),
        ];
        for kind in kinds {
            let pattern = learnt(&kind(r#""one""#));
            for text in [r#""one""#, r#"" two""#, r#""""#, r#""größer 🙂""#, r#""{[,:]}""#] {
                let data = kind(text);
                let read = pattern.read(data.as_bytes()).expect("alike");
                assert_eq!(format!("{read:?}"), format!("{:?}", parsed(&data)), "{data}");
            }
        }
    }

    #[test]
    fn what_differs_in_more_than_a_plain_text_is_parsed() {
        let pattern = learnt(&chat(r#""one""#));
        for data in [
            chat(r#""a\nb""#),
            chat(r#""x"},"finish_reason":"stop","delta":{"content":"y""#),
            chat("\"a\u{1}\""),
            chat("null"),
            chat(r#""one""#).replace("\"x\"", "\"y\""),
            chat(r#""one""#).replace("null", "\"stop\""),
            String::new(),
        ] {
            assert!(pattern.read(data.as_bytes()).is_none(), "{data}");
        }
        let mut broken = chat(r#""?""#).into_bytes();
        let place = broken.iter().position(|byte| *byte == b'?').expect("the mark");
        broken[place] = 0xff;
        assert!(pattern.read(&broken).is_none(), "no UTF-8");
        let short = [pattern.before.as_slice(), &pattern.after[1..]].concat();
        assert!(pattern.read(&short).is_none(), "its parts overlap");
    }

    #[test]
    fn nothing_is_learnt_from_chunks_that_hold_more_than_a_text() {
        for data in [
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[]}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"token_ids":[1]}]}"#,
            r#"{"choices":[{"delta":{"content":"a","reasoning":"b"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a","tool_calls":[]}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{"delta":{"content":"\n"}}]}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":[{"delta":{}}]}"#,
        ] {
            assert!(learnt(data).read(data.as_bytes()).is_none(), "{data}");
        }
    }
}
