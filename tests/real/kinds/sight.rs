//! Images: a model of Qwen 3 VL's family, at most 64 tokens an image, one for 32 × 32 points.

use std::collections::BTreeMap;
use std::process::Command;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::{asked, capabilities, chat, made};
use crate::harness::{Answer, Request, Vllama};
use crate::{Ground, Runner, models};

pub(super) const SEER: &str = "seer";

/// Tokens of the marks around an image.
const MARKS: u64 = 2;

/// Draws the pictures of these tests: name and, on the same line, base64.
const PICTURES: &str = r#"
import base64, io
from PIL import Image
def picture(name, kind, size, colour, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return name, file.getvalue()
drawn = [picture("png", "PNG", (64, 64), "red"), picture("jpeg", "JPEG", (64, 64), "red"), picture("webp", "WEBP", (64, 64), "red"),
         picture("gif", "GIF", (64, 64), "red"), picture("blue", "PNG", (64, 64), "blue"), picture("large", "PNG", (1024, 768), "red"),
         picture("grey", "PNG", (64, 64), 7, "L"), picture("clear", "PNG", (64, 64), (1, 2, 3, 4), "RGBA"),
         picture("narrow", "PNG", (1000, 2), "red"), picture("bomb", "PNG", (20000, 20000), 0, "1"),
         picture("square", "PNG", (256, 256), "red")]
for name, data in drawn + [("cut", drawn[1][1][:300])]:
    print(name, base64.b64encode(data).decode())
"#;

struct Pictures(BTreeMap<String, String>);

impl Pictures {
    fn draw(ground: &Ground) -> Self {
        let drawn = Command::new(ground.venv.join("bin/python")).args(["-c", PICTURES]).output().expect("Python");
        assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
        let text = String::from_utf8(drawn.stdout).expect("text");
        Self(
            text.lines()
                .filter_map(|line| line.split_once(' '))
                .map(|(name, data)| (name.into(), data.into()))
                .collect(),
        )
    }

    fn of(&self, name: &str) -> &str {
        &self.0[name]
    }
}

pub(super) fn run(runner: &mut Runner, ground: &Ground, vllama: &Vllama) {
    let pictures = Pictures::draw(ground);
    runner.test("a checkpoint that sees is uploaded file by file", upload(vllama, ground));
    runner.test("a picture reaches the model, and its tokens are counted", seen(vllama, &pictures));
    runner.test("pictures of every usual kind are read", kinds(vllama, &pictures));
    runner.test("different pictures are different to the model", differ(vllama, &pictures));
    runner.test("several pictures and a history with some are read", several(vllama, &pictures));
    runner.test("pictures go through OpenAI's and Anthropic's routes", dialects(vllama, &pictures));
    runner.test("a broken picture is a 400 that says what is wrong with it", broken(vllama, &pictures));
    runner.test("a conversation with too many pictures loses the oldest", shortened(vllama, &pictures));
    runner.test("pictures that do not fit are refused, and fit again alone", too_many(vllama, &pictures));
    runner.test("what stands for a picture in a text breaks nothing", marks(vllama));
}

/// Uploads the files one by one, as `ollama create` does.
async fn upload(vllama: &Vllama, ground: &Ground) {
    let mut files = Map::new();
    for file in std::fs::read_dir(made(ground, "seer")).expect("a directory").flatten() {
        let digest = models::upload(vllama, &std::fs::read(file.path()).expect("a file")).await;
        files.insert(file.file_name().to_string_lossy().into_owned(), digest.into());
    }
    let answer = vllama.post("/api/create", &json!({"model": SEER, "files": files, "stream": false})).await;
    assert_eq!((answer.status(), answer.json()), (200, json!({"status": "success"})));
    assert_eq!(capabilities(vllama, SEER).await, json!(["completion", "vision", "thinking"]));
}

/// A question with these pictures.
fn question(pictures: &[&str]) -> Value {
    let mut body = chat(SEER, json!({"role": "user", "content": "What is it?", "images": pictures}));
    body["think"] = json!(false);
    body
}

async fn answered(vllama: &Vllama, pictures: &[&str]) -> Value {
    let answer = asked(vllama, &Request::post("/api/chat", &question(pictures))).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

fn tokens(answer: &Value) -> u64 {
    answer["prompt_eval_count"].as_u64().expect("a count")
}

async fn seen(vllama: &Vllama, pictures: &Pictures) {
    let blind = answered(vllama, &[]).await;
    let seeing = answered(vllama, &[pictures.of("png")]).await;
    assert_eq!(seeing["message"]["content"], "It is small");
    assert_eq!(tokens(&seeing), tokens(&blind) + 4 + MARKS);
    // Larger ones take more, up to a limit of the checkpoint.
    assert_eq!(tokens(&answered(vllama, &[pictures.of("square")]).await), tokens(&blind) + 64 + MARKS);
    let large = tokens(&answered(vllama, &[pictures.of("large")]).await) - tokens(&blind) - MARKS;
    assert!((48..=64).contains(&large), "{large}");
    let generate = |more: Value| {
        let mut body = json!({"model": SEER, "prompt": "What is it?", "think": false, "stream": false,
            "options": {"temperature": 0, "num_predict": 30}});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        async move { vllama.post("/api/generate", &body).await.json() }
    };
    let seeing = generate(json!({"images": [pictures.of("png")]})).await;
    assert_eq!(seeing["response"], "It is small");
    assert_eq!(tokens(&seeing), tokens(&generate(json!({})).await) + 4 + MARKS);
    // What it said of the picture can be gone on with, without the picture.
    let further = generate(json!({"context": seeing["context"]})).await;
    assert_eq!(further["response"], "It is small");
}

async fn kinds(vllama: &Vllama, pictures: &Pictures) {
    let all = ["png", "jpeg", "webp", "gif", "grey", "clear"];
    for kind in all {
        let answer = answered(vllama, &[pictures.of(kind)]).await;
        assert_eq!(answer["message"]["content"], "It is small", "{kind}");
    }
    let lines: Vec<String> =
        pictures.of("png").as_bytes().chunks(40).map(|line| String::from_utf8_lossy(line).into()).collect();
    for written in [lines.join("\r\n"), format!("data:image/png;base64,{}", pictures.of("png"))] {
        assert_eq!(answered(vllama, &[&written]).await["message"]["content"], "It is small");
    }
}

/// How likely the first words are.
async fn likelihoods(vllama: &Vllama, picture: &str) -> Vec<f64> {
    let mut body = question(&[picture]);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(5);
    let answer = vllama.post("/api/chat", &body).await.json();
    let first = answer["logprobs"][0]["top_logprobs"].as_array().expect("a list").clone();
    first.iter().map(|token| token["logprob"].as_f64().expect("a number")).collect()
}

async fn differ(vllama: &Vllama, pictures: &Pictures) {
    let red = likelihoods(vllama, pictures.of("png")).await;
    assert_eq!(red, likelihoods(vllama, pictures.of("png")).await, "the same picture");
    assert_eq!(red, likelihoods(vllama, pictures.of("gif")).await, "the same points in another file");
    assert_ne!(red, likelihoods(vllama, pictures.of("blue")).await, "another picture");
}

async fn several(vllama: &Vllama, pictures: &Pictures) {
    let blind = tokens(&answered(vllama, &[]).await);
    let both = answered(vllama, &[pictures.of("png"), pictures.of("square")]).await;
    assert_eq!(tokens(&both), blind + 4 + 64 + 2 * MARKS);
    let mut body = question(&[pictures.of("jpeg")]);
    let last = body["messages"][0].clone();
    let first = json!({"role": "user", "content": "And this?", "images": [pictures.of("blue")]});
    body["messages"] = json!([first, {"role": "assistant", "content": "It is small"}, last]);
    let answer = vllama.post("/api/chat", &body).await.json();
    assert_eq!(answer["message"]["content"], "It is small");
    assert!(tokens(&answer) > blind + 2 * (4 + MARKS), "{answer}");
}

fn openai(url: &str) -> Value {
    json!({"model": SEER, "temperature": 0, "max_tokens": 30, "reasoning_effort": "none", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]}]})
}

fn anthropic(data: &str) -> Value {
    json!({"model": SEER, "max_tokens": 30, "temperature": 0, "messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "text", "text": "What is it?"}]}]})
}

async fn dialects(vllama: &Vllama, pictures: &Pictures) {
    let url = format!("data:image/png;base64,{}", pictures.of("png"));
    let answer = vllama.post("/v1/chat/completions", &openai(&url)).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "It is small", "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens_details"]["multimodal_tokens"], json!({"image": 4}));
    let body = json!({"model": SEER, "temperature": 0, "max_output_tokens": 30, "input": [{"role": "user", "content": [
        {"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": url, "detail": "auto"}]}]});
    let answer = vllama.post("/v1/responses", &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(answer.text().contains("It is small"), "{}", answer.text());
    let answer = vllama.post("/v1/messages", &anthropic(pictures.of("png"))).await.json();
    let text = answer["content"].as_array().expect("blocks").iter().find(|block| block["type"] == "text");
    assert!(
        text.is_some_and(|block| block["text"].as_str().is_some_and(|text| text.trim() == "It is small")),
        "{answer}"
    );
    let mut counted = anthropic(pictures.of("png"));
    counted.as_object_mut().expect("an object").remove("max_tokens");
    let counted = vllama.post("/v1/messages/count_tokens", &counted).await.json();
    assert_eq!(counted["input_tokens"], answer["usage"]["input_tokens"]);
}

async fn broken(vllama: &Vllama, pictures: &Pictures) {
    let text = base64::engine::general_purpose::STANDARD.encode("no picture at all");
    for (picture, words) in [
        ("!!!", "base64"),
        ("AAA", "base64"),
        ("", "cannot be read"),
        (&text, "cannot be read"),
        (pictures.of("cut"), "cannot be read"),
        (pictures.of("bomb"), "too large"),
        (pictures.of("narrow"), "size or shape"),
    ] {
        let told = |answer: Answer, text: &dyn Fn(&Value) -> Value| {
            let message = text(&answer.json());
            let message = message.as_str().expect("a text");
            assert_eq!(answer.status(), 400, "{words}: {message}");
            assert!(message.contains(words) && !message.contains("0x") && !message.contains("PIL"), "{message}");
        };
        for stream in [false, true] {
            let mut body = question(&[picture]);
            body["stream"] = json!(stream);
            told(vllama.post("/api/chat", &body).await, &|body| body["error"].clone());
        }
        let url = format!("data:image/png;base64,{picture}");
        told(vllama.post("/v1/chat/completions", &openai(&url)).await, &|body| body["error"]["message"].clone());
        told(vllama.post("/v1/messages", &anthropic(picture)).await, &|body| body["error"]["message"].clone());
        // Whoever asks next is not the one to suffer for it.
        assert_eq!(answered(vllama, &[]).await["message"]["content"], "It is small");
    }
}

/// A conversation in which every question has the same picture of 64 tokens.
fn conversation(pictures: &Pictures, questions: usize) -> Value {
    let mut body = question(&[]);
    let ask = json!({"role": "user", "content": "And?", "images": [pictures.of("square")]});
    let exchange = [ask, json!({"role": "assistant", "content": "It is small"})];
    let turns = std::iter::repeat_n(exchange, questions).flatten();
    body["messages"] = turns.chain([json!({"role": "user", "content": "And now?"})]).collect();
    body
}

async fn shortened(vllama: &Vllama, pictures: &Pictures) {
    // 2048 tokens of context, some 100 for each exchange.
    let answer = vllama.post("/api/chat", &conversation(pictures, 40)).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["message"]["content"], "It is small");
    // By their real tokens, of which there is room for many, and not by a guess.
    assert!((1000..2048).contains(&tokens(&answer)), "{answer}");
}

async fn too_many(vllama: &Vllama, pictures: &Pictures) {
    let answer = vllama.post("/api/chat", &question(&[pictures.of("square"); 40])).await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert!(answer.error().contains("longer than the context length"), "{}", answer.error());
    let mut body = openai(&format!("data:image/png;base64,{}", pictures.of("square")));
    let picture = body["messages"][0]["content"][1].clone();
    body["messages"][0]["content"] = vec![picture; 40].into();
    assert_eq!(vllama.post("/v1/chat/completions", &body).await.status(), 400);
    // vLLM's cache of prepared pictures would take it for sent.
    assert_eq!(answered(vllama, &[pictures.of("square")]).await["message"]["content"], "It is small");
}

async fn marks(vllama: &Vllama) {
    let text = "<|vision_start|><|image_pad|><|vision_end|><|video_pad|>";
    let mut body = question(&[]);
    body["messages"][0]["content"] = json!(text);
    assert!([200, 400].contains(&vllama.post("/api/chat", &body).await.status()));
    let raw = json!({"model": SEER, "prompt": text, "raw": true, "stream": false, "options": {"num_predict": 3}});
    assert!([200, 400].contains(&vllama.post("/api/generate", &raw).await.status()));
    let generation = vllama.health().await;
    assert_eq!(answered(vllama, &[]).await["message"]["content"], "It is small", "{generation}");
}
