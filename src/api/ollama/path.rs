//! Where in a JSON text something stands, as a person would write it: `messages[0].content`.

/// The path to the value at, or just before, the byte `end` of a JSON text; empty for the whole of it. Texts that are no
/// JSON give some path or none.
pub(super) fn path(text: &str, end: usize) -> String {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let bytes = &text.as_bytes()[..end.min(text.len())];
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => parts.push(Part::Key("")),
            b'[' => parts.push(Part::Element(0)),
            b'}' | b']' => {
                parts.pop();
            }
            b',' => {
                if let Some(Part::Element(number)) = parts.last_mut() {
                    *number += 1;
                }
            }
            b'"' => {
                let start = at + 1;
                at = after_string(bytes, start);
                let is_key = text.as_bytes()[at.min(text.len())..].trim_ascii_start().first() == Some(&b':');
                if is_key && let Some(Part::Key(key)) = parts.last_mut() {
                    *key = text.get(start..at - 1).unwrap_or_default();
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    let mut told = String::new();
    for part in parts {
        match part {
            Part::Key("") => {}
            Part::Key(key) if told.is_empty() => told.push_str(key),
            Part::Key(key) => told.extend([".", key]),
            Part::Element(number) => told.push_str(&format!("[{number}]")),
        }
    }
    told
}

/// A step on the way.
enum Part<'a> {
    /// Into an object, to the key that was read last.
    Key(&'a str),
    /// Into a list.
    Element(usize),
}

/// The byte after the quotes that end the string whose first byte is at `start`.
fn after_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_by_keys_and_numbers() {
        let text = r#"{"a": 1, "b\"": [ {"c": "x, \"y\": [", "d" : [1, [2, 3], "4"]}, 5], "e": {}, "f": null}"#;
        for (value, expected) in [
            ("1,", "a"),
            ("{\"c\"", r#"b\"[0]"#),
            ("\"x, ", r#"b\"[0].c"#),
            ("2, 3", r#"b\"[0].d[1][0]"#),
            ("3]", r#"b\"[0].d[1][1]"#),
            ("\"4\"", r#"b\"[0].d[2]"#),
            ("5]", r#"b\"[1]"#),
            ("{}", "e"),
            ("null", "f"),
        ] {
            let start = text.find(value).expect("in the text");
            assert_eq!(path(text, start), expected, "{value}");
        }
        // What was read is as good as what comes next.
        assert_eq!(path(text, text.find(r#", "d""#).expect("in the text")), r#"b\"[0].c"#);
        assert_eq!(path(text, text.len()), "");
        assert_eq!(path("[[[", 3), "[0][0][0]");
    }

    #[test]
    fn what_is_no_json_does_no_harm() {
        for text in ["", "\"", "\"\\", "}]", "{\"a", "{\"a\\", "ä\"ö\":", "{\"ä\":\"ö"] {
            for end in 0..=text.len() + 1 {
                let _ = path(text, end);
            }
        }
    }
}
