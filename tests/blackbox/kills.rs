//! `kill -9` in the middle of changes to the store, at many points: nothing torn is seen afterwards, nothing that was
//! installed is lost, and nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::Digest as _;

use crate::harness::{Client, Request, Vllama};

/// As the importer of the other tests, but at a pace that lets a kill come between any two of its pieces.
const SLOW_IMPORTER: &str = r#"#!/bin/sh
printf '{"architectures":["LlamaForCausalLM"],"model_type":"llama","max_position_embeddings":512}' > "$4/config.json"
for done in 1 2 3 4 5 6 7 8; do
    tail -c +5 "$3" >> "$4/model.safetensors" || exit 1
    echo '{"event":"progress","phase":"tensors","done":'$done',"total":8}'
    sleep 0.01
done
echo '{"event":"done","parameters":1234567,"quantization":"Q8_0","license":"mit"}'
"#;

/// A GGUF file, as far as the importer looks at it.
fn gguf() -> Vec<u8> {
    [b"GGUF".to_vec(), vec![7; 20_000]].concat()
}

fn hex(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifests in a store, by the names they stand at.
fn manifests(models: &Path) -> BTreeMap<String, Value> {
    let library = models.join("registry.ollama.ai/library");
    let list = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let places = list(library.clone()).flat_map(list);
    let read = |place: PathBuf| {
        let name = place.strip_prefix(&library).expect("below").to_string_lossy().replace('/', ":");
        let text = std::fs::read_to_string(place.join("vllama.json")).expect("every place has a manifest");
        (name, serde_json::from_str(&text).expect("a whole manifest"))
    };
    places.map(read).collect()
}

/// Checks that what is there is whole, and that nothing else is there.
fn assert_whole(models: &Path) {
    let mut named = BTreeSet::new();
    for (name, manifest) in manifests(models) {
        let checkpoint = manifest["checkpoint"].as_str().unwrap_or_else(|| panic!("{name}: {manifest}")).to_owned();
        let files = std::fs::read_dir(models.join(".checkpoints").join(&checkpoint)).expect("its checkpoint");
        let size: u64 = files.flatten().map(|file| file.metadata().expect("a file").len()).sum();
        // The size of the model that every test has is that of the recorded answers.
        assert!(manifest["parameters"] != 1_234_567 || manifest["size"] == size, "{name}: {size} of {manifest}");
        named.insert(checkpoint);
    }
    let entries = |directory: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(models.join(directory)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(entries(".checkpoints"), named, "checkpoints without a name, or names without one");
    assert_eq!(entries(".staging"), BTreeSet::new(), "leftovers");
    assert_eq!(entries(".locks"), BTreeSet::new(), "locks left behind");
}

/// The names a vllama lists; each of them can be shown.
async fn listed(vllama: &Vllama) -> BTreeSet<String> {
    let tags = vllama.get("/api/tags").await.json();
    let mut names = BTreeSet::new();
    for model in tags["models"].as_array().expect("a list") {
        let name = model["name"].as_str().expect("a name");
        let shown = vllama.post("/api/show", &json!({"model": name})).await;
        assert_eq!(shown.status(), 200, "{name}: {}", shown.text());
        names.insert(name.to_owned());
    }
    names
}

#[tokio::test]
async fn a_create_from_a_file_that_is_killed_at_any_line_is_whole_or_not_there() {
    let mut vllama = Vllama::with_fake().python(SLOW_IMPORTER).start_listening().await;
    let mut installed = BTreeSet::from(["smollm2:135m".to_owned()]);
    let digest = format!("sha256:{}", hex(&gguf()));
    let mut finished = 0;
    // There are thirteen lines; each is a point to kill at, soon after it and a little later.
    for point in 0..30_u32 {
        let upload = Request::new("POST", &format!("/api/blobs/{digest}")).body(gguf());
        assert!([200, 201].contains(&vllama.client.request(&upload).await.status()));
        let name = format!("made{point}:latest");
        let body = json!({"model": name, "files": {"m.gguf": digest}, "system": format!("number {point}")});
        let mut exchange = vllama.client.send(&Request::post("/api/create", &body)).await.expect("sent");
        exchange.head().await.expect("a head");
        let mut said = String::new();
        while said.lines().count() < (point / 2) as usize {
            match exchange.piece().await.expect("a line") {
                Some(piece) => said.push_str(&String::from_utf8(piece.bytes).expect("text")),
                None => break,
            }
        }
        let until = Instant::now() + Duration::from_micros(u64::from(point % 2) * 3000);
        while Instant::now() < until {
            tokio::task::yield_now().await;
        }
        vllama = vllama.kill().start_listening().await;
        let now = listed(&vllama).await;
        assert_whole(&vllama.path("models"));
        assert!(now.is_superset(&installed), "{installed:?} of {now:?}");
        if said.contains("\"success\"") {
            finished += 1;
            assert!(now.contains(&name), "{name} was told to be there");
        }
        assert!(now.iter().all(|known| installed.contains(known) || *known == name), "{now:?}");
        installed = now;
    }
    assert!(finished > 0 && finished < 30, "some were killed in the middle, some were not: {finished}");
}

/// What a change was told to have done: there, not there, or not answered.
type Told = Arc<Mutex<BTreeMap<String, Option<bool>>>>;

/// Makes, copies and deletes models until the server is gone.
async fn change_on(client: Client, round: usize, told: Told) {
    let set =
        |name: &str, state| _ = told.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), state);
    for number in 0.. {
        let (made, copied) = (format!("m{round}-{number}:latest"), format!("c{round}:latest"));
        let create =
            json!({"model": made, "from": "smollm2:135m", "system": format!("{round} {number}"), "stream": false});
        let delete = json!({"model": made}).to_string();
        for (name, request, there) in [
            (&made, Request::post("/api/create", &create), true),
            (&copied, Request::post("/api/copy", &json!({"source": made, "destination": copied})), true),
            (&made, Request::new("DELETE", "/api/delete").body(delete), false),
        ] {
            // A copy over a copy leaves one there, whether it is the old one or the new one.
            if *name != copied || number == 0 {
                set(name, None);
            }
            match client.try_request(&request).await {
                Ok(answer) if answer.status() == 200 => set(name, Some(there)),
                Ok(answer) => panic!("{}: {}", answer.status(), answer.text()),
                Err(_) => return,
            }
        }
    }
}

#[tokio::test]
async fn quick_changes_that_are_killed_at_any_moment_are_done_or_not_begun() {
    let mut vllama = Vllama::with_fake().start_listening().await;
    let told: Told = Arc::default();
    told.lock().expect("new").insert("smollm2:135m".to_owned(), Some(true));
    for round in 0..24_usize {
        let changing = tokio::spawn(change_on(vllama.client.clone(), round, told.clone()));
        // A change takes some milliseconds: these moments fall everywhere in the first few of them.
        tokio::time::sleep(Duration::from_micros(2000 + 1300 * round as u64)).await;
        let builder = vllama.kill();
        changing.await.expect("every answer was good");
        vllama = builder.start_listening().await;
        let now = listed(&vllama).await;
        assert_whole(&vllama.path("models"));
        let mut told = told.lock().expect("nobody else");
        for (name, state) in told.iter_mut() {
            if let Some(there) = state {
                assert_eq!(now.contains(name), *there, "round {round}: {name} was told to be there: {there}");
            }
            *state = Some(now.contains(name));
        }
        assert!(now.iter().all(|name| told.contains_key(name)), "{now:?}");
    }
    let told = told.lock().expect("nobody else");
    assert!(told.values().any(|state| *state == Some(false)), "some were deleted");
    assert!(told.len() > 10, "{told:?}");
}

#[tokio::test]
async fn an_import_that_is_killed_at_any_byte_is_whole_or_not_there() {
    let builder = Vllama::with_fake().python(SLOW_IMPORTER);
    let models = builder.path().join("models");
    let file = builder.path().join("m.gguf");
    std::fs::write(&file, gguf()).expect("written");
    let file = file.to_string_lossy().into_owned();
    // Seventeen points among the bytes, then points in time while they are hashed and get their name; the last two come
    // to their end.
    let whole = 8 * 20_000_u64;
    let mut killed = 0;
    for point in 0..40_u64 {
        let name = format!("import{point}:latest");
        let mut import = builder.command(&["import", &file, &name]).spawn().expect("vllama starts");
        let bytes = (whole * point / 17).min(whole - 1);
        let later = if point < 38 { Duration::from_millis(2 * point.saturating_sub(17)) } else { Duration::MAX };
        let mut reached = None;
        let ended = loop {
            if let Some(status) = import.try_wait().expect("the state of a child") {
                break Some(status);
            }
            if reached.is_none() && staged(&models) > bytes {
                reached = Some(Instant::now());
            }
            if reached.is_some_and(|reached| reached.elapsed() >= later) {
                break None;
            }
            tokio::task::yield_now().await;
        };
        import.kill().expect("killed, if it has not ended");
        import.wait().expect("ended");
        let manifest = models.join(format!("registry.ollama.ai/library/import{point}/latest/vllama.json"));
        let there = || manifest.exists();
        let before = there();
        // Opening the store is what the next vllama does first.
        drop(vllama::model::Store::open(&models).expect("a store"));
        assert_whole(&models);
        assert_eq!(there(), before, "{name}");
        if let Some(status) = ended {
            assert!(status.success() && before, "{name}: {status}");
        }
        killed += usize::from(ended.is_none() && !before);
        assert!(manifests(&models).contains_key("smollm2:135m"));
    }
    assert!(killed >= 17, "killed in the middle: {killed}");
    assert!(manifests(&models).len() > 2, "two came to their end");
}

/// Bytes in what is being built.
fn staged(models: &Path) -> u64 {
    let list = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = list(models.join(".staging")).flat_map(list).filter(|path| path.ends_with("model.safetensors"));
    files.filter_map(|path| Some(path.metadata().ok()?.len())).sum()
}
