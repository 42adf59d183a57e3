//! Which of vLLM's parsers reads a model's tool calls and thoughts: by what the chat template writes first, by the
//! model's family second, and never one whose marker tokens the tokenizer lacks, on which vLLM would not start
//! (vllm-engine §5.1–5.4; the tables are those of vLLM 0.32).

use std::borrow::Cow;

use super::Card;
use super::card::Format;

/// What was decided about one parser, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This parser.
    Chosen {
        /// vLLM's name for it.
        parser: &'static str,
        /// Why, for people.
        reason: Cow<'static, str>,
    },
    /// None.
    None {
        /// Why, for people.
        reason: Cow<'static, str>,
    },
}

/// What must hold for a parser to be the one.
struct Rule {
    parser: &'static str,
    /// Beginnings of families of which one must be the model's; none = any model.
    families: &'static [&'static str],
    /// Texts the template must hold, all of them.
    texts: &'static [&'static str],
}

const fn rule(parser: &'static str, families: &'static [&'static str], texts: &'static [&'static str]) -> Rule {
    Rule { parser, families, texts }
}

/// By what the template writes. The first that fits is taken.
const TOOL_SENTINELS: &[Rule] = &[
    rule("openai", &["gpt_oss"], &[]),
    rule("openai", &[], &["<|channel|>", "<|message|>"]),
    rule("deepseek_v4", &["deepseek_v4"], &[]),
    rule("deepseek_v32", &[], &["｜DSML｜"]),
    rule("deepseek_v3", &[], &["<｜tool▁calls▁begin｜>", "```json"]),
    rule("deepseek_v31", &[], &["<｜tool▁calls▁begin｜>"]),
    rule("kimi_k3", &["kimi_k3"], &["<|tool_calls_section_begin|>"]),
    rule("kimi_k2", &[], &["<|tool_calls_section_begin|>"]),
    rule("minimax_m3", &["minimax_m3"], &["<minimax:tool_call>"]),
    rule("minimax_m2", &[], &["<minimax:tool_call>"]),
    rule("seed_oss", &[], &["<seed:tool_call>"]),
    rule("longcat", &[], &["<longcat_tool_call>"]),
    rule("glm47", &["glm4_moe_lite", "glm_moe", "glm5"], &["<tool_call>", "<arg_key>"]),
    rule("glm45", &[], &["<tool_call>", "<arg_key>"]),
    rule("step3p5", &["step3p5"], &["<tool_call>"]),
    rule("qwen3_xml", &[], &["<tool_call>", "<function="]),
    rule("granite4", &["granitemoehybrid"], &["<tool_call>"]),
    rule("hermes", &[], &["<tool_call>"]),
    rule("gemma4", &[], &["<|tool_call>"]),
    rule("functiongemma", &[], &["<start_function_call>"]),
    rule("lfm2", &[], &["<|tool_call_start|>"]),
    rule("granite", &[], &["<|tool_call|>"]),
    rule("mistral", &[], &["[TOOL_CALLS]"]),
    rule("llama4_pythonic", &["llama4"], &[]),
    rule("llama3_json", &[], &["<|python_tag|>"]),
    rule("llama3_json", &[], &["Environment: ipython"]),
    rule("phi4_mini_json", &[], &["functools["]),
    rule("olmo3", &[], &["<function_calls>"]),
    rule("hunyuan_a13b", &["hunyuan"], &["<tool_calls>"]),
    rule("jamba", &["jamba"], &["<tool_calls>"]),
    rule("apertus", &[], &["<|tools_prefix|>"]),
    rule("dots", &[], &["<dots_function_call>"]),
];

/// By family, where the template takes tools and writes no mark that is known. Longer names stand before shorter ones.
const TOOL_FAMILIES: &[Rule] = &[
    rule("qwen3_xml", &["qwen3_5"], &[]),
    rule("hermes", &["qwen2", "qwen3"], &[]),
    rule("llama3_json", &["llama", "mllama"], &[]),
    rule("mistral", &["mistral", "mixtral", "ministral"], &[]),
    rule("phi4_mini_json", &["phi3"], &[]),
    rule("granite4", &["granitemoehybrid"], &[]),
    rule("granite", &["granite"], &[]),
    rule("glm47", &["glm4_moe_lite", "glm_moe"], &[]),
    rule("glm45", &["glm4_moe"], &[]),
    rule("kimi_k2", &["kimi_k2"], &[]),
    rule("minimax_m3", &["minimax_m3"], &[]),
    rule("minimax_m2", &["minimax_m2"], &[]),
    rule("seed_oss", &["seed_oss"], &[]),
    rule("step3p5", &["step3p5"], &[]),
    rule("step3", &["step3"], &[]),
    rule("hunyuan_a13b", &["hunyuan_v1_moe"], &[]),
    rule("ernie45", &["ernie4_5"], &[]),
    rule("olmo3", &["olmo3"], &[]),
    rule("mimo", &["mimo"], &[]),
    rule("longcat", &["longcat"], &[]),
    rule("lfm2", &["lfm2"], &[]),
    rule("internlm", &["internlm2"], &[]),
    rule("jamba", &["jamba"], &[]),
    rule("cohere_command3", &["cohere"], &[]),
    rule("apertus", &["apertus"], &[]),
    rule("plamo3", &["plamo3"], &[]),
];

/// Thoughts, by family and by the switch or mark in the template. The first that fits is taken.
const REASONING: &[Rule] = &[
    rule("openai_gptoss", &["gpt_oss"], &[]),
    rule("mistral", &[], &["[THINK]"]),
    rule("cohere_command3", &[], &["<|START_THINKING|>"]),
    rule("seed_oss", &[], &["<seed:think>"]),
    rule("deepseek_v4", &["deepseek_v4"], &["thinking"]),
    rule("deepseek_v3", &["deepseek_v3"], &["thinking", "</think>"]),
    rule("deepseek_r1", &["deepseek"], &["</think>"]),
    rule("kimi_k3", &["kimi_k3"], &["</think>"]),
    rule("kimi_k2", &["kimi_k2"], &["</think>"]),
    rule("minimax_m3", &["minimax_m3"], &["</think>"]),
    rule("minimax_m2", &["minimax_m2"], &["</think>"]),
    rule("glm47", &["glm4_moe_lite", "glm_moe", "glm5"], &["</think>"]),
    rule("glm45", &["glm4_moe"], &["</think>"]),
    rule("nemotron_v3", &["nemotron"], &["</think>"]),
    rule("granite", &["granite"], &["Here is my thought process:"]),
    rule("granite_thinking_parser", &["granite"], &["enable_thinking"]),
    rule("hunyuan_a13b", &["hunyuan_v1_moe"], &["</think>"]),
    rule("ernie45", &["ernie4_5"], &["</think>"]),
    rule("step3p5", &["step3p5"], &["</think>"]),
    rule("step3", &["step3"], &["</think>"]),
    rule("olmo3", &["olmo3"], &["</think>"]),
    rule("mimo", &["mimo"], &["</think>"]),
    rule("gemma4", &["gemma4"], &["enable_thinking"]),
    rule("qwen3", &[], &["enable_thinking"]),
    rule("deepseek_r1", &[], &["</think>"]),
    rule("deepseek_r1", &[], &["<think>"]),
];

/// The tokens a parser looks up when it is built (read in vLLM 0.32's sources); without them the engine does not start.
/// Those of the `qwen3`, `glm45` and `kimi_k2` kind start without theirs, and then find nothing.
const NEEDS: &[(&str, &[&str])] = &[
    ("llama3_json", &["<|python_tag|>"]),
    ("deepseek_v3", &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"]),
    ("deepseek_v31", &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"]),
    ("lfm2", &["<|tool_call_start|>", "<|tool_call_end|>"]),
    ("jamba", &["<tool_calls>", "</tool_calls>"]),
    ("mistral", &["[TOOL_CALLS]"]),
];

/// The same for thoughts.
const REASONING_NEEDS: &[(&str, &[&str])] = &[
    ("deepseek_r1", &["<think>", "</think>"]),
    ("deepseek_v3", &["<think>", "</think>"]),
    ("qwen3", &["<think>", "</think>"]),
    ("glm45", &["<think>", "</think>"]),
    ("glm47", &["<think>", "</think>"]),
    ("kimi_k2", &["<think>", "</think>"]),
    ("minimax_m2", &["<think>", "</think>"]),
    ("ernie45", &["<think>", "</think>"]),
    ("nemotron_v3", &["<think>", "</think>"]),
    ("granite_thinking_parser", &["<think>", "</think>"]),
    ("step3", &["</think>"]),
    ("cohere_command3", &["<|START_THINKING|>", "<|END_THINKING|>"]),
    ("mistral", &["[THINK]", "[/THINK]"]),
];

/// All tokens that a parser may look up.
pub fn markers() -> impl Iterator<Item = &'static str> {
    NEEDS.iter().chain(REASONING_NEEDS).flat_map(|(_, tokens)| tokens.iter().copied())
}

/// The parser of the model's tool calls.
#[must_use]
pub fn tool(card: &Card) -> Verdict {
    if card.format == Format::Mistral {
        return chosen("mistral", "Mistral's own tokenizer writes tool calls one way".into());
    }
    if card.templates().next().is_none() {
        return Verdict::None { reason: "the checkpoint has no chat template".into() };
    }
    if !card.template_says("tools") {
        return Verdict::None { reason: "the chat template takes no tools".into() };
    }
    if let Some(rule) = TOOL_SENTINELS.iter().find(|rule| rule.fits(card)) {
        return checked(card, rule.parser, NEEDS, rule.why(card));
    }
    if card.response_template {
        return chosen("hf", "the tokenizer tells how answers are written (response_template)".into());
    }
    match TOOL_FAMILIES.iter().find(|rule| rule.fits(card)) {
        Some(rule) => checked(card, rule.parser, NEEDS, rule.why(card)),
        None => Verdict::None {
            reason: format!("the chat template takes tools, but no parser is known for the family {}", card.family)
                .into(),
        },
    }
}

/// The parser of the model's thoughts.
#[must_use]
pub fn reasoning(card: &Card) -> Verdict {
    if card.format == Format::Mistral {
        return Verdict::None { reason: "Mistral's own tokenizer tells nothing about thinking".into() };
    }
    if let Some(rule) = REASONING.iter().find(|rule| rule.fits(card)) {
        return checked(card, rule.parser, REASONING_NEEDS, rule.why(card));
    }
    if card.response_template {
        return chosen("hf", "the tokenizer tells how answers are written (response_template)".into());
    }
    Verdict::None { reason: "the chat template does not think".into() }
}

impl Rule {
    fn fits(&self, card: &Card) -> bool {
        let family = self.families.is_empty() || self.families.iter().any(|family| card.family.starts_with(family));
        family && self.texts.iter().all(|text| card.template_says(text))
    }

    fn why(&self, card: &Card) -> String {
        let family = format!("the model's family is {}", card.family);
        let texts = format!("the chat template says {}", self.texts.join(" and "));
        match (self.families, self.texts) {
            (_, []) => family,
            ([], _) => texts,
            _ => format!("{family} and {texts}"),
        }
    }
}

fn chosen(parser: &'static str, reason: Cow<'static, str>) -> Verdict {
    Verdict::Chosen { parser, reason }
}

/// The parser, unless the tokenizer lacks a token it needs. A tokenizer that does not tell is trusted.
fn checked(card: &Card, parser: &'static str, needs: &[(&str, &[&str])], why: String) -> Verdict {
    let needed = needs.iter().find(|(name, _)| *name == parser).map_or(&[][..], |(_, tokens)| tokens);
    let lacking = card.tokens.as_ref().and_then(|tokens| needed.iter().find(|token| !tokens.contains(**token)));
    match lacking {
        None => chosen(parser, why.into()),
        Some(token) => Verdict::None {
            reason: format!("{why}, but its tokenizer lacks {token}, without which the parser {parser} does not start")
                .into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Names that vLLM 0.32 registers (`vllm serve --help=tool-call-parser`).
    const TOOL_PARSERS: &str = "apertus cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4 \
        deepseek_v41 dots ernie45 functiongemma gemma4 gigachat3 glm45 glm47 granite granite-20b-fc granite4 hermes hf \
        hunyuan_a13b hy_v3 hy_v4 inkling internlm jamba k2_horizon kimi_k2 kimi_k3 lfm2 ling3 llama3_json llama4_json \
        llama4_pythonic longcat mimo minicpm5 minimax_m2 minimax_m3 mistral muse_glimmer olmo3 openai phi4_mini_json \
        plamo3 poolside_v1 pythonic qwen3_coder qwen3_json qwen3_xml seed_oss step3 step3p5 xlam";
    const REASONING_PARSERS: &str = "cohere_command3 cohere_command4 deepseek_r1 deepseek_v3 deepseek_v4 deepseek_v41 \
        ernie45 gemma4 glm45 glm47 granite granite_thinking_parser hf holo2 hunyuan_a13b hy_v3 hy_v4 inkling k2_horizon \
        kimi_k2 kimi_k3 ling3 mimo minicpmv minimax_m2 minimax_m2_append_think minimax_m3 mistral muse_glimmer \
        nemotron_v3 olmo3 openai_gptoss plamo3 poolside_v1 qwen3 seed_oss step3 step3p5";

    fn card(family: &str, template: &str, tokens: Option<&[&str]>) -> Card {
        Card {
            family: family.into(),
            chat_template: Some(template.into()),
            tokens: tokens.map(|tokens| tokens.iter().map(|token| (*token).to_owned()).collect()),
            ..Card::default()
        }
    }

    fn name(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Chosen { parser, .. } => parser,
            Verdict::None { .. } => "none",
        }
    }

    #[test]
    fn every_parser_in_the_tables_is_one_of_vllms() {
        let known: BTreeSet<_> = TOOL_PARSERS.split_whitespace().collect();
        for rule in TOOL_SENTINELS.iter().chain(TOOL_FAMILIES) {
            assert!(known.contains(rule.parser), "{}", rule.parser);
        }
        assert!(NEEDS.iter().all(|(parser, _)| known.contains(parser)));
        let known: BTreeSet<_> = REASONING_PARSERS.split_whitespace().collect();
        assert!(REASONING.iter().all(|rule| known.contains(rule.parser)));
        assert!(REASONING_NEEDS.iter().all(|(parser, _)| known.contains(parser)));
    }

    #[test]
    fn what_the_template_writes_comes_before_the_family() {
        for (family, template, expected) in [
            ("llama", "tools <tool_call>", "hermes"),
            ("llama", "tools", "llama3_json"),
            ("llama4", "tools <|python_tag|>", "llama4_pythonic"),
            ("qwen3_moe", "tools <tool_call><function=x>", "qwen3_xml"),
            ("glm4_moe", "tools <tool_call><arg_key>", "glm45"),
            ("glm4_moe_lite", "tools <tool_call><arg_key>", "glm47"),
            ("granitemoehybrid", "tools <tool_call>", "granite4"),
            ("granite", "tools <|tool_call|>", "granite"),
            ("gemma4", "tools <|tool_call>", "gemma4"),
            ("deepseek_v3", "tools <｜tool▁calls▁begin｜>```json", "deepseek_v3"),
            ("deepseek_v3", "tools <｜tool▁calls▁begin｜>", "deepseek_v31"),
            ("jamba", "tools <tool_calls>", "jamba"),
            ("hunyuan_v1_moe", "tools <tool_calls>", "hunyuan_a13b"),
            ("starcoder2", "tools", "none"),
            ("qwen2", "no word of them", "none"),
        ] {
            assert_eq!(name(&tool(&card(family, template, None))), expected, "{family}: {template}");
        }
    }

    #[test]
    fn thoughts_are_read_where_the_template_thinks() {
        for (family, template, expected) in [
            ("qwen3", "enable_thinking <think></think>", "qwen3"),
            ("qwen3_moe", "split('</think>') <think>", "deepseek_r1"),
            ("qwen3_moe", "nothing of the kind", "none"),
            ("deepseek_v3", "</think>", "deepseek_r1"),
            ("deepseek_v3", "thinking </think>", "deepseek_v3"),
            ("gpt_oss", "", "openai_gptoss"),
            ("mistral", "[THINK]", "mistral"),
            ("granite", "enable_thinking", "granite_thinking_parser"),
            ("kimi_k2", "tools", "none"),
            ("kimi_k2", "</think>", "kimi_k2"),
        ] {
            assert_eq!(name(&reasoning(&card(family, template, None))), expected, "{family}: {template}");
        }
    }

    #[test]
    fn a_parser_whose_token_the_tokenizer_lacks_is_left_out_and_the_reason_says_so() {
        let template = "tools <|python_tag|> <think></think>";
        let full = card("llama", template, Some(&["<|python_tag|>", "<think>", "</think>"]));
        assert_eq!((name(&tool(&full)), name(&reasoning(&full))), ("llama3_json", "deepseek_r1"));
        let bare = card("llama", template, Some(&["<think>"]));
        let Verdict::None { reason } = tool(&bare) else { panic!("a parser that cannot start") };
        assert!(reason.contains("lacks <|python_tag|>"), "{reason}");
        let Verdict::None { reason } = reasoning(&bare) else { panic!("a parser that cannot start") };
        assert!(reason.contains("lacks </think>"), "{reason}");
    }

    #[test]
    fn a_tokenizer_that_tells_how_answers_are_written_serves_both() {
        let mut card = card("novel", "tools", None);
        card.response_template = true;
        assert_eq!((name(&tool(&card)), name(&reasoning(&card))), ("hf", "hf"));
    }
}
