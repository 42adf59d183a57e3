//! Many models: which of them runs when, and who waits for what.
//!
//! With the fake engine an engine is charged for its weights as the manifest claims them, 1 GiB of cache, and 3 GiB beside
//! them until it has been measured. Two models of 10 GiB do not fit into 20 GiB, but into 30 GiB.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::vllama::Builder;
use crate::harness::{Answer, Client, Request, Vllama, eventually};
use crate::models::safetensors;

const GIB: u64 = 1 << 30;

/// A vllama with the models `a`, `b` … of these sizes in GiB and nothing loaded, which swaps without much ado.
fn with_models(sizes: &[u64], budget: &str) -> Builder {
    let builder = Vllama::with_fake()
        .arguments(&["serve", "--json"])
        .without_model("smollm2", "135m")
        .env("VLLAMA_CPU_CACHE", "1")
        .env("VLLAMA_MEMORY_BUDGET", budget)
        .env("VLLAMA_MIN_RESIDENCE", "0");
    ["a", "b", "c", "d"]
        .into_iter()
        .zip(sizes)
        .fold(builder, |builder, (name, size)| builder.with_sized_model(name, "latest", size * GIB))
}

fn asks(model: &str, message: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": message}], "stream": false})
}

async fn counts(client: &Client, model: &str) {
    let answer = client.post("/api/chat", &asks(model, "FAKE:count 3")).await;
    assert_eq!(answer.status(), 200, "{model}: {}", answer.text());
    assert_eq!(answer.json()["message"]["content"], "1 2 3", "{model}");
}

/// The names in `/api/ps`.
async fn loaded(vllama: &Vllama) -> BTreeSet<String> {
    let body = vllama.get("/api/ps").await.json();
    let models = body["models"].as_array().expect("a list of models");
    models.iter().map(|model| model["name"].as_str().expect("a name").trim_end_matches(":latest").to_owned()).collect()
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// The models that the process table has engines for.
fn engines(vllama: &Vllama) -> BTreeSet<String> {
    let served = |pid: i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split('\0');
        words.find(|word| *word == "--served-model-name")?;
        words.next().map(|name| name.trim_end_matches(":latest").to_owned())
    };
    vllama.processes().iter().filter_map(|process| served(process.pid)).collect()
}

/// What `/vllama/queue` says of a model.
async fn queue(vllama: &Vllama, model: &str) -> Option<Value> {
    let body = vllama.get("/vllama/queue").await.json();
    let models = body["models"].as_array().expect("a list of models").clone();
    models.into_iter().find(|entry| entry["model"] == format!("{model}:latest"))
}

/// Waits until so many requests wait for a model.
async fn waiting(vllama: &Vllama, model: &str, number: usize) -> Value {
    eventually(&format!("{number} requests wait for {model}"), async || {
        queue(vllama, model).await.filter(|entry| entry["waiting"] == number)
    })
    .await
}

/// Waits until so many engines have been measured, and what they needed has been written down.
async fn measured(vllama: &Vllama, number: usize) -> Vec<Value> {
    let file = vllama.path("state").join("measured.json");
    eventually(&format!("{number} engines have been measured"), async || {
        let figures: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
        let figures: Vec<_> = figures.as_object()?.values().cloned().collect();
        let complete = figures.iter().filter(|figure| figure["bytes"].as_u64() > Some(0)).count();
        (complete == number).then_some(figures)
    })
    .await
}

async fn answer(mut exchange: crate::harness::client::Exchange) -> Answer {
    exchange.answer().await.expect("an answer")
}

#[tokio::test]
async fn any_installed_model_is_loaded_by_its_first_request_and_stays() {
    let vllama = with_models(&[10, 10], "30GiB").start_listening().await;
    assert_eq!(loaded(&vllama).await, names(&[]));
    for model in ["a", "b", "a", "b"] {
        counts(&vllama.client, model).await;
    }
    assert_eq!((vllama.starts(), loaded(&vllama).await), (2, names(&["a", "b"])));
    assert_eq!(engines(&vllama), names(&["a", "b"]));
    vllama.stop().await;
}

#[tokio::test]
async fn an_idle_model_goes_for_another_one_and_comes_back_on_request() {
    let vllama = with_models(&[10, 10], "20GiB").start_listening().await;
    for (model, starts) in [("a", 1), ("b", 2), ("a", 3)] {
        counts(&vllama.client, model).await;
        assert_eq!((vllama.starts(), loaded(&vllama).await), (starts, names(&[model])));
        assert_eq!(engines(&vllama), names(&[model]));
    }
}

#[tokio::test]
async fn the_model_nobody_has_used_for_longest_goes_first() {
    let vllama = with_models(&[10, 10, 10], "35GiB").start_listening().await;
    for (model, number) in [("a", 1), ("b", 2), ("a", 2), ("c", 3)] {
        counts(&vllama.client, model).await;
        measured(&vllama, number).await;
    }
    assert_eq!(loaded(&vllama).await, names(&["a", "c"]));
}

/// Ten clients for each of two models ask without a pause; gives the answers, the starts, and how often at most two
/// models changed places.
async fn twenty_clients(budget: &str, max_wait: &str, time: Duration) -> (usize, usize, Vllama) {
    let vllama = with_models(&[10, 10], budget)
        .env("VLLAMA_MAX_WAIT", max_wait)
        .env("FAKE_VLLM_TOKEN_RATE", "200")
        .start_listening()
        .await;
    let deadline = Instant::now() + time;
    let clients: Vec<_> = (0..20)
        .map(|number| {
            let (client, model) = (vllama.client.clone(), if number % 2 == 0 { "a" } else { "b" });
            tokio::spawn(async move {
                let mut answers = 0;
                while Instant::now() < deadline {
                    counts(&client, model).await;
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    while Instant::now() < deadline {
        let before = engines(&vllama);
        let listed = loaded(&vllama).await;
        let after = engines(&vllama);
        let there: BTreeSet<_> = before.union(&after).cloned().collect();
        assert!(listed.is_subset(&there), "/api/ps lists {listed:?}, the process table {there:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answers = 0;
    for client in clients {
        let each: usize = client.await.expect("a client that was always answered");
        assert!(each > 0, "every client is answered");
        answers += each;
    }
    (answers, vllama.starts(), vllama)
}

#[tokio::test]
async fn twenty_clients_of_two_models_with_room_for_one_cause_one_swap_in_each_starvation_window() {
    let begun = Instant::now();
    let (answers, starts, vllama) = twenty_clients("20GiB", "1.5", Duration::from_secs(6)).await;
    let windows = begun.elapsed().as_secs_f64() / 1.5;
    let swaps = starts - 1;
    assert!(swaps >= 2, "everybody had their turn: {swaps} swaps");
    assert!(swaps as f64 <= windows, "{swaps} swaps in {windows:.1} windows, {answers} answers");
    let listed = loaded(&vllama).await;
    assert_eq!((listed.len(), &listed), (1, &engines(&vllama)));
    vllama.stop().await;
}

#[tokio::test]
async fn twenty_clients_of_two_models_with_room_for_both_cause_no_swap() {
    let (_, starts, vllama) = twenty_clients("30GiB", "0.5", Duration::from_secs(2)).await;
    assert_eq!((starts, loaded(&vllama).await), (2, names(&["a", "b"])));
    assert_eq!(engines(&vllama), names(&["a", "b"]));
}

#[tokio::test]
async fn clients_that_alternate_between_models_cause_one_swap_in_each_residence() {
    let vllama = with_models(&[10, 10], "20GiB").env("VLLAMA_MIN_RESIDENCE", "1").start_listening().await;
    let begun = Instant::now();
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let client = vllama.client.clone();
            tokio::spawn(async move {
                for model in ["a", "b", "a", "b"] {
                    counts(&client, model).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client that was always answered");
    }
    let most = begun.elapsed().as_secs() + 1;
    assert!(vllama.starts() as u64 <= most, "{} starts in {:?}", vllama.starts(), begun.elapsed());
}

#[tokio::test]
async fn a_swap_waits_for_running_streams_and_new_requests_wait_for_the_swap() {
    let vllama = with_models(&[10, 10], "20GiB")
        .env("VLLAMA_MAX_WAIT", "0.3")
        .env("FAKE_VLLM_TOKEN_RATE", "40")
        .start_listening()
        .await;
    counts(&vllama.client, "a").await;
    let long = vllama.client.send(&Request::post("/api/chat", &asks("a", "FAKE:count 120"))).await.expect("sent");
    eventually("it runs", async || queue(&vllama, "a").await.filter(|entry| entry["running"] == 1)).await;
    let other = vllama.client.send(&Request::post("/api/chat", &asks("b", "FAKE:count 3"))).await.expect("sent");
    let entry = eventually("it has waited too long", async || {
        queue(&vllama, "b").await.filter(|entry| entry["oldest_wait_seconds"].as_f64().is_some_and(|wait| wait > 0.35))
    })
    .await;
    assert_eq!((&entry["phase"], &entry["state"]), (&json!("waiting for room"), &json!("stopped")), "{entry}");
    assert!(entry["estimate_seconds"].as_f64().is_some_and(|estimate| estimate > 0.0), "{entry}");
    let late = vllama.client.send(&Request::post("/api/chat", &asks("a", "FAKE:count 3"))).await.expect("sent");
    waiting(&vllama, "a", 1).await;
    let whole = answer(long).await.json();
    assert!(whole["message"]["content"].as_str().is_some_and(|text| text.ends_with(" 120")), "{whole}");
    assert_eq!(answer(other).await.status(), 200);
    assert_eq!(answer(late).await.status(), 200);
    assert_eq!(vllama.starts(), 3, "a, b for the one who waited, and a again for the one who came late");
}

#[tokio::test]
async fn a_model_keeps_its_place_for_a_while_after_it_was_loaded() {
    let vllama = with_models(&[10, 10], "20GiB").env("VLLAMA_MIN_RESIDENCE", "3").start_listening().await;
    counts(&vllama.client, "a").await;
    // Ready a moment ago; how long ago depends on how busy the machine is.
    let loaded_at = Instant::now();
    counts(&vllama.client, "b").await;
    assert!(loaded_at.elapsed() > Duration::from_millis(1500), "{:?}", loaded_at.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_for_room_changes_nothing() {
    let vllama = with_models(&[10, 10], "20GiB").env("VLLAMA_MIN_RESIDENCE", "60").start_listening().await;
    counts(&vllama.client, "a").await;
    let request = Request::post("/api/chat", &asks("b", "FAKE:count 3"));
    let leaving = vllama.client.send(&request).await.expect("a request on its way");
    waiting(&vllama, "b", 1).await;
    drop(leaving);
    waiting(&vllama, "b", 0).await;
    assert_eq!((vllama.starts(), loaded(&vllama).await), (1, names(&["a"])));
}

#[tokio::test]
async fn a_model_that_never_fits_is_refused_with_what_to_do() {
    let vllama = with_models(&[50, 10], "20GiB").start_listening().await;
    let refused = vllama.client.post("/api/chat", &asks("a", "Hello")).await;
    assert_eq!(refused.status(), 500);
    let text = "model requires more system memory (54.0 GiB) than is available (20.0 GiB)";
    assert!(refused.error().starts_with(text), "{}", refused.error());
    assert!(refused.error().contains("VLLAMA_MEMORY_BUDGET"), "{}", refused.error());
    counts(&vllama.client, "b").await;
}

#[tokio::test]
async fn what_an_engine_was_seen_to_need_is_remembered_and_used() {
    let vllama = with_models(&[10, 10], "24GiB").start_listening().await;
    counts(&vllama.client, "a").await;
    let figures = measured(&vllama, 1).await;
    assert!(figures[0]["start_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{figures:?}");
    // The first start of the second model is charged 14 GiB beside the 11 GiB of the first: too much.
    counts(&vllama.client, "b").await;
    assert_eq!(loaded(&vllama).await, names(&["b"]));
    measured(&vllama, 2).await;
    // Now both are known.
    counts(&vllama.client, "a").await;
    assert_eq!(loaded(&vllama).await, names(&["a", "b"]));
}

#[tokio::test]
async fn no_more_models_are_loaded_than_the_operator_allows() {
    let vllama = with_models(&[1, 1], "100GiB").env("OLLAMA_MAX_LOADED_MODELS", "1").start_listening().await;
    counts(&vllama.client, "a").await;
    counts(&vllama.client, "b").await;
    assert_eq!(loaded(&vllama).await, names(&["b"]));
}

#[tokio::test]
async fn requests_for_all_models_together_fill_the_queue_and_the_answer_says_when_to_come_back() {
    let vllama = with_models(&[10, 10], "20GiB")
        .env("OLLAMA_MAX_QUEUE", "1")
        .env("FAKE_VLLM_START", "load:1500")
        .start_listening()
        .await;
    let request = Request::post("/api/chat", &asks("a", "FAKE:count 3"));
    let first = vllama.client.send(&request).await.expect("a request on its way");
    waiting(&vllama, "a", 1).await;
    for model in ["a", "b"] {
        let refused = vllama.client.post("/api/chat", &asks(model, "FAKE:count 3")).await;
        assert_eq!(refused.status(), 503, "{model}");
        assert_eq!(refused.error(), "server busy, please try again.  maximum pending requests exceeded");
        let seconds = refused.header("retry-after").and_then(|value| value.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds >= 1), "{model}: {seconds:?}");
    }
    assert_eq!(answer(first).await.status(), 200);
    counts(&vllama.client, "a").await;
}

#[tokio::test]
async fn a_copy_shares_the_engine_and_is_listed_by_the_name_that_was_asked_for_last() {
    let vllama = Vllama::with_fake().with_copy("twin", "latest").start().await;
    assert_eq!(loaded(&vllama).await, names(&["smollm2:135m"]));
    counts(&vllama.client, "twin").await;
    assert_eq!((vllama.starts(), loaded(&vllama).await), (1, names(&["twin"])));
    let health = vllama.health().await;
    assert_eq!((&health["status"], &health["engine"]["state"]), (&json!("ok"), &json!("ready")), "{health}");
}

#[tokio::test]
async fn models_that_share_an_engine_are_answered_after_it_was_loaded_under_any_of_their_names() {
    let vllama = Vllama::with_fake().with_copy("twin", "latest").start_listening().await;
    let weights = vllama.upload(&safetensors()).await;
    let config = vllama.upload(br#"{"peft_type":"LORA","r":8}"#).await;
    let adapters = json!({"adapter_model.safetensors": weights, "adapter_config.json": config});
    for body in [
        json!({"model": "adapted", "from": "smollm2:135m", "adapters": adapters}),
        json!({"model": "polite", "from": "adapted", "system": "Be kind."}),
    ] {
        assert_eq!(vllama.create(&body).await.lines().pop(), Some(json!({"status": "success"})), "{body}");
    }
    for pair in [["smollm2:135m", "twin"], ["adapted", "polite"]] {
        for first in pair.into_iter().cycle().take(3) {
            counts(&vllama.client, first).await;
            for model in pair {
                counts(&vllama.client, model).await;
            }
            let unload = json!({"model": first, "keep_alive": 0});
            assert_eq!(vllama.post("/api/generate", &unload).await.json()["done_reason"], "unload");
            eventually("nothing is loaded", async || engines(&vllama).is_empty().then_some(())).await;
        }
    }
}

#[tokio::test]
async fn a_name_that_means_other_weights_now_is_listed_once_and_the_old_ones_by_their_other_name() {
    let vllama = Vllama::with_fake().with_copy("old", "latest").with_model("new", "1b").start().await;
    let over = json!({"source": "new:1b", "destination": "smollm2:135m"});
    assert_eq!(vllama.post("/api/copy", &over).await.status(), 200);
    counts(&vllama.client, "smollm2:135m").await;
    let body = vllama.get("/api/ps").await.json();
    let mut listed: Vec<_> = body["models"].as_array().expect("a list").iter().map(|model| &model["name"]).collect();
    listed.sort_by_key(|name| name.to_string());
    assert_eq!(listed, [&json!("old:latest"), &json!("smollm2:135m")], "{body}");
}

#[tokio::test]
async fn each_model_has_a_keep_alive_of_its_own() {
    let vllama = with_models(&[1, 1], "100GiB").start_listening().await;
    let load = |model: &str, keep_alive: Value| json!({"model": model, "keep_alive": keep_alive});
    for (model, keep_alive) in [("a", json!("700ms")), ("b", json!(-1))] {
        assert_eq!(vllama.post("/api/generate", &load(model, keep_alive)).await.json()["done_reason"], "load");
    }
    eventually("only the other one is left", async || (loaded(&vllama).await == names(&["b"])).then_some(())).await;
    eventually("its engine is gone", async || (engines(&vllama) == names(&["b"])).then_some(())).await;
    let unload = vllama.post("/api/generate", &load("b", json!(0))).await;
    assert_eq!(unload.json()["done_reason"], "unload");
    eventually("nothing is left", async || engines(&vllama).is_empty().then_some(())).await;
    assert_eq!(loaded(&vllama).await, names(&[]));
}

#[tokio::test]
async fn the_death_of_one_engine_does_not_disturb_another_one() {
    let vllama = with_models(&[1, 1], "100GiB").env("FAKE_VLLM_TOKEN_RATE", "40").start_listening().await;
    counts(&vllama.client, "a").await;
    counts(&vllama.client, "b").await;
    let long = vllama.client.send(&Request::post("/api/chat", &asks("b", "FAKE:count 40"))).await.expect("sent");
    let dying = vllama.client.post("/api/chat", &asks("a", "FAKE:exit0")).await;
    assert_eq!(dying.status(), 500, "{}", dying.text());
    assert_eq!(answer(long).await.status(), 200);
    counts(&vllama.client, "a").await;
    let restarts = vllama.health().await["engines"].as_array().expect("all engines").clone();
    let restarts: Vec<_> = restarts.iter().map(|engine| engine["restarts"].as_u64()).collect();
    // The request was asked again once.
    assert_eq!(restarts, [Some(2), Some(0)]);
}

#[tokio::test]
async fn a_default_model_that_went_for_another_one_still_counts_as_ready() {
    let vllama = with_models(&[10, 10], "20GiB").arguments(&["serve", "a", "--json"]).start().await;
    assert_eq!(vllama.health().await["model"], "a:latest");
    counts(&vllama.client, "b").await;
    assert_eq!(loaded(&vllama).await, names(&["b"]));
    assert_eq!(vllama.get("/health/ready").await.status(), 200);
}

#[tokio::test]
async fn a_server_without_models_is_ready_and_says_how_to_get_one() {
    let vllama =
        Vllama::with_fake().arguments(&["serve", "--json"]).without_model("smollm2", "135m").start_listening().await;
    vllama.says("no model is installed").await;
    assert!(vllama.stderr().iter().any(|line| line.contains("vllama import")), "{:?}", vllama.stderr());
    assert_eq!(vllama.get("/health/ready").await.status(), 200);
    let missing = vllama.client.post("/api/chat", &asks("a", "Hello")).await;
    assert_eq!((missing.status(), missing.error().as_str()), (404, "model 'a' not found"));
    vllama.stop().await;
}

#[tokio::test]
async fn the_configuration_file_keeps_single_models_loaded_for_their_own_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("vllama.toml");
    std::fs::write(&file, "[models.a]\nkeep_alive = \"500ms\"\n").expect("written");
    let vllama =
        with_models(&[1, 1], "100GiB").env("VLLAMA_CONFIG", file.to_str().expect("a path")).start_listening().await;
    counts(&vllama.client, "b").await;
    counts(&vllama.client, "a").await;
    eventually("only the other one is left", async || (loaded(&vllama).await == names(&["b"])).then_some(())).await;
}
