//! The engine dies, lies and leaves things behind.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::vllama::{chat, generate};
use crate::harness::{Answer, Request, Vllama, eventually, processes};

/// Checks that a stream told its error in its last line.
fn assert_ends_with_error(lines: &[Value]) {
    let (last, words) = lines.split_last().expect("lines");
    assert!(!words.is_empty(), "words before the error: {last}");
    assert!(words.iter().all(|line| line["done"] == false), "{words:?}");
    assert!(last["error"].as_str().is_some_and(|error| !error.is_empty()), "{last}");
    assert_eq!(last.as_object().map(serde_json::Map::len), Some(1), "{last}");
}

/// Asks for a stream in which a fault comes after a word has reached the client, however busy the machine is. The vllama
/// was built with phases.
async fn stream_with_fault(vllama: &Vllama, request: &Request) -> Answer {
    vllama.phases().hold("fault");
    let mut exchange = vllama.client.send(request).await.expect("a request on its way");
    let head = exchange.head().await.expect("a head");
    let mut pieces = vec![exchange.piece().await.expect("a piece").expect("a word before the fault")];
    vllama.phases().release("fault");
    while let Some(piece) = exchange.piece().await.expect("a piece") {
        pieces.push(piece);
    }
    Answer { head, pieces }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_is_its_last_line() {
    let vllama = Vllama::with_fake().with_phases().start().await;
    for fault in ["error-midstream", "abort-stream", "cut", "no-done"] {
        let prompt = format!("FAKE:{fault} 3");
        for request in
            [Request::post("/api/chat", &chat(&prompt, true)), Request::post("/api/generate", &generate(&prompt, true))]
        {
            let answer = stream_with_fault(&vllama, &request).await;
            assert_eq!(answer.status(), 200, "{fault}");
            assert_ends_with_error(&answer.lines());
        }
    }
    assert_eq!(vllama.health().await["engine"]["generation"], 1, "none of that is a death");
    assert_eq!(vllama.chat("FAKE:count 3").await.json()["message"]["content"], "1 2 3");
}

#[tokio::test]
async fn an_error_before_the_first_word_has_a_status_of_its_own() {
    let vllama = Vllama::with_fake().start().await;
    for (fault, status) in [
        ("http400", 400),
        ("http500", 500),
        ("http503", 503),
        ("not-json", 500),
        ("cut-head", 500),
        ("error-midstream 0", 500),
        ("abort-stream 0", 500),
    ] {
        for stream in [true, false] {
            // A stream of something that is no event stream has no words at all.
            let answer = vllama.post("/api/chat", &chat(&format!("FAKE:{fault}"), stream)).await;
            assert_eq!(answer.status(), status, "{fault} stream={stream}: {}", answer.text());
            assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"), "{fault}");
            assert!(!answer.error().is_empty(), "{fault}");
        }
    }
    assert_eq!(vllama.health().await["engine"]["generation"], 1, "none of that is a death");
}

#[tokio::test]
async fn an_engine_that_dies_in_the_middle_of_a_stream_is_started_again() {
    for fault in ["exit0", "exit1", "kill9", "kill-core"] {
        let vllama = Vllama::with_fake().with_phases().start().await;
        let request = Request::post("/api/chat", &chat(&format!("FAKE:{fault} 4"), true));
        assert_ends_with_error(&stream_with_fault(&vllama, &request).await.lines());
        // A leader without core lives on for a moment and answers 500.
        let health = vllama.generation(2).await;
        assert_eq!(vllama.chat("FAKE:count 3").await.json()["message"]["content"], "1 2 3", "{fault}");
        assert_eq!(health["engine"]["restarts"], 1, "{fault}: exit status 0 is a death too");
        assert_eq!(vllama.generations().len(), 1, "{fault}: the old generation's directory is gone");
        vllama.stop().await;
    }
}

/// Asks in both ways, many times at once; gives the tasks of those who wait.
async fn crowd(vllama: &Vllama, number: usize) -> Vec<tokio::task::JoinHandle<Answer>> {
    let mut crowd = Vec::new();
    for asking in 0..number {
        let request = Request::post("/api/chat", &chat("FAKE:count 3", asking % 2 == 0));
        let mut exchange = vllama.client.send(&request).await.expect("a request on its way");
        crowd.push(tokio::spawn(async move { exchange.answer().await.expect("an answer") }));
    }
    crowd
}

async fn assert_all_answered(crowd: Vec<tokio::task::JoinHandle<Answer>>) {
    for asking in crowd {
        let answer = asking.await.expect("a task");
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let lines = answer.lines();
        let text: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
        assert_eq!((text.as_str(), &lines[lines.len() - 1]["done"]), ("1 2 3", &json!(true)));
    }
}

#[tokio::test]
async fn who_has_no_answer_yet_gets_it_from_the_next_engine() {
    for name in ["fake-vllm", "VLLM::EngineCor"] {
        let vllama = Vllama::with_fake().env("FAKE_VLLM_FIRST_TOKEN_MS", "400").start().await;
        let crowd = crowd(&vllama, 8).await;
        vllama.engine_runs(8).await;
        processes::signal(vllama.process(name).pid, Signal::SIGKILL);
        assert_all_answered(crowd).await;
        let health = vllama.health().await;
        assert_eq!((&health["engine"]["generation"], &health["engine"]["restarts"]), (&json!(2), &json!(1)), "{name}");
        vllama.stop().await;
    }
}

#[tokio::test]
async fn who_says_how_long_he_waits_does_not_wait_longer_for_the_next_engine() {
    let vllama = Vllama::with_fake().with_phases().env("FAKE_VLLM_FIRST_TOKEN_MS", "1000").start().await;
    let mut asking = Vec::new();
    // Whoever sees the engine die first is asked again first; the others do not wait for that, either.
    for prefer in ["wait=0", "wait=1", "respond-async"] {
        let request = Request::post("/api/chat", &chat("FAKE:count 3", false)).header("Prefer", prefer);
        asking.push(vllama.client.send(&request).await.expect("a request on its way"));
    }
    vllama.engine_runs(3).await;
    // By what is known the next engine is there in less than a second; but it does not come.
    vllama.phases().hold("import");
    processes::signal(vllama.process("fake-vllm").pid, Signal::SIGKILL);
    for exchange in &mut asking[..2] {
        let answer = exchange.answer().await.expect("an answer while no engine is there");
        assert_eq!(answer.status(), 503, "{}", answer.text());
        assert!(answer.error().starts_with("the engine died before it answered"), "{}", answer.error());
        assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok()), "{answer:?}");
    }
    vllama.phases().reached("import").await;
    vllama.phases().release("import");
    let answer = asking[2].answer().await.expect("an answer");
    assert_eq!((answer.status(), answer.json()["message"]["content"].as_str()), (200, Some("1 2 3")), "he waits");
}

#[tokio::test]
async fn a_request_that_kills_engines_is_found_out_and_takes_nobody_with_it() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_FIRST_TOKEN_MS", "200").start().await;
    let crowd = crowd(&vllama, 6).await;
    vllama.engine_runs(6).await;
    let answer = vllama.chat("FAKE:kill9 0").await;
    assert_eq!(answer.status(), 500, "{}", answer.text());
    assert!(answer.error().starts_with("the engine died each time it worked on this request"), "{}", answer.error());
    assert_all_answered(crowd).await;
    let health = vllama.generation(3).await;
    assert_eq!(health["engine"]["restarts"], 2);
    // It is known now, and harms nobody any more.
    assert_eq!(vllama.chat("FAKE:kill9 0").await.error(), answer.error());
    assert_eq!(vllama.health().await["engine"]["restarts"], 2);
    assert_eq!(vllama.chat("FAKE:count 3").await.json()["message"]["content"], "1 2 3");
}

#[tokio::test]
async fn without_replays_an_engine_that_dies_before_the_first_word_is_a_500() {
    let vllama = Vllama::with_fake().env("VLLAMA_REPLAYS", "0").start().await;
    for (stream, next) in [(true, 2), (false, 3)] {
        let answer = vllama.post("/api/chat", &chat("FAKE:exit1 0", stream)).await;
        assert_eq!(answer.status(), 500, "{}", answer.text());
        assert!(answer.error().contains("unexpectedly stopped"), "{}", answer.error());
        vllama.generation(next).await;
        assert_eq!(vllama.chat("FAKE:count 3").await.json()["message"]["content"], "1 2 3");
    }
}

#[tokio::test]
async fn an_answer_in_one_piece_that_is_broken_off_begins_anew() {
    // Its first byte is its last.
    let vllama = Vllama::with_fake().start().await;
    for fault in ["kill9 3", "kill-core 3"] {
        let answer = vllama.chat(&format!("FAKE:{fault}")).await;
        assert_eq!(answer.status(), 500, "{fault}: {}", answer.text());
        assert!(answer.error().contains("died each time"), "{fault}: {}", answer.error());
    }
}

#[tokio::test]
async fn a_killed_leader_leaves_nobody_behind() {
    let vllama = Vllama::with_fake().start().await;
    let old: Vec<i32> = ["fake-vllm", "VLLM::EngineCor", "VLLM::Worker"].map(|name| vllama.process(name).pid).into();
    processes::signal(old[0], Signal::SIGKILL);
    vllama.generation(2).await;
    let living: Vec<i32> = vllama.processes().iter().map(|process| process.pid).collect();
    assert!(old.iter().all(|pid| !living.contains(pid)), "{old:?} in {living:?}");
    assert_eq!(vllama.generations().len(), 1);
    vllama.stop().await;
}

#[tokio::test]
async fn a_killed_core_is_a_death_of_the_engine() {
    let vllama = Vllama::with_fake().start().await;
    let core = vllama.process("VLLM::EngineCor").pid;
    processes::signal(core, Signal::SIGKILL);
    vllama.generation(2).await;
    vllama.stop().await;
}

#[tokio::test]
async fn what_a_dead_engine_leaves_behind_is_swept() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_LEAVE_FILES", "1").env("FAKE_VLLM_STRAYS", "2").start().await;
    let strays = || vllama.processes().iter().filter(|process| process.name == "fake-stray").count();
    // They leave their session on their own time.
    eventually("both strays", async || (strays() == 2).then_some(())).await;
    let first = vllama.generations();
    processes::signal(vllama.process("fake-vllm").pid, Signal::SIGKILL);
    vllama.generation(2).await;
    eventually("only those of the second generation", async || (strays() == 2).then_some(())).await;
    assert!(!first[0].exists(), "{}", first[0].display());
    vllama.stop().await;
}

#[tokio::test]
async fn orphans_are_reaped() {
    let vllama = Vllama::with_fake().env("FAKE_VLLM_ZOMBIES", "5").start().await;
    eventually("no zombie below vllama", async || {
        let dead = processes::children(vllama.pid()).into_iter().filter(|child| child.state == 'Z').count();
        (dead == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_the_engine_hangs_on_can_be_given_up() {
    let vllama = Vllama::with_fake().start().await;
    let request = Request::post("/api/chat", &chat("FAKE:hang 2", true));
    let mut exchange = vllama.client.send(&request).await.expect("a request on its way");
    assert_eq!(exchange.head().await.expect("a head").status, 200);
    assert!(exchange.piece().await.expect("a word").is_some());
    drop(exchange);
    vllama.engine_runs(0).await;
    assert_eq!(vllama.health().await["engine"]["generation"], json!(1));
}
