//! Prompts in all their forms (ollama-api §6.3, §6.6, §6.7, §6.9, §6.10): what is left of a long one, gaps, templates,
//! earlier exchanges, and the prompt itself for an answer.

use serde_json::{Value, json};

use crate::harness::vllama::{Builder, chat, generate};
use crate::harness::{Answer, Vllama};

/// The template the fake renders, as far as these tests look at it.
const DEFAULT_SYSTEM: &str =
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n";

const TOO_LONG: &str = "the prompt is longer than the context length currently available to the model; shorten the \
    prompt, adjust the context length in settings, or use a model with a longer context length";

/// A vllama whose engine writes down what it is asked.
fn observed() -> Builder {
    let builder = Vllama::with_fake();
    let requests = builder.path().join("requests");
    builder.env("FAKE_VLLM_REQUESTS", &requests.to_string_lossy())
}

/// How often the engine had to count.
fn counted(vllama: &Vllama) -> usize {
    let requests = std::fs::read_to_string(vllama.path("requests")).unwrap_or_default();
    requests.lines().filter(|line| line.contains(r#""path":"/tokenize""#)).count()
}

/// A system prompt, `exchanges` exchanges and a question.
fn history(exchanges: usize, num_ctx: Option<u64>) -> Value {
    let turn = |role: &str, number: usize| json!({"role": role, "content": format!("{role} number {number} says so")});
    let mut messages = vec![json!({"role": "system", "content": "Answer like a pirate."})];
    for number in 0..exchanges {
        messages.push(turn("user", number));
        messages.push(turn("assistant", number));
    }
    messages.push(json!({"role": "user", "content": "What is the capital of France?"}));
    let mut body = json!({"model": "smollm2:135m", "messages": messages, "stream": false, "options": {}});
    if let Some(num_ctx) = num_ctx {
        body["options"]["num_ctx"] = json!(num_ctx);
    }
    body
}

fn contents(request: &Value) -> Vec<String> {
    let messages = request["body"]["messages"].as_array().expect("messages");
    messages.iter().map(|message| message["content"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn a_long_history_loses_its_oldest_messages_and_keeps_its_system_prompt_and_its_question() {
    let vllama = observed().start().await;
    let answer = vllama.post("/api/chat", &history(30, Some(128))).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.json()["message"]["content"], "The capital of France is Paris.");
    let tokens = answer.json()["prompt_eval_count"].as_u64().expect("a count");
    let left = contents(&vllama.engine_request().await);
    assert_eq!(left[0], "Answer like a pirate.");
    assert_eq!(left[left.len() - 1], "What is the capital of France?");
    // Whole exchanges go, as many as must and no more: one more would have been 22 tokens.
    let kept = (left.len() - 2) / 2;
    assert!(kept > 0 && left[1] == format!("user number {} says so", 30 - kept), "{left:?}");
    assert!(tokens <= 128 && tokens + 22 > 128, "{tokens} tokens of {left:?}");
    assert!(counted(&vllama) <= 5, "{} questions to the engine", counted(&vllama));
}

#[tokio::test]
async fn nobody_counts_what_fits_at_a_glance_or_what_only_the_engine_limits() {
    let vllama = observed().start().await;
    for body in [history(2, None), history(2, Some(4096)), history(150, None)] {
        assert_eq!(vllama.post("/api/chat", &body).await.status(), 200);
    }
    assert_eq!(vllama.post("/api/generate", &generate("Hello", false)).await.status(), 200);
    assert_eq!(counted(&vllama), 0);
}

#[tokio::test]
async fn a_history_beyond_the_engine_is_shortened_and_leaves_room_for_an_answer() {
    let vllama = observed().env("FAKE_VLLM_MAX_MODEL_LEN", "256").start().await;
    for stream in [false, true] {
        let mut body = history(30, None);
        body["stream"] = json!(stream);
        let answer = vllama.post("/api/chat", &body).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let last = answer.lines().pop().expect("a line");
        let tokens = last["prompt_eval_count"].as_u64().expect("a count");
        assert!(tokens <= 192 && tokens > 160, "three quarters of the engine, not {tokens}");
        assert_eq!(last["done_reason"], "stop");
        assert_eq!(contents(&vllama.engine_request().await)[0], "Answer like a pirate.");
    }
    let mut body = history(30, None);
    body["options"]["num_predict"] = json!(10);
    let tokens = vllama.post("/api/chat", &body).await.json()["prompt_eval_count"].as_u64();
    assert!(tokens.is_some_and(|tokens| tokens > 192 && tokens <= 246), "{tokens:?}");
}

#[tokio::test]
async fn a_last_message_that_is_too_long_is_cut_at_its_beginning_unless_that_is_forbidden() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_MAX_MODEL_LEN", "256").start().await;
    let words: Vec<String> = (0..400).map(|number| format!("word{number}")).collect();
    for num_ctx in [None, Some(100)] {
        let mut body = history(3, num_ctx);
        body["messages"][7]["content"] = json!(words.join(" "));
        let answer = vllama.post("/api/chat", &body).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let expected = if num_ctx.is_some() { 100 } else { 192 };
        assert_eq!(answer.json()["prompt_eval_count"], expected);
        let sent = vllama.engine_request().await["body"].clone();
        assert_eq!((&sent["truncate_prompt_tokens"], &sent["truncation_side"]), (&json!(expected), &json!("left")));
        assert_eq!(sent["messages"].as_array().map(Vec::len), Some(2), "the system prompt and the last message");
        for forbidden in
            [json!({"shift": false}), json!({"truncate": false}), json!({"truncate": false, "shift": false})]
        {
            let mut strict = body.clone();
            strict.as_object_mut().expect("an object").extend(forbidden.as_object().expect("an object").clone());
            for stream in [false, true] {
                strict["stream"] = json!(stream);
                let answer = vllama.post("/api/chat", &strict).await;
                assert_eq!((answer.status(), answer.error().as_str()), (400, TOO_LONG), "{forbidden}");
            }
        }
    }
}

#[tokio::test]
async fn without_truncation_a_history_that_does_not_fit_is_refused() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = history(30, Some(128));
    body["truncate"] = json!(false);
    let answer = vllama.post("/api/chat", &body).await;
    assert_eq!((answer.status(), answer.error().as_str()), (400, TOO_LONG));
    // The bytes say it might be too long, the tokens say it is not.
    let mut body = history(1, Some(128));
    body["truncate"] = json!(false);
    assert_eq!(vllama.post("/api/chat", &body).await.status(), 200);
}

#[tokio::test]
async fn without_shift_prompt_and_answer_share_the_context() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = chat("FAKE:count 500", false);
    body["options"] = json!({"num_ctx": 64});
    body["shift"] = json!(false);
    let answer = vllama.post("/api/chat", &body).await.json();
    let count = |name: &str| answer[name].as_u64().expect("a count");
    assert_eq!(count("prompt_eval_count") + count("eval_count"), 64, "{answer}");
    assert_eq!(answer["done_reason"], "length");
    // Ollama would shift old tokens out and go on for ten contexts; the engine goes on with them.
    body["shift"] = json!(true);
    let answer = vllama.post("/api/chat", &body).await.json();
    assert_eq!((&answer["eval_count"], &answer["done_reason"]), (&json!(501), &json!("stop")));
    body["messages"][0]["content"] = json!("FAKE:count 2000");
    let answer = vllama.post("/api/chat", &body).await.json();
    assert_eq!((&answer["eval_count"], &answer["done_reason"]), (&json!(640), &json!("length")));
}

#[tokio::test]
async fn a_context_length_is_the_requests_the_models_or_the_servers_and_never_reloads() {
    let vllama = Vllama::with_fake().env("OLLAMA_CONTEXT_LENGTH", "128").start().await;
    let tokens = async |body: Value| {
        let answer = vllama.post("/api/chat", &body).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.json()["prompt_eval_count"].as_u64().expect("a count")
    };
    assert!(tokens(history(30, None)).await <= 128);
    let all = tokens(history(30, Some(8192))).await;
    assert!(all > 600, "{all}");
    assert_eq!(tokens(history(30, Some(1 << 40))).await, all, "more than the engine takes is what it takes");
    let made = json!({"model": "short", "from": "smollm2:135m", "parameters": {"num_ctx": 64}, "stream": false});
    assert_eq!(vllama.post("/api/create", &made).await.status(), 200);
    let mut body = history(30, None);
    body["model"] = json!("short");
    assert!(tokens(body).await <= 64);
    assert_eq!((vllama.starts(), &vllama.health().await["engine"]["generation"]), (1, &json!(1)));
}

#[tokio::test]
async fn the_engine_counts_what_images_take_and_they_leave_with_their_messages() {
    let vllama = Vllama::with_fake_thinker().start().await;
    // Each image takes 200 tokens of the fake engine. By Ollama's guess, 768, none of this fits into 750 tokens.
    let mut body = history(4, Some(750));
    body["model"] = json!("thinker:1b");
    for turn in [1, 3, 5, 7] {
        body["messages"][turn]["images"] = json!(["iVBORw0KGgo="]);
    }
    let sent = async |body: &Value| {
        let answer = vllama.post("/api/chat", body).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let request = vllama.engine_request().await["body"].clone();
        let messages = request["messages"].as_array().expect("messages").clone();
        let images = messages.iter().filter_map(|message| message["content"].as_array()).count();
        (messages.len(), images, request["truncate_prompt_tokens"].clone())
    };
    assert_eq!(sent(&body).await, (8, 3, Value::Null), "one exchange is gone, with its image");
    body["options"]["num_ctx"] = json!(4000);
    assert_eq!(sent(&body).await, (10, 4, Value::Null));
    // No part of an image means anything: what does not fit is refused.
    body["messages"][9]["images"] = json!(vec!["iVBORw0KGgo="; 4]);
    body["options"]["num_ctx"] = json!(750);
    assert_eq!(refused(&vllama.post("/api/chat", &body).await), (400, TOO_LONG.to_owned()));
}

#[tokio::test]
async fn images_beyond_the_engines_own_length_cost_the_oldest_messages() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let mut body = history(40, None);
    body["model"] = json!("thinker:1b");
    for turn in 0..40 {
        body["messages"][2 * turn + 1]["images"] = json!(["iVBORw0KGgo=", "iVBORw0KGgo="]);
    }
    for stream in [false, true] {
        body["stream"] = json!(stream);
        let answer = vllama.post("/api/chat", &body).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let left = vllama.engine_request().await["body"]["messages"].as_array().map(Vec::len);
        assert!(left.is_some_and(|turns| (10..60).contains(&turns)), "{left:?}");
    }
}

#[tokio::test]
async fn raw_prompts_and_earlier_exchanges_are_cut_too() {
    let vllama = Vllama::with_fake().start().await;
    let long = "word ".repeat(200) + "The capital of France is";
    let mut raw = generate(&long, false);
    raw["raw"] = json!(true);
    raw["options"] = json!({"num_ctx": 32});
    let answer = vllama.post("/api/generate", &raw).await;
    assert_eq!((answer.status(), &answer.json()["prompt_eval_count"]), (200, &json!(32)));
    raw["shift"] = json!(false);
    assert_eq!(refused(&vllama.post("/api/generate", &raw).await), (400, TOO_LONG.to_owned()));
    raw["prompt"] = json!("The capital of France is");
    let answer = vllama.post("/api/generate", &raw).await.json();
    assert_eq!(answer["prompt_eval_count"], 5, "{answer}");

    let mut again = generate("What is the capital of France?", false);
    again["context"] = json!(vec![1000; 400]);
    again["options"] = json!({"num_ctx": 64});
    let answer = vllama.post("/api/generate", &again).await.json();
    assert_eq!(answer["prompt_eval_count"], 64);
    assert_eq!(answer["response"], "The capital of France is Paris.", "the end is what stays");
    again["truncate"] = json!(false);
    assert_eq!(refused(&vllama.post("/api/generate", &again).await), (400, TOO_LONG.to_owned()));
}

fn refused(answer: &Answer) -> (u16, String) {
    (answer.status(), answer.error())
}

/// Lets the model's tokenizer have the marks of StarCoder.
fn filling() -> Builder {
    let builder = observed();
    let model = builder.path().join("models/registry.ollama.ai/library/smollm2/135m/added_tokens.json");
    let marks = json!({"<fim_prefix>": 3, "<fim_suffix>": 4, "<fim_middle>": 5, "<file_sep>": 6});
    std::fs::write(model, marks.to_string()).expect("a file of the model");
    builder
}

#[tokio::test]
async fn a_gap_is_filled_by_a_model_that_has_the_marks_for_it() {
    let vllama = filling().start().await;
    let shown = vllama.post("/api/show", &json!({"model": "smollm2:135m"})).await.json();
    assert_eq!(shown["capabilities"], json!(["completion", "insert"]));
    assert_eq!(vllama.get("/api/tags").await.json()["models"][0]["capabilities"], json!(["completion", "insert"]));
    let mut body = generate("def add(", false);
    body["suffix"] = json!("return c");
    body["system"] = json!("not used");
    body["options"] = json!({"stop": ["\n\n"]});
    let answer = vllama.post("/api/generate", &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(answer.json()["response"].is_string() && answer.json()["context"].is_array());
    let request = vllama.engine_request().await;
    assert_eq!(request["path"], "/v1/completions");
    let sent = &request["body"];
    assert_eq!(sent["prompt"], "<fim_prefix>def add(<fim_suffix>return c<fim_middle>");
    assert_eq!(
        sent["stop"],
        json!(["\n\n", "<|endoftext|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"])
    );
    assert_eq!(sent["skip_special_tokens"], false);
    // Without its beginning a gap is none.
    body["options"] = json!({"num_ctx": 16});
    assert_eq!(refused(&vllama.post("/api/generate", &body).await), (400, TOO_LONG.to_owned()));
    // Editors that know the marks themselves send both.
    body["raw"] = json!(true);
    body.as_object_mut().expect("an object").remove("system");
    body["options"] = json!({});
    assert_eq!(vllama.post("/api/generate", &body).await.status(), 200);
    assert_eq!(vllama.engine_request().await["body"]["prompt"], "def add(");
}

#[tokio::test]
async fn openais_completions_fill_gaps_the_same_way() {
    let vllama = filling().start().await;
    let mut body = json!({"model": "smollm2:135m", "prompt": "def add(", "suffix": "return c", "stop": "\n\n"});
    let answer = vllama.post("/v1/completions", &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let sent = vllama.engine_request().await["body"].clone();
    assert_eq!(sent["prompt"], "<fim_prefix>def add(<fim_suffix>return c<fim_middle>");
    assert_eq!((&sent["suffix"], &sent["skip_special_tokens"]), (&Value::Null, &json!(false)));
    let ends = json!(["\n\n", "<|endoftext|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"]);
    assert_eq!(sent["stop"], ends);
    for (member, wrong) in [("prompt", json!(["a", "b"])), ("suffix", json!(1)), ("stop", json!({}))] {
        let mut body = body.clone();
        body[member] = wrong;
        let answer = vllama.post("/v1/completions", &body).await;
        assert_eq!(answer.status(), 400, "{member}: {}", answer.text());
        assert!(answer.text().contains(&format!("`{member}` must be")), "{}", answer.text());
    }
    body["stop"] = Value::Null;
    vllama.post("/v1/completions", &body).await;
    assert_eq!(vllama.engine_request().await["body"]["stop"].as_array().map(Vec::len), Some(5));
}

#[tokio::test]
async fn a_model_without_marks_fills_no_gap() {
    let vllama = Vllama::with_fake().start().await;
    let openai = json!({"model": "smollm2:135m", "prompt": "def add(", "suffix": "return c"});
    let answer = vllama.post("/v1/completions", &openai).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json()["error"]["message"], "\"smollm2:135m\" does not support insert");
    let mut body = generate("def add(", true);
    body["suffix"] = json!("return c");
    let expected = (400, "registry.ollama.ai/library/smollm2:135m does not support insert".to_owned());
    assert_eq!(refused(&vllama.post("/api/generate", &body).await), expected);
    // The capability is looked at before the empty prompt is (§3.1).
    body["prompt"] = json!("");
    assert_eq!(refused(&vllama.post("/api/generate", &body).await), expected);
}

#[tokio::test]
async fn a_template_of_the_request_makes_the_prompt() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = generate("What is the capital of France?", false);
    body["system"] = json!("Be kind.");
    body["template"] = json!(
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n\
         <|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    );
    let answer = vllama.post("/api/generate", &body).await.json();
    assert_eq!(answer["response"], "The capital of France is Paris.");
    assert!(answer["context"].is_array(), "{answer}");
    let request = vllama.engine_request().await;
    let prompt = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n\
        <|im_start|>assistant\n";
    assert_eq!((&request["path"], &request["body"]["prompt"]), (&json!("/v1/completions"), &json!(prompt)));

    // Goes on after an earlier exchange, whose text comes first (§6.3).
    body["context"] = answer["context"].clone();
    body["template"] = json!("{{ range .Messages }}[{{ .Role }}] {{ .Content }} {{ end }}");
    assert_eq!(vllama.post("/api/generate", &body).await.status(), 200);
    let sent = vllama.engine_request().await["body"]["prompt"].as_str().expect("a text").to_owned();
    let (before, after) = sent.split_once("The capital of France is Paris.").expect("the earlier answer");
    assert_eq!(before, prompt);
    assert!(after.ends_with("[system] Be kind. [user] What is the capital of France? "), "{after}");
}

#[tokio::test]
async fn a_template_that_is_none_is_the_clients_fault() {
    let vllama = Vllama::with_fake().start().await;
    for (template, told) in
        [("{{ .Prompt", "unclosed"), ("{{ shout .Prompt }}", "shout"), ("{{ define \"x\" }}{{ end }}", "define")]
    {
        let mut body = generate("Hello", true);
        body["template"] = json!(template);
        let (status, error) = refused(&vllama.post("/api/generate", &body).await);
        assert!(status == 400 && error.starts_with("invalid template: ") && error.contains(told), "{status} {error}");
    }
    let mut body = generate("Hello", false);
    body["template"] = json!("{{ .Prompt }}");
    body["images"] = json!(["iVBORw0KGgo="]);
    let (status, error) = refused(&vllama.post("/api/generate", &body).await);
    assert!(status == 400 && error.contains("/api/chat"), "{error}");
}

#[tokio::test]
async fn the_prompt_itself_is_told_instead_of_an_answer() {
    let vllama = Vllama::with_fake_thinker().arguments(&["serve", "smollm2:135m", "--json"]).start().await;
    let rendered = format!("{DEFAULT_SYSTEM}<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
    for stream in [true, false] {
        let mut body = chat("Hello", stream);
        body["_debug_render_only"] = json!(true);
        let answer = vllama.post("/api/chat", &body).await;
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
        let answer = answer.json();
        assert_eq!(answer["message"], json!({"role": "", "content": ""}));
        assert_eq!((&answer["model"], &answer["done"]), (&json!("smollm2:135m"), &json!(false)));
        assert_eq!(answer["_debug_info"], json!({"rendered_template": rendered, "image_count": 0}));
        assert!(
            answer["created_at"].is_string() && answer.get("response").is_none() && answer.get("done_reason").is_none()
        );
    }
    let render = async |mut body: Value| {
        body["_debug_render_only"] = json!(true);
        let answer = vllama.post("/api/generate", &body).await.json();
        assert_eq!(answer["response"], "", "{answer}");
        answer["_debug_info"].clone()
    };
    let told = |text: &str| json!({"rendered_template": text, "image_count": 0});
    assert_eq!(render(generate("Hello", true)).await, told(&rendered));
    let mut raw = generate("Just this", false);
    raw["raw"] = json!(true);
    assert_eq!(render(raw).await, told("Just this"));
    let mut templated = generate("Hello", false);
    templated["template"] = json!("> {{ .Prompt }}\n{{ .Response }}");
    assert_eq!(render(templated).await, told("> Hello\n"));

    // What is told is what would be sent: without what does not fit.
    let mut long = history(30, Some(128));
    long["_debug_render_only"] = json!(true);
    let answer = vllama.post("/api/chat", &long).await.json();
    let text = answer["_debug_info"]["rendered_template"].as_str().expect("a text").to_owned();
    assert!(text.starts_with("<|im_start|>system\nAnswer like a pirate.<|im_end|>\n<|im_start|>user\n"), "{text}");
    assert!(text.ends_with("What is the capital of France?<|im_end|>\n<|im_start|>assistant\n"), "{text}");
    assert!(!text.contains("number 3 says"), "{text}");
}

#[tokio::test]
async fn the_images_of_a_prompt_are_counted() {
    let vllama = Vllama::with_fake_thinker().start().await;
    let mut body = generate("What is this?", false);
    body["model"] = json!("thinker:1b");
    body["images"] = json!(["iVBORw0KGgo=", "iVBORw0KGgo="]);
    body["_debug_render_only"] = json!(true);
    let answer = vllama.post("/api/generate", &body).await.json();
    assert_eq!(answer["_debug_info"]["image_count"], 2, "{answer}");
    // What the model does not read it does not read here either.
    let vllama = Vllama::with_fake().start().await;
    body["model"] = json!("smollm2:135m");
    let (status, error) = refused(&vllama.post("/api/generate", &body).await);
    assert!(status == 400 && error.contains("does not support images"), "{status} {error}");
}

#[tokio::test]
async fn an_earlier_exchange_is_gone_on_with_and_a_system_prompt_with_it() {
    let vllama = Vllama::with_fake().start().await;
    let mut first = generate("What is the capital of France?", true);
    first["system"] = json!("Be kind.");
    let context = vllama.post("/api/generate", &first).await.lines().pop().expect("a line")["context"].clone();
    let mut second = generate("And its river?", false);
    second["context"] = context.clone();
    second["system"] = json!("Be brief.");
    let mut told = second.clone();
    told["_debug_render_only"] = json!(true);
    let told = vllama.post("/api/generate", &told).await.json();
    let told = told["_debug_info"]["rendered_template"].as_str().expect("a text").to_owned();
    let earlier = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n\
        <|im_start|>assistant\nThe capital of France is Paris.<|im_end|>";
    let now =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAnd its river?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(told, format!("{earlier}{now}"));
    let answer = vllama.post("/api/generate", &second).await.json();
    let tokens = answer["context"].as_array().expect("a context");
    assert_eq!(&tokens[..context.as_array().expect("a context").len()], context.as_array().expect("a context"));
    // Tokens that nobody has are the client's fault, whatever they are.
    for broken in [json!([4_000_000_000_u32]), json!([-1]), json!(["x"])] {
        second["context"] = broken;
        let (status, _) = refused(&vllama.post("/api/generate", &second).await);
        assert_eq!(status, 400);
    }
    second["context"] = context;
    second["images"] = json!(["iVBORw0KGgo="]);
    let (status, error) = refused(&vllama.post("/api/generate", &second).await);
    assert!(status == 400 && error.contains("/api/chat"), "{error}");
}

#[tokio::test]
async fn every_form_of_a_load_loads_and_every_form_of_an_unload_unloads() {
    let vllama = Vllama::with_fake().start().await;
    let model = |more: Value| {
        let mut body = json!({"model": "smollm2:135m"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    for (path, more) in [
        ("/api/generate", json!({})),
        ("/api/generate", json!({"prompt": "", "stream": true})),
        ("/api/generate", json!({"system": "s"})),
        ("/api/generate", json!({"images": ["iVBORw0KGgo="]})),
        ("/api/generate", json!({"template": "{{ .Prompt }}"})),
        ("/api/generate", json!({"raw": true})),
        ("/api/generate", json!({"context": [1, 2], "keep_alive": "5m"})),
        ("/api/generate", json!({"think": false, "keep_alive": -1})),
        // The format is looked at where there is something to answer.
        ("/api/generate", json!({"format": "nonsense", "keep_alive": 3.5})),
        ("/api/chat", json!({"messages": null, "keep_alive": "1h30m"})),
        ("/api/chat", json!({"messages": [], "stream": true, "keep_alive": null})),
    ] {
        let answer = vllama.post(path, &model(more.clone())).await;
        assert_eq!((answer.status(), &answer.json()["done_reason"]), (200, &json!("load")), "{more}");
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"), "{more}");
    }
    // `ollama run` learns from a load whether the model thinks.
    for path in ["/api/generate", "/api/chat"] {
        for (think, told) in [(json!(true), "does not support thinking"), (json!("x"), "invalid think value")] {
            let (status, error) = refused(&vllama.post(path, &model(json!({"think": think}))).await);
            assert!(status == 400 && error.contains(told), "{path}: {status} {error}");
        }
    }
    for (path, keep_alive) in [
        ("/api/generate", json!(0)),
        ("/api/generate", json!("0")),
        ("/api/chat", json!("0s")),
        ("/api/chat", json!(0.0)),
    ] {
        let answer = vllama.post(path, &model(json!({"keep_alive": keep_alive}))).await.json();
        assert_eq!(answer["done_reason"], "unload", "{keep_alive}");
    }
}

#[tokio::test]
async fn of_several_mistakes_the_first_in_ollamas_order_is_told() {
    let vllama = Vllama::with_fake().start().await;
    let mut body = json!({
        "model": "nope", "prompt": "x", "top_logprobs": 21, "raw": true, "system": "s", "think": true, "suffix": "z",
        "options": {"temperature": "hot"}, "format": "nonsense", "images": ["x"],
    });
    let model = "smollm2:135m";
    for (fixed, value, status, told) in [
        ("", json!(null), 400, "top_logprobs must be between 0 and 20"),
        ("top_logprobs", json!(0), 404, "model 'nope' not found"),
        ("model", json!(model), 400, "raw mode does not support template, system, or context"),
        ("system", json!(""), 400, "\"smollm2:135m\" does not support thinking"),
        ("think", json!(false), 400, "registry.ollama.ai/library/smollm2:135m does not support insert"),
        ("suffix", json!(""), 400, "option \"temperature\" must be of type float32"),
        (
            "options",
            json!(null),
            400,
            "invalid format: \"\\\"nonsense\\\"\"; expected \"json\" or a valid JSON Schema object",
        ),
    ] {
        body[fixed] = value;
        assert_eq!(refused(&vllama.post("/api/generate", &body).await), (status, told.to_owned()));
    }
    body["format"] = json!("");
    let (status, error) = refused(&vllama.post("/api/generate", &body).await);
    assert!(status == 400 && error.contains("raw"), "{error}");
    // An unload comes before all that is asked of the model.
    let unload = json!({"model": model, "keep_alive": 0, "raw": true, "system": "s", "think": true, "suffix": "z"});
    assert_eq!(vllama.post("/api/generate", &unload).await.json()["done_reason"], "unload");
}
