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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::api::ollama::listing::tests::smollm2;

    fn completed(more: &str, parameters: &str, always: bool) -> String {
        let mut model = smollm2();
        model.manifest.overlay.parameters = serde_json::from_str(parameters).expect("parameters");
        let body = format!(r#"{{"model":"m"{more}}}"#);
        let mut request = Request::of(Bytes::from(body)).expect("a request");
        let limit = Limit { max_model_len: 2048, answer: None, always };
        complete(&mut request, &model, limit, &["max_completion_tokens", "max_tokens"]);
        String::from_utf8(request.spliced("m").to_vec()).expect("text")
    }

    #[test]
    fn limits_are_taken_as_ollama_takes_them() {
        for (more, expected) in [
            ("", r#"{"model":"m"}"#),
            (r#","max_tokens":7"#, r#"{"model":"m","max_tokens":7}"#),
            (r#","max_tokens":2048"#, r#"{"model":"m","max_tokens":2048}"#),
            (r#","max_tokens":99999"#, r#"{"model":"m","max_tokens":2048}"#),
            (
                r#","max_tokens":-1,"max_completion_tokens":0"#,
                r#"{"model":"m","max_tokens":null,"max_completion_tokens":null}"#,
            ),
            (r#","max_completion_tokens":"many""#, r#"{"model":"m","max_completion_tokens":"many"}"#),
        ] {
            assert_eq!(completed(more, "{}", false), expected, "{more}");
        }
        for (more, expected) in [
            ("", r#"{"max_completion_tokens":2048,"model":"m"}"#),
            (r#","max_tokens":7"#, r#"{"model":"m","max_tokens":7}"#),
            (r#","max_completion_tokens":null"#, r#"{"model":"m","max_completion_tokens":2048}"#),
        ] {
            assert_eq!(completed(more, "{}", true), expected, "{more}");
        }
    }

    #[test]
    fn the_models_own_parameters_hold_where_the_request_is_silent() {
        let parameters =
            r#"{"temperature":0.5,"top_k":0,"repeat_penalty":1.1,"stop":["a"],"num_predict":9,"num_ctx":4096}"#;
        for (more, expected) in [
            (
                "",
                r#"{"max_completion_tokens":9,"temperature":0.5,"top_k":-1,"repetition_penalty":1.1,"stop":["a"],"model":"m"}"#,
            ),
            (
                r#","temperature":0,"stop":"b","max_tokens":5,"top_k":null,"repetition_penalty":1"#,
                r#"{"model":"m","temperature":0,"stop":"b","max_tokens":5,"top_k":-1,"repetition_penalty":1}"#,
            ),
            (
                r#","max_completion_tokens":0"#,
                r#"{"temperature":0.5,"top_k":-1,"repetition_penalty":1.1,"stop":["a"],"model":"m","max_completion_tokens":9}"#,
            ),
        ] {
            assert_eq!(completed(more, parameters, false), expected, "{more}");
        }
    }
}
