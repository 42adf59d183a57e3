//! Tests of the way back, with recorded streams of a real engine where there is one.

use serde_json::Value;

use super::*;
use crate::api::ollama::sse::Events;

fn translator(shape: Shape, logprobs: Logprobs, context: bool) -> Translator {
    let asked = Asked { shape, model: "smollm2:135m", logprobs, context };
    let arrived = Instant::now();
    let clock = Clock { arrived, leased: arrived + Duration::from_nanos(7), first: None };
    Translator::new(&asked, clock, Arc::new(Facts::default()))
}

/// Lines of a stream of events, with times that differ from run to run set to fixed ones.
fn lines(mut translator: Translator, events: &[&str]) -> Result<Vec<String>, ApiError> {
    let mut out = BytesMut::new();
    for event in events {
        translator.event(event.as_bytes(), &mut out)?;
    }
    Ok(fixed(&out))
}

fn fixed(out: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(out).expect("lines are UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| {
            let mut object: Value = serde_json::from_str(line).expect("a line is JSON");
            let object = object.as_object_mut().expect("a line is an object");
            assert!(object["created_at"].as_str().is_some_and(|time| time.len() == 27 && time.ends_with('Z')));
            object.shift_remove("created_at");
            assert_eq!(object.shift_remove("model"), Some("smollm2:135m".into()));
            for duration in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
                if let Some(value) = object.shift_remove(duration) {
                    assert!(value.as_u64().is_some_and(|value| value > 0), "{duration}");
                }
            }
            serde_json::to_string(object).expect("an object is JSON")
        })
        .collect()
}

const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":37,"completion_tokens":8},"metrics":{"time_to_first_token_ms":188.5,"generation_time_ms":441.25}}"#;

#[test]
fn a_chat_streams_text_and_ends_with_its_counters() {
    let events = [
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"The \"<é>\"\n"},"finish_reason":null,"token_ids":null}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"end"},"finish_reason":"length","stop_reason":null}]}"#,
        USAGE,
        "[DONE]",
    ];
    let expected = [
        r#"{"message":{"role":"assistant","content":"The \"<é>\"\n"},"done":false}"#,
        r#"{"message":{"role":"assistant","content":"end"},"done":false}"#,
        r#"{"message":{"role":"assistant","content":""},"done":true,"done_reason":"length","prompt_eval_count":37,"eval_count":8}"#,
    ];
    assert_eq!(lines(translator(Shape::Chat, None, false), &events).expect("lines"), expected);
}

#[test]
fn durations_are_the_engines_own_where_it_tells_them() {
    let mut translator = translator(Shape::Generate, None, false);
    let mut out = BytesMut::new();
    for event in [r#"{"choices":[{"text":"x","finish_reason":"stop"}]}"#, USAGE, "[DONE]"] {
        translator.event(event.as_bytes(), &mut out).expect("a good event");
    }
    let text = String::from_utf8(out.to_vec()).expect("lines are UTF-8");
    let last: Value = serde_json::from_str(text.lines().last().expect("a last line")).expect("JSON");
    assert_eq!(last["prompt_eval_duration"], 188_500_000);
    assert_eq!(last["eval_duration"], 441_250_000);
    assert_eq!(last["load_duration"], 7);
}

#[test]
fn thoughts_come_in_their_own_field_without_the_space_around_their_tags() {
    let events = [
        r#"{"choices":[{"delta":{"reasoning":"\nLet "}}]}"#,
        r#"{"choices":[{"delta":{"reasoning":"me\n"}}]}"#,
        r#"{"choices":[{"delta":{"content":"\n\n"}}]}"#,
        r#"{"choices":[{"delta":{"content":" Hi\n"}}]}"#,
        r#"{"choices":[{"delta":{"content":" there"},"finish_reason":"stop"}]}"#,
        "[DONE]",
    ];
    let expected = [
        r#"{"message":{"role":"assistant","content":"","thinking":"Let "},"done":false}"#,
        r#"{"message":{"role":"assistant","content":"","thinking":"me\n"},"done":false}"#,
        r#"{"message":{"role":"assistant","content":"Hi\n"},"done":false}"#,
        r#"{"message":{"role":"assistant","content":" there"},"done":false}"#,
        r#"{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}"#,
    ];
    assert_eq!(lines(translator(Shape::Chat, None, false), &events).expect("lines"), expected);
}

#[test]
fn leading_space_of_a_plain_answer_stays() {
    let events = [r#"{"choices":[{"text":" Paris","finish_reason":"stop"}]}"#, "[DONE]"];
    let lines = lines(translator(Shape::Generate, None, false), &events).expect("lines");
    assert_eq!(lines[0], r#"{"response":" Paris","done":false}"#);
}

#[test]
fn calls_arrive_whole_and_once_before_the_last_line() {
    let events = [
        r#"{"choices":[{"delta":{"content":null,"tool_calls":[{"id":"call_k3x9a0bq","type":"function","index":0,"function":{"name":"f"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":": 1}"}}]}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        "[DONE]",
    ];
    let expected = [
        r#"{"message":{"role":"assistant","content":"","tool_calls":[{"id":"call_k3x9a0bq","function":{"index":0,"name":"f","arguments":{"a":1}}}]},"done":false}"#,
        r#"{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}"#,
    ];
    assert_eq!(lines(translator(Shape::Chat, None, false), &events).expect("lines"), expected);
}

#[test]
fn chunks_with_logprobs_and_no_text_are_not_dropped() {
    let events = [
        r#"{"choices":[{"delta":{"content":""},"logprobs":{"content":[{"token":"�","logprob":-1.5,"top_logprobs":[]}]}}]}"#,
        r#"{"choices":[{"delta":{"content":""},"logprobs":{"content":[]},"finish_reason":"stop"}]}"#,
        "[DONE]",
    ];
    let asked = lines(translator(Shape::Chat, Some(0), false), &events).expect("lines");
    assert_eq!(
        asked[0],
        r#"{"message":{"role":"assistant","content":""},"done":false,"logprobs":[{"token":"�","logprob":-1.5,"bytes":[239,191,189]}]}"#
    );
    assert_eq!(asked.len(), 2);
    assert_eq!(lines(translator(Shape::Chat, None, false), &events).expect("lines").len(), 1);
}

#[test]
fn context_is_the_prompt_and_the_answer_in_tokens() {
    let chat = [
        r#"{"choices":[{"delta":{"content":""}}],"prompt_token_ids":[1,2]}"#,
        r#"{"choices":[{"delta":{"content":"a"},"token_ids":[3]}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"stop","token_ids":[4,5]}]}"#,
        "[DONE]",
    ];
    let completion = [
        r#"{"choices":[{"text":"a","prompt_token_ids":[1,2],"token_ids":[3]}]}"#,
        r#"{"choices":[{"text":"","finish_reason":"stop","token_ids":[4,5]}]}"#,
        "[DONE]",
    ];
    for events in [chat.as_slice(), &completion] {
        let kept = lines(translator(Shape::Generate, None, true), events).expect("lines");
        let last = r#"{"response":"","done":true,"done_reason":"stop","context":[1,2,3,4,5]}"#;
        assert_eq!(kept.last().map(String::as_str), Some(last));
        let dropped = lines(translator(Shape::Generate, None, false), events).expect("lines");
        assert!(!dropped.concat().contains("context"));
    }
}

#[test]
fn what_goes_wrong_in_a_stream_is_told() {
    let failed = |text: &str| Err(ApiError::Failed(text.to_owned()));
    for (event, error) in [
        (r#"{"choices":[{"delta":{},"finish_reason":"abort"}]}"#, failed("the engine aborted the request")),
        (r#"{"choices":[{"delta":{},"finish_reason":"error"}]}"#, failed("the engine failed while it answered")),
        (r#"{"error":{"message":"boom","type":"InternalServerError","code":500}}"#, failed("boom")),
        (r#"{"error":"boom"}"#, failed("boom")),
        (r#"{"error":{"message":"EngineCore died","code":"500"}}"#, Err(ApiError::Gone)),
        ("[DONE]", Err(ApiError::Gone)),
        ("nonsense", failed("the engine sent an event that vllama does not understand")),
    ] {
        assert_eq!(lines(translator(Shape::Chat, None, false), &[event]), error, "{event}");
    }
}

#[test]
fn nothing_is_begun_before_the_engine_shows_work() {
    let mut translator = translator(Shape::Chat, None, false);
    let mut out = BytesMut::new();
    for (event, progress) in [
        (r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#, Progress::Waiting),
        (r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"f"}}]}}]}"#, Progress::Begun),
        (r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, Progress::Begun),
        ("[DONE]", Progress::Done),
    ] {
        assert_eq!(translator.event(event.as_bytes(), &mut out), Ok(progress), "{event}");
    }
}

#[test]
fn a_whole_answer_is_one_object() {
    let answer = r#"{"id":"chatcmpl-1","choices":[{"index":0,"message":{"role":"assistant","content":"\n\nParis","reasoning":"\nhm","tool_calls":[{"id":"call_x","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}}]},"logprobs":null,"finish_reason":"tool_calls","token_ids":[3]}],"usage":{"prompt_tokens":2,"completion_tokens":1},"prompt_token_ids":[1,2],"metrics":{"time_to_first_token_ms":2.0,"generation_time_ms":0.0}}"#;
    let mut out = BytesMut::new();
    translator(Shape::Chat, None, false).whole(answer.as_bytes(), &mut out).expect("an answer");
    let expected = r#"{"message":{"role":"assistant","content":"Paris","thinking":"hm","tool_calls":[{"id":"call_x","function":{"index":0,"name":"f","arguments":{"a":1}}}]},"done":true,"done_reason":"stop","prompt_eval_count":2,"eval_count":1}"#;
    assert_eq!(fixed(&out), [expected]);
}

#[test]
fn durations_of_a_whole_answer_are_guessed_where_the_engine_tells_none() {
    let asked = Asked { shape: Shape::Chat, model: "m", logprobs: None, context: false };
    let leased = Instant::now().checked_sub(Duration::from_secs(8)).expect("the machine has run that long");
    let clock = Clock { arrived: leased, leased, first: None };
    let mut translator = Translator::new(&asked, clock, Arc::new(Facts::default()));
    let answer = r#"{"choices":[{"message":{"content":"a b c d"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
    let mut out = BytesMut::new();
    translator.whole(answer.as_bytes(), &mut out).expect("an answer");
    let answer: Value = serde_json::from_slice(&out).expect("JSON");
    // Four steps of two seconds: one for the prompt and the first token, three for the others.
    let seconds = |name: &str| answer[name].as_u64().map(|nanoseconds| nanoseconds / 1_000_000_000);
    assert_eq!((seconds("prompt_eval_duration"), seconds("eval_duration")), (Some(2), Some(6)), "{answer}");
}

#[test]
fn load_and_unload_are_told_without_counters() {
    for (shape, reason, fields) in [
        (Shape::Generate, "load", r#"{"response":"","done":true,"done_reason":"load"}"#),
        (Shape::Chat, "unload", r#"{"message":{"role":"assistant","content":""},"done":true,"done_reason":"unload"}"#),
    ] {
        let mut body = loaded(shape, "smollm2:135m", reason);
        assert!(!body.contains(&b'\n'));
        body.push(b'\n');
        assert_eq!(fixed(&body), [fields]);
    }
}

/// The body of an answer recorded from a real engine.
macro_rules! recorded {
    ($name:literal) => {
        recorded_body(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/vllm/", $name, ".response.txt")))
    };
}

fn recorded_body(answer: &'static str) -> &'static [u8] {
    let (_head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    body.as_bytes()
}

/// Puts a recorded stream, cut into pieces, through the reader and the translator.
fn replay(shape: Shape, logprobs: Logprobs, context: bool, pieces: &[&[u8]]) -> Vec<String> {
    let mut translator = translator(shape, logprobs, context);
    let (mut events, mut out) = (Events::default(), BytesMut::new());
    let mut progress = Progress::Waiting;
    for piece in pieces {
        events.read(piece, |data| {
            progress = translator.event(data, &mut out).expect("a good event");
            true
        });
    }
    assert_eq!(progress, Progress::Done);
    fixed(&out)
}

#[test]
fn a_recorded_chat_is_told_in_ollamas_words() {
    let lines = replay(Shape::Chat, None, false, &[recorded!("chat-stream")]);
    let mut expected: Vec<String> = ["The", " capital", " of", " France", " is", " Paris", "."]
        .iter()
        .map(|token| format!(r#"{{"message":{{"role":"assistant","content":"{token}"}},"done":false}}"#))
        .collect();
    expected.push(
        r#"{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":37,"eval_count":8}"#
            .to_owned(),
    );
    assert_eq!(lines, expected);
}

#[test]
fn a_recorded_stream_and_the_whole_answer_hold_the_same_context() {
    let lines = replay(Shape::Generate, None, true, &[recorded!("chat-stream-token-ids")]);
    let streamed: Value = serde_json::from_str(lines.last().expect("a last line")).expect("JSON");
    let mut out = BytesMut::new();
    translator(Shape::Generate, None, true).whole(recorded!("chat-token-ids"), &mut out).expect("an answer");
    let whole: Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(whole["response"], "The capital of France is Paris.");
    assert_eq!(whole["context"], streamed["context"]);
    assert_eq!(whole["context"].as_array().map(Vec::len), Some(37 + 8));
}

#[test]
fn recorded_calls_arrive_whole_both_ways() {
    let lines = replay(Shape::Chat, None, false, &[recorded!("tools-required-stream")]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let streamed: Value = serde_json::from_str(&lines[0]).expect("JSON");
    let mut out = BytesMut::new();
    translator(Shape::Chat, None, false).whole(recorded!("tools-required"), &mut out).expect("an answer");
    let whole: Value = serde_json::from_slice(&out).expect("JSON");
    for answer in [streamed, whole] {
        let call = &answer["message"]["tool_calls"][0];
        assert_eq!(call["function"]["name"], "get_weather");
        // This small model wrote a string; clients need an object.
        assert_eq!(call["function"]["arguments"], serde_json::json!({"arguments": "Paris"}));
        assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")));
    }
}

#[test]
fn recorded_refusals_are_told_in_ollamas_words() {
    let refused = |body: &[u8]| ApiError::from_engine(StatusCode::BAD_REQUEST, body);
    assert_eq!(refused(recorded!("error-prompt-too-long")), ApiError::TooLong);
    assert_eq!(refused(recorded!("error-completion-too-long")), ApiError::TooLong);
    let schema = ApiError::Refused("Grammar error: Invalid type: nonsense".to_owned());
    assert_eq!(refused(recorded!("chat-json-bad-schema")), schema);
}
