//! Makes another input out of one: as a tree where it is JSON, else as bytes.
//!
//! Bytes alone rarely get past a JSON reader; a tree alone never shows it a torn body. Both take turns.

use fastrand::Rng;
use serde_json::{Value, json};

/// Changes made to one input, at most.
const MOST_CHANGES: usize = 4;

/// Longest input, in bytes: longer ones only take longer.
const LONGEST: usize = 16 * 1024;

/// Bytes that mean something to the readers under test.
const MARKS: &[&[u8]] = &[
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\0",
    b"\xff",
    b"\xe2\x82",
    b"\xf0\x9f\x99\x82",
    b"-",
    b".",
    b"1e999",
    b"-0",
    b"18446744073709551616",
    b"null",
    b"true",
    b"data: ",
    b"data: [DONE]\n\n",
    b": ping\n\n",
];

/// Another input made of `input`, of `others` now and then, and of the words the reader knows.
pub fn mutate(input: &[u8], others: &[Vec<u8>], words: &[&str], random: &mut Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.usize(1..=MOST_CHANGES) {
        let tree = if random.bool() { serde_json::from_slice::<Value>(&bytes).ok() } else { None };
        match tree {
            Some(mut tree) => {
                change(&mut tree, words, random);
                bytes = tree.to_string().into_bytes();
            }
            None => tear(&mut bytes, others, words, random),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Puts something else at a random place of a tree.
fn change(tree: &mut Value, words: &[&str], random: &mut Rng) {
    let deeper = random.u8(..4) > 0;
    match tree {
        Value::Object(members) if deeper && !members.is_empty() => {
            let number = random.usize(..members.len());
            if let Some(member) = members.values_mut().nth(number) {
                change(member, words, random);
            }
        }
        Value::Array(elements) if deeper && !elements.is_empty() => {
            let number = random.usize(..elements.len());
            change(&mut elements[number], words, random);
        }
        Value::Object(members) if random.bool() => {
            members.insert(word(words, random), value(words, random));
        }
        Value::Array(elements) if random.bool() => elements.push(value(words, random)),
        place => *place = value(words, random),
    }
}

fn word(words: &[&str], random: &mut Rng) -> String {
    let word = random.choice(words).copied().unwrap_or("model");
    if random.u8(..8) == 0 { word.to_uppercase() } else { word.to_owned() }
}

/// A value of any kind, with a liking for the edges.
fn value(words: &[&str], random: &mut Rng) -> Value {
    match random.u8(..16) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(random.i64(..)),
        5 => json!(u64::MAX >> random.u8(..64)),
        6 => json!(random.f64() * 1e3 - 500.0),
        7 => json!(f64::MAX),
        8 => json!([]),
        9 => json!({}),
        10 => json!(""),
        11 => json!("\u{1f642}\u{0}\u{2028}"),
        12 => json!([value(words, random)]),
        13 => json!({word(words, random): value(words, random)}),
        _ => json!(word(words, random)),
    }
}

/// Changes bytes: cuts, doubles, flips, and puts in what means something.
fn tear(bytes: &mut Vec<u8>, others: &[Vec<u8>], words: &[&str], random: &mut Rng) {
    let place = random.usize(..=bytes.len());
    match random.u8(..8) {
        0 => bytes.truncate(place),
        1 if place < bytes.len() => bytes[place] ^= 1 << random.u8(..8),
        2 if place < bytes.len() => bytes[place] = random.u8(..),
        3 => {
            let end = (place + random.usize(..32)).min(bytes.len());
            bytes.drain(place..end);
        }
        4 => {
            let end = (place + random.usize(..64)).min(bytes.len());
            let twice = bytes[place..end].to_vec();
            bytes.splice(place..place, twice);
        }
        5 => {
            if let Some(other) = random.choice(others) {
                let cut = random.usize(..=other.len());
                bytes.splice(place.., other[cut..].iter().copied());
            }
        }
        6 => {
            let mark = random.choice(MARKS).copied().unwrap_or_default();
            bytes.splice(place..place, mark.iter().copied());
        }
        _ => {
            let word = word(words, random);
            bytes.splice(place..place, word.into_bytes());
        }
    }
}
