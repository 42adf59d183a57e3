//! Tokens: a word with the space before it, a number, or one other character. Ids are given out as words are met.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Words that are one token each and have fixed ids, like SmolLM2's.
const SPECIAL: &[(&str, u32)] = &[("<|endoftext|>", 0), ("<|im_start|>", 1), ("<|im_end|>", 2)];

/// The token that ends a turn.
pub const END: u32 = 2;

/// First id for ordinary words.
const FIRST: u32 = 1000;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// The words met so far.
#[derive(Debug, Default)]
pub struct Vocabulary {
    words: Mutex<(HashMap<String, u32>, Vec<String>)>,
}

impl Vocabulary {
    /// Cuts a text into tokens.
    pub fn tokens(&self, text: &str) -> Vec<Token> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        pieces(text)
            .map(|piece| {
                let special = SPECIAL.iter().find(|(word, _)| *word == piece).map(|(_, id)| *id);
                let id = special.unwrap_or_else(|| {
                    let (ids, list) = &mut *words;
                    *ids.entry(piece.to_owned()).or_insert_with(|| {
                        list.push(piece.to_owned());
                        FIRST + u32::try_from(list.len() - 1).unwrap_or(u32::MAX - FIRST)
                    })
                });
                Token { id, text: piece.to_owned() }
            })
            .collect()
    }

    /// The text of these ids; an id that was never given out is U+FFFD.
    pub fn text(&self, ids: &[u32]) -> String {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let word = |id: &u32| {
            let special = SPECIAL.iter().find(|(_, known)| known == id).map(|(word, _)| *word);
            let met = || id.checked_sub(FIRST).and_then(|index| words.1.get(index as usize)).map(String::as_str);
            special.or_else(met).unwrap_or("\u{fffd}").to_owned()
        };
        ids.iter().map(word).collect()
    }
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(length_of_first(rest)?);
        rest = after;
        Some(piece)
    })
}

/// Bytes of the first token of a text; `None` when nothing is left.
fn length_of_first(text: &str) -> Option<usize> {
    if let Some((special, _)) = SPECIAL.iter().find(|(special, _)| text.starts_with(special)) {
        return Some(special.len());
    }
    let first = text.chars().next()?;
    let after_space = text.strip_prefix(' ').unwrap_or(text);
    let word = after_space.len() - after_space.trim_start_matches(char::is_alphanumeric).len();
    let space = text.len() - after_space.len();
    Some(if word > 0 { space + word } else { first.len_utf8() })
}
