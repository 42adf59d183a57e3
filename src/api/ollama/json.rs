//! JSON as Ollama reads it (ollama-api §1.1): one value and never mind what follows, keys in any case, `null` for
//! absent, unknown keys ignored.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use serde_json::error::Category;

use super::error::ApiError;
use super::path::path;
use super::surrogates::mended;

/// A string of a request or of an engine's answer: borrowed from the bytes it was read from unless it held escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// Defines a request object. Keys match in any case, as Go's decoder has it; `null` leaves a field at its default.
macro_rules! object {
    ($(#[$outer:meta])* pub struct $Name:ident<'a> { $($(#[$inner:meta])* pub $field:ident: $Type:ty,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $Name<'a> { $($(#[$inner])* pub $field: $Type,)* }

        impl<'de: 'a, 'a> serde::Deserialize<'de> for $Name<'a> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields<'a>(std::marker::PhantomData<&'a ()>);

                impl<'de: 'a, 'a> serde::de::Visitor<'de> for Fields<'a> {
                    type Value = $Name<'a>;

                    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        formatter.write_str("an object")
                    }

                    fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                        let mut object = $Name::default();
                        while let Some(key) = map.next_key::<$crate::api::ollama::json::Text<'de>>()? {
                            $(if key.eq_ignore_ascii_case(stringify!($field)) {
                                if let Some(value) = map.next_value::<Option<$Type>>()? {
                                    object.$field = value;
                                }
                                continue;
                            })*
                            map.next_value::<serde::de::IgnoredAny>()?;
                        }
                        Ok(object)
                    }
                }

                deserializer.deserialize_map(Fields(std::marker::PhantomData))
            }
        }
    };
}
pub(super) use object;

/// The body as text; bytes that are no UTF-8, and escapes of half a character, become replacement characters, as in Go.
///
/// # Errors
/// [`ApiError::MissingBody`] when there is nothing but white space.
pub fn text(body: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::MissingBody);
    }
    Ok(mended(String::from_utf8_lossy(body)))
}

/// Reads the first JSON value of a body; what follows it is ignored. `null` is an empty object.
///
/// # Errors
/// [`ApiError::BadJson`] in about the words of Go's decoder; clients look at the status only (ollama-api §1.1).
pub fn decode<'a, T: Default + Deserialize<'a>>(text: &'a str) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Option::<T>::deserialize(&mut deserializer).map_err(|error| complaint(text, &error))?;
    Ok(value.unwrap_or_default())
}

/// Turns serde_json's complaint into Go's, with the place in the request.
fn complaint(text: &str, error: &serde_json::Error) -> ApiError {
    let message = error.to_string();
    let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _place)| reason);
    ApiError::BadJson(match error.classify() {
        Category::Eof => "unexpected EOF".to_owned(),
        Category::Data | Category::Io => {
            let before = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
            match path(text, before + error.column()) {
                path if path.is_empty() => format!("json: cannot unmarshal: {reason}"),
                path => format!("json: cannot unmarshal {path}: {reason}"),
            }
        }
        Category::Syntax => {
            let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
            let found = line.get(error.column().saturating_sub(1)..).and_then(|rest| rest.chars().next());
            let place = match reason {
                "expected value" | "expected ident" => "looking for beginning of value",
                "expected `:`" => "after object key",
                "expected `,` or `}`" => "after object key:value pair",
                "expected `,` or `]`" => "after array element",
                "key must be a string" => "looking for beginning of object key string",
                other => other,
            };
            match found {
                Some(found) => format!("invalid character {found:?} {place}"),
                None => format!("invalid JSON: {place}"),
            }
        }
    })
}

/// What is wrong with a value of a request that was set aside unread: `wanted` where it is another one, else what JSON or
/// this program cannot hold, such as numbers without bounds.
pub fn unreadable(name: &str, error: &serde_json::Error, wanted: &str) -> ApiError {
    let message = error.to_string();
    let reason = match error.classify() {
        Category::Data => wanted,
        _ => message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _place)| reason),
    };
    ApiError::BadJson(format!("json: cannot unmarshal {name}: {reason}"))
}

/// Reads a value of a request that was set aside unread; for values already known to be JSON.
pub fn read<'a, T: Deserialize<'a>>(raw: &'a serde_json::value::RawValue) -> Result<T, serde_json::Error> {
    serde_json::from_str(raw.get())
}

/// Takes the white space out of a JSON object, so that it fits on one line, and keeps numbers and order as they are.
/// `None` when the text is no JSON object.
#[must_use]
pub fn compact_object(text: &str) -> Option<String> {
    let raw: &serde_json::value::RawValue = serde_json::from_str(text.trim()).ok()?;
    if !raw.get().starts_with('{') {
        return None;
    }
    let mut compact = String::with_capacity(raw.get().len());
    let (mut quoted, mut escaped) = (false, false);
    for character in raw.get().chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\n' | '\r' | '\t' if !quoted => continue,
            _ => {}
        }
        compact.push(character);
    }
    Some(compact)
}

/// Appends the numbers of a list that was set aside unread.
///
/// # Errors
/// When it is no list of numbers.
pub fn append(list: &serde_json::value::RawValue, numbers: &mut Vec<u32>) -> Result<(), serde_json::Error> {
    struct Appended<'n>(&'n mut Vec<u32>);

    impl<'de> Visitor<'de> for Appended<'_> {
        type Value = ();

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of numbers")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
            while let Some(number) = list.next_element()? {
                self.0.push(number);
            }
            Ok(())
        }
    }

    serde_json::Deserializer::from_str(list.get()).deserialize_seq(Appended(numbers))
}

/// A list of which only the first element counts, such as an engine's `choices`; read without allocating.
#[derive(Debug)]
pub struct First<T>(pub Option<T>);

impl<T> Default for First<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FirstVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for FirstVisitor<T> {
            type Value = First<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let first = list.next_element()?;
                while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
                Ok(First(None))
            }
        }

        deserializer.deserialize_any(FirstVisitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    object! {
        /// A sample.
        pub struct Sample<'a> {
            pub model: Text<'a>,
            pub stream: Option<bool>,
            pub list: Vec<Text<'a>>,
            pub inner: Inner<'a>,
            pub raw: Option<&'a serde_json::value::RawValue>,
        }
    }

    object! {
        /// A part of the sample.
        pub struct Inner<'a> {
            pub name: Text<'a>,
        }
    }

    #[test]
    fn keys_match_in_any_case_and_null_is_absent() {
        let sample: Sample = decode(
            r#"{"MODEL":"x","Stream":null,"list":null,"iNNer":{"Name":"n"},"raw":null,"unknown":{"a":[1]}} trailing"#,
        )
        .expect("a sample");
        assert_eq!((&*sample.model, sample.stream, sample.list.len(), &*sample.inner.name), ("x", None, 0, "n"));
        assert!(sample.raw.is_none());
        let sample: Sample = decode(r#"{"model":"a","model":null,"raw":[ 1 ]}"#).expect("a sample");
        assert_eq!((&*sample.model, sample.raw.map(|raw| raw.get())), ("a", Some("[ 1 ]")));
        assert_eq!(&*decode::<Sample>("null").expect("an empty sample").model, "");
    }

    #[test]
    fn broken_bodies_are_told_in_the_words_of_go() {
        for (body, complaint) in [
            ("{\"model\":", "unexpected EOF"),
            ("{\"model\":\"x", "unexpected EOF"),
            ("hello", "invalid character 'h' looking for beginning of value"),
            ("{\"model\":1}", "json: cannot unmarshal model: invalid type: integer `1`, expected a string"),
            (
                "{\"list\": [\"a\",\n [\"b\"]]}",
                "json: cannot unmarshal list[1]: invalid type: sequence, expected a string",
            ),
            (
                "{\n\"list\":[\"[\"],\n \"Inner\": {\"a\": 1, \"name\": true}}",
                "json: cannot unmarshal Inner.name: invalid type: boolean `true`, expected a string",
            ),
            ("{\"inner\":\"x\"}", "json: cannot unmarshal inner: invalid type: string \"x\", expected an object"),
            ("[]", "json: cannot unmarshal: invalid type: sequence, expected an object"),
        ] {
            let error = decode::<Sample>(body).expect_err("broken");
            assert_eq!(error, ApiError::BadJson(complaint.to_owned()), "{body}");
        }
        assert_eq!(text(b" \n"), Err(ApiError::MissingBody));
        assert_eq!(text(b"").map(|_| ()), Err(ApiError::MissingBody));
        assert_eq!(text(b"{\"a\":\"\xff\"}").expect("text"), "{\"a\":\"\u{fffd}\"}");
    }

    #[test]
    fn objects_are_compacted_without_touching_their_strings() {
        let text = "{ \"a b\" : [ 1.0,\n 2e3 ], \"c\\\" \": \" x \\\\\" }";
        assert_eq!(compact_object(text).as_deref(), Some("{\"a b\":[1.0,2e3],\"c\\\" \":\" x \\\\\"}"));
        for text in ["", "[1]", "{\"a\":", "\"x\"", "{} {}"] {
            assert_eq!(compact_object(text), None, "{text}");
        }
    }
}
