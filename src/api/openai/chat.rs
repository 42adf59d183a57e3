//! `/v1/chat/completions` (ollama-api §10.1): vLLM's own route, with what the model was made with.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::stream::{self, DIALECT};
use super::{defaults, reasoning};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::json::{First, Text};
use crate::api::ollama::options::Limit;
use crate::api::ollama::prelude::Prelude;
use crate::api::pass::{PassError, Request, find, media};
use crate::api::{App, Call, Reply};
use crate::model::{Capability, Installed};

/// `POST /v1/chat/completions`.
///
/// # Errors
/// [`PassError`].
pub async fn chat(app: Arc<App>, mut call: Call) -> Result<Reply, PassError> {
    let mut request = Request::read(&mut call)?;
    let model = find(&app, &call, request.asked())?;
    prepare(&mut request, &model)?;
    let lease = app.lease(&call, &model, None).await.map_err(ApiError::from)?;
    let limit = Limit { max_model_len: lease.max_model_len(), answer: None, always: false };
    defaults::complete(&mut request, &model, limit, &["max_completion_tokens", "max_tokens"]);
    request.pass_over(lease, call, "/v1/chat/completions", &DIALECT).await
}

/// Checks a request, and puts into it what the model brings along.
fn prepare(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{:?}", request.asked()), "chat"));
    }
    request.member("messages").map_or(Ok(()), media::check)?;
    tools(request, model)?;
    name_schema(request);
    reasoning::put(request, reasoning::of_chat(request)?, model)?;
    stream::count(request);
    begin(request, model)
}

/// Tools for a model that has no way to call them are refused as in Ollama, but where it is told not to.
fn tools(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    let tools = request.member("tools");
    if tools.is_some_and(|tools| !is_empty_list(tools)) {
        return can_call(request, model);
    }
    // An empty list, and a choice among nothing, mean nothing to the clients that send them. The engine refuses both.
    for name in ["tools", "tool_choice"] {
        if request.member(name).is_some() {
            request.set(name, b"null");
        }
    }
    Ok(())
}

/// Whether a model can call the tools of a request, where it may.
///
/// # Errors
/// [`ApiError::Unable`].
pub(super) fn can_call(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    let may = request.member("tool_choice") != Some("\"none\"");
    if may { request.call_tools(model) } else { Ok(()) }
}

/// Whether this JSON is a list of nothing.
pub(super) fn is_empty_list(json: &str) -> bool {
    json.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|inside| inside.trim().is_empty())
}

/// Gives a schema the name that the engine asks for. Ollama looks at the schema alone.
fn name_schema(request: &mut Request) {
    let Some(Ok(mut format)) = request.member("response_format").map(serde_json::from_str::<Map<String, Value>>) else {
        return;
    };
    let Some(Value::Object(schema)) = format.get_mut("json_schema") else { return };
    if !schema.contains_key("name") {
        schema.insert("name".to_owned(), "schema".into());
        request.set("response_format", Value::Object(format).to_string().as_bytes());
    }
}

/// Puts the model's own turns before the client's.
fn begin(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    let prelude = Prelude::of(model);
    let own = prelude.messages();
    // What is no conversation is left to the engine to refuse.
    let Some(First(Some(first))) = request.member("messages").and_then(|text| serde_json::from_str(text).ok()) else {
        return Ok(());
    };
    let turns = prelude.before(&own, is_system(&first))?;
    if turns.is_empty() {
        return Ok(());
    }
    request.put_first("messages", elements(&turns).as_bytes());
    Ok(())
}

/// The elements of a list as JSON, with commas between them.
pub(super) fn elements<T: Serialize>(list: &[T]) -> String {
    // Turns always become JSON.
    let list = serde_json::to_string(list).unwrap_or_default();
    list.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default().to_owned()
}

/// As much of a message as has to be known.
#[derive(Debug, Deserialize)]
pub(super) struct Speaker<'a> {
    #[serde(borrow, default)]
    role: Option<Text<'a>>,
}

/// Whether it is a system prompt; OpenAI's newer name for it counts too.
pub(super) fn is_system(message: &Speaker<'_>) -> bool {
    let role = message.role.as_deref().unwrap_or_default();
    role.eq_ignore_ascii_case("system") || role.eq_ignore_ascii_case("developer")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::api::ollama::listing::tests::smollm2;

    const HI: &str = r#"[{"role":"user","content":"hi"}]"#;

    fn prepared(body: &str, model: &Installed) -> Result<String, ApiError> {
        let mut request = Request::of(Bytes::copy_from_slice(body.as_bytes()))?;
        prepare(&mut request, model)?;
        let body = request.spliced("m:latest");
        serde_json::from_slice::<Value>(&body).expect("what is spliced is JSON");
        Ok(String::from_utf8(body.to_vec()).expect("text"))
    }

    fn with(capabilities: &[Capability], family: &str) -> Installed {
        let mut model = smollm2();
        model.card.capabilities.extend(capabilities);
        model.card.family = family.to_owned();
        model
    }

    #[test]
    fn a_model_adds_its_system_prompt_and_its_messages() {
        let mut model = smollm2();
        model.manifest.overlay.system = "You are \"Mario\".".into();
        model.manifest.overlay.messages =
            serde_json::from_str(r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#)
                .expect("messages");
        let system = r#"{"role":"system","content":"You are \"Mario\"."},"#;
        let own = r#"{"role":"user","content":"a"},{"role":"assistant","content":"b"},"#;
        for (first, before) in [
            (r#"{"role":"user","content":"hi"}"#, [system, own].concat()),
            (r#"{"role":"System","content":"s"}"#, own.to_owned()),
            (r#"{"content":"s","role":"developer"}"#, own.to_owned()),
            (r#"{"content":[]}"#, [system, own].concat()),
        ] {
            let body = format!(r#"{{"model":"m:latest","messages":[ {first}, {{"new":1.50}}], "x":null}}"#);
            let expected = body.replace("[ ", &format!("[{before} "));
            assert_eq!(prepared(&body, &model), Ok(expected));
        }
        // These the engine refuses.
        for messages in ["[]", "[7]", "null", "\"hi\"", "{}"] {
            let body = format!(r#"{{"model":"m:latest","messages":{messages}}}"#);
            assert_eq!(prepared(&body, &model), Ok(body.clone()));
        }
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        let model = with(&[Capability::Tools], "llama");
        for (more, left) in [
            (r#""tools":[ ],"tool_choice":"auto""#, r#""tools":null,"tool_choice":null"#),
            (r#""tools":[],"tool_choice":null"#, r#""tools":null,"tool_choice":null"#),
            (r#""tool_choice":"required""#, r#""tool_choice":null"#),
            (
                r#""response_format":{"type":"json_schema","json_schema":{"schema":{"b":1.50,"a":2}}}"#,
                r#""response_format":{"type":"json_schema","json_schema":{"schema":{"b":1.5,"a":2},"name":"schema"}}"#,
            ),
            (
                r#""response_format":{"type":"json_schema","json_schema":{ "name":null}}"#,
                r#""response_format":{"type":"json_schema","json_schema":{ "name":null}}"#,
            ),
            (r#""stream_options":{"include_usage":true}"#, r#""stream_options":null"#),
            (r#""stream":false,"stream_options":{}"#, r#""stream":false,"stream_options":null"#),
            (r#""stream":true,"stream_options":{"x":1}"#, r#""stream":true,"stream_options":{"x":1}"#),
            (r#""stream":true,"stream_options":null"#, r#""stream":true,"stream_options":{"include_usage":true}"#),
            (r#""tools":[{}],"tool_choice":"auto""#, r#""tools":[{}],"tool_choice":"auto""#),
        ] {
            let body = |more: &str| format!(r#"{{"model":"m:latest","messages":{HI},{more}}}"#);
            assert_eq!(prepared(&body(more), &model), Ok(body(left)));
        }
    }

    #[test]
    fn what_a_model_cannot_do_is_told_in_ollamas_words() {
        let body = |more: &str| format!(r#"{{"model":"M","messages":{HI},{more}}}"#);
        let mut embedder = smollm2();
        embedder.card.capabilities = vec![Capability::Embedding];
        for (more, model, text) in [
            (r#""tools":[{}]"#, smollm2(), "registry.ollama.ai/library/smollm2:135m does not support tools"),
            (r#""tools":[{}],"tool_choice":"required""#, smollm2(), "library/smollm2:135m does not support tools"),
            (r#""reasoning_effort":"low""#, smollm2(), "\"M\" does not support thinking"),
            (r#""reasoning":{"effort":"max"}"#, smollm2(), "\"M\" does not support thinking"),
            (r#""reasoning_effort":"x""#, smollm2(), "invalid reasoning value: \"x\" (must be "),
            (r#""x":1"#, embedder, "\"M\" does not support chat"),
        ] {
            let error = prepared(&body(more), &model).expect_err(more);
            assert_eq!(error.status(), 400, "{more}");
            assert!(error.to_string().contains(text), "{error}");
        }
        let told_not_to = format!(r#"{{"model":"m:latest","messages":{HI},"tools":[{{}}],"tool_choice":"none"}}"#);
        assert_eq!(prepared(&told_not_to, &smollm2()), Ok(told_not_to.clone()));
    }

    #[test]
    fn efforts_are_told_in_the_words_of_the_model() {
        let on = r#""chat_template_kwargs":{"enable_thinking":true,"thinking":true},"#;
        let off = on.replace("true", "false");
        for (family, more, added, left) in [
            ("qwen3", "", on, ""),
            ("qwen3", r#","reasoning_effort":"none""#, &off, r#","reasoning_effort":null"#),
            ("qwen3", r#","reasoning_effort":"xhigh""#, on, r#","reasoning_effort":"max""#),
            ("qwen3", r#","reasoning":{"effort":"none","summary":"auto"}"#, &off, ""),
            ("qwen3", r#","reasoning_effort":7"#, on, r#","reasoning_effort":null"#),
            (
                "qwen3",
                r#","reasoning_effort":"none","chat_template_kwargs":{"x":1}"#,
                "",
                r#","reasoning_effort":"none","chat_template_kwargs":{"x":1}"#,
            ),
            ("gpt_oss", "", "", ""),
            ("gpt_oss", r#","reasoning_effort":"minimal""#, "", r#","reasoning_effort":"low""#),
            ("gpt_oss", r#","reasoning_effort":"ultra""#, "", r#","reasoning_effort":"high""#),
            ("gpt_oss", r#","reasoning_effort":"none""#, "", r#","reasoning_effort":"low""#),
            ("mistral3", r#","reasoning_effort":"high""#, "", r#","reasoning_effort":null"#),
            ("gpt_oss", r#","reasoning":{"effort":"medium"}"#, r#""reasoning_effort":"medium","#, ""),
        ] {
            let model = with(&[Capability::Thinking], family);
            let body = format!(r#"{{"model":"m:latest","messages":{HI}{more}}}"#);
            let left = if more.contains("\"reasoning\":") { more } else { left };
            let expected = format!(r#"{{{added}"model":"m:latest","messages":{HI}{left}}}"#);
            assert_eq!(prepared(&body, &model), Ok(expected), "{family} {more}");
        }
    }

    #[test]
    fn images_that_stand_elsewhere_are_refused() {
        let body = r#"{"model":"M","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://10.0.0.1/"}}]}]}"#;
        let error = prepared(body, &smollm2()).expect_err("an address");
        let text = "image URLs are not currently supported, please use base64 encoded data instead";
        assert_eq!((error.status().as_u16(), error.to_string().as_str()), (400, text));
    }
}
