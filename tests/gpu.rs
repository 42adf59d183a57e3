//! `gpu::Watch` with helpers that are shell scripts, and the real helper `vllama-gpu`.
//!
//! A program of its own without the test harness: the init must be made before any other thread and owns every child.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/init/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use support::{children, look, wait_for, wait_until};
use vllama::gpu::{Pace, Reading, Watch};
use vllama::init::{Init, Spawner};

const HELPER: &str = env!("CARGO_BIN_EXE_vllama-gpu");

/// As the real one, but patient for moments only.
const PACE: Pace = Pace {
    fresh: Duration::from_secs(600),
    silence: Duration::from_secs(600),
    pause: Duration::from_millis(20),
    longest_pause: Duration::from_millis(100),
};

fn main() {
    // std waits for its children itself, so these come before the init takes all of them.
    the_real_helper_answers_once();
    the_real_helper_ends_when_nobody_reads();
    let init = Init::new().unwrap();
    let (spawner, stopper) = (init.spawner(), init.stopper());
    let checks = std::thread::spawn(move || {
        let checks: &[(&str, &dyn Fn())] = &[
            ("the latest reading is at hand", &|| the_latest_reading_is_at_hand(&spawner)),
            ("a helper that dies is started again", &|| death_is_made_good(&spawner)),
            ("a helper that hangs is killed and started again", &|| silence_is_made_good(&spawner)),
            ("an old reading is none", &|| old_readings_are_none(&spawner)),
            ("lines that are no readings are passed over", &|| nonsense_is_passed_over(&spawner)),
            ("without a helper nothing is known", &|| without_a_helper_nothing_is_known(&spawner)),
            ("a first reading is waited for", &|| a_first_reading_is_waited_for(&spawner)),
            ("those who hold memory are named", &|| holders_are_named(&spawner)),
            ("the real helper speaks", &|| the_real_helper_speaks(&spawner)),
        ];
        let failed = support::run_checks("gpu", checks);
        stopper.stop(i32::from(failed > 0));
    });
    let code = init.run(|_| ());
    checks.join().unwrap();
    assert_eq!(code, 0, "failed checks are named above");
}

/// A script as a helper; `$0.count` counts its starts.
struct Script {
    directory: tempfile::TempDir,
}

impl Script {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("helper");
        let line = "line() { echo \"{\\\"gpus\\\":[{\\\"name\\\":\\\"$1\\\",\\\"memory_free\\\":5}]}\"; }";
        std::fs::write(&path, format!("#!/bin/sh\necho start >> $0.count\n{line}\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("helper")
    }

    fn starts(&self) -> usize {
        std::fs::read_to_string(self.directory.path().join("helper.count")).unwrap_or_default().lines().count()
    }
}

fn a_first_reading_is_waited_for(spawner: &Spawner) {
    let slow = Script::new("sleep 0.2; line late; sleep 1000");
    let reading = watch(spawner, &slow.path(), PACE).wait(Duration::from_secs(20)).expect("a reading");
    assert_eq!(reading.gpus[0].name.as_deref(), Some("late"));
    let silent = Script::new("sleep 1000");
    assert_eq!(watch(spawner, &silent.path(), PACE).wait(Duration::from_millis(50)), None);
}

fn watch(spawner: &Spawner, helper: &Path, pace: Pace) -> Watch {
    let environment = vec![("PATH".into(), std::env::var_os("PATH").unwrap())];
    Watch::start(spawner.clone(), helper.to_owned(), environment, pace).unwrap()
}

/// The name of the first GPU.
fn name(watch: &Watch) -> Option<String> {
    watch.latest()?.gpus.first()?.name.clone()
}

fn the_latest_reading_is_at_hand(spawner: &Spawner) {
    let script = Script::new("line one; while ! test -e $0.go; do sleep 0.01; done; line two; exec sleep 1000");
    let watch = watch(spawner, &script.path(), PACE);
    wait_until("the first reading", || name(&watch).as_deref() == Some("one"));
    assert_eq!(watch.latest().unwrap().gpus[0].memory_free, Some(5));
    let copy = watch.clone();
    drop(watch);
    std::fs::write(script.directory.path().join("helper.go"), "").unwrap();
    wait_until("the second reading", || name(&copy).as_deref() == Some("two"));
    // With the last copy the helper goes, which is what the check after this one looks for.
}

fn holders_are_named(spawner: &Spawner) {
    let text = r#"{"gpus":[{"uuid":"GPU-a","memory_total":80,"memory_free":30,"processes":[{"pid":7,"name":"python3","memory":50}]},{}]}"#;
    let script = Script::new(&format!("echo '{text}'; exec sleep 1000"));
    let watch = watch(spawner, &script.path(), PACE);
    let begun = std::time::Instant::now();
    wait_until("a reading", || watch.latest().is_some());
    let (read, reading) = watch.latest_at().unwrap();
    assert!(read >= begun, "the time is that of the reading");
    let visible = reading.visible(Some("GPU-a"));
    let (number, gpu) = visible[0];
    assert_eq!((visible.len(), number, gpu.memory_free), (1, 0, Some(30)));
    let held: Vec<_> = gpu.processes.iter().map(|process| (process.pid, &*process.name, process.memory)).collect();
    assert_eq!(held, [(7, "python3", Some(50))]);
    assert!(reading.gpus[1].is_lost(), "a GPU of which nothing is known has fallen off the bus");
}

fn death_is_made_good(spawner: &Spawner) {
    let script = Script::new("line \"$(wc -l < $0.count)\"; test $(wc -l < $0.count) -gt 3 && exec sleep 1000; exit 1");
    let watch = watch(spawner, &script.path(), PACE);
    wait_until("the fourth life", || name(&watch).as_deref() == Some("4"));
    assert_eq!(script.starts(), 4);
}

fn silence_is_made_good(spawner: &Spawner) {
    // It ignores what can be ignored, and keeps its output open in a child.
    let script =
        Script::new("trap '' TERM; test $(wc -l < $0.count) -gt 1 && line back; sleep 1000 & wait; sleep 1000");
    let watch = watch(spawner, &script.path(), Pace { silence: Duration::from_millis(300), ..PACE });
    wait_until("a reading of the second life", || name(&watch).as_deref() == Some("back"));
    wait_until("unknown, because the second one is silent too", || watch.latest().is_none());
}

fn old_readings_are_none(spawner: &Spawner) {
    let script = Script::new("line one; exec sleep 1000");
    let watch = watch(spawner, &script.path(), Pace { fresh: Duration::from_millis(300), ..PACE });
    wait_until("the reading", || watch.latest().is_some());
    wait_until("the reading is too old", || watch.latest().is_none());
    assert_eq!(script.starts(), 1);
}

fn nonsense_is_passed_over(spawner: &Spawner) {
    let script = Script::new("echo no json; echo '{}'; head -c 3000 /dev/zero; echo; line fine; exec sleep 1000");
    let watch = watch(spawner, &script.path(), PACE);
    wait_until("the reading", || name(&watch).as_deref() == Some("fine"));
    assert_eq!(script.starts(), 1);
}

fn without_a_helper_nothing_is_known(spawner: &Spawner) {
    let watch = watch(spawner, Path::new("/nowhere/vllama-gpu"), PACE);
    assert!(watch.latest().is_none());
    assert!(Watch::unknown().latest().is_none());
}

fn the_real_helper_speaks(spawner: &Spawner) {
    let watch = watch(spawner, Path::new(HELPER), Pace::default());
    let reading = wait_for("a reading", || watch.latest());
    assert!(reading.reason.is_some() || !reading.gpus.is_empty());
    let again = wait_for("another reading", || watch.latest().filter(|again| !std::sync::Arc::ptr_eq(again, &reading)));
    assert_eq!(again.gpus.len(), reading.gpus.len());
}

fn the_real_helper_answers_once() {
    let output = std::process::Command::new(HELPER).arg("--once").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let reading: Reading = serde_json::from_slice(&output.stdout).unwrap();
    match reading.reason {
        Some(reason) => {
            assert!(reason.starts_with("no NVIDIA driver: ") && reading.gpus.is_empty(), "{reason}");
            println!("skipped: the figures of a real GPU, since there is {reason}");
        }
        None => assert!(reading.gpus.iter().all(|gpu| gpu.uuid.is_some())),
    }
    println!("gpu: the real helper answers once ... ok");
}

fn the_real_helper_ends_when_nobody_reads() {
    let mut process = std::process::Command::new(HELPER).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.ends_with('\n'));
    let status = wait_for("the helper has ended", || process.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(look(process.id().cast_signed()).is_none() && children(std::process::id().cast_signed()).is_empty());
    println!("gpu: the real helper ends when nobody reads ... ok");
}
