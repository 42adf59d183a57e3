//! `keep_alive`: seconds as a number, or a duration as Go writes it (ollama-api §6.2).

use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::json;
use crate::scheduler::KeepAlive;

/// Go counts durations in signed 64-bit nanoseconds; what is longer than 292 years is no duration.
const LONGEST: f64 = 9_223_372_036.0;

/// Units of a duration and their length in seconds. `µ` comes in two code points.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("\u{b5}s", 1e-6),
    ("\u{3bc}s", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// Reads the `keep_alive` of a request.
///
/// # Errors
/// [`ApiError::BadKeepAlive`] in Go's words, [`ApiError::BadJson`] for a number that none can hold.
pub fn parse(raw: &RawValue) -> Result<KeepAlive, ApiError> {
    let value =
        serde_json::from_str(raw.get()).map_err(|error| json::unreadable("keep_alive", &error, "expected a time"))?;
    let kind = match value {
        Value::Number(seconds) => return Ok(of_seconds(seconds.as_f64().unwrap_or_default())),
        Value::String(text) => return seconds(&text).map(of_seconds).map_err(ApiError::BadKeepAlive),
        Value::Bool(_) => "bool",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) | Value::Null => "map[string]interface {}",
    };
    Err(ApiError::BadKeepAlive(format!("Unsupported type: '{kind}'")))
}

/// Reads `OLLAMA_KEEP_ALIVE`: a duration as in a request, or seconds (ollama-api §8.4).
///
/// # Errors
/// What is wrong with it.
pub fn parse_setting(text: &str) -> Result<KeepAlive, String> {
    text.parse().map_or_else(|_| seconds(text), Ok).map(of_seconds)
}

/// Negative is forever, and so is what no clock counts.
fn of_seconds(seconds: f64) -> KeepAlive {
    if !(0.0..LONGEST).contains(&seconds) {
        return KeepAlive::Forever;
    }
    Duration::try_from_secs_f64(seconds).map_or(KeepAlive::Forever, KeepAlive::For)
}

/// Reads a Go duration: an optional sign, then numbers with units, or a bare `0`.
fn seconds(text: &str) -> Result<f64, String> {
    let invalid = || format!("time: invalid duration {}", quoted(text));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(0.0);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let (mut rest, mut total) = (unsigned, 0.0);
    while !rest.is_empty() {
        let end_of_number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end_of_number);
        if !number.bytes().any(|byte| byte.is_ascii_digit()) || number.matches('.').count() > 1 {
            return Err(invalid());
        }
        let end_of_unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end_of_unit);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quoted(text)));
        }
        let Some((_, length)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {} in duration {}", quoted(unit), quoted(text)));
        };
        total += number.parse::<f64>().map_err(|_| invalid())? * length;
        if total >= LONGEST {
            return Err(invalid());
        }
        rest = next;
    }
    Ok(if text.starts_with('-') { -total } else { total })
}

/// Quotes as Go's `time` does: what is not printable ASCII byte by byte in hexadecimal.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<KeepAlive, String> {
        let raw = RawValue::from_string(json.to_owned()).expect("the test's JSON");
        parse(&raw).map_err(|error| error.to_string())
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let millis = |millis| Ok(KeepAlive::For(Duration::from_millis(millis)));
        for (json, kept) in [
            ("0", millis(0)),
            ("300", millis(300_000)),
            ("1.5", millis(1500)),
            ("-1", Ok(KeepAlive::Forever)),
            ("-0.5", Ok(KeepAlive::Forever)),
            ("1e30", Ok(KeepAlive::Forever)),
            (r#""0""#, millis(0)),
            (r#""-0""#, millis(0)),
            (r#""0s""#, millis(0)),
            (r#""5m0s""#, millis(300_000)),
            (r#""1h30m""#, millis(5_400_000)),
            (r#""1.5h""#, millis(5_400_000)),
            (r#"".5s""#, millis(500)),
            (r#""1.s""#, millis(1000)),
            (r#""+250ms""#, millis(250)),
            (r#""2000µs""#, millis(2)),
            (r#""2000\u03bcs""#, millis(2)),
            (r#""-1s""#, Ok(KeepAlive::Forever)),
            (r#""24h""#, millis(86_400_000)),
        ] {
            assert_eq!(parsed(json), kept, "{json}");
        }
    }

    #[test]
    fn a_number_that_none_can_hold_is_refused_as_what_it_is() {
        let raw = RawValue::from_string("1e400".to_owned()).expect("the test's JSON");
        let text = "json: cannot unmarshal keep_alive: number out of range";
        assert_eq!(parse(&raw), Err(ApiError::BadJson(text.to_owned())));
    }

    #[test]
    fn what_is_no_duration_is_refused_in_the_words_of_go() {
        for (json, text) in [
            (r#""soon""#, r#"time: invalid duration "soon""#),
            (r#""300""#, r#"time: missing unit in duration "300""#),
            (r#""""#, r#"time: invalid duration """#),
            (r#""1d""#, r#"time: unknown unit "d" in duration "1d""#),
            (r#""1h 2m""#, r#"time: unknown unit "h " in duration "1h 2m""#),
            (r#""5é""#, r#"time: unknown unit "\xc3\xa9" in duration "5\xc3\xa9""#),
            (r#"".s""#, r#"time: invalid duration ".s""#),
            (r#""-""#, r#"time: invalid duration "-""#),
            (r#""9999999h""#, r#"time: invalid duration "9999999h""#),
            ("true", "Unsupported type: 'bool'"),
            ("[1]", "Unsupported type: '[]interface {}'"),
            ("{}", "Unsupported type: 'map[string]interface {}'"),
        ] {
            assert_eq!(parsed(json), Err(text.to_owned()), "{json}");
        }
    }
}
