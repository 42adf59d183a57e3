//! How hard a model is to think: OpenAI's efforts in the words of the model (ollama-api §10.1).

use serde::Deserialize;

use crate::api::ollama::error::ApiError;
use crate::api::ollama::json::Text;
use crate::api::ollama::think::{Switch, Think, Thinking, thinking};
use crate::api::pass::Request;
use crate::model::{Capability, Installed};

/// The `reasoning` of OpenAI's newer requests.
#[derive(Debug, Default, Deserialize)]
pub struct Reasoning<'a> {
    /// How hard.
    #[serde(borrow, default)]
    pub effort: Option<Text<'a>>,
}

/// Reads an effort.
///
/// # Errors
/// [`ApiError::BadThink`] when it is none.
pub fn parse(effort: &str) -> Result<Think, ApiError> {
    Ok(match effort {
        "none" => Think::Off,
        "minimal" | "low" => Think::Level("low"),
        "medium" => Think::Level("medium"),
        "high" => Think::Level("high"),
        "xhigh" | "ultra" | "max" => Think::Level("max"),
        other => {
            let choices = r#""none", "minimal", "low", "medium", "high", "xhigh", "max" or "ultra""#;
            return Err(ApiError::BadThink(format!("invalid reasoning value: {other:?} (must be {choices})")));
        }
    })
}

/// The effort a chat asks for. One that is no text is left to the engine to refuse.
///
/// # Errors
/// As [`parse`].
pub fn of_chat(request: &Request) -> Result<Option<Think>, ApiError> {
    let newer = request.member("reasoning").and_then(|text| serde_json::from_str::<Reasoning>(text).ok());
    let older = || request.member("reasoning_effort").and_then(|text| serde_json::from_str::<Text>(text).ok());
    let effort = newer.and_then(|reasoning| reasoning.effort).or_else(older);
    effort.filter(|effort| !effort.is_empty()).map(|effort| parse(&effort)).transpose()
}

/// Tells a chat's model to think, or not to. Models that can think do so when nothing is said, as in Ollama; whether a
/// checkpoint would by itself differs.
///
/// # Errors
/// [`ApiError::Unable`] when it is to think and cannot.
pub fn put(request: &mut Request, think: Option<Think>, model: &Installed) -> Result<(), ApiError> {
    if think.is_some_and(Think::wanted) && !model.card.can(Capability::Thinking) {
        return Err(ApiError::Unable(format!("{:?}", request.asked()), "thinking"));
    }
    let Thinking { template, effort } = thinking(think, &model.card);
    // Whoever sends variables for the template knows it better.
    let own = request.member("chat_template_kwargs").is_some();
    if let Some(switch) = template.filter(|_| !own) {
        set_switch(request, switch);
    }
    let thinks = model.card.can(Capability::Thinking);
    if let Some(effort) = effort {
        request.set("reasoning_effort", format!("\"{effort}\"").as_bytes());
    } else if thinks && !(own && template.is_some()) && request.member("reasoning_effort").is_some() {
        // It has been said by the switch, or the model refuses to be told.
        request.set("reasoning_effort", b"null");
    }
    Ok(())
}

/// Puts the switch where templates look for it.
pub fn set_switch(request: &mut Request, switch: Switch) {
    // Two booleans always become JSON.
    request.set("chat_template_kwargs", &serde_json::to_vec(&switch).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn efforts_are_levels_of_thinking() {
        for (effort, think) in [
            ("none", Think::Off),
            ("minimal", Think::Level("low")),
            ("medium", Think::Level("medium")),
            ("xhigh", Think::Level("max")),
            ("ultra", Think::Level("max")),
        ] {
            assert_eq!(parse(effort), Ok(think), "{effort}");
        }
        let error = parse("x").expect_err("no effort");
        assert_eq!(error.status(), 400);
        assert!(error.to_string().starts_with("invalid reasoning value: \"x\" (must be "), "{error}");
    }
}
