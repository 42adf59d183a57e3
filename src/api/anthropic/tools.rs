//! The tools of a request: those that only Anthropic's servers have are left out, since vLLM refuses what has no schema.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{elements, list, parsed};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::json::Text;

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow, default)]
    r#type: Option<Text<'a>>,
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    input_schema: Option<&'a RawValue>,
}

impl Tool<'_> {
    /// Whether it is known by its type alone, such as `web_search_20250305`.
    fn is_built_in(&self) -> bool {
        self.input_schema.is_none() && self.r#type.as_deref().is_some_and(|kind| kind != "custom")
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    r#type: Option<Text<'a>>,
}

/// What is to become of a request's tools.
#[derive(Debug, PartialEq, Eq)]
pub enum Tools {
    /// There are none.
    Absent,
    /// They stay as they came.
    Same,
    /// These take their place; JSON.
    Others(String),
}

impl Tools {
    /// Looks at them.
    ///
    /// # Errors
    /// [`ApiError::NotSupported`] when all of them are built in, [`ApiError::BadJson`] for what is no tool.
    pub fn of(tools: Option<&str>) -> Result<Self, ApiError> {
        let Some(raw) = tools else { return Ok(Self::Absent) };
        let Some(all) = elements(raw, "tools")? else { return Ok(Self::Same) };
        let mut kept = Vec::with_capacity(all.len());
        let mut left_out = None;
        for raw in &all {
            let tool: Tool = parsed(raw.get(), "tools")?;
            if tool.is_built_in() {
                left_out = left_out.or(tool.name.or(tool.r#type));
            } else {
                kept.push(raw.get());
            }
        }
        match left_out {
            None if all.is_empty() => Ok(Self::Absent),
            None => Ok(Self::Same),
            Some(name) if kept.is_empty() => Err(ApiError::NotSupported(format!(
                "the built-in tool {:?} runs on Anthropic's servers and is not available here; describe a tool of your own \
                 with input_schema",
                &*name
            ))),
            Some(_) => Ok(Self::Others(list(kept))),
        }
    }
}

/// Whether a `tool_choice` lets the model call anything. vLLM needs a parser to read calls, also forced ones, and only a model
/// whose chat template takes tools gets one.
pub fn may_call(choice: Option<&str>) -> bool {
    let choice = choice.and_then(|json| serde_json::from_str::<Choice>(json).ok());
    choice.and_then(|choice| choice.r#type).is_none_or(|kind| &*kind != "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(json: &str) -> Result<Tools, ApiError> {
        Tools::of(Some(json))
    }

    const OWN: &str = r#"{"name":"f", "input_schema":{"type":"object"},"cache_control":{"type":"ephemeral"}}"#;
    const SEARCH: &str = r#"{"type":"web_search_20250305","name":"web_search","max_uses":8}"#;

    #[test]
    fn tools_that_only_anthropic_has_are_left_out() {
        assert_eq!(tools(&format!("[{OWN}]")), Ok(Tools::Same));
        let custom = r#"[{"type":"custom","name":"f","input_schema":{}}]"#;
        assert_eq!(tools(custom), Ok(Tools::Same));
        assert_eq!(tools(&format!("[{SEARCH},{OWN}]")), Ok(Tools::Others(format!("[{OWN}]"))));
        assert_eq!(tools("[]"), Ok(Tools::Absent));
        assert_eq!(Tools::of(None), Ok(Tools::Absent));
        // vLLM says what is wrong with it.
        assert_eq!(tools(r#"[{"name":"f"}]"#), Ok(Tools::Same));
    }

    #[test]
    fn a_request_for_nothing_but_such_tools_is_refused() {
        let error = tools(&format!("[{SEARCH}]")).expect_err("a refusal").to_string();
        assert!(error.starts_with("the built-in tool \"web_search\" runs on Anthropic's servers"), "{error}");
    }

    #[test]
    fn only_the_choice_of_none_needs_no_model_that_knows_tools() {
        for (choice, calls) in [
            (r#"{"type":"auto"}"#, true),
            (r#"{"type":"any"}"#, true),
            (r#"{"type":"tool","name":"f"}"#, true),
            (r#"{"type":"none"}"#, false),
        ] {
            assert_eq!(may_call(Some(choice)), calls, "{choice}");
        }
        assert!(may_call(None));
    }
}
