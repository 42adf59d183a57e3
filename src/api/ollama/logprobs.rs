//! Log-probabilities in Ollama's shape (ollama-api §3.2), from the engine's two shapes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::Text;

/// One generated token.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    token: Token<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<Token<'a>>,
}

/// A token with its bytes, which must be those of the text beside it.
#[derive(Debug, Serialize)]
struct Token<'a> {
    token: &'a str,
    logprob: f64,
    #[serde(skip_serializing_if = "<[u8]>::is_empty")]
    bytes: &'a [u8],
}

impl<'a> Token<'a> {
    fn new(token: &'a str, logprob: f64) -> Self {
        // The engine counts from −9999 upwards; rounding may put a certain token above 0, which no probability is.
        Self { token, logprob: logprob.min(0.0), bytes: token.as_bytes() }
    }
}

/// Shape of chats.
#[derive(Deserialize)]
struct ChatLogprobs<'a> {
    #[serde(borrow)]
    content: Option<Vec<ChatEntry<'a>>>,
}

#[derive(Deserialize)]
struct ChatEntry<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    logprob: f64,
    #[serde(borrow)]
    top_logprobs: Option<Vec<ChatEntry<'a>>>,
}

/// Shape of completions: lists that run side by side.
#[derive(Deserialize)]
struct CompletionLogprobs<'a> {
    #[serde(borrow)]
    tokens: Vec<Text<'a>>,
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Option<Vec<Option<HashMap<String, f64>>>>,
}

/// Writes the entries, separated by commas and without brackets; how many there were. What is not understood is left
/// out, since an answer is worth more than its log-probabilities.
pub fn write(raw: &RawValue, alternatives: u8, out: &mut Vec<u8>) -> usize {
    let most = usize::from(alternatives);
    let mut count = 0;
    let mut put = |entry: &Entry<'_>| {
        if !out.is_empty() {
            out.push(b',');
        }
        // Writing strings and numbers into memory does not fail.
        let _ = serde_json::to_writer(&mut *out, entry);
        count += 1;
    };
    if let Ok(chat) = serde_json::from_str::<ChatLogprobs>(raw.get())
        && let Some(entries) = &chat.content
    {
        for entry in entries {
            let top = entry.top_logprobs.iter().flatten();
            let top = sorted(top.map(|top| Token::new(&top.token, top.logprob)), most);
            put(&Entry { token: Token::new(&entry.token, entry.logprob), top_logprobs: top });
        }
    } else if let Ok(completion) = serde_json::from_str::<CompletionLogprobs>(raw.get()) {
        for (place, (token, logprob)) in completion.tokens.iter().zip(&completion.token_logprobs).enumerate() {
            let top = completion.top_logprobs.as_ref().and_then(|all| all.get(place)?.as_ref());
            let top = sorted(top.into_iter().flatten().map(|(token, logprob)| Token::new(token, *logprob)), most);
            put(&Entry { token: Token::new(token, logprob.unwrap_or_default()), top_logprobs: top });
        }
    }
    count
}

/// The most likely first, and no more than asked for: the engine adds the chosen token to the list.
fn sorted<'a>(tokens: impl Iterator<Item = Token<'a>>, most: usize) -> Vec<Token<'a>> {
    if most == 0 {
        return Vec::new();
    }
    let mut tokens: Vec<_> = tokens.collect();
    tokens.sort_by(|one, other| other.logprob.total_cmp(&one.logprob));
    tokens.truncate(most);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str, alternatives: u8) -> (String, usize) {
        let raw = RawValue::from_string(json.to_owned()).expect("the test's JSON");
        let mut out = Vec::new();
        let count = write(&raw, alternatives, &mut out);
        (String::from_utf8(out).expect("JSON is UTF-8"), count)
    }

    #[test]
    fn both_shapes_of_the_engine_become_ollamas() {
        let chat = r#"{"content":[{"token":"Hé","logprob":-0.5,"bytes":[1],"top_logprobs":[
            {"token":"b","logprob":-2.0,"bytes":[98]},{"token":"a","logprob":-1.0,"bytes":[97]}]},
            {"token":"","logprob":-0.25,"bytes":[],"top_logprobs":[]}]}"#;
        let entries = r#"{"token":"Hé","logprob":-0.5,"bytes":[72,195,169],"top_logprobs":[{"token":"a","logprob":-1.0,"bytes":[97]},{"token":"b","logprob":-2.0,"bytes":[98]}]},{"token":"","logprob":-0.25}"#;
        assert_eq!(written(chat, 2), (entries.to_owned(), 2));
        let completion = r#"{"text_offset":[0],"token_logprobs":[-0.5],"tokens":["x"],"top_logprobs":[{"y":-3.0,"x":-0.5,"z":-1.0}]}"#;
        let entries = r#"{"token":"x","logprob":-0.5,"bytes":[120],"top_logprobs":[{"token":"x","logprob":-0.5,"bytes":[120]},{"token":"z","logprob":-1.0,"bytes":[122]}]}"#;
        assert_eq!(written(completion, 2), (entries.to_owned(), 1));
    }

    #[test]
    fn alternatives_are_absent_unless_asked_for() {
        let chat = r#"{"content":[{"token":"a","logprob":-0.5,"top_logprobs":[{"token":"a","logprob":-0.5}]}]}"#;
        assert_eq!(written(chat, 0), (r#"{"token":"a","logprob":-0.5,"bytes":[97]}"#.to_owned(), 1));
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        assert_eq!(written(r#"{"content":null}"#, 1), (String::new(), 0));
        assert_eq!(written("3", 1), (String::new(), 0));
    }
}
