//! The store on real directories.

use std::time::SystemTime;

use super::*;
use crate::model::digest::files_below;
use crate::model::{Overlay, Source};

const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama"}"#;

fn name(text: &str) -> ModelName {
    ModelName::parse(text).expect("a name")
}

fn source() -> Source {
    Source { format: "gguf".into(), quantization: "Q4_1".into(), license: None, parameters: 7 }
}

/// Installs a checkpoint with these bytes for weights.
fn install(store: &Store, model: &str, weights: &str) -> io::Result<Arc<Installed>> {
    let staging = store.stage()?;
    fs::write(staging.directory().join("config.json"), CONFIG)?;
    fs::write(staging.directory().join("model.safetensors"), weights)?;
    store.install(staging, &name(model), source())
}

/// A model as the first versions of vllama installed it.
fn install_beside(root: &Path, model: &str, digest: &str) {
    let place = Layer { root: root.into() }.place(&name(model));
    fs::create_dir_all(&place).expect("made");
    fs::write(place.join("config.json"), CONFIG).expect("written");
    fs::write(place.join("model.safetensors"), "old").expect("written");
    let manifest = serde_json::json!({"name": name(model).display(), "digest": digest, "size": 3, "format": "gguf",
        "quantization": "Q4_1", "license": null, "parameters": 7});
    fs::write(place.join("vllama.json"), manifest.to_string()).expect("written");
}

fn open() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().expect("a directory");
    let store = Store::open(root.path()).expect("a store");
    (root, store)
}

fn names(store: &Store) -> Vec<String> {
    let mut names: Vec<_> = store.list().iter().map(|model| model.name.display()).collect();
    names.sort();
    names
}

/// Entries of a directory of the store; none when it is not there.
fn entries(root: &Path, directory: &str) -> usize {
    fs::read_dir(root.join(directory)).map_or(0, Iterator::count)
}

fn draft(model: &Arc<Installed>, overlay: Overlay) -> Draft {
    Draft { checkpoint: Checkpoint::Of(model.clone()), overlay, adapter: None }
}

fn commit(store: &Store, draft: Draft, model: &str) -> io::Result<Arc<Installed>> {
    store.publish(store.prepare(draft)?, &name(model))
}

const OLD: &str = "084d77eeeafcb3d4d49683808fc408ef6299ea6f55c1219f35939eb3e38feb2e";

#[test]
fn an_installed_model_is_found_by_any_spelling_and_after_a_restart() {
    let (root, store) = open();
    let model = install(&store, "SmolLM2:135m", "w").expect("installed");
    assert_eq!((model.manifest.digest.len(), model.manifest.size), (64, CONFIG.len() as u64 + 1));
    let again = Store::open(root.path()).expect("a store");
    let found = again.find(&name("smollm2:135M")).expect("found");
    assert_eq!(found.manifest, model.manifest);
    assert_eq!(names(&again), ["SmolLM2:135m"]);
}

#[test]
fn a_model_installed_or_deleted_by_another_vllama_appears_and_goes_without_a_restart() {
    let (root, store) = open();
    let other = Store::open(root.path()).expect("a second handle");
    install(&other, "a", "w").expect("installed");
    assert!(store.find(&name("a")).is_some());
    assert_eq!(names(&store), ["a:latest"]);
    let replaced = install(&other, "a", "another").expect("installed again");
    assert_eq!(store.find(&name("a")).expect("found").manifest, replaced.manifest);
    assert!(other.remove(&name("a")).expect("removed"));
    assert!(store.find(&name("a")).is_none() && store.list().is_empty());
}

#[test]
fn what_is_half_built_or_torn_is_not_listed_and_the_half_built_goes_when_its_builder_is_gone() {
    let (root, store) = open();
    let staging = store.stage().expect("staged");
    fs::write(staging.directory().join("config.json"), CONFIG).expect("written");
    let leftover = root.path().join(".staging/left");
    fs::create_dir_all(&leftover).expect("made");
    fs::write(leftover.join("model.safetensors"), "half").expect("written");
    let torn = root.path().join("registry.ollama.ai/library/torn/latest");
    fs::create_dir_all(&torn).expect("made");
    fs::write(torn.join("vllama.json"), "{").expect("written");
    assert!(store.list().is_empty());
    assert!(store.find(&name("torn")).is_none());
    let again = Store::open(root.path()).expect("a store");
    assert!(again.list().is_empty());
    assert!(staging.directory().join("config.json").is_file(), "its builder is still at work");
    assert!(!leftover.exists());
    assert_eq!(entries(root.path(), ".staging"), 1);
}

#[test]
fn a_failed_install_leaves_nothing_and_a_second_install_replaces_the_first() {
    let (root, store) = open();
    let staging = store.stage().expect("staged");
    assert!(store.install(staging, &name("a"), source()).is_err());
    install(&store, "a", "one").expect("installed");
    let second = install(&store, "a", "two").expect("installed again");
    assert_eq!(names(&store), ["a:latest"]);
    assert_eq!(fs::read_to_string(second.directory.join("model.safetensors")).expect("read"), "two");
    assert_eq!((entries(root.path(), ".staging"), entries(root.path(), ".checkpoints")), (0, 1));
}

#[test]
fn copies_share_their_checkpoint_and_the_last_one_takes_it_along() {
    let (root, store) = open();
    let one = install(&store, "one", "w").expect("installed");
    let two = store.copy(&one, &name("two")).expect("copied");
    assert_eq!((&two.directory, &two.manifest.digest), (&one.directory, &one.manifest.digest));
    assert_eq!(two.engine_key(), one.engine_key());
    assert!(store.shares_engine(&one));
    assert!(store.remove(&name("one")).expect("removed"));
    assert!(two.directory.join("model.safetensors").is_file());
    assert!(store.remove(&name("two")).expect("removed"));
    assert!(!store.remove(&name("two")).expect("nothing there"));
    assert_eq!((entries(root.path(), ".staging"), entries(root.path(), ".checkpoints")), (0, 0));
    assert!(!root.path().join("registry.ollama.ai").exists(), "no empty directories stay");
}

#[test]
fn overlays_change_the_digest_and_not_the_engine_and_adapters_change_both() {
    let (root, store) = open();
    let plain = install(&store, "plain", "w").expect("installed");
    let overlay = Overlay { system: "You are Mario.".into(), parent: "plain:latest".into(), ..Overlay::default() };
    let mario = commit(&store, draft(&plain, overlay), "mario").expect("made");
    assert_ne!(mario.manifest.digest, plain.manifest.digest);
    assert_eq!(mario.engine_key(), plain.engine_key());
    let adapter = store.stage().expect("staged");
    fs::write(adapter.directory().join("adapter_config.json"), r#"{"r":8}"#).expect("written");
    let bent = Draft { adapter: Some(adapter), ..draft(&mario, mario.overlay().clone()) };
    let bent = commit(&store, bent, "bent").expect("made");
    assert_ne!(bent.engine_key(), plain.engine_key());
    assert_eq!(bent.manifest.size, plain.manifest.size + 7);
    let again = Store::open(root.path()).expect("a store");
    let found = again.find(&name("bent")).expect("found");
    assert_eq!(found.overlay().system, "You are Mario.");
    assert!(found.adapter.as_ref().is_some_and(|adapter| adapter.directory.join("adapter_config.json").is_file()));
    assert!(again.remove(&name("bent")).expect("removed"));
    assert_eq!(entries(root.path(), ".adapters"), 0);
    assert_eq!(entries(root.path(), ".checkpoints"), 1);
}

#[test]
fn a_checkpoint_beside_its_manifest_is_moved_and_keeps_its_age() {
    let root = tempfile::tempdir().expect("a directory");
    install_beside(root.path(), "old", OLD);
    let file = root.path().join("registry.ollama.ai/library/old/latest/vllama.json");
    let age = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(age)).expect("an age");
    let store = Store::open(root.path()).expect("a store");
    let model = store.find(&name("old")).expect("found");
    assert_eq!((model.modified_at, model.manifest.digest.as_str()), (age, OLD));
    assert_eq!(model.directory, root.path().join(".checkpoints").join(OLD));
    assert_eq!(fs::read_to_string(model.directory.join("model.safetensors")).expect("read"), "old");
    let beside = files_below(file.parent().expect("a place")).expect("read");
    assert_eq!(beside, [PathBuf::from("vllama.json")]);
    let copy = store.copy(&model, &name("new")).expect("copied");
    assert_eq!(copy.directory, model.directory);
}

#[test]
fn a_move_that_was_broken_off_is_taken_up_again() {
    // Killed after the checkpoint had its place, and after the manifest pointed there.
    for pointed in [false, true] {
        let root = tempfile::tempdir().expect("a directory");
        install_beside(root.path(), "old", OLD);
        let place = root.path().join("registry.ollama.ai/library/old/latest");
        let checkpoint = root.path().join(".checkpoints").join(OLD);
        durable::link_all(&place, &checkpoint, layer::MANIFEST, false).expect("linked");
        if pointed {
            let text = fs::read_to_string(place.join("vllama.json")).expect("read");
            let mut manifest: Manifest = serde_json::from_str(&text).expect("a manifest");
            manifest.checkpoint = Some(Sha256Digest::parse(OLD).expect("a digest"));
            fs::write(place.join("vllama.json"), serde_json::to_string(&manifest).expect("JSON")).expect("written");
        }
        let store = Store::open(root.path()).expect("a store");
        assert_eq!(store.find(&name("old")).expect("found").directory, checkpoint);
        assert_eq!(files_below(&place).expect("read").len(), 1);
    }
}

#[test]
fn checkpoints_without_a_name_go_when_the_store_is_opened() {
    let (root, store) = open();
    let model = install(&store, "a", "w").expect("installed");
    let lost = root.path().join(".checkpoints").join(OLD);
    fs::create_dir_all(&lost).expect("made");
    fs::write(lost.join("model.safetensors"), "lost").expect("written");
    let again = Store::open(root.path()).expect("a store");
    assert!(!lost.exists() && model.directory.is_dir());
    assert_eq!(names(&again), ["a:latest"]);
}

#[test]
fn the_upper_layer_hides_the_base_and_a_deleted_base_model_stays_deleted() {
    let (base_root, base) = open();
    install(&base, "baked", "base").expect("installed");
    install(&base, "other", "base too").expect("installed");
    install_beside(base_root.path(), "old", OLD);
    let before = files_below(base_root.path()).expect("read").len();
    let root = tempfile::tempdir().expect("a directory");
    let layered = || Store::with_base(root.path(), Some(base_root.path())).expect("a store");
    let store = layered();
    assert_eq!(names(&store), ["baked:latest", "old:latest", "other:latest"]);
    let baked = store.find(&name("baked")).expect("found");
    assert!(baked.directory.starts_with(base_root.path()));
    // Aliases of base models stand on the base; nothing is copied over.
    let alias = store.copy(&baked, &name("alias")).expect("copied");
    let aged = store.copy(&store.find(&name("old")).expect("found"), &name("aged")).expect("copied");
    assert!([&alias, &aged].iter().all(|model| model.directory.starts_with(base_root.path())));
    assert_eq!(entries(root.path(), ".checkpoints"), 0);
    install(&store, "other", "upper").expect("installed");
    assert!(store.remove(&name("baked")).expect("removed"));
    assert!(!store.remove(&name("baked")).expect("hidden already"));
    for store in [store, layered()] {
        assert_eq!(names(&store), ["aged:latest", "alias:latest", "old:latest", "other:latest"]);
        assert!(store.find(&name("baked")).is_none());
        let other = store.find(&name("other")).expect("found");
        assert!(other.directory.starts_with(root.path()));
    }
    let (store, another) = (layered(), layered());
    assert!(another.find(&name("old")).is_some());
    assert!(store.remove(&name("old")).expect("removed"));
    assert!(another.find(&name("old")).is_none(), "another vllama sees it as well");
    assert!(store.remove(&name("other")).expect("removed"));
    assert!(store.find(&name("other")).is_none(), "the one below does not come back");
    install(&store, "baked", "anew").expect("installed over the whiteout");
    assert!(layered().find(&name("baked")).is_some());
    assert_eq!(files_below(base_root.path()).expect("read").len(), before, "nobody writes to the base");
}

#[test]
fn a_missing_base_is_no_base() {
    let root = tempfile::tempdir().expect("a directory");
    let store = Store::with_base(root.path(), Some(Path::new("/nonexistent/models"))).expect("a store");
    assert!(store.list().is_empty());
}

#[test]
fn a_draft_of_a_model_that_was_deleted_meanwhile_is_refused() {
    let (_root, store) = open();
    let model = install(&store, "a", "w").expect("installed");
    assert!(store.remove(&name("a")).expect("removed"));
    assert!(store.copy(&model, &name("b")).is_err());
    assert!(store.list().is_empty());
}

#[tokio::test]
async fn a_name_is_changed_by_one_at_a_time() {
    let (root, store) = open();
    let held = store.lock(&name("a")).await.expect("locked");
    let other = Store::open(root.path()).expect("another process's handle");
    other.lock(&name("b")).await.expect("another name is free");
    let waiting = tokio::spawn(async move { other.lock(&name("A:latest")).await.map(drop) });
    tokio::time::sleep(LOCK_PACE * 3).await;
    assert!(!waiting.is_finished());
    drop(held);
    waiting.await.expect("no panic").expect("locked at last");
    assert_eq!(entries(root.path(), ".locks"), 0);
}

#[test]
fn many_threads_and_handles_at_once_leave_a_whole_store() {
    let (root, store) = open();
    let first = install(&store, "seed", "seed").expect("installed");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, first) = (Store::open(root.path()).expect("a store"), first.clone());
            scope.spawn(move || {
                for turn in 0..8 {
                    let target = format!("m{}", (thread + turn) % 3);
                    match turn % 3 {
                        0 => _ = install(&store, &target, &format!("w{}", turn % 2)).expect("installed"),
                        1 => _ = store.copy(&first, &name(&target)).expect("copied"),
                        _ => _ = store.remove(&name(&target)).expect("removed"),
                    }
                    assert!(!store.list().is_empty(), "the seed is always there");
                }
            });
        }
    });
    let again = Store::open(root.path()).expect("a store");
    let models = again.list();
    assert_eq!(names(&store), names(&again));
    assert!(models.iter().all(|model| model.directory.join("model.safetensors").is_file()));
    let checkpoints: std::collections::HashSet<_> = models.iter().map(|model| &model.directory).collect();
    assert_eq!(entries(root.path(), ".checkpoints"), checkpoints.len());
    assert_eq!(entries(root.path(), ".staging"), 0);
}

#[tokio::test]
async fn uploads_are_kept_by_their_digest_or_not_at_all() {
    let (root, store) = open();
    let digest = Sha256Digest::of(b"GGUF");
    let mut upload = store.blobs().upload().await.expect("begun");
    upload.write(b"GG").and_then(|()| upload.write(b"UF")).expect("written");
    assert_eq!(store.blobs().find(&digest), None);
    assert_eq!(store.blobs().keep(upload, &digest).expect("kept"), Ok(()));
    assert!(store.blobs().find(&digest).is_some());
    let wrong = store.blobs().upload().await.expect("begun");
    let wanted = Sha256Digest::of(b"other");
    assert_eq!(store.blobs().keep(wrong, &wanted).expect("refused"), Err(Sha256Digest::of(b"")));
    assert_eq!(store.blobs().find(&wanted), None);
    assert_eq!(entries(root.path(), ".staging"), 0);
    let target = root.path().join("linked");
    store.blobs().link(&digest, &target).expect("linked");
    let old = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let blob = store.blobs().find(&digest).expect("there");
    fs::File::open(&blob).and_then(|file| file.set_modified(old)).expect("aged");
    let again = Store::open(root.path()).expect("a store");
    assert_eq!(again.blobs().find(&digest), None, "nobody has used it for days");
    assert_eq!(fs::read(&target).expect("still there"), b"GGUF");
}
