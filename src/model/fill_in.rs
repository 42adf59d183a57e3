//! How models that fill in the middle are asked to (ollama-api §6.6): the marks around what stands before and after the
//! gap, in the order each family was trained with. Which family a model is of, its tokenizer tells by the marks it has.

use super::card::{Card, Format};

/// A family's way.
#[derive(Debug, PartialEq, Eq)]
pub struct FillIn {
    /// Whose way it is, for people.
    pub families: &'static str,
    /// What the prompt is made of.
    parts: &'static [Part],
    /// Tokens that end a filling, where the tokenizer has them: these models go on with the next file or the next gap
    /// instead of ending their turn.
    ends: &'static [&'static str],
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// A mark; the tokenizer must have it.
    Mark(&'static str),
    /// What stands before the gap.
    Before,
    /// What stands after it.
    After,
}

use Part::{After, Before, Mark};

/// The ways there are. The first one whose marks a tokenizer has all of is taken.
const WAYS: &[FillIn] = &[
    FillIn {
        families: "Qwen2.5-Coder, Qwen3-Coder, CodeGemma, Granite 4",
        parts: &[Mark("<|fim_prefix|>"), Before, Mark("<|fim_suffix|>"), After, Mark("<|fim_middle|>")],
        ends: &[
            "<|endoftext|>",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            "<|fim_pad|>",
            "<|repo_name|>",
            "<|file_sep|>",
            "<|file_separator|>",
            "<|im_start|>",
            "<|im_end|>",
        ],
    },
    FillIn {
        families: "StarCoder, StarCoder2, Granite Code, Granite 3, Stable Code",
        parts: &[Mark("<fim_prefix>"), Before, Mark("<fim_suffix>"), After, Mark("<fim_middle>")],
        ends: &[
            "<|endoftext|>",
            "<|end_of_text|>",
            "<fim_prefix>",
            "<fim_suffix>",
            "<fim_middle>",
            "<fim_pad>",
            "<file_sep>",
            "<repo_name>",
            "<filename>",
            "<reponame>",
        ],
    },
    FillIn {
        families: "SantaCoder, Refact",
        parts: &[Mark("<fim-prefix>"), Before, Mark("<fim-suffix>"), After, Mark("<fim-middle>")],
        ends: &["<|endoftext|>", "<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>"],
    },
    FillIn {
        families: "DeepSeek-Coder, DeepSeek-Coder-V2, DeepSeek-V3",
        parts: &[Mark("<｜fim▁begin｜>"), Before, Mark("<｜fim▁hole｜>"), After, Mark("<｜fim▁end｜>")],
        ends: &[
            "<｜end▁of▁sentence｜>",
            "<｜fim▁begin｜>",
            "<｜fim▁hole｜>",
            "<｜fim▁end｜>",
            "<|EOT|>",
            "<｜User｜>",
            "<｜Assistant｜>",
        ],
    },
    FillIn {
        families: "CodeLlama",
        parts: &[Mark("▁<PRE>"), Before, Mark("▁<SUF>"), After, Mark("▁<MID>")],
        // The engine may write the mark of a space as one.
        ends: &["▁<EOT>", " <EOT>", "▁<PRE>", " <PRE>", "▁<SUF>", " <SUF>", "▁<MID>", " <MID>", "</s>"],
    },
    FillIn {
        families: "Codestral",
        parts: &[Mark("[SUFFIX]"), After, Mark("[PREFIX]"), Before],
        ends: &["[PREFIX]", "[SUFFIX]", "[MIDDLE]", "</s>"],
    },
    FillIn {
        families: "Seed-Coder",
        parts: &[Mark("<[fim-suffix]>"), After, Mark("<[fim-prefix]>"), Before, Mark("<[fim-middle]>")],
        ends: &["<[end▁of▁sentence]>", "<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"],
    },
];

/// The way of this model, if its tokenizer has the marks of one. Mistral's own tokenizers do not take marks as text.
#[must_use]
pub fn of(card: &Card) -> Option<&'static FillIn> {
    let tokens = card.tokens.as_ref().filter(|_| card.format == Format::HuggingFace)?;
    let has = |part: &Part| !matches!(part, Mark(mark) if !tokens.contains(*mark));
    WAYS.iter().find(|way| way.parts.iter().all(has))
}

impl FillIn {
    /// The prompt whose continuation fills the gap.
    #[must_use]
    pub fn prompt(&self, before: &str, after: &str) -> String {
        let mut prompt = String::with_capacity(before.len() + after.len() + 64);
        for part in self.parts {
            prompt.push_str(match part {
                Mark(mark) => mark,
                Before => before,
                After => after,
            });
        }
        prompt
    }

    /// Texts at which a filling ends, of those the model's tokenizer knows.
    pub fn ends(&self, card: &Card) -> impl Iterator<Item = &'static str> {
        let known = |end: &&str| card.tokens.as_ref().is_some_and(|tokens| tokens.contains(&end.replace(' ', "▁")));
        self.ends.iter().copied().filter(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(tokens: &[&str]) -> Card {
        Card { tokens: Some(tokens.iter().map(|token| (*token).to_owned()).collect()), ..Card::default() }
    }

    #[test]
    fn each_family_is_asked_in_its_own_order() {
        for (tokens, prompt) in [
            (
                &["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|im_end|>"][..],
                "<|fim_prefix|>a<|fim_suffix|>z<|fim_middle|>",
            ),
            (&["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"], "<fim_prefix>a<fim_suffix>z<fim_middle>"),
            (&["<fim-prefix>", "<fim-suffix>", "<fim-middle>"], "<fim-prefix>a<fim-suffix>z<fim-middle>"),
            (&["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"], "<｜fim▁begin｜>a<｜fim▁hole｜>z<｜fim▁end｜>"),
            (&["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"], "▁<PRE>a▁<SUF>z▁<MID>"),
            (&["[PREFIX]", "[MIDDLE]", "[SUFFIX]"], "[SUFFIX]z[PREFIX]a"),
            (&["<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"], "<[fim-suffix]>z<[fim-prefix]>a<[fim-middle]>"),
        ] {
            assert_eq!(of(&card(tokens)).map(|way| way.prompt("a", "z")).as_deref(), Some(prompt));
        }
    }

    #[test]
    fn a_model_without_all_the_marks_of_a_family_fills_nothing_in() {
        assert_eq!(of(&card(&["<|fim_prefix|>", "<|fim_suffix|>"])), None);
        assert_eq!(of(&Card::default()), None);
        let mistral = Card { format: Format::Mistral, ..card(&["[PREFIX]", "[SUFFIX]"]) };
        assert_eq!(of(&mistral), None);
    }

    #[test]
    fn a_filling_ends_at_the_marks_its_tokenizer_knows() {
        let qwen = card(&["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>", "<|im_end|>"]);
        let ends: Vec<_> = of(&qwen).expect("a way").ends(&qwen).collect();
        assert_eq!(ends, ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>", "<|im_end|>"]);
        let llama = card(&["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]);
        let ends: Vec<_> = of(&llama).expect("a way").ends(&llama).take(3).collect();
        assert_eq!(ends, ["▁<EOT>", " <EOT>", "▁<PRE>"]);
    }
}
