//! `/v1/completions` (ollama-api §10.2): vLLM's own route. The prompt is what the model continues, as in OpenAI's API; Ollama
//! puts it through the chat template instead (decision 0023).

use std::sync::Arc;

use super::defaults;
use super::stream::{self, DIALECT};
use crate::api::ollama::error::ApiError;
use crate::api::ollama::options::Limit;
use crate::api::pass::{PassError, Request, find};
use crate::api::{App, Call, Reply};
use crate::model::{Capability, Installed};

/// `POST /v1/completions`.
///
/// # Errors
/// [`PassError`].
pub async fn completions(app: Arc<App>, mut call: Call) -> Result<Reply, PassError> {
    let mut request = Request::read(&mut call)?;
    let model = find(&app, &call, request.asked())?;
    prepare(&mut request, &model)?;
    let lease = app.lease(&call, &model, None).await.map_err(ApiError::from)?;
    // Silence means 16 tokens to the engine, and to Ollama's clients an answer to its end.
    let limit = Limit { max_model_len: lease.max_model_len(), answer: None, always: true };
    // An echo of nothing but the prompt is how its log-probabilities are asked for.
    let echo = request.member("echo") == Some("true") && request.member("max_tokens") == Some("0");
    defaults::complete(&mut request, &model, limit, if echo { &[] } else { &["max_tokens"] });
    request.pass_over(lease, call, "/v1/completions", &DIALECT).await
}

fn prepare(request: &mut Request, model: &Installed) -> Result<(), ApiError> {
    if !model.card.can(Capability::Completion) {
        return Err(ApiError::Unable(format!("{:?}", request.asked()), "generate"));
    }
    if request.member("suffix") == Some("\"\"") {
        // No text after the gap is no gap.
        request.set("suffix", b"null");
    }
    stream::count(request);
    Ok(())
}
