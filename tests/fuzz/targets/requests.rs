//! Bodies of clients: whatever they hold, it is answered with an error of the client's or becomes a request that the
//! engine can read.

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use vllama::api::ollama::error::ApiError;
use vllama::api::ollama::messages::turns;
use vllama::api::ollama::options::{Limit, Options};
use vllama::api::ollama::order::Order;
use vllama::api::ollama::request::{self, Common, Prompt, Specials};
use vllama::api::ollama::think::Think;
use vllama::api::ollama::types::{ChatRequest, CreateRequest, EmbedRequest, GenerateRequest};
use vllama::api::ollama::{format, go_template, input, json, keep_alive};
use vllama::api::pass::{Request, model_name};
use vllama::model::{Card, GenerationDefaults};

use super::{Target, seeds};

/// What is put in the place of the client's name for the model.
const ENGINES_NAME: &str = "the \"engine's\" name";

/// Longest sequence of the engine that the requests are for, in tokens.
const MAX_MODEL_LEN: u64 = 2048;

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "role",
    "content",
    "thinking",
    "images",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "id",
    "tool_name",
    "tool_call_id",
    "tools",
    "stream",
    "format",
    "keep_alive",
    "options",
    "think",
    "truncate",
    "shift",
    "logprobs",
    "top_logprobs",
    "_debug_render_only",
    "prompt",
    "suffix",
    "system",
    "template",
    "context",
    "raw",
    "input",
    "dimensions",
    "json",
    "high",
    "temperature",
    "num_ctx",
    "num_predict",
    "stop",
    "seed",
    "top_k",
    "5m0s",
    "assistant",
];

pub const CHAT: Target =
    Target { name: "chat", run: chat, seeds: || seeds::recorded_requests("/api/chat"), words: FIELDS };

pub const GENERATE: Target =
    Target { name: "generate", run: generate, seeds: || seeds::recorded_requests("/api/generate"), words: FIELDS };

pub const EMBED: Target =
    Target { name: "embed", run: embed, seeds: || seeds::recorded_requests("/api/embed"), words: FIELDS };

pub const CREATE: Target = Target {
    name: "create",
    run: create,
    seeds: || {
        vec![
            br#"{"model":"m","from":"x","system":"s","parameters":{"num_ctx":8192.0,"stop":["a"]},"license":["l"],"messages":[{"role":"user","content":"hi"}]}"#.to_vec(),
            br#"{"name":"m","files":{"model.gguf":"sha256:084d77eeeafcb3d4d49683808fc408ef6299ea6f55c1219f35939eb3e38feb2e"},"adapters":{},"quantize":"q4_K_M","template":"{{ .Prompt }}"}"#.to_vec(),
        ]
    },
    words: &[
        "model",
        "name",
        "from",
        "files",
        "adapters",
        "template",
        "license",
        "system",
        "parameters",
        "messages",
        "quantize",
        "stream",
        "sha256:",
        "../x",
        "model.gguf",
        "adapter_model.safetensors",
        "role",
        "content",
        "stop",
    ],
};

pub const OPTIONS: Target = Target {
    name: "options",
    run: options,
    seeds: || {
        vec![
            br#"{"temperature":0.5,"top_k":0,"top_p":1,"min_p":0.1,"seed":-1,"num_predict":-2,"stop":"a","num_ctx":8192.0}"#.to_vec(),
            br#"{"repeat_penalty":1.1,"repeat_last_n":0,"presence_penalty":2,"frequency_penalty":-3,"stop":["a","b"],"mirostat":1,"use_mmap":true}"#.to_vec(),
        ]
    },
    words: &[
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "seed",
        "num_predict",
        "stop",
        "num_ctx",
        "repeat_penalty",
        "repeat_last_n",
        "presence_penalty",
        "frequency_penalty",
        "typical_p",
        "num_keep",
        "use_mmap",
    ],
};

pub const MODEL_OF_A_BODY: Target = Target {
    name: "model_of_a_body",
    run: model_of_a_body,
    seeds: || {
        let mut bodies = seeds::recorded_requests("/v1/");
        bodies.extend(seeds::recorded_answers("chat"));
        bodies
    },
    words: &["model", "messages", "mod\\u0065l", "input", "data"],
};

pub const TEMPLATE: Target = Target {
    name: "template",
    run: template,
    seeds: || {
        let templates = [
            "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n",
            "{{- range $i, $_ := .Messages }}{{ if eq .Role \"user\" }}[INST] {{ .Content }} [/INST]{{ else }}{{ .Content }}</s>{{ end }}{{ end }}",
            "<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>{{ with .Response }}{{ . }}{{ end }}",
        ];
        templates.map(|template| template.as_bytes().to_vec()).to_vec()
    },
    words: &[
        "{{",
        "}}",
        "{{-",
        "-}}",
        "range",
        "if",
        "else",
        "end",
        "with",
        ".Messages",
        ".System",
        ".Prompt",
        ".Content",
        "eq",
        "and",
        "or",
        "not",
        "len",
        "index",
        "slice",
        "printf",
        "\"%*d\"",
        "999999999",
        "define",
        "template",
        "block",
        "$x :=",
        "|",
        "break",
        "continue",
        "/*",
        "`",
    ],
};

/// An error of a request is the client's, told on one line.
fn refused(error: &ApiError) {
    assert!(error.status().is_client_error(), "{}: {error}", error.status());
    let line = error.line();
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "{error}");
    let told: Value = serde_json::from_slice(&line).expect("an error is JSON");
    assert!(told["error"].is_string(), "{told}");
}

/// What both kinds of requests for words have in common, or why not.
fn sampling(options: Option<&RawValue>) -> Result<Options, ApiError> {
    let options = Options::parse(options)?;
    for always in [false, true] {
        let limit = Limit { max_model_len: MAX_MODEL_LEN, answer: None, always };
        let sampling = options.sampling(&GenerationDefaults::default(), limit);
        let told = serde_json::to_value(&sampling).expect("sampling is JSON");
        let within = |name: &str, least: f64, most: f64| {
            let value = told.get(name).and_then(Value::as_f64);
            assert!(value.is_none_or(|value| (least..=most).contains(&value)), "{name}: {told}");
        };
        // Outside of these vLLM refuses a request (vllm-engine §3.2).
        within("temperature", 0.0, 2.0);
        within("top_p", f64::MIN_POSITIVE, 1.0);
        within("min_p", 0.0, 1.0);
        within("presence_penalty", -2.0, 2.0);
        within("frequency_penalty", -2.0, 2.0);
        within("max_tokens", 1.0, 2048.0);
        within("repetition_penalty", f64::MIN_POSITIVE, f64::MAX);
        assert!(!always || told["max_tokens"].is_u64(), "a limit must be named: {told}");
    }
    Ok(options)
}

fn common<'a>(
    options: &'a Options,
    stream: bool,
    response_format: Option<format::Format<'a>>,
    always: bool,
) -> Common<'a> {
    let limit = Limit { max_model_len: MAX_MODEL_LEN, answer: None, always };
    let sampling = options.sampling(&GenerationDefaults::default(), limit);
    Common { model: ENGINES_NAME, stream, sampling, response_format, return_token_ids: false, cut: None }
}

/// What the engine is sent is one JSON object that names the model as the engine does. `None` where it holds a number
/// beyond what this reader takes; Python's takes it.
fn readable(body: &Bytes) -> Option<Value> {
    match serde_json::from_slice::<Value>(body) {
        Ok(body) => {
            assert_eq!(body["model"], ENGINES_NAME);
            Some(body)
        }
        Err(error) => {
            assert!(error.to_string().contains("number out of range"), "the engine can read it: {error}");
            None
        }
    }
}

fn chat(data: &[u8]) {
    if let Err(error) = chat_request(data) {
        refused(&error);
    }
}

fn chat_request(data: &[u8]) -> Result<(), ApiError> {
    let text = json::text(data)?;
    let request: ChatRequest = json::decode(&text)?;
    request.keep_alive.map(keep_alive::parse).transpose()?;
    request.think.map(Think::parse).transpose()?;
    let options = sampling(request.options)?;
    let response_format = format::parse(request.format)?;
    let turns = turns(&request.messages, &Card::default())?;
    let stream = request.stream.unwrap_or(true);
    let ask = || {
        let common = common(&options, stream, response_format, false);
        request::chat(common, &turns, request.tools, Default::default(), None)
    };
    let body = ask();
    assert_eq!(body, ask(), "the same request is the same prompt, or no prefix is ever cached");
    let Some(told) = readable(&body) else { return Ok(()) };
    let messages = told["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), request.messages.len());
    for (message, asked) in messages.iter().zip(&request.messages) {
        assert!(message["role"].is_string() && !message["content"].is_null(), "{message}");
        let calls = message["tool_calls"].as_array().map_or(0, Vec::len);
        assert_eq!(calls, asked.tool_calls.len(), "{message}");
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let arguments = call["function"]["arguments"].as_str().expect("arguments are a string");
            let arguments: &RawValue = serde_json::from_str(arguments).expect("with JSON in it");
            assert!(arguments.get().starts_with('{'), "{arguments}");
            assert!(call["id"].as_str().is_some_and(|id| !id.is_empty()), "{call}");
        }
        let is_result = message["role"] == "tool";
        assert!(!is_result || message["tool_call_id"].as_str().is_some_and(|id| !id.is_empty()), "{message}");
    }
    Ok(())
}

fn generate(data: &[u8]) {
    if let Err(error) = generate_request(data) {
        refused(&error);
    }
}

fn generate_request(data: &[u8]) -> Result<(), ApiError> {
    let text = json::text(data)?;
    let request: GenerateRequest = json::decode(&text)?;
    request.keep_alive.map(keep_alive::parse).transpose()?;
    request.think.map(Think::parse).transpose()?;
    let options = sampling(request.options)?;
    let response_format = format::parse(request.format)?;
    let stream = request.stream.unwrap_or(true);
    let common = common(&options, stream, response_format, true);
    let prompt = match request.context.as_slice() {
        [] => Prompt::Text(&request.prompt),
        tokens => Prompt::Tokens(tokens),
    };
    let Some(told) = readable(&request::completion(common, prompt, Specials::default(), None)) else { return Ok(()) };
    if request.context.is_empty() {
        assert_eq!(told["prompt"], *request.prompt);
    }
    Ok(())
}

fn embed(data: &[u8]) {
    if let Err(error) = embed_request(data) {
        refused(&error);
    }
}

fn embed_request(data: &[u8]) -> Result<(), ApiError> {
    let text = json::text(data)?;
    let request: EmbedRequest = json::decode(&text)?;
    request.keep_alive.map(keep_alive::parse).transpose()?;
    let length = sampling(request.options)?.context_length();
    assert!(length.is_none_or(|length| length > 0));
    input::texts(request.input)?;
    Ok(())
}

fn create(data: &[u8]) {
    let read = || -> Result<(), ApiError> {
        let text = json::text(data)?;
        let request: CreateRequest = json::decode(&text)?;
        let order = Order::read(&request)?;
        let overlay = order.overlay(&Default::default());
        serde_json::to_vec(&overlay).expect("an overlay is JSON");
        Ok(())
    };
    if let Err(error) = read() {
        refused(&error);
    }
}

fn options(data: &[u8]) {
    let Ok(raw) = serde_json::from_slice::<&RawValue>(data) else { return };
    if let Err(error) = sampling(Some(raw)) {
        refused(&error);
    }
}

/// Only the name changes, whatever else the body holds.
fn model_of_a_body(data: &[u8]) {
    if let Some(place) = model_name::find_early(data, &[&["model"], &["response", "model"]]) {
        assert!(data[place.range.clone()].starts_with(b"\"") && data[place.range].ends_with(b"\""));
    }
    let body = Bytes::copy_from_slice(data);
    let request = match Request::of(body.clone()) {
        Ok(request) => request,
        Err(error) => return refused(&error),
    };
    let asked = request.asked().to_owned();
    let spliced = request.spliced(ENGINES_NAME);
    let again = Request::of(spliced.clone()).expect("still a request");
    assert_eq!(again.asked(), ENGINES_NAME);
    let back = again.spliced(&asked);
    assert_eq!(Request::of(back.clone()).expect("a request once more").asked(), asked);
    // The name may have been written with escapes; everything else is the same to the byte.
    let changed = body.len().abs_diff(back.len());
    assert!(changed <= 6 * asked.len(), "{changed}");
    if let (Ok(mut before), Ok(mut after)) =
        (serde_json::from_slice::<Value>(&body), serde_json::from_slice::<Value>(&spliced))
    {
        before["model"] = Value::Null;
        after["model"] = Value::Null;
        assert_eq!(before, after);
    }
}

/// A template of a stranger ends, and is not much longer than what it was given.
fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let values = go_template::Values {
        system: "s".into(),
        messages: vec![("user".into(), "hi".into()), ("assistant".into(), "x".into())],
        ..go_template::Values::default()
    };
    let begun = std::time::Instant::now();
    let rendered = go_template::render(text, &values);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    match rendered {
        Ok(prompt) => assert!(prompt.len() < 16 << 20, "{} bytes", prompt.len()),
        Err(reason) => assert!(!reason.is_empty()),
    }
}
