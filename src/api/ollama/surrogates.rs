//! Halves of characters: clients that cut texts by UTF-16 units, as JavaScript does, leave escapes such as `\ud83d` without
//! their other half. Ollama reads them as U+FFFD; serde refuses them, and the engine would fail on those passed on unread.

use std::borrow::Cow;

/// What stands for a character that is not whole.
const REPLACEMENT: &str = "\\ufffd";

/// The text with U+FFFD for every escape of half a character; borrowed where there is none.
pub fn mended(text: Cow<'_, str>) -> Cow<'_, str> {
    let mut mended = String::new();
    let mut kept = 0;
    let mut place = 0;
    while let Some(found) = memchr::memchr(b'\\', &text.as_bytes()[place..]) {
        place += found;
        let Some(unit) = escaped_unit(&text, place) else {
            // Some other escape, of two bytes; what follows may be the first byte of a character.
            place += 1 + text[place + 1..].chars().next().map_or(0, char::len_utf8);
            continue;
        };
        let whole = match unit {
            0xd800..=0xdbff => matches!(escaped_unit(&text, place + 6), Some(0xdc00..=0xdfff)).then_some(12),
            0xdc00..=0xdfff => None,
            _ => Some(6),
        };
        if let Some(length) = whole {
            place += length;
            continue;
        }
        mended.push_str(&text[kept..place]);
        mended.push_str(REPLACEMENT);
        place += 6;
        kept = place;
    }
    if mended.is_empty() {
        return text;
    }
    mended.push_str(&text[kept..]);
    Cow::Owned(mended)
}

/// The UTF-16 unit that an escape `\uXXXX` at this place stands for.
fn escaped_unit(text: &str, place: usize) -> Option<u16> {
    let digits = text.get(place..place + 6)?.strip_prefix("\\u")?;
    // `from_str_radix` would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_characters_become_replacement_characters() {
        for (text, expected) in [
            (r#""a\ud83db""#, r#""a\ufffdb""#),
            (r#""\uDE42""#, r#""\ufffd""#),
            (r#""\ud83d\ud83d\ude42""#, r#""\ufffd\ud83d\ude42""#),
            (r#""\ud83d\n\ud83d""#, r#""\ufffd\n\ufffd""#),
            (r#""\ude42\ud83d""#, r#""\ufffd\ufffd""#),
        ] {
            let mended = mended(Cow::Borrowed(text));
            assert_eq!(mended, expected);
            assert!(serde_json::from_str::<String>(&mended).is_ok(), "{mended}");
        }
    }

    #[test]
    fn whole_texts_are_not_touched() {
        for text in
            [r#""\ud83d\ude42""#, r#""\\ud83d""#, r#""\u00fc \" \\""#, r#""\ud83""#, "\"\\", "\"\\ü", "\"\\u+123\"", ""]
        {
            assert!(matches!(mended(Cow::Borrowed(text)), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
