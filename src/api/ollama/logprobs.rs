//! Log-probabilities in Ollama's shape (ollama-api §3.2), from the engine's two shapes. They are written while they are
//! read, without a list of anything.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::json::Text;

/// Most alternatives a request may ask for (ollama-api §3.2).
const MOST: usize = 20;

/// Writes the members of a token, whose bytes must be those of the text beside it.
fn put(out: &mut Vec<u8>, token: &str, logprob: f64) {
    // Writing strings and numbers into memory does not fail.
    out.extend_from_slice(br#""token":"#);
    let _ = serde_json::to_writer(&mut *out, token);
    out.extend_from_slice(br#","logprob":"#);
    // The engine counts from −9999 upwards; rounding may put a certain token above 0, which no probability is.
    let _ = serde_json::to_writer(&mut *out, &logprob.min(0.0));
    if token.is_empty() {
        return;
    }
    out.reserve(br#","bytes":[]"#.len() + 4 * token.len());
    out.extend_from_slice(br#","bytes":["#);
    for (place, byte) in token.bytes().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        if byte >= 100 {
            out.push(b'0' + byte / 100);
        }
        if byte >= 10 {
            out.push(b'0' + byte / 10 % 10);
        }
        out.push(b'0' + byte % 10);
    }
    out.push(b']');
}

/// An alternative as chats tell it.
#[derive(Deserialize)]
struct Alternative<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    logprob: f64,
}

/// The most likely tokens, the likeliest first; of equal ones the first told.
#[derive(Default)]
struct Top<'a>(SmallVec<[(Text<'a>, f64); MOST]>);

impl<'a> Top<'a> {
    fn add(&mut self, token: Text<'a>, logprob: f64) {
        let place = self.0.iter().position(|(_, other)| logprob.total_cmp(other).is_gt()).unwrap_or(self.0.len());
        if place == MOST {
            return;
        }
        self.0.truncate(MOST - 1);
        self.0.insert(place, (token, logprob));
    }
}

/// Writes entries behind each other.
struct Pen<'o, 'a> {
    out: &'o mut Vec<u8>,
    /// Most alternatives of each.
    most: usize,
    /// Number of entries written.
    count: usize,
    /// Alternatives of the entry that is read.
    top: Top<'a>,
}

impl Pen<'_, '_> {
    /// Writes an entry with the alternatives that were read, and forgets them.
    fn write(&mut self, token: &str, logprob: f64) {
        if !self.out.is_empty() {
            self.out.push(b',');
        }
        self.out.push(b'{');
        put(self.out, token, logprob);
        // The engine adds the chosen token to the list.
        let told = self.top.0.len().min(self.most);
        for (place, (token, logprob)) in self.top.0.drain(..).take(told).enumerate() {
            self.out.extend_from_slice(if place == 0 { br#","top_logprobs":[{"#.as_slice() } else { b",{" });
            put(self.out, &token, logprob);
            self.out.push(b'}');
        }
        self.out.extend_from_slice(if told > 0 { b"]}" } else { b"}" });
        self.count += 1;
    }
}

/// Which part of an answer a pen is to read.
enum Part<'w, 'a> {
    /// An object with the list `content`, as chats have it, or with lists that run side by side, as completions have it.
    Whole,
    /// That list.
    Entries,
    /// One of its entries.
    Entry,
    /// Alternatives: a list of objects in chats, an object of numbers in completions.
    Alternatives,
    /// The alternatives of these tokens with their log-probabilities; an entry is written for each that has some.
    Beside(&'w [Text<'a>], &'w [f64]),
}

/// Reads a part.
struct Reader<'p, 'o, 'a> {
    pen: &'p mut Pen<'o, 'a>,
    part: Part<'p, 'a>,
}

impl<'p, 'o, 'a> Pen<'o, 'a> {
    fn read(&'p mut self, part: Part<'p, 'a>) -> Reader<'p, 'o, 'a> {
        Reader { pen: self, part }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("log-probabilities")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { pen, part } = self;
        match part {
            Part::Whole => {
                let (mut tokens, mut logprobs, mut top, mut found) = (Few::default(), Few::default(), None, false);
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    match &*key {
                        "content" => {
                            found = true;
                            map.next_value_seed(pen.read(Part::Entries))?;
                        }
                        "tokens" => tokens = map.next_value::<Few<Text<'de>>>()?,
                        "token_logprobs" => logprobs = map.next_value::<Few<f64>>()?,
                        "top_logprobs" => top = map.next_value::<Option<&'de RawValue>>()?,
                        _ => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                if !found {
                    pen.write_beside(&tokens.0, &logprobs.0, top);
                }
                Ok(())
            }
            Part::Entry => {
                let (mut token, mut logprob) = (None, None);
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    match &*key {
                        "token" => token = Some(map.next_value::<Text<'de>>()?),
                        "logprob" => logprob = Some(map.next_value::<f64>()?),
                        "top_logprobs" => map.next_value_seed(pen.read(Part::Alternatives))?,
                        _ => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                let token = token.ok_or_else(|| Error::missing_field("token"))?;
                pen.write(&token, logprob.ok_or_else(|| Error::missing_field("logprob"))?);
                Ok(())
            }
            Part::Alternatives => {
                while let Some((token, logprob)) = map.next_entry()? {
                    pen.top.add(token, logprob);
                }
                Ok(())
            }
            Part::Entries | Part::Beside(..) => Err(Error::custom("an object, not a list")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { pen, part } = self;
        match part {
            Part::Entries => while list.next_element_seed(pen.read(Part::Entry))?.is_some() {},
            Part::Alternatives => {
                while let Some(Alternative { token, logprob }) = list.next_element()? {
                    pen.top.add(token, logprob);
                }
            }
            Part::Beside(tokens, logprobs) => {
                for (token, logprob) in tokens.iter().zip(logprobs) {
                    if list.next_element_seed(pen.read(Part::Alternatives))?.is_none() {
                        break;
                    }
                    pen.write(token, *logprob);
                }
                // The engine has one for each token.
                while list.next_element::<IgnoredAny>()?.is_some() {}
            }
            Part::Whole | Part::Entry => return Err(Error::custom("a list, not an object")),
        }
        Ok(())
    }

    /// `null`: nothing to tell.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

impl<'a> Pen<'_, 'a> {
    /// Writes what lists say that run side by side, the shape of completions.
    fn write_beside(&mut self, tokens: &[Text<'a>], logprobs: &[f64], top: Option<&'a RawValue>) {
        if let Some(top) = top {
            let reader = self.read(Part::Beside(tokens, logprobs));
            let _the_rest_without_if_not_understood =
                reader.deserialize(&mut serde_json::Deserializer::from_str(top.get()));
            self.top.0.clear();
        }
        for (token, logprob) in tokens.iter().zip(logprobs).skip(self.count) {
            self.write(token, *logprob);
        }
    }
}

/// A list that has one element in most pieces of a stream; `null` elements are the default.
#[derive(Default)]
struct Few<T>(SmallVec<[T; 2]>);

impl<'de, T: Default + Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);

        impl<'de, T: Default + Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Few<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<T>, A::Error> {
                let mut few = Few::default();
                while let Some(element) = list.next_element::<Option<T>>()? {
                    few.0.push(element.unwrap_or_default());
                }
                Ok(few)
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// Writes the entries, separated by commas and without brackets; how many there were. What is not understood is left
/// out, since an answer is worth more than its log-probabilities.
pub fn write(raw: &RawValue, alternatives: u8, out: &mut Vec<u8>) -> usize {
    let mut pen = Pen { out, most: usize::from(alternatives), count: 0, top: Top::default() };
    let reader = pen.read(Part::Whole);
    let _what_is_not_understood = reader.deserialize(&mut serde_json::Deserializer::from_str(raw.get()));
    pen.count
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
