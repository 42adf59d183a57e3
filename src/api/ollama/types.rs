//! Requests of the native API as they come over the wire (ollama-api §3.1, §3.3, §4.3). What needs its own reading
//! (`options`, `format`, `keep_alive`, `think`, `tools`) is set aside as raw JSON.

use serde_json::value::RawValue;

use super::json::{Text, object};

object! {
    /// `POST /api/generate`.
    pub struct GenerateRequest<'a> {
        /// Name of the model.
        pub model: Text<'a>,
        /// The prompt; without one this is a request to load or unload.
        pub prompt: Text<'a>,
        /// What follows the gap to be filled.
        pub suffix: Text<'a>,
        /// System prompt.
        pub system: Text<'a>,
        /// Template instead of the model's.
        pub template: Text<'a>,
        /// Token ids of an earlier answer.
        pub context: Vec<u32>,
        /// Whether to stream; absent is true.
        pub stream: Option<bool>,
        /// Whether the prompt goes to the model as it is.
        pub raw: bool,
        /// `"json"` or a schema.
        pub format: Option<&'a RawValue>,
        /// How long the model stays loaded.
        pub keep_alive: Option<&'a RawValue>,
        /// Base64 images.
        pub images: Vec<Text<'a>>,
        /// Sampling and more.
        pub options: Option<&'a RawValue>,
        /// Whether to think.
        pub think: Option<&'a RawValue>,
        /// Whether to return log-probabilities.
        pub logprobs: bool,
        /// Number of alternatives with each, 0–20.
        pub top_logprobs: i64,
        /// Whether a prompt that is too long loses its oldest messages; absent is true.
        pub truncate: Option<bool>,
        /// Whether old tokens may go when the context is full; absent is true.
        pub shift: Option<bool>,
        /// Whether to tell the prompt instead of answering it (§6.10).
        pub _debug_render_only: bool,
    }
}

object! {
    /// `POST /api/chat`.
    pub struct ChatRequest<'a> {
        /// Name of the model.
        pub model: Text<'a>,
        /// The conversation; without one this is a request to load or unload.
        pub messages: Vec<Message<'a>>,
        /// Whether to stream; absent is true.
        pub stream: Option<bool>,
        /// `"json"` or a schema.
        pub format: Option<&'a RawValue>,
        /// How long the model stays loaded.
        pub keep_alive: Option<&'a RawValue>,
        /// Functions the model may call.
        pub tools: Option<&'a RawValue>,
        /// Sampling and more.
        pub options: Option<&'a RawValue>,
        /// Whether to think.
        pub think: Option<&'a RawValue>,
        /// Whether to return log-probabilities.
        pub logprobs: bool,
        /// Number of alternatives with each, 0–20.
        pub top_logprobs: i64,
        /// Whether a prompt that is too long loses its oldest messages; absent is true.
        pub truncate: Option<bool>,
        /// Whether old tokens may go when the context is full; absent is true.
        pub shift: Option<bool>,
        /// Whether to tell the prompt instead of answering it (§6.10).
        pub _debug_render_only: bool,
    }
}

object! {
    /// One turn of a conversation.
    pub struct Message<'a> {
        /// `system`, `user`, `assistant`, `tool`, or what the template knows.
        pub role: Text<'a>,
        /// The text.
        pub content: Text<'a>,
        /// What the model thought before it said it.
        pub thinking: Text<'a>,
        /// Base64 images.
        pub images: Vec<Text<'a>>,
        /// Calls the model made.
        pub tool_calls: Vec<ToolCall<'a>>,
        /// Function a `tool` message is the result of.
        pub tool_name: Text<'a>,
        /// Call a `tool` message is the result of.
        pub tool_call_id: Text<'a>,
    }
}

object! {
    /// A call of a function, in the history.
    pub struct ToolCall<'a> {
        /// Its id; many clients send none.
        pub id: Text<'a>,
        /// The function.
        pub function: Function<'a>,
    }
}

object! {
    /// A function and what it is called with.
    pub struct Function<'a> {
        /// Its name.
        pub name: Text<'a>,
        /// An object; a string with an object in it is taken too.
        pub arguments: Option<&'a RawValue>,
    }
}

object! {
    /// `POST /api/embed`.
    pub struct EmbedRequest<'a> {
        /// Name of the model.
        pub model: Text<'a>,
        /// A text, or a list of texts; without one this is a request to load.
        pub input: Option<&'a RawValue>,
        /// Whether a text that is too long loses its end; absent is true.
        pub truncate: Option<bool>,
        /// Length the vectors are cut to; 0 is their own.
        pub dimensions: i64,
        /// How long the model stays loaded.
        pub keep_alive: Option<&'a RawValue>,
        /// Of these `num_ctx` counts.
        pub options: Option<&'a RawValue>,
    }
}

object! {
    /// `POST /api/embeddings`, the older way to embed one text.
    pub struct EmbeddingsRequest<'a> {
        /// Name of the model.
        pub model: Text<'a>,
        /// The text; without one this is a request to load.
        pub prompt: Text<'a>,
        /// How long the model stays loaded.
        pub keep_alive: Option<&'a RawValue>,
        /// Of these `num_ctx` counts.
        pub options: Option<&'a RawValue>,
    }
}

object! {
    /// `POST /api/show`.
    pub struct ShowRequest<'a> {
        /// Name of the model.
        pub model: Text<'a>,
        /// The same under its old name (§4.3).
        pub name: Text<'a>,
        /// System prompt to show instead of the model's.
        pub system: Text<'a>,
        /// Whether to show what is long, too.
        pub verbose: bool,
    }
}

object! {
    /// `POST /api/copy`.
    pub struct CopyRequest<'a> {
        /// Name of the model.
        pub source: Text<'a>,
        /// The name it gets beside that.
        pub destination: Text<'a>,
    }
}

object! {
    /// `DELETE /api/delete`.
    pub struct DeleteRequest<'a> {
        /// Name of the model.
        pub model: Text<'a>,
        /// The same under its old name.
        pub name: Text<'a>,
    }
}

object! {
    /// `POST /api/create`.
    pub struct CreateRequest<'a> {
        /// Name of the new model.
        pub model: Text<'a>,
        /// The same under its old name.
        pub name: Text<'a>,
        /// The model it is made from.
        pub from: Text<'a>,
        /// Uploaded files it is made of: name and digest.
        pub files: Option<&'a RawValue>,
        /// Uploaded files of a LoRA adapter.
        pub adapters: Option<&'a RawValue>,
        /// Template.
        pub template: Text<'a>,
        /// A licence or several.
        pub license: Option<&'a RawValue>,
        /// System prompt.
        pub system: Text<'a>,
        /// Defaults for `options`.
        pub parameters: Option<&'a RawValue>,
        /// Turns that come before those of the client.
        pub messages: Option<&'a RawValue>,
        /// Type to quantize to.
        pub quantize: Text<'a>,
        /// The same under its old name.
        pub quantization: Text<'a>,
        /// Whether to stream; absent is true.
        pub stream: Option<bool>,
    }
}

object! {
    /// `POST /api/pull`.
    pub struct PullRequest<'a> {
        /// Name of the model.
        pub model: Text<'a>,
        /// The same under its old name; some clients send only this one (§13.2).
        pub name: Text<'a>,
        /// Whether a name may begin with `http://`.
        pub insecure: bool,
        /// Whether to stream; absent is true.
        pub stream: Option<bool>,
    }
}

object! {
    /// `POST /api/push`.
    pub struct PushRequest<'a> {
        /// Name of the model.
        pub model: Text<'a>,
        /// The same under its old name; some clients send only this one (§13.2).
        pub name: Text<'a>,
        /// Whether to stream; absent is true.
        pub stream: Option<bool>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ollama::json::decode;

    #[test]
    fn the_zero_fields_of_the_go_client_are_as_good_as_absent() {
        let request: GenerateRequest = decode(
            r#"{"model":"x","prompt":"","suffix":"","system":"","template":"","context":null,"stream":false,
                "keep_alive":null,"images":null,"options":null,"think":null,"format":null}"#,
        )
        .expect("a request");
        assert_eq!(request.stream, Some(false));
        assert!(request.options.is_none() && request.keep_alive.is_none() && request.think.is_none());
        let request: ChatRequest =
            decode(r#"{"model":"x","messages":null,"options":null,"tools":null}"#).expect("a request");
        assert!(request.messages.is_empty() && request.tools.is_none());
    }

    #[test]
    fn messages_are_read_with_calls_and_null_content() {
        let request: ChatRequest = decode(
            r#"{"Model":"x","Messages":[{"Role":"assistant","content":null,"tool_calls":
                [{"type":"function","function":{"index":0,"Name":"f","arguments":{"a":1}}}]}]}"#,
        )
        .expect("a request");
        let call = &request.messages[0].tool_calls[0];
        assert_eq!((&*call.id, &*call.function.name), ("", "f"));
        assert_eq!(call.function.arguments.map(RawValue::get), Some(r#"{"a":1}"#));
    }

    #[test]
    fn content_that_is_no_string_is_refused() {
        let body = r#"{"model":"x","messages":[{"role":"user","content":[{"type":"text"}]}]}"#;
        assert!(decode::<ChatRequest>(body).is_err());
    }
}
