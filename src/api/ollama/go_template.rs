//! `template` of a request: Go's template text, with the values Ollama gives it (ollama-api §6.7, decision 0028). Pure.
//!
//! A template comes from anybody, so what it can cost is bounded: its length, its loops, what it makes. Named templates
//! and Go's formatting functions are refused; no model's template needs them, and they can grow without end.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use gotmpl::{Template, TemplateError, Value};

use crate::telemetry::Timestamp;

/// Longest template, in bytes. The longest in Ollama's library has some 8 KiB.
const LONGEST: usize = 32 << 10;

/// Most turns of all its loops together.
const MOST_TURNS: u64 = 10_000;

/// Most that a rendering makes and compares, in bytes, beside one copy of what it was given.
const MOST_BYTES: usize = 4 << 20;

const TOO_MUCH: &str = "it makes too much text, or takes too long";

/// Stands where the answer will: what the template writes behind it is not part of the prompt.
const ANSWER: &str = "\u{1}vllama: the answer begins here\u{1}";

/// What a template can say.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// The system prompt; may be empty.
    pub system: String,
    /// Role and text of each turn without the system prompt; the last one is the prompt.
    pub messages: Vec<(String, String)>,
    /// What follows the gap to be filled.
    pub suffix: String,
    /// Whether to think, where the request says so.
    pub think: Option<bool>,
}

/// Renders a template.
///
/// # Errors
/// What is wrong with the template, for whoever wrote it.
pub fn render(template: &str, values: &Values) -> Result<String, String> {
    if template.len() > LONGEST {
        return Err(format!("it is longer than {} KiB", LONGEST >> 10));
    }
    check(template)?;
    let given =
        values.messages.iter().map(|(_, text)| text.len()).sum::<usize>() + values.system.len() + values.suffix.len();
    let budget = Arc::new(AtomicUsize::new(MOST_BYTES + given));
    let parse = |template: &str| prepared(&budget).parse(template).map_err(|error| error.to_string());
    let mut parsed = parse(template)?;
    if !says(template, ".Messages") && !says(template, ".Response") {
        // As Ollama completes it.
        parsed = parse(&format!("{template}{{{{ .Response }}}}"))?;
    }
    let mut out = Bounded { text: String::new(), left: budget.clone() };
    if says(template, ".Messages") {
        write(&parsed, &conversation(values), &mut out)?;
    } else {
        exchanges(&parsed, values, &mut out)?;
    }
    let end = out.text.find(ANSWER).unwrap_or(out.text.len());
    out.text.truncate(end);
    Ok(out.text)
}

/// Whether the template names this value.
fn says(template: &str, value: &str) -> bool {
    actions(template).any(|action| {
        action
            .match_indices(value)
            .any(|(at, _)| !action[at + value.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_'))
    })
}

/// Looks at the order of a template's blocks, which the renderer does not, and for named templates.
fn check(template: &str) -> Result<(), String> {
    let mut open = Vec::new();
    for action in actions(template) {
        let action = action.trim_start_matches('-').trim_start();
        let word = action.split(|next: char| !next.is_alphanumeric() && next != '_').next().unwrap_or_default();
        match word {
            "define" | "template" | "block" => {
                return Err(format!("vllama takes no named templates (`{word}`)"));
            }
            "if" | "range" | "with" => open.push(word),
            "else" if open.is_empty() => return Err("unexpected {{else}}".to_owned()),
            "end" if open.pop().is_none() => return Err("unexpected {{end}}".to_owned()),
            _ => {}
        }
    }
    open.pop().map_or(Ok(()), |word| Err(format!("unexpected end: {{{{{word}}}}} has no {{{{end}}}}")))
}

/// What stands between the braces.
fn actions(template: &str) -> impl Iterator<Item = &str> {
    template.split("{{").skip(1).map(|action| action.split("}}").next().unwrap_or_default())
}

/// Ollama's order for templates that know no messages: one exchange after another, the last one without its answer.
fn exchanges(template: &Template, values: &Values, out: &mut Bounded) -> Result<(), String> {
    let mut exchange = Exchange { system: &values.system, ..Exchange::default() };
    for (role, text) in &values.messages {
        match role.as_str() {
            "system" => {
                if !exchange.prompt.is_empty() || !exchange.response.is_empty() {
                    write(template, &std::mem::take(&mut exchange).value(values), out)?;
                }
                exchange.system = text;
            }
            "assistant" => exchange.response = text,
            _ => {
                if !exchange.response.is_empty() {
                    write(template, &std::mem::take(&mut exchange).value(values), out)?;
                }
                exchange.prompt = text;
            }
        }
    }
    if exchange.response.is_empty() {
        exchange.response = ANSWER;
    }
    write(template, &exchange.value(values), out)
}

#[derive(Default)]
struct Exchange<'a> {
    system: &'a str,
    prompt: &'a str,
    response: &'a str,
}

impl Exchange<'_> {
    fn value(&self, values: &Values) -> Value {
        map([
            ("System", text(self.system)),
            ("Prompt", text(self.prompt)),
            ("Response", text(self.response)),
            ("Suffix", text(&values.suffix)),
            ("Think", Value::Bool(values.think.unwrap_or_default())),
            ("ThinkLevel", text("")),
            ("IsThinkSet", Value::Bool(values.think.is_some())),
        ])
    }
}

fn conversation(values: &Values) -> Value {
    let none = || Value::List(Arc::from([]));
    let message = |role: &str, content: &str| {
        map([
            ("Role", text(role)),
            ("Content", text(content)),
            ("Thinking", text("")),
            ("Images", none()),
            ("ToolCalls", none()),
            ("ToolName", text("")),
            ("ToolCallID", text("")),
        ])
    };
    let system = (!values.system.is_empty()).then(|| message("system", &values.system));
    let rest = values.messages.iter().map(|(role, content)| message(role, content));
    let prompt = values.messages.last().map_or("", |(_, text)| text);
    map([
        ("System", text(&values.system)),
        ("Messages", Value::List(system.into_iter().chain(rest).collect())),
        ("Prompt", text(prompt)),
        ("Response", text("")),
        ("Suffix", text(&values.suffix)),
        ("Tools", none()),
        ("Think", Value::Bool(values.think.unwrap_or_default())),
        ("ThinkLevel", text("")),
        ("IsThinkSet", Value::Bool(values.think.is_some())),
    ])
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

fn map<const N: usize>(members: [(&str, Value); N]) -> Value {
    let members: BTreeMap<Arc<str>, Value> = members.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Value::Map(Arc::new(members))
}

/// A template that has not been read yet, with Ollama's functions. Those that make new text draw on the budget.
fn prepared(budget: &Arc<AtomicUsize>) -> Template {
    let (for_json, for_slice) = (budget.clone(), budget.clone());
    let mut template = Template::new("template")
        .max_range_iters(MOST_TURNS)
        .func("json", move |values| {
            let json = values.first().map_or(serde_json::Value::Null, json);
            let json = json.to_string();
            spend(&for_json, json.len())?;
            Ok(Value::String(json.into()))
        })
        .func("slice", move |values| {
            let number = |place: usize| values.get(place).and_then(Value::as_int);
            let sliced = values.first().unwrap_or(&Value::Nil).slice(number(1), number(2))?;
            spend(&for_slice, sliced.len().unwrap_or(0))?;
            Ok(sliced)
        })
        .func("eq", comparison(budget, |ordering| ordering == Some(Ordering::Equal)))
        .func("ne", comparison(budget, |ordering| ordering != Some(Ordering::Equal)))
        .func("lt", comparison(budget, |ordering| ordering == Some(Ordering::Less)))
        .func("le", comparison(budget, |ordering| matches!(ordering, Some(Ordering::Less | Ordering::Equal))))
        .func("gt", comparison(budget, |ordering| ordering == Some(Ordering::Greater)))
        .func("ge", comparison(budget, |ordering| matches!(ordering, Some(Ordering::Greater | Ordering::Equal))))
        .func("currentDate", |_| {
            let now = Timestamp::now().to_string();
            Ok(text(now.split('T').next().unwrap_or_default()))
        });
    for name in ["print", "printf", "println", "html", "js", "urlquery", "call"] {
        template = template.func(name, move |_| Err(TemplateError::Exec(format!("vllama has no function `{name}`"))));
    }
    template
}

/// A function that compares its first value with each other one and is true when one of them is as wanted.
fn comparison(
    budget: &Arc<AtomicUsize>,
    wanted: fn(Option<Ordering>) -> bool,
) -> impl Fn(&[Value]) -> Result<Value, TemplateError> + Send + Sync + 'static {
    let budget = budget.clone();
    move |values| {
        let Some((first, others)) = values.split_first().filter(|(_, others)| !others.is_empty()) else {
            return Err(TemplateError::Exec("there is nothing to compare with".to_owned()));
        };
        for other in others {
            let length = |value: &Value| value.as_str().map_or(1, str::len);
            spend(&budget, length(first).min(length(other)))?;
            if wanted(compare(first, other)) {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }
}

/// Values of different kinds, and lists, compare with nothing.
fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        (Value::Nil, Value::Nil) => Some(Ordering::Equal),
        (Value::Int(_) | Value::Uint(_), Value::Int(_) | Value::Uint(_)) => one.as_int()?.partial_cmp(&other.as_int()?),
        _ => one.as_float()?.partial_cmp(&other.as_float()?),
    }
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Uint(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::String(value) => (**value).into(),
        Value::List(values) => values.iter().map(json).collect(),
        Value::Map(members) => members.iter().map(|(name, value)| (name.to_string(), json(value))).collect(),
        _ => serde_json::Value::Null,
    }
}

fn spend(budget: &AtomicUsize, bytes: usize) -> Result<(), TemplateError> {
    let spent = budget.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
    spent.map(drop).map_err(|_| TemplateError::Exec(TOO_MUCH.to_owned()))
}

/// What was written so far, and how much more may be.
struct Bounded {
    text: String,
    left: Arc<AtomicUsize>,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        spend(&self.left, text.len()).map_err(|_| fmt::Error)?;
        self.text.push_str(text);
        Ok(())
    }
}

fn write(template: &Template, value: &Value, out: &mut Bounded) -> Result<(), String> {
    template.execute_fmt(out, value).map_err(|error| match error {
        TemplateError::Write => TOO_MUCH.to_owned(),
        error => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Ollama's own documents, which knows no messages.
    const OLD: &str = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ if .Prompt }}<|im_start|>user\n\
        {{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n{{ .Response }}<|im_end|>\n";

    fn values(system: &str, messages: &[(&str, &str)]) -> Values {
        let messages = messages.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect();
        Values { system: system.to_owned(), messages, ..Values::default() }
    }

    fn hello(template: &str) -> Result<String, String> {
        render(template, &values("Be kind.", &[("user", "Hi <&> \"you\"")]))
    }

    #[test]
    fn a_template_of_prompts_ends_where_the_answer_begins() {
        let expected = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi <&> \"you\"<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(hello(OLD).as_deref(), Ok(expected));
        // Earlier exchanges are written in full.
        let history = values("s", &[("user", "a"), ("assistant", "b"), ("user", "c")]);
        let exchange = "[s]a=b.[]c=";
        assert_eq!(render("[{{ .System }}]{{ .Prompt }}={{ .Response }}.", &history).as_deref(), Ok(exchange));
    }

    #[test]
    fn a_template_that_forgets_the_answer_gets_it_at_its_end() {
        assert_eq!(hello("{{ .System }}: {{ .Prompt }} ").as_deref(), Ok("Be kind.: Hi <&> \"you\" "));
        assert_eq!(
            render("{{ .Prompt }}/", &values("", &[("user", "a"), ("assistant", "b"), ("user", "c")])).as_deref(),
            Ok("a/bc/")
        );
    }

    #[test]
    fn a_template_of_messages_has_what_those_of_the_library_need() {
        let template = "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 -}}\
            {{- if or (eq .Role \"user\") (eq .Role \"system\") }}<{{ .Role }}>{{ .Content }}\
            {{ else if eq .Role \"assistant\" }}<a>{{ if .ToolCalls }}calls{{ else }}{{ .Content }}{{ end }}{{ end }}\
            {{- if $last }}<last>{{ end }}{{ end }}{{ if and $.IsThinkSet (not $.Think) }}/no_think{{ end }}";
        let mut values = values("s", &[("user", "a"), ("assistant", "b"), ("user", "c")]);
        values.think = Some(false);
        assert_eq!(render(template, &values).as_deref(), Ok("<system>s<user>a<a>b<user>c<last>/no_think"));
    }

    #[test]
    fn a_gap_and_the_functions_of_ollama_are_there() {
        let mut values = values("", &[("user", "def f(")]);
        values.suffix = "return 1".to_owned();
        let template = "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}{{ end }}";
        assert_eq!(render(template, &values).as_deref(), Ok("<PRE>def f(<SUF>return 1<MID>"));
        let date = render("{{ currentDate }}", &values).expect("a date");
        assert!(date.len() == 10 && date.as_bytes()[4] == b'-', "{date}");
        assert_eq!(render("{{ json .Prompt }}", &values).as_deref(), Ok("\"def f(\""));
        assert_eq!(
            render("{{/* nothing */}}{{ with .Nothing }}x{{ end }}{{ .Prompt }}", &values).as_deref(),
            Ok("def f(")
        );
    }

    #[test]
    fn comparisons_are_those_of_go() {
        for (condition, holds) in [
            ("eq 1 2 3 1", true),
            ("ne .Prompt \"x\"", true),
            ("lt 1 2", true),
            ("le 2 2", true),
            ("gt 1.5 2.5", false),
            ("ge \"b\" \"a\"", true),
            ("eq .Think false", true),
            ("eq .Prompt 1", false),
            ("eq (len .Prompt) 3", true),
        ] {
            let template = format!("{{{{ if {condition} }}}}yes{{{{ else }}}}no{{{{ end }}}}");
            let expected = if holds { "yes" } else { "no" };
            assert_eq!(render(&template, &values("", &[("user", "abc")])).as_deref(), Ok(expected), "{condition}");
        }
    }

    #[test]
    fn what_is_no_template_is_told_to_whoever_wrote_it() {
        for (template, told) in [
            ("{{ .Prompt", "unclosed action"),
            ("{{ if .Prompt }}", "{{if}} has no {{end}}"),
            ("{{ end }}{{ .Prompt }}", "unexpected {{end}}"),
            ("{{- else -}}", "unexpected {{else}}"),
            ("{{ frobnicate .Prompt }}", "frobnicate"),
            ("{{ eq 1 }}", "nothing to compare"),
            ("{{ printf \"%s\" .Prompt }}", "no function `printf`"),
            ("{{- define \"x\" }}{{ end }}", "no named templates (`define`)"),
            ("{{ template \"template\" . }}", "no named templates (`template`)"),
        ] {
            let error = hello(template).expect_err(template);
            assert!(error.contains(told), "{template}: {error}");
        }
        assert!(hello(&"x".repeat(LONGEST + 1)).is_err());
    }

    #[test]
    fn a_broken_template_is_refused_or_rendered_and_nothing_worse() {
        let template = "{{- /* all of it */ -}}{{ range $i, $m := .Messages }}{{ if and (eq $m.Role \"user\") (gt $i 0) }}\
            {{ slice $.Messages $i | len }}{{ else if not .Content }}{{ continue }}{{ else }}{{ json $m.Content }}{{ end }}\
            {{ end }}{{ with $x := index .Messages 0 }}{{ $x.Role }}{{ break }}{{ end }}{{ 'a' }}{{ 1.5 }}{{ `raw` }}";
        let values = values("s", &[("user", "a"), ("assistant", "b"), ("user", "c")]);
        for (at, _) in template.char_indices() {
            let (before, after) = template.split_at(at);
            let next = after.chars().next().map_or(0, char::len_utf8);
            for broken in [before.to_owned(), after.to_owned(), format!("{before}{}", &after[next..])] {
                let _ = render(&broken, &values);
            }
            for more in ["{{", "}}", "(", ")", "\"", "$", ".", "|", " ", ":=", "end", "9", "-"] {
                let _ = render(&format!("{before}{more}{after}"), &values);
            }
        }
    }

    #[test]
    fn a_template_costs_no_more_than_it_may() {
        let deep = |open: &str, close: &str| format!("{}{}", open.repeat(5000), close.repeat(5000));
        let json = "{{ $x := \"\\\"\\\"\\\"\" }}{{ range 60 }}{{ $x = json $x }}{{ end }}";
        for template in [
            "{{ range 1000000000 }}{{ end }}".to_owned(),
            "{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}".to_owned(),
            "{{ range 9999 }}{{ range 1 }}{{ end }}{{ end }}".to_owned(),
            format!("{{{{ range 9000 }}}}{}{{{{ end }}}}", "x".repeat(1000)),
            json.to_owned(),
            format!("{{{{ .Prompt{} }}}}", deep(" (", ")")),
            deep("{{if 1}}", "{{end}}").chars().take(LONGEST).collect(),
        ] {
            let start: String = template.chars().take(60).collect();
            assert!(hello(&template).is_err(), "{start}");
        }
        let long = values("", &[("user", &"x".repeat(1 << 20))]);
        assert!(render("{{ range 9000 }}{{ if eq $.Prompt $.Prompt }}{{ end }}{{ end }}", &long).is_err());
        assert_eq!(render("{{ .Prompt }}", &long).map(|text| text.len()), Ok(1 << 20));
    }
}
