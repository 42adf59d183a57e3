//! The vllama that most groups ask: an engine takes half a minute to start, so what one group has loaded the next one finds.
//!
//! Each group makes what it stands on itself, by [`Shared::vllama`], [`configure`] and [`load`], and so runs alone, too.

use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Request, Vllama, within};
use crate::leftovers::leftovers;
use crate::{Ground, LOAD, MODEL, Runner};

/// The configuration file below the vllama's own directory.
const FILE: &str = "vllama.toml";

/// With room for one model, a model that is asked for takes the place of another at once.
pub(crate) const ROOM_FOR_ONE: &str = "max_loaded_models = 1\nmin_residence = \"0\"\n";

/// What is there of it.
#[derive(Default)]
pub(crate) struct Shared {
    vllama: Option<Vllama>,
    /// It did not start, which one test has told.
    failed: bool,
}

impl Shared {
    /// It, with the chat model; `None` where it does not start. The first group that asks for it starts it.
    pub(crate) fn vllama(&mut self, runner: &mut Runner, ground: &Ground) -> Option<&Vllama> {
        if self.failed {
            println!("skipped: a group of tests, since the vllama it shares with others did not start");
            return None;
        }
        if self.vllama.is_none() {
            // Patient with running requests, so that only the second signal can end it within a test's patience.
            let builder = Vllama::with_real(&ground.venv, &ground.models, &ground.state).env("VLLAMA_DRAIN", "1h");
            let file = builder.path().join(FILE);
            let start = async {
                std::fs::write(&file, "").unwrap();
                builder.env("VLLAMA_CONFIG", &file.to_string_lossy()).start().await
            };
            self.vllama = runner.test("a vllama with the real engine gets ready", start);
            self.failed = self.vllama.is_none();
        }
        self.vllama.as_ref()
    }

    /// Ends it, where a group has started it.
    pub(crate) fn end(self, runner: &mut Runner) {
        if let Some(vllama) = self.vllama {
            runner.test("SIGTERM while a stream runs leaves nothing behind", stop_while_streaming(vllama));
        }
    }
}

/// Puts these settings into force, in the stead of those of an earlier group.
pub(crate) async fn configure(vllama: &Vllama, settings: &str) {
    let told = || vllama.stderr().iter().filter(|line| line.contains("the configuration has been read again")).count();
    let before = told();
    std::fs::write(vllama.path(FILE), settings).unwrap();
    vllama.signal(Signal::SIGHUP);
    within(LOAD, "the configuration has been read again", async || (told() > before).then_some(())).await;
}

/// POST of JSON whose answer may have to wait for an engine; it must be a good one.
pub(crate) async fn answered(vllama: &Vllama, path: &str, body: &Value) -> Value {
    let mut exchange = vllama.client.send(&Request::post(path, body)).await.unwrap();
    exchange.patience = LOAD;
    let answer = exchange.answer().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

/// Loads a chat model, unless it is loaded.
pub(crate) async fn load(vllama: &Vllama, model: &str) {
    let answer = answered(vllama, "/api/generate", &json!({"model": model, "prompt": "", "stream": false})).await;
    assert_eq!(answer["done_reason"], "load");
}

/// Unloads a model, and waits until its engine has gone.
pub(crate) async fn unload(vllama: &Vllama, model: &str) {
    let answer = answered(vllama, "/api/generate", &json!({"model": model, "keep_alive": 0, "stream": false})).await;
    assert_eq!(answer["done_reason"], "unload");
    within(LOAD, "its engine is gone", async || {
        let loaded = vllama.get("/api/ps").await.json();
        loaded["models"].as_array().is_some_and(|models| models.iter().all(|one| one["name"] != model)).then_some(())
    })
    .await;
}

async fn stop_while_streaming(mut vllama: Vllama) {
    load(&vllama, MODEL).await;
    let loaded = vllama.get("/api/ps").await.json();
    for model in loaded["models"].as_array().unwrap().iter().filter_map(|model| model["name"].as_str()) {
        if model != MODEL {
            unload(&vllama, model).await;
        }
    }
    within(LOAD, "one engine is left", async || (vllama.generations().len() == 1).then_some(())).await;
    let body = json!({"model": MODEL, "prompt": "Write a long story.", "options": {"num_predict": 3000}});
    let mut exchange = vllama.client.send(&Request::post("/api/generate", &body)).await.unwrap();
    exchange.head().await.unwrap();
    exchange.piece().await.unwrap();
    // Twice: the second signal takes the patience away, the story is long. Two that come before the first has been taken
    // are one to the kernel.
    let began = Instant::now();
    vllama.signal(Signal::SIGTERM);
    vllama.says("stopping: running requests").await;
    vllama.engine_runs(1).await;
    vllama.signal(Signal::SIGTERM);
    let status = vllama.ended().await;
    assert_eq!(status.code(), Some(0));
    println!("  gone after {:.1} s", began.elapsed().as_secs_f32());
    vllama.assert_nothing_left();
    assert_eq!(leftovers(), [] as [String; 0], "shared memory left behind");
}
