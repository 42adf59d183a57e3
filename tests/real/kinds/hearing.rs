//! Sound: a model of Whisper's kind, which writes down the same words whatever it hears: other ones where it tells their
//! times.

use std::process::Command;

use serde_json::{Value, json};

use super::{asked, capabilities, import};
use crate::harness::{Answer, Request, Vllama};
use crate::{Ground, Runner};

const HEARER: &str = "hearer";

pub(super) fn run(runner: &mut Runner, ground: &Ground, vllama: &Vllama) {
    let decoders = "import av, scipy, soundfile, soxr";
    let python = Command::new(ground.venv.join("bin/python")).args(["-c", decoders]).output().expect("Python");
    if !python.status.success() {
        println!("skipped: sound, since the engine's environment lacks its decoders; `engine/setup` installs them");
        return;
    }
    runner.test("a model that writes down what it hears is imported", async { import(ground, "hearer", HEARER) });
    runner.test("a sound is written down, whole and as a stream", written(vllama));
    runner.test("sounds of other rates, channels and lengths are written down", others(vllama));
    runner.test("a sound that cannot be read is a 400 that says so", broken(vllama));
    runner.test("a model that writes down does not chat", silent(vllama));
}

/// A tone as a WAV file.
fn wav(seconds: u32, rate: u32, channels: u16) -> Vec<u8> {
    let frames = seconds * rate;
    let bytes = frames * u32::from(channels) * 2;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + bytes).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0");
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend((rate * u32::from(channels) * 2).to_le_bytes());
    file.extend((channels * 2).to_le_bytes());
    file.extend(b"\x10\0data");
    file.extend(bytes.to_le_bytes());
    for frame in 0..frames {
        let sample: i16 = if (frame / 20) % 2 == 0 { 6000 } else { -6000 };
        (0..channels).for_each(|_| file.extend(sample.to_le_bytes()));
    }
    file
}

async fn transcribe(vllama: &Vllama, fields: &[(&str, &str)], sound: Option<&[u8]>) -> Answer {
    let mut body = Vec::new();
    for (name, value) in [("model", HEARER)].iter().chain(fields) {
        body.extend(format!("--bound\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
    }
    if let Some(sound) = sound {
        body.extend(b"--bound\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n");
        body.extend(sound);
        body.extend(b"\r\n");
    }
    body.extend(b"--bound--\r\n");
    let request = Request::new("POST", "/v1/audio/transcriptions");
    asked(vllama, &request.header("Content-Type", "multipart/form-data; boundary=bound").body(body)).await
}

async fn written(vllama: &Vllama) {
    let sound = wav(1, 16_000, 1);
    let told = |answer: Answer| {
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer
    };
    let json = told(transcribe(vllama, &[], Some(&sound)).await).json();
    assert_eq!(json["text"].as_str().map(str::trim), Some("the sky is blue"), "{json}");
    let language = [("language", "en"), ("temperature", "0")];
    assert_eq!(told(transcribe(vllama, &language, Some(&sound)).await).json()["text"], json["text"]);
    let text = told(transcribe(vllama, &[("response_format", "text")], Some(&sound)).await);
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(text.text().trim(), "the sky is blue");
    let verbose = told(transcribe(vllama, &[("response_format", "verbose_json")], Some(&sound)).await).json();
    let segment = &verbose["segments"][0];
    assert_eq!((&segment["start"], &segment["end"]), (&json!(0.0), &json!(1.0)), "{verbose}");
    assert_eq!(segment["text"].as_str().map(str::trim), Some("The Sea"));
    let stream = told(transcribe(vllama, &[("stream", "true")], Some(&sound)).await);
    let events = super::events(&stream);
    let words: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(words.trim(), "the sky is blue", "{events:?}");
    let model = |event: &Value| event.get("model").is_none_or(|model| model == HEARER);
    assert!(events.iter().all(model), "{events:?}");
}

async fn others(vllama: &Vllama) {
    for (seconds, rate, channels) in [(2, 8_000, 2), (1, 44_100, 1)] {
        let answer = transcribe(vllama, &[], Some(&wav(seconds, rate, channels))).await;
        assert_eq!(answer.json()["text"].as_str().map(str::trim), Some("the sky is blue"), "{}", answer.text());
    }
    // Longer than the 30 seconds that the model hears at once.
    let long = transcribe(vllama, &[], Some(&wav(45, 8_000, 1))).await.json();
    assert_eq!(long["text"].as_str().map(|text| text.matches("the sky is blue").count()), Some(2), "{long}");
}

async fn broken(vllama: &Vllama) {
    let sound = wav(1, 16_000, 1);
    for (fields, sound, words) in [
        (&[][..], Some(&b"no sound at all"[..]), "audio"),
        (&[], Some(&b""[..]), "audio"),
        (&[], None, "`file`"),
        (&[("language", "xx")], Some(&sound), "Unsupported language"),
        (&[("response_format", "srt")], Some(&sound), "response_format"),
        (&[("temperature", "warm")], Some(&sound), "temperature"),
    ] {
        let answer = transcribe(vllama, fields, sound).await;
        assert_eq!(answer.status(), 400, "{words}: {}", answer.text());
        let message = answer.json()["error"]["message"].as_str().expect("a text").to_owned();
        assert!(message.contains(words) && !message.contains("Traceback"), "{message}");
        // Whoever asks next is not the one to suffer for it.
        assert_eq!(transcribe(vllama, &[], Some(&wav(1, 16_000, 1))).await.status(), 200);
    }
}

async fn silent(vllama: &Vllama) {
    assert_eq!(capabilities(vllama, HEARER).await, json!(["audio"]));
    let messages = json!([{"role": "user", "content": "hi"}]);
    for (path, body, words) in [
        ("/api/chat", json!({"model": HEARER, "messages": messages}), "does not support chat"),
        ("/api/generate", json!({"model": HEARER, "prompt": "hi"}), "does not support generate"),
        ("/api/embed", json!({"model": HEARER, "input": "hi"}), "does not support embeddings"),
        ("/v1/chat/completions", json!({"model": HEARER, "messages": messages}), "does not support chat"),
        ("/v1/completions", json!({"model": HEARER, "prompt": "hi"}), "does not support generate"),
        ("/v1/messages", json!({"model": HEARER, "messages": messages, "max_tokens": 9}), "does not support chat"),
    ] {
        let answer = vllama.post(path, &body).await;
        assert_eq!(answer.status(), 400, "{path}: {}", answer.text());
        assert!(answer.text().contains(words), "{path}: {}", answer.text());
    }
}
