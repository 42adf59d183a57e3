//! Vectors: Ollama's two routes and OpenAI's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Answer, Request, Vllama, embedder, within};

const SKY: &str = "why is the sky blue?";
const GRASS: &str = "why is the grass green?";

fn ask(input: &Value) -> Value {
    json!({"model": embedder::NAME, "input": input})
}

async fn embed(vllama: &Vllama, input: &Value, more: &Value) -> Answer {
    let mut body = ask(input);
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    vllama.post("/api/embed", &body).await
}

fn numbers(vector: &Value) -> Vec<f64> {
    vector.as_array().expect("a vector").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn norm(vector: &Value) -> f64 {
    numbers(vector).iter().map(|number| number * number).sum::<f64>().sqrt()
}

fn assert_near(one: &Value, other: &Value) {
    let (one, other) = (numbers(one), numbers(other));
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(&other) {
        assert!((one - other).abs() < 1e-6, "{one} {other}");
    }
}

#[tokio::test]
async fn a_text_becomes_one_normalised_vector_with_its_figures() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let answer = embed(&vllama, &json!(SKY), &json!({})).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert!(!answer.text().contains('\n'));
    let body = answer.json();
    let members: Vec<&String> = body.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]);
    assert_eq!((&body["model"], &body["prompt_eval_count"]), (&json!("all-minilm"), &json!(8)));
    assert_eq!(body["embeddings"].as_array().map(Vec::len), Some(1));
    assert_eq!(numbers(&body["embeddings"][0]).len(), 384);
    assert!((norm(&body["embeddings"][0]) - 1.0).abs() < 1e-6);
    let (total, load) = (body["total_duration"].as_u64(), body["load_duration"].as_u64());
    assert!(load > Some(0) && total > load, "{total:?} {load:?}");
    vllama.stop().await;
}

#[tokio::test]
async fn a_list_of_texts_becomes_vectors_in_its_order() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let both = embed(&vllama, &json!([SKY, "", GRASS]), &json!({})).await.json();
    assert_eq!(both["embeddings"].as_array().map(Vec::len), Some(3));
    // An empty text in a list has the two marks.
    assert_eq!(both["prompt_eval_count"], 18);
    for (place, text) in [(0, SKY), (2, GRASS)] {
        let alone = embed(&vllama, &json!(text), &json!({})).await.json();
        assert_eq!(both["embeddings"][place], alone["embeddings"][0], "{text}");
    }
    assert_ne!(both["embeddings"][0], both["embeddings"][2]);
}

#[tokio::test]
async fn a_thousand_texts_are_one_answer_in_their_order() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let texts: Vec<String> = (0..1000).map(|number| format!("text number {number}")).collect();
    let all = embed(&vllama, &json!(texts), &json!({})).await.json();
    assert_eq!(all["embeddings"].as_array().map(Vec::len), Some(1000));
    for place in [0, 499, 999] {
        let alone = embed(&vllama, &json!(texts[place]), &json!({})).await.json();
        assert_eq!(all["embeddings"][place], alone["embeddings"][0]);
    }
}

#[tokio::test]
async fn vectors_are_the_engines_own_to_the_last_bit() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let raw = json!({"model": "all-minilm:latest", "input": SKY, "use_activation": false});
    let raw = vllama.engine().post("/v1/embeddings", &raw).await.json()["data"][0]["embedding"].clone();
    let legacy = vllama.post("/api/embeddings", &json!({"model": "all-minilm", "prompt": SKY})).await.json();
    assert_eq!(legacy["embedding"], raw);
}

#[tokio::test]
async fn without_a_text_the_model_is_loaded_and_there_are_no_vectors() {
    let vllama = Vllama::with_fake_embedder().start().await;
    for body in [
        json!({"model": "all-minilm"}),
        json!({"model": "all-minilm", "input": null}),
        json!({"model": "all-minilm", "input": ""}),
        json!({"model": "all-minilm", "input": []}),
    ] {
        let answer = vllama.post("/api/embed", &body).await;
        assert_eq!((answer.status(), answer.json()), (200, json!({"model": "all-minilm", "embeddings": []})), "{body}");
    }
    for body in [json!({"model": "all-minilm"}), json!({"model": "all-minilm", "prompt": ""})] {
        let answer = vllama.post("/api/embeddings", &body).await;
        assert_eq!((answer.status(), answer.json()), (200, json!({"embedding": []})), "{body}");
    }
}

#[tokio::test]
async fn inputs_of_the_wrong_kind_are_refused() {
    let vllama = Vllama::with_fake_embedder().start().await;
    for input in
        [json!(5), json!(true), json!({"a": 1}), json!([1, 2]), json!(["a", 1]), json!([["a"]]), json!(["a", null])]
    {
        let answer = embed(&vllama, &input, &json!({})).await;
        assert_eq!((answer.status(), answer.error().as_str()), (400, "invalid input type"), "{input}");
    }
    let answer = vllama.client.request(&Request::new("POST", "/api/embed")).await;
    assert_eq!((answer.status(), answer.error().as_str()), (400, "missing request body"));
    let answer = embed(&vllama, &json!(SKY), &json!({"keep_alive": "soon"})).await;
    assert_eq!((answer.status(), answer.error().as_str()), (400, "time: invalid duration \"soon\""));
    let answer = embed(&vllama, &json!(SKY), &json!({"options": {"num_ctx": "many"}})).await;
    assert_eq!((answer.status(), answer.error().as_str()), (400, "option \"num_ctx\" must be of type integer"));
}

#[tokio::test]
async fn a_model_that_is_not_there_is_told_in_the_words_of_the_route() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let missing = "model \"nope\" not found, try pulling it first";
    for (path, body, status, text) in [
        ("/api/embed", json!({"model": "nope", "input": "x"}), 404, missing),
        ("/api/embeddings", json!({"model": "nope", "prompt": "x"}), 404, missing),
        ("/api/embed", json!({"model": "", "input": "x"}), 404, "model '' not found"),
        ("/api/embeddings", json!({"prompt": "x"}), 400, "model is required"),
        ("/api/embed", json!({"model": "a b", "input": "x"}), 400, "invalid model name"),
    ] {
        let answer = vllama.post(path, &body).await;
        assert_eq!((answer.status(), answer.error().as_str()), (status, text), "{path} {body}");
    }
}

#[tokio::test]
async fn a_text_that_is_too_long_loses_its_end() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let long = "word ".repeat(2000);
    let cut = embed(&vllama, &json!(long), &json!({})).await.json();
    assert_eq!(cut["prompt_eval_count"], 256);
    let legacy = vllama.post("/api/embeddings", &json!({"model": "all-minilm", "prompt": long})).await;
    assert_eq!(legacy.status(), 200);
    // num_ctx counts where it is less than the model's context.
    let short = embed(&vllama, &json!(SKY), &json!({"options": {"num_ctx": 5}})).await.json();
    assert_eq!(short["prompt_eval_count"], 5);
    let beginning = embed(&vllama, &json!("why is the"), &json!({})).await.json();
    assert_eq!(short["embeddings"], beginning["embeddings"]);
    for num_ctx in [256, 257, 100_000, 0, -1] {
        let whole = embed(&vllama, &json!(SKY), &json!({"options": {"num_ctx": num_ctx}})).await.json();
        assert_eq!(whole["prompt_eval_count"], 8, "{num_ctx}");
    }
}

#[tokio::test]
async fn a_text_that_is_too_long_is_refused_when_it_may_not_be_cut() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let text = "the input length exceeds the context length";
    // The engine knows a very long text from its characters, and a shorter one from its tokens.
    for input in [json!("word ".repeat(2000)), json!("word ".repeat(260)), json!([SKY, "word ".repeat(260)])] {
        let answer = embed(&vllama, &input, &json!({"truncate": false})).await;
        assert_eq!((answer.status(), answer.error().as_str()), (400, text));
    }
    let fits = embed(&vllama, &json!(SKY), &json!({"truncate": false})).await;
    assert_eq!(fits.json()["prompt_eval_count"], 8);
    // And with a limit of the request's own, for each text by itself.
    let limit = |num_ctx: u64| json!({"truncate": false, "options": {"num_ctx": num_ctx}});
    assert_eq!(embed(&vllama, &json!([SKY, GRASS]), &limit(8)).await.status(), 200);
    for input in [json!(SKY), json!(["hi", SKY])] {
        let answer = embed(&vllama, &input, &limit(7)).await;
        assert_eq!((answer.status(), answer.error().as_str()), (400, text));
    }
}

#[tokio::test]
async fn a_limit_that_leaves_nothing_of_a_text_is_an_error() {
    let vllama = Vllama::with_fake_embedder().start().await;
    for num_ctx in [1, 2] {
        let answer = embed(&vllama, &json!(SKY), &json!({"options": {"num_ctx": num_ctx}})).await;
        let text = "input after truncation exceeds maximum context length";
        assert_eq!((answer.status(), answer.error().as_str()), (400, text), "{num_ctx}");
    }
    let answer = embed(&vllama, &json!(SKY), &json!({"options": {"num_ctx": 3}})).await.json();
    assert_eq!(answer["prompt_eval_count"], 3);
}

#[tokio::test]
async fn fewer_dimensions_are_the_first_ones_normalised_again() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let full = embed(&vllama, &json!(SKY), &json!({})).await.json()["embeddings"][0].clone();
    let cut = embed(&vllama, &json!(SKY), &json!({"dimensions": 16})).await.json()["embeddings"][0].clone();
    assert_eq!(numbers(&cut).len(), 16);
    assert!((norm(&cut) - 1.0).abs() < 1e-6);
    let first: Vec<f64> = numbers(&full)[..16].to_vec();
    let length = first.iter().map(|number| number * number).sum::<f64>().sqrt();
    assert_near(&cut, &json!(first.iter().map(|number| number / length).collect::<Vec<_>>()));
    for dimensions in [0, 384, 1000, -5] {
        let same = embed(&vllama, &json!(SKY), &json!({"dimensions": dimensions})).await.json();
        assert_eq!(same["embeddings"][0], full, "{dimensions}");
    }
}

#[tokio::test]
async fn a_vector_of_what_is_no_number_is_an_error() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let answer = embed(&vllama, &json!(["fine", "FAKE:nan"]), &json!({})).await;
    assert_eq!((answer.status(), answer.error().as_str()), (400, "embedding contains NaN or Inf values"));
}

#[tokio::test]
async fn a_chat_model_has_no_vectors_and_an_embedding_model_no_chat() {
    let vllama = Vllama::with_fake().start().await;
    let why = "\"smollm2:135m\" does not support embeddings: its engine makes text; use an embedding model such as all-minilm";
    for (path, member) in [("/api/embed", "input"), ("/api/embeddings", "prompt")] {
        let answer = vllama.post(path, &json!({"model": "smollm2:135m", member: SKY})).await;
        assert_eq!((answer.status(), answer.error().as_str()), (400, why), "{path}");
    }
    let answer = vllama.post("/v1/embeddings", &json!({"model": "smollm2:135m", "input": SKY})).await;
    assert_eq!((answer.status(), &answer.json()["error"]["message"]), (400, &json!(why)));
    // It can be loaded by these routes all the same, as in Ollama.
    assert_eq!(vllama.post("/api/embed", &json!({"model": "smollm2:135m"})).await.status(), 200);
    drop(vllama);
    let vllama = Vllama::with_fake_embedder().start().await;
    let chat = json!({"model": "all-minilm", "messages": [{"role": "user", "content": "hi"}]});
    let answer = vllama.post("/api/chat", &chat).await;
    assert_eq!((answer.status(), answer.error().as_str()), (400, "\"all-minilm\" does not support chat"));
}

#[tokio::test]
async fn keep_alive_of_an_embedding_sticks_to_the_model() {
    let vllama = Vllama::with_fake_embedder().start().await;
    assert_eq!(embed(&vllama, &json!(SKY), &json!({"keep_alive": 0})).await.status(), 200);
    vllama.engine_state("stopped").await;
    assert_eq!(embed(&vllama, &json!(SKY), &json!({"keep_alive": -1})).await.status(), 200);
    assert_eq!(vllama.health().await["engine"]["generation"], 2);
}

#[tokio::test]
async fn what_the_engine_says_against_a_text_is_told() {
    let vllama = Vllama::with_fake_embedder().start().await;
    for (fault, status, text) in [
        ("http400", 400, "the fake refuses this request"),
        ("http500", 500, "an error was encountered while running the model: the fake failed"),
        ("http503", 503, "server busy, please try again.  maximum pending requests exceeded"),
        ("not-json", 500, "an error was encountered while running the model: the engine's answer is unreadable"),
    ] {
        let fault = format!("FAKE:{fault}");
        let answers = [
            embed(&vllama, &json!(fault), &json!({})).await,
            vllama.post("/api/embeddings", &json!({"model": "all-minilm", "prompt": fault})).await,
        ];
        for answer in answers {
            assert_eq!(answer.status(), status, "{fault} {}", answer.text());
            assert!(answer.error().starts_with(text), "{fault} {}", answer.error());
        }
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_the_work_on_its_vectors() {
    let vllama = Vllama::with_fake_embedder().env("FAKE_VLLM_FIRST_TOKEN_MS", "20000").start().await;
    for (path, body) in [
        ("/api/embed", ask(&json!(SKY))),
        ("/api/embeddings", json!({"model": "all-minilm", "prompt": SKY})),
        ("/v1/embeddings", ask(&json!(SKY))),
    ] {
        let exchange = vllama.client.send(&Request::post(path, &body)).await.expect("a request on its way");
        vllama.engine_runs(1).await;
        drop(exchange);
        within(Duration::from_secs(5), "the engine is free", async || {
            (vllama.engine_running().await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn openai_bodies_pass_through_with_nothing_but_the_model_changed() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let body = r#"{ "input" : ["a", "b"], "model":"ALL-MiniLM" ,"user":"me","brand_new":{"model":1.50} }"#;
    let request = Request::new("POST", "/v1/embeddings").header("Content-Type", "application/json").body(body);
    let answer = vllama.client.request(&request).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let answer = answer.json();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("ALL-MiniLM")));
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(2));
    assert_eq!((&answer["data"][1]["index"], &answer["usage"]["prompt_tokens"]), (&json!(1), &json!(6)));
    let sent = vllama.engine_request().await["body"].clone();
    let expected: Value = serde_json::from_str(&body.replace("ALL-MiniLM", "all-minilm:latest")).expect("JSON");
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn openai_takes_tokens_and_base64_as_the_engine_does() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let mut body = ask(&json!([[101, 102], [101, 102]]));
    body["encoding_format"] = json!("base64");
    let answer = vllama.post("/v1/embeddings", &body).await.json();
    assert_eq!(answer["data"][1]["embedding"].as_str().map(str::len), Some(384 * 4 / 3 * 4));
    assert_eq!(answer["model"], "all-minilm");
}

#[tokio::test]
async fn openai_errors_have_openais_shape() {
    let vllama = Vllama::with_fake_embedder().start().await;
    let (invalid, missing) = ("invalid_request_error", "not_found_error");
    for (body, status, kind, param, text) in [
        ("", 400, invalid, Value::Null, "EOF"),
        ("{", 400, invalid, Value::Null, "no request"),
        (r#"{"input":"x"}"#, 400, invalid, Value::Null, "model is required"),
        (r#"{"model":5,"input":"x"}"#, 400, invalid, Value::Null, "model: expected a string"),
        (
            r#"{"model":"nope","input":"x"}"#,
            404,
            missing,
            Value::Null,
            "model \"nope\" not found, try pulling it first",
        ),
        (r#"{"model":"all-minilm","input":[]}"#, 400, invalid, Value::Null, "You must pass at least one prompt"),
        (r#"{"model":"all-minilm","input":7}"#, 400, invalid, json!("body.input"), "valid list"),
        (r#"{"model":"all-minilm","input":"x","dimensions":4}"#, 400, invalid, Value::Null, "Matryoshka"),
    ] {
        let answer = vllama.client.request(&Request::new("POST", "/v1/embeddings").body(body)).await;
        let error = answer.json()["error"].clone();
        assert_eq!(
            (answer.status(), &error["type"], &error["param"]),
            (status, &json!(kind), &param),
            "{body} {error}"
        );
        assert!(error["message"].as_str().is_some_and(|message| message.contains(text)), "{body} {error}");
    }
    let long = ask(&json!("word ".repeat(2000)));
    let answer = vllama.post("/v1/embeddings", &long).await;
    assert_eq!((answer.status(), &answer.json()["error"]["param"]), (400, &json!("input_text")));
    for (fault, status) in [("http400", 400), ("http500", 500), ("http503", 503)] {
        let answer = vllama.post("/v1/embeddings", &ask(&json!(format!("FAKE:{fault}")))).await;
        assert_eq!(answer.status(), status, "{}", answer.text());
        assert!(answer.json()["error"]["message"].is_string(), "{}", answer.text());
    }
    // What the server itself refuses speaks the dialect too.
    let large = Request::new("POST", "/v1/embeddings").header("Content-Length", "99999999999");
    let answer = vllama.client.request(&large).await;
    assert_eq!((answer.status(), &answer.json()["error"]["type"]), (413, &json!(invalid)));
}
