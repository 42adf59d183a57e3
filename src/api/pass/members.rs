//! The members of a request's object: what each is called and where its value stands. Read once, without a tree.

use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::api::ollama::json::Text;

/// Names of an object's members, and the places of their values.
#[derive(Debug, Default)]
pub struct Members(Vec<(Box<str>, Range<usize>)>);

/// The same, as the reader gives it.
struct Raw<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl Members {
    /// Reads a body that is one JSON object.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::custom("expected an object"));
        }
        let Raw(members) = serde_json::from_slice(body)?;
        let place = |raw: &RawValue| {
            // The raw value is a piece of the body.
            let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
            start..start + raw.get().len()
        };
        Ok(Self(members.into_iter().map(|(name, raw)| (Box::from(&*name), place(raw))).collect()))
    }

    /// Where the value of a member stands, `null` included. Of several of one name it is the last, as with the engine.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<&Range<usize>> {
        self.0.iter().rev().find(|(known, _)| &**known == name).map(|(_, place)| place)
    }

    /// How many members have this name.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|(known, _)| &**known == name).count()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;

        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Raw(members))
            }
        }

        deserializer.deserialize_map(RawVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_where_they_stand() {
        let body = br#" { "a" : [1.50] , "\u0062":null,"c":{"a":1},"a":"last" } "#;
        let members = Members::read(body).expect("an object");
        let text =
            |name: &str| members.place(name).map(|place| std::str::from_utf8(&body[place.clone()]).expect("text"));
        assert_eq!(text("a"), Some("\"last\""));
        assert_eq!((text("b"), text("c"), text("d")), (Some("null"), Some(r#"{"a":1}"#), None));
        assert_eq!((members.count("a"), members.count("d")), (2, 0));
    }

    #[test]
    fn what_is_no_object_is_told() {
        for body in ["", "[]", "{", "7", r#"{"a":1} x"#, "{\"a\":\"\u{0}\"}"] {
            assert!(Members::read(body.as_bytes()).is_err(), "{body:?}");
        }
        assert!(Members::read(b"{\"a\":\"\xff\"}").is_err());
    }
}
