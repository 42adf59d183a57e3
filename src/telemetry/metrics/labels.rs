//! The labels of a sample as a page has them: `name="value",…}`, where a value may hold anything.

/// What vLLM's own label `engine`, the rank among engines that share a model, is called here: the name that Prometheus
/// itself gives to a label that it needs for something else.
const RANK: &str = "exported_engine";

/// Copies the labels after a `{` into `out`, each with a comma before it, and gives what comes after the `}`. `None` when
/// they are none; then `out` holds rubbish.
pub(super) fn copy<'a>(labels: &'a str, out: &mut String) -> Option<&'a str> {
    let mut rest = labels;
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end();
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        let value = after.trim_start().strip_prefix('"')?;
        let end = end(value)?;
        if !is_name {
            return None;
        }
        out.push(',');
        out.push_str(if name == "engine" { RANK } else { name });
        out.push_str("=\"");
        out.push_str(&value[..end]);
        out.push('"');
        rest = &value[end + 1..];
    }
}

/// The place of the quote that ends a value.
fn end(value: &str) -> Option<usize> {
    let mut escaped = false;
    value.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// A value between its quotes.
pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(labels: &str) -> Option<(String, String)> {
        let mut out = String::new();
        copy(labels, &mut out).map(|rest| (out, rest.to_owned()))
    }

    #[test]
    fn labels_are_copied_whatever_their_values_hold() {
        for (labels, expected, rest) in [
            (r#"} 1"#, "", " 1"),
            (r#"engine="0",le="+Inf"} 2"#, r#",exported_engine="0",le="+Inf""#, " 2"),
            (r#"a="}\"{,=\\",b="x",} 3"#, r#",a="}\"{,=\\",b="x""#, " 3"),
            (r#"a="ü" , b = "" }4"#, r#",a="ü",b="""#, "4"),
        ] {
            assert_eq!(copied(labels), Some((expected.to_owned(), rest.to_owned())), "{labels}");
        }
    }

    #[test]
    fn what_is_no_list_of_labels_is_none() {
        for labels in
            ["", "a", "a=", "a=\"", "a=\"x\\\"} 1", "a=x} 1", "=\"x\"} 1", "a b=\"x\"} 1", "9=\"x\"} 1", "a=\"x\""]
        {
            assert_eq!(copied(labels), None, "{labels}");
        }
    }

    #[test]
    fn a_value_is_escaped_as_both_formats_want_it() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
