//! Images and sounds that stand elsewhere: refused, as Ollama refuses them (ollama-api §10.1). An engine would fetch them,
//! from any address that the server can reach and the client perhaps not.

use std::fmt;

use memchr::memmem;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::api::ollama::error::ApiError;
use crate::api::ollama::json::Text;

/// Looks through the messages of a request, as JSON.
///
/// # Errors
/// [`ApiError::NotSupported`] when a part points to somewhere else instead of holding its data, [`ApiError::BadJson`] when
/// that cannot be seen: nested without end, for one.
pub fn check(messages: &str) -> Result<(), ApiError> {
    let text = messages.as_bytes();
    // A name may be written with escapes.
    if memmem::find(text, b"url").is_none() && memmem::find(text, b"\\u").is_none() {
        return Ok(());
    }
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_str(messages);
    let walked = Walk { found: &mut found, kind: None }.deserialize(&mut deserializer);
    match found {
        None => walked.map_err(|error| ApiError::BadJson(format!("the messages cannot be read: {error}"))),
        Some(kind) => Err(ApiError::NotSupported(format!(
            "{kind} URLs are not currently supported, please use base64 encoded data instead"
        ))),
    }
}

/// Goes through all there is.
struct Walk<'f> {
    /// What was found to stand elsewhere.
    found: &'f mut Option<String>,
    /// What a string here would be the place of.
    kind: Option<String>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(Text(key)) = map.next_key()? {
            let kind = match &*key {
                "url" => Some(self.kind.clone().unwrap_or_else(|| "image".to_owned())),
                key => key.strip_suffix("_url").map(str::to_owned),
            };
            map.next_value_seed(Walk { found: self.found, kind })?;
        }
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<(), S::Error> {
        while list.next_element_seed(Walk { found: self.found, kind: None })?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let held = text.trim().is_empty() || text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("data:"));
        match self.kind {
            Some(kind) if !held => {
                *self.found = Some(kind);
                Err(E::custom("found"))
            }
            _ => Ok(()),
        }
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_elsewhere_is_refused_and_what_is_held_is_not() {
        for (messages, kind) in [
            (
                r#"[{"content":[{"type":"image_url","image_url":{"url":"http://10.0.0.1/x.png","detail":"low"}}]}]"#,
                "image",
            ),
            (r#"[{"content":[{"type":"image_url","image_url":"https://example.com/x.png"}]}]"#, "image"),
            (r#"[{"content":[{"image_\u0075rl":{"\u0075rl":"file:///etc/passwd"}}]}]"#, "image"),
            (r#"[{"content":[{"type":"audio_url","audio_url":{"url":"http://x"}}]}]"#, "audio"),
            (r#"[{"type":"input_image","image_url":"http://x"}]"#, "image"),
            (r#"[{"content":[{"type":"image","source":{"type":"url","url":"http://x"}}]}]"#, "image"),
        ] {
            let text = format!("{kind} URLs are not currently supported, please use base64 encoded data instead");
            assert_eq!(check(messages), Err(ApiError::NotSupported(text)), "{messages}");
        }
        let deep = format!("[{{\"url\":{}1{}}}]", "[".repeat(200), "]".repeat(200));
        assert!(matches!(check(&deep), Err(ApiError::BadJson(_))));
        for messages in [
            r#"[{"content":"see http://x, \u0041"},{"content":null,"n":[1,-1,0.5,true]}]"#,
            r#"[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]"#,
            r#"[{"content":[{"type":"image_url","image_url":"DATA:;base64,AAAA","uuid":null}]}]"#,
            r#"[{"content":[{"type":"image_url","image_url":{"url":""}}]}]"#,
            r#"[{"tool_calls":[{"function":{"arguments":"{\"image_url\":\"http://x\"}"}}]}]"#,
        ] {
            assert_eq!(check(messages), Ok(()), "{messages}");
        }
    }
}
