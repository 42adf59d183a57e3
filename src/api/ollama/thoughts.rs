//! Parts thoughts from the text of an answer where the engine has not done it (ollama-api §6.5): models without a parser,
//! completions, which no parser reads, and tags a parser has missed. Tags reach the client in no field, wherever the tokens
//! cut them.

use std::borrow::Cow;

use crate::model::card::thoughts::{CLOSING, OPENING};

/// Reads one answer, piece by piece.
#[derive(Debug)]
pub struct Splitter {
    place: Place,
    /// Whether the engine sends thoughts beside the text, so that what it calls text is none.
    told: bool,
    /// Text that may be part of a tag.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but white space so far, or the beginning of an opening tag. `opened` says that the prompt had one.
    Before { opened: bool },
    /// In the thought.
    Inside,
    /// In the answer; tags mean nothing any more.
    Behind,
}

/// What a piece of text holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Of the thought.
    pub thinking: Cow<'a, str>,
    /// Of the answer.
    pub content: Cow<'a, str>,
}

impl Splitter {
    /// For an answer that begins inside a thought when the prompt has `opened` one.
    #[must_use]
    pub fn new(opened: bool) -> Self {
        Self { place: Place::Before { opened }, told: false, held: String::new() }
    }

    /// Takes in the next piece: what the engine calls a thought, and what it calls text. After the `last` one nothing is
    /// held back. An engine that knows thoughts by their tokens misses tags that a model spells in letters.
    pub fn split<'a>(&mut self, thought: &'a str, text: &'a str, last: bool) -> Parts<'a> {
        if !thought.is_empty() && !self.told {
            self.told = true;
            self.place = Place::Before { opened: true };
        }
        if !self.told {
            return self.advance(text, last);
        }
        let ends = last || !text.is_empty();
        let mut parts = if thought.is_empty() && !ends { Parts::default() } else { self.advance(thought, ends) };
        if !text.is_empty() {
            self.place = Place::Behind;
            if parts.content.is_empty() {
                parts.content = text.into();
            } else {
                parts.content.to_mut().push_str(text);
            }
        }
        parts
    }

    fn advance<'a>(&mut self, text: &'a str, last: bool) -> Parts<'a> {
        match self.place {
            Place::Behind => return Parts { content: text.into(), ..Parts::default() },
            // The way of every token of a thought.
            Place::Inside if self.held.is_empty() && !text.contains('<') => {
                return Parts { thinking: text.into(), ..Parts::default() };
            }
            Place::Inside | Place::Before { .. } => self.held.push_str(text),
        }
        if let Place::Before { opened } = self.place {
            let begun = self.held.trim_start();
            if let Some(rest) = begun.strip_prefix(OPENING) {
                self.held = rest.to_owned();
                self.place = Place::Inside;
            } else if !last && OPENING.starts_with(begun) {
                return Parts::default();
            } else {
                self.place = if opened { Place::Inside } else { Place::Behind };
            }
        }
        if self.place == Place::Behind {
            return Parts { content: std::mem::take(&mut self.held).into(), ..Parts::default() };
        }
        if let Some((thinking, content)) = self.held.split_once(CLOSING) {
            let parts = Parts { thinking: thinking.to_owned().into(), content: content.to_owned().into() };
            self.place = Place::Behind;
            self.held = String::new();
            return parts;
        }
        let certain = if last { self.held.len() } else { self.held.len() - tag_begun(&self.held) };
        let held = self.held.split_off(certain);
        Parts { thinking: std::mem::replace(&mut self.held, held).into(), ..Parts::default() }
    }
}

/// How many bytes at the end of the text may be the beginning of a closing tag.
fn tag_begun(text: &str) -> usize {
    (1..CLOSING.len()).rev().find(|length| text.ends_with(&CLOSING[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(opened: bool, pieces: &[&str]) -> (String, String) {
        let mut splitter = Splitter::new(opened);
        let (mut thinking, mut content) = (String::new(), String::new());
        for (place, piece) in pieces.iter().enumerate() {
            let parts = splitter.split("", piece, place + 1 == pieces.len());
            thinking.push_str(&parts.thinking);
            content.push_str(&parts.content);
        }
        (thinking, content)
    }

    #[test]
    fn thoughts_are_parted_wherever_the_text_is_cut() {
        for (opened, text, thinking, content) in [
            (
                false,
                "\n<think>\nhm < 3</think>\n\nYes: <think> & </think>.",
                "\nhm < 3",
                "\n\nYes: <think> & </think>.",
            ),
            (true, "hm</think>Yes", "hm", "Yes"),
            (true, "<think>hm</think>Yes", "hm", "Yes"),
            (true, "never ends </thi", "never ends </thi", ""),
            (false, "<think>never ends", "never ends", ""),
            (false, "no thought: é", "", "no thought: é"),
            (false, " <thin", "", " <thin"),
            (false, "<think></think>", "", ""),
            (false, "", "", ""),
        ] {
            let expected = (thinking.to_owned(), content.to_owned());
            assert_eq!(whole(opened, &[text]), expected, "{text}");
            let characters: Vec<&str> = text.split("").collect();
            assert_eq!(whole(opened, &characters), expected, "{text}");
            for (cut, _) in text.char_indices() {
                let (one, two) = text.split_at(cut);
                assert_eq!(whole(opened, &[one, two]), expected, "{text} cut at {cut}");
                assert_eq!(whole(opened, &[one, two, ""]), expected, "{text} cut at {cut}, then nothing");
            }
        }
    }

    #[test]
    fn what_is_certain_is_not_held_back() {
        let mut splitter = Splitter::new(false);
        assert_eq!(splitter.split("", "<think>hm </", false).thinking, "hm ");
        assert_eq!(splitter.split("", "b> ", false).thinking, "</b> ");
        assert_eq!(splitter.split("", "</think>Yes", false).content, "Yes");
        assert!(matches!(splitter.split("", "more", false).content, Cow::Borrowed("more")));
    }

    #[test]
    fn what_the_engine_calls_a_thought_is_one_up_to_a_tag_it_missed() {
        let whole = |pieces: &[(&str, &str)]| {
            let mut splitter = Splitter::new(false);
            let (mut thinking, mut content) = (String::new(), String::new());
            for (place, (thought, text)) in pieces.iter().enumerate() {
                let parts = splitter.split(thought, text, place + 1 == pieces.len());
                thinking.push_str(&parts.thinking);
                content.push_str(&parts.content);
            }
            (thinking, content)
        };
        for (pieces, thinking, content) in [
            (&[("hm", ""), (" <", ""), ("", "Yes"), ("", " <think>")][..], "hm <", "Yes <think>"),
            (&[("<th", ""), ("ink>hm", ""), ("</", ""), ("think>", ""), ("Yes", ""), ("", "")], "hm", "Yes"),
            (&[("hm</think>Y", "es"), ("", "!")], "hm", "Yes!"),
            (&[("hm", ""), ("", "<think>no tag</think>")], "hm", "<think>no tag</think>"),
            (&[("", "\n"), ("hm", ""), ("", "Yes")], "\nhm", "Yes"),
            (&[("hm </thi", ""), ("", "")], "hm </thi", ""),
            (&[("", "Yes"), ("late", "")], "late", "Yes"),
        ] {
            assert_eq!(whole(pieces), (thinking.to_owned(), content.to_owned()), "{pieces:?}");
        }
        let mut splitter = Splitter::new(false);
        splitter.split("hm", "", false);
        assert!(matches!(splitter.split("more", "", false).thinking, Cow::Borrowed("more")));
    }
}
