//! `/api/pull`: a model comes from the hub (ollama-api §4.5).

use std::sync::Arc;

use super::error::ApiError;
use super::json;
use super::names::{Wanted, allow};
use super::progress::{self, Teller};
use super::types::PullRequest;
use crate::api::{App, Call, Reply};
use crate::model::pull::Step;
use crate::model::{Installed, ModelName};

/// `POST /api/pull`.
///
/// # Errors
/// [`ApiError`], to be told in Ollama's shape.
pub async fn pull(app: Arc<App>, call: Call) -> Result<Reply, ApiError> {
    let (name, stream) = {
        let text = json::text(&call.body)?;
        let request: PullRequest = json::decode(&text)?;
        (wanted(&request)?, request.stream.unwrap_or(true))
    };
    allow(&call, &name)?;
    call.facts.set_wanted(name.display());
    drop(call);
    progress::answer(stream, |teller| async move { pulled(&app, &name, &teller).await.map(drop) }).await
}

/// Pulls a model that another answer needs, and tells the steps in it.
///
/// # Errors
/// [`ApiError::Pull`].
pub async fn pulled(app: &App, name: &ModelName, teller: &Teller) -> Result<Arc<Installed>, ApiError> {
    let installed = app.pulls.pull(name, |step| match step {
        Step::Manifest => teller.say("pulling manifest"),
        Step::Layer { digest, total, completed } => {
            let status = format!("pulling {}", digest.get(..12).unwrap_or(digest));
            teller.part(&status, &format!("sha256:{digest}"), completed, total);
        }
        Step::Verifying => teller.say("verifying sha256 digest"),
        Step::Writing => teller.say("writing manifest"),
    });
    Ok(installed.await?)
}

/// The name a request means, checked in Ollama's order (§14).
fn wanted(request: &PullRequest<'_>) -> Result<ModelName, ApiError> {
    let asked = if request.model.trim().is_empty() { request.name.trim() } else { request.model.trim() };
    let wanted = Wanted::parse(asked)?;
    if wanted.cloud {
        return Err(ApiError::Cloud("remote inference is unavailable"));
    }
    if !request.insecure && asked.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://")) {
        return Err(ApiError::InsecureProtocol);
    }
    Ok(wanted.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<String, ApiError> {
        wanted(&json::decode(body)?).map(|name| name.display())
    }

    #[test]
    fn the_name_comes_from_either_field_and_is_checked() {
        assert_eq!(read(r#"{"model":"smollm2:135m"}"#), Ok("smollm2:135m".to_owned()));
        assert_eq!(read(r#"{"model":"","name":" qwen3 ","username":"x"}"#), Ok("qwen3:latest".to_owned()));
        for body in ["{}", r#"{"model":null}"#, r#"{"name":"a b"}"#, r#"{"name":"../x"}"#] {
            assert_eq!(read(body), Err(ApiError::InvalidName), "{body}");
        }
        assert!(matches!(read(r#"{"model":"gpt-oss:120b-cloud"}"#), Err(ApiError::Cloud(_))));
    }

    #[test]
    fn http_has_to_be_asked_for() {
        assert_eq!(read(r#"{"model":"http://hf.co/a/b"}"#), Err(ApiError::InsecureProtocol));
        assert_eq!(read(r#"{"model":"http://hf.co/a/b","insecure":true}"#), Ok("hf.co/a/b:latest".to_owned()));
        assert_eq!(read(r#"{"model":"https://hf.co/a/b"}"#), Ok("hf.co/a/b:latest".to_owned()));
    }
}
