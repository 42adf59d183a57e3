//! `/v1/responses` (ollama-api §10.5): vLLM's own route, with what the model was made with. Responses are not kept, neither by
//! Ollama nor here (decision 0023): each request brings its whole conversation.

use std::future::{Ready, ready};
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use super::chat::{Speaker, can_call, elements, is_empty_list, is_system};
use super::{defaults, error, reasoning};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::json::{First, Text};
use crate::api::ollama::options::Limit;
use crate::api::ollama::prelude::Prelude;
use crate::api::ollama::think::{Thinking, thinking};
use crate::api::pass::{Dialect, Meaning, PassError, Request, Told, find, media};
use crate::api::{App, Call, Reply};
use crate::model::{Capability, Installed};

/// How answers and streams of this route are told.
static DIALECT: Dialect = Dialect { names: &[&["model"], &["response", "model"]], meaning, error: told };

/// `POST /v1/responses`.
///
/// # Errors
/// [`PassError`].
pub async fn create(app: Arc<App>, mut call: Call) -> Result<Reply, PassError> {
    let mut request = Request::read(&mut call)?;
    let model = find(&app, &call, request.asked())?;
    if let Some(previous) = request.member("previous_response_id") {
        let id = serde_json::from_str::<Text>(previous).unwrap_or_default();
        return Ok(not_kept(&id, Some("previous_response_id")));
    }
    prepare(&mut request, &model)?;
    let lease = app.lease(&call, &model, None).await.map_err(ApiError::from)?;
    let limit = Limit { max_model_len: lease.max_model_len(), answer: None, always: false };
    defaults::complete(&mut request, &model, limit, &["max_output_tokens"]);
    request.pass_over(lease, call, "/v1/responses", &DIALECT).await
}

/// `GET /v1/responses/{id}` and `POST /v1/responses/{id}/cancel`.
pub fn stored(_app: Arc<App>, call: Call) -> Ready<Result<Reply, PassError>> {
    ready(Ok(not_kept(&call.parameter, None)))
}

/// 404 for a response that somebody expects to be kept.
fn not_kept(id: &str, param: Option<&str>) -> Reply {
    let message = format!(
        "Response with id '{id}' not found: vllama does not keep responses; send the whole conversation in `input`"
    );
    let param = param.map(str::to_owned);
    error::whole(&Told { status: StatusCode::NOT_FOUND, message, param, code: None })
}

/// Checks a request, and puts into it what the model brings along.
fn prepare(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{:?}", request.asked()), "chat"));
    }
    if request.member("background") == Some("true") {
        return Err(ApiError::NotSupported(
            "vllama does not keep responses, so none can be made in the background; leave `background` out, and use \
             `stream` to see a long one grow"
                .to_owned(),
        ));
    }
    request.member("input").map_or(Ok(()), media::check)?;
    if request.member("tools").is_some_and(|tools| !is_empty_list(tools)) {
        can_call(request, model)?;
    }
    think(request, model)?;
    begin(request, model);
    Ok(())
}

/// Tells the model to think, or not to. Agents ask every model to, so one that cannot is not told.
fn think(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    let asked = request.member("reasoning").and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let effort = asked.as_ref().and_then(|asked| asked.get("effort")).and_then(Value::as_str);
    let think = effort.map(reasoning::parse).transpose()?;
    if !model.card.can(Capability::Thinking) {
        return Ok(());
    }
    let Thinking { template, effort } = thinking(think, &model.card);
    let says = asked.as_ref().is_some_and(|asked| asked.contains_key("effort"));
    if says || (effort.is_some() && (asked.is_some() || request.member("reasoning").is_none())) {
        let mut asked = asked.unwrap_or_default();
        asked.insert("effort".to_owned(), effort.into());
        request.set("reasoning", Value::Object(asked).to_string().as_bytes());
    }
    if let Some(switch) = template.filter(|_| request.member("chat_template_kwargs").is_none()) {
        reasoning::set_switch(request, switch);
    }
    Ok(())
}

/// A message of the model's own.
#[derive(Serialize)]
struct Item<'a> {
    role: String,
    content: &'a str,
}

/// Puts the model's system prompt and messages before the client's input.
fn begin(request: &mut Request, model: &Installed) {
    let prelude = Prelude::of(model);
    let own = prelude.messages();
    let own: Vec<_> =
        own.iter().map(|message| Item { role: message.role.to_lowercase(), content: &message.content }).collect();
    let Some(input) = request.member("input") else { return };
    let first = serde_json::from_str::<First<Speaker>>(input).ok().and_then(|First(first)| first);
    let begun = request.member("instructions").is_some() || first.as_ref().is_some_and(is_system);
    let is_conversation = first.is_some();
    let text = input.starts_with('"').then(|| input.to_owned());
    if !begun && !prelude.system().is_empty() {
        request.set("instructions", Value::from(prelude.system()).to_string().as_bytes());
    }
    if own.is_empty() {
        return;
    }
    let own = elements(&own);
    match text {
        Some(text) => request.set("input", format!(r#"[{own},{{"role":"user","content":{text}}}]"#).as_bytes()),
        None if is_conversation => request.put_first("input", own.as_bytes()),
        // What is no conversation is left to the engine to refuse.
        None => {}
    }
}

fn meaning(name: &[u8], _data: &[u8]) -> Meaning {
    match name {
        b"response.completed" | b"response.failed" | b"response.incomplete" => Meaning::Last,
        b"error" => Meaning::Error,
        _ => Meaning::More,
    }
}

/// OpenAI's `error` event.
fn told(told: &Told, events: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Event<'a> {
        r#type: &'static str,
        code: Option<&'a str>,
        message: &'a str,
        param: Option<&'a str>,
        sequence_number: u64,
    }
    let Told { message, param, code, .. } = told;
    let (code, param) = (code.as_deref(), param.as_deref());
    let event = Event { r#type: "error", code, message, param, sequence_number: events };
    // Strings and a number always become JSON.
    let event = serde_json::to_vec(&event).unwrap_or_default();
    [b"event: error\ndata: ", &event[..], b"\n\n"].concat()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::api::ollama::listing::tests::smollm2;

    fn prepared(body: &str, model: &Installed) -> Result<String, ApiError> {
        let mut request = Request::of(Bytes::copy_from_slice(body.as_bytes()))?;
        prepare(&mut request, model)?;
        let body = request.spliced("m:latest");
        serde_json::from_slice::<Value>(&body).expect("what is spliced is JSON");
        Ok(String::from_utf8(body.to_vec()).expect("text"))
    }

    #[test]
    fn a_model_adds_its_system_prompt_and_its_messages() {
        let mut model = smollm2();
        model.manifest.overlay.system = "Be \"M\".".into();
        model.manifest.overlay.messages =
            serde_json::from_str(r#"[{"role":"User","content":"a"},{"role":"assistant","content":"b"}]"#)
                .expect("messages");
        let own = r#"{"role":"user","content":"a"},{"role":"assistant","content":"b"}"#;
        let system = r#""instructions":"Be \"M\".","#;
        for (input, added, left) in [
            (r#""hi""#, system, format!(r#"[{own},{{"role":"user","content":"hi"}}]"#)),
            (r#"[{"role":"user"}]"#, system, format!(r#"[{own},{{"role":"user"}}]"#)),
            (r#"[{"role":"developer"}]"#, "", format!(r#"[{own},{{"role":"developer"}}]"#)),
            (
                r#""hi","instructions":"x""#,
                "",
                format!(r#"[{own},{{"role":"user","content":"hi"}}],"instructions":"x""#),
            ),
            ("7", system, "7".to_owned()),
            ("[]", system, "[]".to_owned()),
        ] {
            let body = format!(r#"{{"model":"m:latest","input":{input}}}"#);
            let expected = format!(r#"{{{added}"model":"m:latest","input":{left}}}"#);
            assert_eq!(prepared(&body, &model), Ok(expected));
        }
    }

    #[test]
    fn efforts_are_told_where_the_model_can_think_and_left_alone_where_it_cannot() {
        let mut thinker = smollm2();
        thinker.card.capabilities.push(Capability::Thinking);
        let on = r#""chat_template_kwargs":{"enable_thinking":true,"thinking":true},"#;
        let off = on.replace("true", "false");
        for (model, more, added, left) in [
            (&thinker, "", on, ""),
            (
                &thinker,
                r#","reasoning":{"effort":"ultra","summary":"auto"}"#,
                on,
                r#","reasoning":{"effort":"max","summary":"auto"}"#,
            ),
            (&thinker, r#","reasoning":{"effort":"none"}"#, &off, r#","reasoning":{"effort":null}"#),
            (&smollm2(), r#","reasoning":{"effort":"high"}"#, "", r#","reasoning":{"effort":"high"}"#),
        ] {
            let body = format!(r#"{{"model":"m:latest","input":"x"{more}}}"#);
            let expected = format!(r#"{{{added}"model":"m:latest","input":"x"{left}}}"#);
            assert_eq!(prepared(&body, model), Ok(expected));
        }
        let error =
            prepared(r#"{"model":"m","input":"x","reasoning":{"effort":"x"}}"#, &thinker).expect_err("no effort");
        assert!(error.to_string().starts_with("invalid reasoning value"), "{error}");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (more, text) in [
            (r#""background":true"#, "vllama does not keep responses, so none can be made in the background"),
            (r#""tools":[{"type":"function","name":"f"}]"#, "does not support tools"),
            (r#""input":[{"content":[{"type":"input_image","image_url":"http://x"}]}]"#, "image URLs are not"),
        ] {
            let error = prepared(&format!(r#"{{"model":"m",{more}}}"#), &smollm2()).expect_err(more);
            assert_eq!(error.status(), 400);
            assert!(error.to_string().contains(text), "{error}");
        }
        for more in [r#""background":false"#, r#""tools":[]"#, r#""tools":[{}],"tool_choice":"none""#] {
            let body = format!(r#"{{"model":"m:latest",{more}}}"#);
            assert_eq!(prepared(&body, &smollm2()), Ok(body.clone()));
        }
    }

    #[test]
    fn an_error_in_a_stream_is_openais_event() {
        let error = Told { status: StatusCode::INTERNAL_SERVER_ERROR, message: "bad".into(), param: None, code: None };
        let event = r#"{"type":"error","code":null,"message":"bad","param":null,"sequence_number":7}"#;
        assert_eq!(String::from_utf8(told(&error, 7)), Ok(format!("event: error\ndata: {event}\n\n")));
    }
}
