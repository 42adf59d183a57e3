//! `/v1/embeddings` of a pooling engine: the shapes and refusals of vLLM, and vectors made from the words of a text.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::openai::{Refusal, invalid};
use crate::vocabulary::Token;

/// Length of a vector; MiniLM's.
const LENGTH: usize = 384;

/// A text of more characters than this for each token of the context is too long without being counted, as in vLLM.
const CHARACTERS: usize = 18;

/// Answers a request as vLLM does.
pub fn answer(engine: &Arc<Engine>, body: &Value) -> Result<Value, Refusal> {
    let bad = |message: String| Refusal::new(400, "BadRequestError", message);
    if !body["normalize"].is_null() {
        let message = "Parameter `normalize` was removed; use `use_activation` instead. (parameter=normalize)";
        return Err(bad(message.into()).about("normalize"));
    }
    let base64 = match body["encoding_format"].as_str() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(invalid("body.encoding_format", "Input should be 'float' or 'base64'")),
    };
    let name = model(engine, body)?;
    if !body["dimensions"].is_null() {
        return Err(bad(format!(
            "Model '{name}' does not support Matryoshka embeddings; dimensions must be unset (received dimensions={}).",
            body["dimensions"]
        )));
    }
    let texts = inputs(engine, &body["input"])?;
    let texts = texts.into_iter().map(|text| cut(engine, text, &body["truncate_prompt_tokens"]));
    let texts: Vec<Vec<Token>> = texts.collect::<Result<_, _>>()?;
    let tokens: usize = texts.iter().map(Vec::len).sum();
    engine.prompt_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    let normal = body["use_activation"].as_bool().unwrap_or(true);
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, tokens)| {
            let vector = vector(tokens, normal);
            let embedding = if base64 { json!(encoded(&vector)) } else { json!(vector) };
            json!({"index": index, "object": "embedding", "embedding": embedding})
        })
        .collect();
    let id = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
    Ok(json!({
        "id": format!("embd-{id}"), "object": "list",
        "created": SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        "model": name, "data": data,
        "usage": {
            "prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": null,
            "completion_tokens_details": null,
        },
    }))
}

/// The tokens of a text between the marks of its beginning and its end.
pub fn marked(engine: &Engine, text: &str) -> Vec<Token> {
    let mark = |id, text: &str| Token { id, text: text.to_owned() };
    let mut tokens = vec![mark(101, "[CLS]")];
    tokens.extend(engine.vocabulary.tokens(text));
    tokens.push(mark(102, "[SEP]"));
    tokens
}

/// Unlike the other routes this one tells neither the parameter nor the names there are.
fn model(engine: &Engine, body: &Value) -> Result<String, Refusal> {
    let names = &engine.arguments.served_names;
    match body["model"].as_str() {
        None => Ok(names[0].clone()),
        Some(name) if engine.arguments.serves(name) => Ok(name.to_owned()),
        Some(name) => Err(Refusal::new(404, "NotFoundError", format!("The model `{name}` does not exist."))),
    }
}

/// The tokens of each input: a text, a list of texts, one list of ids, or lists of ids.
fn inputs(engine: &Engine, input: &Value) -> Result<Vec<Vec<Token>>, Refusal> {
    let wrong = || invalid("body.input", "Input should be a valid list");
    let ids = |list: &[Value]| {
        let token = |id: &Value| {
            let id = u32::try_from(id.as_u64()?).ok()?;
            Some(Token { id, text: engine.vocabulary.text(&[id]) })
        };
        list.iter().map(token).collect::<Option<Vec<_>>>()
    };
    match input {
        Value::String(text) => Ok(vec![marked(engine, text)]),
        Value::Array(list) if list.is_empty() => {
            Err(Refusal::new(400, "BadRequestError", "You must pass at least one prompt"))
        }
        Value::Array(list) if list[0].is_u64() => Ok(vec![ids(list).ok_or_else(wrong)?]),
        Value::Array(list) => list
            .iter()
            .map(|entry| match entry {
                Value::String(text) => Ok(marked(engine, text)),
                Value::Array(list) => ids(list).ok_or_else(wrong),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

/// A text cut as the request wants it: the end goes, the mark of the end stays.
fn cut(engine: &Engine, mut tokens: Vec<Token>, limit: &Value) -> Result<Vec<Token>, Refusal> {
    let bad = |message: &str| Refusal::new(400, "BadRequestError", message);
    let longest = usize::try_from(engine.max_model_len).unwrap_or(usize::MAX);
    let limit = match limit.as_i64() {
        None => {
            if tokens.len() > longest {
                return Err(too_long(longest, &tokens));
            }
            return Ok(tokens);
        }
        Some(0) => return Err(bad("The decoder prompt cannot be empty")),
        Some(-1) => longest,
        Some(limit) => usize::try_from(limit).map_err(|_| bad("truncate_prompt_tokens must be at least -1"))?,
    };
    if limit > longest {
        let message =
            "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller truncation size.";
        return Err(bad(message));
    }
    if tokens.len() > limit {
        let end = tokens.pop();
        tokens.truncate(limit - 1);
        tokens.extend(end);
    }
    Ok(tokens)
}

fn too_long(longest: usize, tokens: &[Token]) -> Refusal {
    let characters: usize = tokens.iter().map(|token| token.text.chars().count()).sum();
    let bound = longest * CHARACTERS;
    let (what, parameter, value) = if characters > bound {
        let what = format!(
            "{characters} characters (more than {bound} characters, which is the upper bound for {longest} input tokens)"
        );
        (what, "input_text", characters)
    } else {
        (format!("at least {} input tokens", longest + 1), "input_tokens", longest + 1)
    };
    let message = format!(
        "This model's maximum context length is {longest} tokens. However, your prompt contains {what}. Please reduce the \
         length of the input prompt. (parameter={parameter}, value={value})"
    );
    Refusal::new(400, "BadRequestError", message).about(parameter)
}

/// The sum of a direction for each token, later ones counting a little less: another order is another vector, but a
/// near one.
fn vector(tokens: &[Token], normal: bool) -> Vec<f32> {
    let mut sum = vec![0.0_f64; LENGTH];
    for (position, token) in tokens.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "positions are small")]
        let weight = 1.0 / (10.0 + position as f64);
        let mut state = token.text.trim().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
        });
        for number in &mut sum {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            #[expect(clippy::cast_precision_loss, reason = "noise")]
            let noise = (state >> 32) as f64 / f64::from(u32::MAX) - 0.5;
            *number += weight * noise;
        }
    }
    let length = if normal { sum.iter().map(|number| number * number).sum::<f64>().sqrt() } else { 0.25 };
    let broken = tokens.windows(3).any(|three| three.iter().map(|token| &*token.text).eq(["FAKE", ":", "nan"]));
    #[expect(clippy::cast_possible_truncation, reason = "vectors are of floats")]
    sum.into_iter().map(|number| if broken { f32::NAN } else { (number / length) as f32 }).collect()
}

fn encoded(vector: &[f32]) -> String {
    use base64::Engine as _;
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
