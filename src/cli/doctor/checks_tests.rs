//! Each check over made-up facts: a machine that has everything, and what is said when one thing is missing.

use std::sync::Arc;

use super::*;
use crate::cli::doctor::facts::{Limits, Program, Space};
use crate::cli::doctor::finding::Level;
use crate::gpu::{Gpu, Reading};
use crate::model::store::Inspection;

const GIB: u64 = 1 << 30;

fn place(path: &str) -> Place {
    Place {
        path: path.into(),
        mode: Some(0o700),
        is_ours: true,
        not_writable: None,
        space: Space { free: 500 * GIB, total: 900 * GIB },
        on_overlay: false,
    }
}

/// A machine without GPU that lacks nothing.
fn well_equipped() -> Facts {
    Facts {
        host: Ok(Host { nvidia: false, bfloat16: true, memory_available: 60 * GIB, memory_total: 64 * GIB }),
        gpus: Ok(None),
        shared_memory: Ok(Space { free: 8 * GIB, total: 8 * GIB }),
        engine: Ok(Program {
            path: "/opt/venv/bin/vllm".into(),
            exists: true,
            runs: true,
            version: Some(pinned().to_owned()),
        }),
        models: Ok(place("/var/lib/vllama/models")),
        state: Ok(place("/var/lib/vllama")),
        cache: Ok(place("/var/lib/vllama/cache")),
        run: Ok(place("/run/vllama")),
        port: Ok(Port::Free(([127, 0, 0, 1], 11434).into())),
        limits: Limits { descriptors: 1 << 20, locked: u64::MAX },
        max_connections: 4096,
        store: Ok(Inspection { models: 2, ..Inspection::default() }),
    }
}

fn with_gpus(count: usize) -> Facts {
    let gpu =
        Gpu { name: Some("A".into()), memory_total: Some(80 * GIB), memory_free: Some(79 * GIB), ..Gpu::default() };
    Facts {
        host: Ok(Host { nvidia: true, bfloat16: true, memory_available: 60 * GIB, memory_total: 64 * GIB }),
        gpus: Ok(Some(Arc::new(Reading { gpus: vec![gpu; count], reason: None }))),
        ..well_equipped()
    }
}

/// The findings that are not well: check, level, all that is said.
fn bad(facts: &Facts) -> Vec<(&'static str, Level, String)> {
    let bad = judge(facts).into_iter().filter(|finding| finding.level != Level::Ok);
    bad.map(|finding| (finding.check, finding.level, format!("{}: {}; {}", finding.what, finding.why, finding.fix)))
        .collect()
}

/// The only one.
fn only(facts: &Facts) -> (&'static str, Level, String) {
    let mut found = bad(facts);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn assert_only(facts: &Facts, check: &str, level: Level, words: &[&str]) {
    let (found, its_level, text) = only(facts);
    assert_eq!((found, its_level), (check, level), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} in {text}");
    }
}

#[test]
fn where_nothing_is_missing_every_check_says_so() {
    for facts in [well_equipped(), with_gpus(1), with_gpus(8)] {
        assert_eq!(bad(&facts), []);
        let names: Vec<_> = judge(&facts).iter().map(|finding| finding.check).collect();
        assert_eq!(names, CHECKS.iter().map(|check| check.name).collect::<Vec<_>>());
    }
}

#[test]
fn an_engine_must_be_there_and_executable_and_should_be_new_enough() {
    let with = |exists, runs, version: &str| {
        let path = "/x/vllm".into();
        Facts { engine: Ok(Program { path, exists, runs, version: Some(version.to_owned()) }), ..well_equipped() }
    };
    assert_only(&with(false, false, "9"), "engine", Level::Error, &["/x/vllm", "--engine", "VLLAMA_ENGINE"]);
    assert_only(&with(true, false, "9"), "engine", Level::Error, &["not executable", "chmod +x /x/vllm"]);
    assert_only(&with(true, true, "0.9.2"), "engine", Level::Warning, &["vLLM 0.9.2 is old", pinned()]);
    assert_eq!(bad(&with(true, true, "99.0")), []);
}

#[test]
fn a_driver_without_gpus_and_one_that_does_not_answer_keep_engines_from_starting() {
    let reason = Some("no device".to_owned());
    let none = Facts { gpus: Ok(Some(Arc::new(Reading { gpus: vec![], reason }))), ..with_gpus(1) };
    assert_only(&none, "gpus", Level::Error, &["no device", "--gpus all"]);
    let wedged = Facts { gpus: Err("no answer for 45 s".into()), ..with_gpus(1) };
    assert_only(&wedged, "gpus", Level::Error, &["does not answer", "45 s", "nvidia-smi"]);
    let unknown = Facts { gpus: Ok(None), ..with_gpus(1) };
    assert_only(&unknown, "gpus", Level::Warning, &["--gpu-helper"]);
}

#[test]
fn too_little_memory_keeps_engines_on_the_cpu_from_starting_and_is_told_where_there_are_gpus() {
    let little = |nvidia| Ok(Host { nvidia, bfloat16: false, memory_available: GIB, memory_total: 64 * GIB });
    let cpu = Facts { host: little(false), ..well_equipped() };
    assert_only(&cpu, "memory", Level::Error, &["1.0 GiB are free", "--memory", "MemoryMax="]);
    assert_only(&Facts { host: little(true), ..with_gpus(1) }, "memory", Level::Warning, &["1.0 GiB"]);
}

#[test]
fn shared_memory_is_needed_by_the_cpu_and_by_several_gpus() {
    let docker = Ok(Space { free: 64 << 20, total: 64 << 20 });
    let on = |facts: Facts| Facts { shared_memory: docker.clone(), ..facts };
    let words = ["64 MiB are free", "430 MiB are needed", "--shm-size=2g"];
    assert_only(&on(well_equipped()), "shared memory", Level::Error, &words);
    assert_only(&on(with_gpus(1)), "shared memory", Level::Warning, &["2 GiB are recommended"]);
    assert_only(&on(with_gpus(4)), "shared memory", Level::Warning, &["all 4 GPUs", "1198 MiB are needed"]);
}

#[test]
fn a_run_directory_must_be_short_and_should_be_private() {
    let with = |place| Facts { run: Ok(place), ..well_equipped() };
    let long = format!("/{}", "x".repeat(41));
    assert_only(&with(place(&long)), "run directory", Level::Error, &["too long", "--run-dir"]);
    assert_eq!(bad(&with(place(&long[1..]))), []);
    let open = Place { mode: Some(0o755), ..place("/run/vllama") };
    assert_only(&with(open), "run directory", Level::Warning, &["0755", "chmod 0700"]);
    let foreign = Place { is_ours: false, ..place("/run/vllama") };
    assert_only(&with(foreign), "run directory", Level::Warning, &["chown"]);
    let closed = Place { not_writable: Some("/run: Permission denied".into()), mode: None, ..place("/run/vllama") };
    assert_only(&with(closed), "run directory", Level::Error, &["Permission denied", "VLLAMA_RUN"]);
}

#[test]
fn directories_must_be_writable_and_should_last_and_have_room() {
    let locked = || Ok(Place { not_writable: Some("Read-only file system".into()), ..place("/d") });
    let read_only = Facts { models: locked(), ..well_equipped() };
    assert_only(&read_only, "models", Level::Warning, &["Read-only file system", "--models-dir"]);
    assert_only(&Facts { cache: locked(), ..well_equipped() }, "cache", Level::Error, &["VLLAMA_STATE"]);
    assert_only(&Facts { state: locked(), ..well_equipped() }, "logs", Level::Error, &["VLLAMA_STATE"]);
    let overlay = || Ok(Place { on_overlay: true, ..place("/d") });
    let container = Facts { models: overlay(), cache: overlay(), state: overlay(), ..well_equipped() };
    let found = bad(&container);
    assert_eq!(found.iter().map(|(check, ..)| *check).collect::<Vec<_>>(), ["cache", "models"]);
    assert!(found.iter().all(|(_, level, text)| *level == Level::Warning && text.contains("-v vllama:/d")));
    let full = Ok(Place { space: Space { free: 5 * GIB, total: 900 * GIB }, ..place("/d") });
    assert_only(&Facts { models: full, ..well_equipped() }, "models", Level::Warning, &["5.0 GiB are free"]);
}

#[test]
fn a_file_system_that_does_not_answer_is_told_and_hangs_nobody() {
    let silent = Facts { models: Err("no answer for 10 s".into()), ..well_equipped() };
    assert_only(&silent, "models", Level::Warning, &["cannot look at", "no answer for 10 s"]);
}

#[test]
fn scraps_in_the_store_are_told_each_with_what_to_do() {
    let store = Inspection {
        base_models: 0,
        models: 1,
        broken: vec![("/m/a/vllama.json".into(), "its checkpoint is not there".into())],
        leftovers: 3,
        foreign: vec!["/m/b".into()],
    };
    let found = bad(&Facts { store: Ok(store), ..well_equipped() });
    let words = [["/m/a/vllama.json", "ollama pull"], ["3 unfinished", "next start"], ["/m/b", "chown"]];
    assert_eq!(found.len(), words.len(), "{found:?}");
    for ((check, level, text), words) in found.iter().zip(words) {
        assert_eq!((*check, *level), ("store", Level::Warning));
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
    }
}

#[test]
fn a_port_is_free_or_ours_or_keeps_vllama_from_serving() {
    let address = ([127, 0, 0, 1], 11434).into();
    let with = |port| Facts { port: Ok(port), ..well_equipped() };
    assert_eq!(bad(&with(Port::Vllama(address, "0.1.0".into()))), []);
    assert_eq!(bad(&with(Port::NotAsked)), []);
    let taken = with(Port::Taken(address, "another program listens there".into()));
    assert_only(&taken, "port", Level::Error, &["127.0.0.1:11434", "ollama?", "OLLAMA_HOST"]);
}

#[test]
fn low_limits_are_told_with_the_flags_that_raise_them() {
    let few = Facts { limits: Limits { descriptors: 1024, locked: u64::MAX }, ..well_equipped() };
    assert_only(&few, "limits", Level::Warning, &["1024", "--ulimit nofile=65535:65535", "LimitNOFILE=65535"]);
    let limits = Limits { descriptors: 1 << 20, locked: 65536 };
    assert_eq!(bad(&Facts { limits, ..with_gpus(1) }), [], "one GPU exchanges nothing");
    assert_only(&Facts { limits, ..with_gpus(2) }, "limits", Level::Warning, &["64 KiB", "--ulimit memlock=-1"]);
}
