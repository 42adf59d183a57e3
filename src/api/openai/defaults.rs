//! Numbers of a request: those the model was made with where the request is silent, and limits as Ollama understands them.

use crate::api::ollama::options::{Limit, Options};
use crate::api::pass::Request;
use crate::model::Installed;

/// Completes a request to `model`. `limits` are the fields for the longest answer, the one to use first.
///
/// A limit beyond what the engine can hold is as good as the engine's own, and one of nothing or less is none: Ollama's
/// clients send both, and the engine would refuse them (vllm-engine §3.2).
pub fn complete(request: &mut Request, model: &Installed, limit: Limit, limits: &[&'static str]) {
    let mut limited = false;
    for name in limits {
        let Some(wanted) = request.member(name).and_then(|text| text.parse::<f64>().ok()) else { continue };
        #[expect(clippy::cast_precision_loss, reason = "contexts are short of 2^52 tokens")]
        let most = limit.max_model_len as f64;
        if wanted <= 0.0 {
            request.set(name, b"null");
            continue;
        }
        limited = true;
        if wanted > most {
            request.set(name, limit.max_model_len.to_string().as_bytes());
        }
    }
    let options = Options::of(model);
    let mut given = options.given(limit);
    let max_tokens = given.max_tokens.take().filter(|_| !limited);
    if let (Some(tokens), Some(name)) = (max_tokens, limits.first()) {
        request.set(name, tokens.to_string().as_bytes());
    }
    // Numbers and strings always become JSON.
    let Ok(serde_json::Value::Object(given)) = serde_json::to_value(given) else { return };
    for (name, value) in given {
        if request.member(&name).is_none() {
            request.set(&name, value.to_string().as_bytes());
        }
    }
}
