//! A request on its way through: the engine's name for the model inward, the client's own name outward.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::PassError;
use super::members::Members;
use super::{Dialect, Question, model_name};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::json;
use crate::api::ollama::names::Wanted;
use crate::api::ollama::tools;
use crate::api::{App, Call, Reply};
use crate::model::Installed;
use crate::scheduler::Lease;

/// A body whose model is known, with what is to be changed in it.
#[derive(Debug)]
pub struct Request {
    body: Bytes,
    members: Members,
    /// The model's name as the client wrote it.
    asked: String,
    /// Bytes to put in the place of others; no two overlap.
    edits: Vec<(Range<usize>, Vec<u8>)>,
    /// Whether the client is not told the token counts of a stream.
    hides_usage: bool,
    /// The model whose calls of tools it wants, by its whole name.
    calls_tools: Option<String>,
}

impl Request {
    /// Takes the body out of the call and looks for the model's name in it.
    ///
    /// # Errors
    /// When there is no body, no JSON, or no model in it.
    pub fn read(call: &mut Call) -> Result<Self, PassError> {
        Self::of(std::mem::take(&mut call.body)).map_err(PassError::from)
    }

    /// Looks for the model's name in a body.
    ///
    /// # Errors
    /// As [`Request::read`].
    pub fn of(body: Bytes) -> Result<Self, ApiError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::BadJson("EOF".to_owned()));
        }
        let unreadable = |error| ApiError::BadJson(format!("the body is no request: {error}"));
        let members = Members::read(&body).map_err(unreadable)?;
        if members.count("model") > 1 {
            // Whoever checks who may use which model must not be made to look at the other one.
            return Err(ApiError::BadJson("the body is no request: it names the model twice".to_owned()));
        }
        let name = members.place("model").map(|place| serde_json::from_slice::<Option<String>>(&body[place.clone()]));
        let wrong = |error| json::unreadable("model", &error, "expected a string");
        let asked = name.transpose().map_err(wrong)?.flatten().filter(|name| !name.trim().is_empty());
        let asked = asked.ok_or(ApiError::ModelRequired)?;
        Ok(Self { members, asked, body, edits: Vec::new(), hides_usage: false, calls_tools: None })
    }

    /// The model's name as the client wrote it.
    #[must_use]
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// The body as it came.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The value of a member of the request, as JSON; `None` where there is none, or `null`.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&str> {
        let place = self.members.place(name)?;
        // A body that was read is text.
        let text = std::str::from_utf8(&self.body[place.clone()]).unwrap_or_default();
        (text != "null").then_some(text)
    }

    /// Gives a member another value, the last one given, or adds it where there is none. `value` is JSON.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        match self.members.place(name) {
            Some(place) => {
                self.edits.retain(|(other, _)| other != place);
                self.edits.push((place.clone(), value.to_vec()));
            }
            None => {
                let start = self.body.iter().position(|byte| *byte == b'{').map_or(0, |place| place + 1);
                let name = [&model_name::json(name), &b":"[..]].concat();
                self.edits.retain(|(other, member)| !other.is_empty() || !member.starts_with(&name));
                // The object is never empty: it names a model.
                self.edits.push((start..start, [&name, value, b","].concat()));
            }
        }
    }

    /// Puts elements before those that a member's list has; the list must not be empty. `elements` are JSON with commas
    /// between them.
    pub fn put_first(&mut self, name: &str, elements: &[u8]) {
        if let Some(place) = self.members.place(name)
            && self.body[place.clone()].starts_with(b"[")
        {
            let start = place.start + 1;
            self.edits.push((start..start, [elements, b","].concat()));
        }
    }

    /// Keeps the token counts of a stream from the client, who did not ask for them.
    pub fn hide_usage(&mut self) {
        self.hides_usage = true;
    }

    /// Says that the model may call the request's tools.
    ///
    /// # Errors
    /// [`ApiError::Unable`] where it cannot; [`Request::pass_over`] tells the same when its engine has turned out not to.
    pub fn call_tools(&mut self, model: &Installed) -> Result<(), ApiError> {
        tools::able(model)?;
        self.calls_tools = Some(model.name.full());
        Ok(())
    }

    /// The body for an engine that calls the model `served`.
    #[must_use]
    pub fn spliced(mut self, served: &str) -> Bytes {
        if self.asked != served {
            self.set("model", &model_name::json(served));
        }
        if self.edits.is_empty() {
            return self.body;
        }
        // Stable: what is put in the same place stays in its order.
        self.edits.sort_by_key(|(range, _)| range.start);
        let more: usize = self.edits.iter().map(|(_, text)| text.len()).sum();
        let mut out = Vec::with_capacity(self.body.len() + more);
        let mut end = 0;
        for (range, text) in &self.edits {
            out.extend_from_slice(&self.body[end..range.start]);
            out.extend_from_slice(text);
            end = range.end;
        }
        out.extend_from_slice(&self.body[end..]);
        out.into()
    }

    /// Waits for a lease on `model` and passes the request over it.
    ///
    /// # Errors
    /// What goes wrong before the answer has begun.
    pub async fn pass(
        self,
        app: &App,
        call: Call,
        model: &Arc<Installed>,
        path: &'static str,
        dialect: &'static Dialect,
    ) -> Result<Reply, PassError> {
        let lease = app.lease(&call, model, None).await.map_err(ApiError::from)?;
        self.pass_over(lease, call, path, dialect).await
    }

    /// Asks the engine at `path`, and answers with what it says: one piece, or a stream of events.
    ///
    /// # Errors
    /// What goes wrong before the answer has begun.
    pub async fn pass_over(
        mut self,
        lease: Lease,
        call: Call,
        path: &'static str,
        dialect: &'static Dialect,
    ) -> Result<Reply, PassError> {
        call.facts.set_asked(self.body.len(), lease.max_model_len());
        if let Some(name) = self.calls_tools.take().filter(|_| lease.given_up().tools == Some(false)) {
            return Err(ApiError::Unable(name, "tools").into());
        }
        if let Some(priority) = call.grant.priority()
            && (priority != 0 || self.member("priority").is_some())
        {
            // Not the client's own; pooling models know no header for it.
            self.set("priority", priority.to_string().as_bytes());
        }
        let hides_usage = self.hides_usage;
        let asked = self.asked.clone();
        let content = self.spliced(lease.served_name()).into();
        Question { content, asked, hides_usage, path, dialect }.ask(lease, call).await
    }
}

/// Looks the model up and notes it for the log.
///
/// # Errors
/// [`ApiError::NotFound`] and what is wrong with the name.
pub fn find(app: &App, call: &Call, asked: &str) -> Result<Arc<Installed>, ApiError> {
    Wanted::parse(asked)?.find(app, call, asked, "remote inference is unavailable")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &'static str) -> Result<Request, ApiError> {
        Request::of(Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn edits_and_new_members_leave_the_rest_as_it_came() {
        let body = r#" { "a" : [1.50, 2e3] , "model" : "M" ,"b":{"model":"M"}, "new" : null } "#;
        let mut request = request(body).expect("a request");
        assert_eq!((request.asked(), request.member("a")), ("M", Some("[1.50, 2e3]")));
        assert_eq!((request.member("new"), request.member("c")), (None, None));
        request.put_first("a", b"0");
        request.put_first("b", b"no list");
        request.set("top_k", b"40");
        request.set("stop", br#"["x"]"#);
        request.set("new", b"6");
        request.set("new", b"7");
        let expected =
            r#" {"top_k":40,"stop":["x"], "a" : [0,1.50, 2e3] , "model" : "m:latest" ,"b":{"model":"M"}, "new" : 7 } "#;
        assert_eq!(request.spliced("m:latest"), expected);
    }

    #[test]
    fn a_request_by_the_engines_own_name_costs_no_copy() {
        let body = r#"{"model":"m:latest"}"#;
        assert_eq!(request(body).expect("a request").spliced("m:latest").as_ptr(), body.as_ptr());
    }

    #[test]
    fn what_is_no_request_is_told() {
        for (body, text) in [
            ("", "EOF"),
            (" \n", "EOF"),
            ("{", "the body is no request: EOF while parsing an object at line 1 column 1"),
            (r#"{"model":7}"#, "json: cannot unmarshal model: expected a string"),
            (r#"{"model":"a","model":"b"}"#, "the body is no request: it names the model twice"),
            (r#"{"model":" "}"#, "model is required"),
            (r#"{"model":null}"#, "model is required"),
            ("{}", "model is required"),
        ] {
            assert_eq!(request(body).expect_err(body).to_string(), text);
        }
    }
}
