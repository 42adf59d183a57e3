//! The name of the model in an answer: where it stands, and another in its place. Everything else stays as it is, byte by
//! byte.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::api::ollama::json::Text;

/// A name in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The name; borrowed from the body unless it held escapes.
    pub name: Cow<'a, str>,
    /// Its bytes in the body, quotes included.
    pub range: Range<usize>,
}

/// Finds the model's name in an answer of the engine, which is trusted to be JSON, at one of these `paths` of members, and
/// reads no further: the engine names the model before the megabytes of what it made. `None` where there is no such
/// member, or the answer is no object.
#[must_use]
pub fn find_early<'a>(answer: &'a [u8], paths: &[&[&str]]) -> Option<Place<'a>> {
    let mut found: Option<&RawValue> = None;
    // Leaving an object in the middle is an error to the reader, and this one's purpose.
    let _ = Early { found: &mut found, paths, depth: 0 }.deserialize(&mut serde_json::Deserializer::from_slice(answer));
    place(answer, found?).ok()
}

/// Takes the raw name out of an object and leaves.
struct Early<'f, 'a, 'p> {
    found: &'f mut Option<&'a RawValue>,
    /// Where it may stand, of the paths that lead to this object.
    paths: &'p [&'p [&'p str]],
    /// How many members of the paths lead to this object.
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Early<'_, 'de, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Early<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let Self { found, paths, depth } = self;
        while let Some(Text(key)) = map.next_key()? {
            let next = paths.iter().find(|path| path.get(depth).is_some_and(|member| *member == key));
            match next {
                Some(path) if path.len() == depth + 1 => {
                    *found = Some(map.next_value()?);
                    return Ok(());
                }
                Some(path) => map.next_value_seed(Early { found, paths: &[path], depth: depth + 1 })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            if found.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn place<'a>(body: &'a [u8], raw: &'a RawValue) -> Result<Place<'a>, serde_json::Error> {
    let Text(name) = serde_json::from_str(raw.get())?;
    // The raw value is a piece of the body.
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    Ok(Place { name, range: start..start + raw.get().len() })
}

/// The body with `name` in the place of the name that stands there; the body itself where that is the same.
#[must_use]
pub fn replaced(body: &Bytes, place: &Place<'_>, name: &str) -> Bytes {
    if place.name == name {
        return body.clone();
    }
    let name = json(name);
    let mut out = Vec::with_capacity(body.len() + name.len());
    out.extend(&body[..place.range.start]);
    out.extend(name);
    out.extend(&body[place.range.end..]);
    out.into()
}

/// A name as JSON.
#[must_use]
pub fn json(name: &str) -> Vec<u8> {
    // A string always becomes JSON.
    serde_json::to_vec(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: &[&[&str]] = &[&["model"]];

    #[test]
    fn only_the_name_changes() {
        let body = Bytes::from_static(br#"{ "id" : [1.50, 2e3] , "model" : "a" ,"x":{"model":"a"}, "new" : null } "#);
        let place = find_early(&body, TOP).expect("a model");
        let expected = r#"{ "id" : [1.50, 2e3] , "model" : "q\"\n" ,"x":{"model":"a"}, "new" : null } "#;
        assert_eq!(replaced(&body, &place, "q\"\n"), expected);
    }

    #[test]
    fn an_answer_is_read_up_to_the_name() {
        let paths: &[&[&str]] = &[&["model"], &["response", "model"]];
        let body = br#"{"id":"embd-1","created":5,"model":"m","data":[{"embedding":[0.5, and never mind"#;
        assert_eq!(find_early(body, paths).map(|place| (place.name, place.range)), Some(("m".into(), 35..38)));
        let body = br#"{"x":{"model":"a"},"response":{"x":[1],"model":"m","and never mind"#;
        assert_eq!(find_early(body, paths).map(|place| (place.name, place.range)), Some(("m".into(), 47..50)));
        let body = br#"{"response":{"x":{"model":"a"}},"model":"m"}"#;
        assert_eq!(find_early(body, paths).map(|place| (place.name, place.range)), Some(("m".into(), 40..43)));
        for body in [
            &b"{}"[..],
            b"",
            b"[\"m\"]",
            b"\xff\x00",
            br#"{"model":null}"#,
            br#"{"data":{"model":"m"}}"#,
            br#"{"response":null}"#,
            br#"{"response":{"response":{"model":"m"}}}"#,
        ] {
            assert_eq!(find_early(body, paths), None, "{body:?}");
        }
    }

    #[test]
    fn the_same_name_costs_no_copy() {
        let body = Bytes::from_static(br#"{"model":"a"}"#);
        let place = find_early(&body, TOP).expect("a model");
        assert_eq!(replaced(&body, &place, "a").as_ptr(), body.as_ptr());
    }
}
