//! What happens when a process of the real engine is killed, or vllama is told to stop while the engine starts.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::processes::{self, Process};
use crate::harness::{Exchange, Request, Vllama, within};
use crate::leftovers::leftovers;
use crate::shared::{self, Shared};
use crate::{Ground, LOAD, MODEL, Runner};

/// An engine of an earlier generation is gone within this time (the issue's own bound).
const SWEPT_WITHIN: Duration = Duration::from_secs(15);

/// How long an engine may do nothing though it has requests.
const HEARTBEAT: Duration = Duration::from_secs(20);

pub(crate) fn run(runner: &mut Runner, ground: &Ground, shared: &mut Shared) {
    runner.test("SIGTERM while the engine starts leaves nothing behind", stop_while_starting(ground));
    let Some(vllama) = shared.vllama(runner, ground) else { return };
    runner.test("a heartbeat of 20 s is asked for, and the chat model is alone", async {
        let heartbeat = format!("heartbeat = \"{}s\"\n", HEARTBEAT.as_secs());
        shared::configure(vllama, &(heartbeat + shared::ROOM_FOR_ONE)).await;
        // It holds for engines that are started from now on.
        shared::unload(vllama, MODEL).await;
        shared::load(vllama, MODEL).await;
        within(LOAD, "one engine is left", async || (vllama.generations().len() == 1).then_some(())).await;
    });
    runner.test("kill -9 of the leader: a new engine serves, nothing is left of the old one", kill_leader(vllama));
    runner.test("kill -9 of the engine core: streams end with an error line, who waits is answered", kill_core(vllama));
    runner.test("an engine core that stands still is found by its heart and replaced", freeze_core(vllama));
}

async fn stop_while_starting(ground: &Ground) {
    // Of an engine that lives and is shared: not all of its memory can be told to be in use.
    let others = leftovers();
    let mut vllama = ground.start_listening().await;
    within(LOAD, "the engine core runs", async || {
        vllama.processes().iter().any(|process| process.name.starts_with("VLLM::EngineCor")).then_some(())
    })
    .await;
    let began = Instant::now();
    vllama.signal(Signal::SIGTERM);
    let status = vllama.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < SWEPT_WITHIN, "{:?}", began.elapsed());
    vllama.assert_nothing_left();
    let left: Vec<_> = leftovers().into_iter().filter(|name| !others.contains(name)).collect();
    assert_eq!(left, [] as [String; 0], "shared memory left behind");
}

/// Everything below vllama but the helper that watches the GPUs.
fn engine_pids(vllama: &Vllama) -> Vec<i32> {
    let engine = |process: &&Process| process.pid != vllama.pid() && process.name != "vllama-gpu";
    vllama.processes().iter().filter(engine).map(|process| process.pid).collect()
}

async fn kill_leader(vllama: &Vllama) {
    let old = engine_pids(vllama);
    let leader =
        *old.iter().find(|pid| processes::children(vllama.pid()).iter().any(|child| child.pid == **pid)).unwrap();
    killed(vllama, leader, &old).await;
}

async fn kill_core(vllama: &Vllama) {
    let old = engine_pids(vllama);
    let mut stories = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let story = Story::begin(vllama).await;
        stories.spawn(story.ends_with_an_error());
    }
    // Whoever wants the answer in one piece has nothing of it before its end.
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..8 {
        let options = json!({"num_predict": 60, "temperature": 0});
        let prompt = format!("Write a long story about the number {number}.");
        let body = json!({"model": MODEL, "prompt": prompt, "stream": false, "options": options});
        let mut exchange = vllama.client.send(&Request::post("/api/generate", &body)).await.unwrap();
        exchange.patience = Duration::from_secs(400);
        waiting.spawn(async move { exchange.answer().await.unwrap() });
    }
    vllama.engine_runs(16).await;
    let core = vllama.process("VLLM::EngineCor").pid;
    killed(vllama, core, &old).await;
    while let Some(ended) = stories.join_next().await {
        ended.unwrap();
    }
    while let Some(answer) = waiting.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert!(answer.json()["eval_count"].as_u64().is_some_and(|count| count > 20), "{}", answer.text());
    }
}

/// The core of a wedged engine does nothing any more, but its front answers `/health` as ever.
async fn freeze_core(vllama: &Vllama) {
    let old = engine_pids(vllama);
    let (story, generation) = (Story::begin(vllama).await, generation(vllama).await);
    let core = vllama.process("VLLM::EngineCor").pid;
    processes::signal(core, Signal::SIGSTOP);
    tokio::join!(story.ends_with_an_error(), replaced(vllama, &old, generation, HEARTBEAT * 2));
}

/// A long answer on its way.
struct Story(Exchange);

impl Story {
    async fn begin(vllama: &Vllama) -> Self {
        let body = json!({"model": MODEL, "prompt": "Write a long story.", "options": {"num_predict": 3000}});
        let mut exchange = vllama.client.send(&Request::post("/api/generate", &body)).await.unwrap();
        exchange.patience = HEARTBEAT * 3;
        exchange.head().await.unwrap();
        Self(exchange)
    }

    async fn ends_with_an_error(mut self) {
        let mut text = String::new();
        while let Ok(Some(piece)) = self.0.piece().await {
            text.push_str(&String::from_utf8(piece.bytes).unwrap());
        }
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(last["error"].is_string(), "{last}");
        assert_eq!(last.as_object().unwrap().len(), 1, "{last}");
    }
}

async fn generation(vllama: &Vllama) -> u64 {
    vllama.health().await["engine"]["generation"].as_u64().unwrap()
}

/// Kills one process and waits until a new generation serves.
async fn killed(vllama: &Vllama, pid: i32, old: &[i32]) {
    let generation = generation(vllama).await;
    processes::signal(pid, Signal::SIGKILL);
    replaced(vllama, old, generation, SWEPT_WITHIN).await;
}

/// Waits until the old engine is gone and the generation after this one serves.
async fn replaced(vllama: &Vllama, old: &[i32], generation: u64, patience: Duration) {
    let began = Instant::now();
    within(patience, "the old engine is gone", async || {
        engine_pids(vllama).iter().all(|pid| !old.contains(pid)).then_some(())
    })
    .await;
    println!("  swept after {:.1} s", began.elapsed().as_secs_f32());
    within(Duration::from_secs(30), "not ready any more", async || {
        (vllama.health().await["engine"]["generation"] == generation + 1).then_some(())
    })
    .await;
    // A request that comes now waits for the new engine.
    vllama.ready().await;
    println!("  ready again after {:.1} s", began.elapsed().as_secs_f32());
    let body = json!({"model": MODEL, "prompt": "What is the capital of France?", "stream": false, "options": {"temperature": 0}});
    let answer = vllama.post("/api/generate", &body).await;
    assert_eq!(answer.json()["response"], "The capital of France is Paris.");
    assert_eq!(vllama.generations().len(), 1);
}
