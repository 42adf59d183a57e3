//! What is installed and what is loaded: `/api/tags` and `/api/ps` (ollama-api §4.2, §4.4). Never waits.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::model::{Capability, Installed};
use crate::scheduler::{EngineSnapshot, Snapshot};
use crate::telemetry::Timestamp;

/// Go's longest duration: what Ollama shows for a model that stays for ever (§4.4).
const FOREVER: Duration = Duration::from_nanos(i64::MAX as u64);

/// `details` of a model.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are Ollama's")]
pub struct Details {
    pub parent_model: String,
    pub format: String,
    pub family: String,
    pub families: [String; 1],
    pub parameter_size: String,
    pub quantization_level: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub context_length: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub embedding_length: u64,
}

impl Details {
    /// The details of an installed model. Four of them are never empty, because clients break on that (§4.2).
    #[must_use]
    pub fn of(model: &Installed) -> Self {
        let told = |text: &str| if text.is_empty() { "unknown" } else { text }.to_owned();
        let family = told(&model.card.family);
        Self {
            parent_model: model.overlay().parent.clone(),
            format: told(&model.manifest.format),
            families: [family.clone()],
            family,
            parameter_size: human_number(model.card.parameters),
            quantization_level: told(&model.manifest.quantization),
            context_length: model.card.context_length,
            embedding_length: model.card.embedding_length,
        }
    }
}

#[derive(Serialize)]
struct Tag<'a> {
    name: String,
    model: String,
    modified_at: Timestamp,
    size: u64,
    digest: &'a str,
    details: Details,
    capabilities: &'a [Capability],
}

#[derive(Serialize)]
struct Running<'a> {
    name: String,
    model: String,
    size: u64,
    digest: &'a str,
    details: Details,
    expires_at: Timestamp,
    size_vram: u64,
    context_length: u64,
    /// Not Ollama's: what was changed of the engine's plan because it failed, where anything was.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    plan_changes: &'a [String],
}

#[derive(Serialize)]
struct Models<T> {
    models: Vec<T>,
}

/// The body of `/api/tags`; the models come newest first.
#[must_use]
pub fn tags<'a>(models: impl IntoIterator<Item = &'a Installed>) -> Vec<u8> {
    let tag = |model: &'a Installed| Tag {
        name: model.name.display(),
        model: model.name.display(),
        modified_at: Timestamp::of(model.modified_at),
        size: model.manifest.size,
        digest: &model.manifest.digest,
        details: Details::of(model),
        capabilities: &model.card.capabilities,
    };
    body(models.into_iter().map(tag).collect())
}

/// The body of `/api/ps`; those that stay longest come first.
#[must_use]
pub fn running<'a>(snapshot: &'a Snapshot, find: impl Fn(&EngineSnapshot) -> Option<&'a Installed>) -> Vec<u8> {
    let now = SystemTime::now();
    let mut loaded: Vec<_> = snapshot
        .engines
        .iter()
        .filter(|engine| engine.loaded)
        .filter_map(|engine| Some((engine.expires_at.unwrap_or(now + FOREVER), engine, find(engine)?)))
        .collect();
    loaded.sort_by_key(|(expires_at, ..)| std::cmp::Reverse(*expires_at));
    let running = |(expires_at, engine, model): (SystemTime, &'a EngineSnapshot, &'a Installed)| {
        // Never 0, which clients show as "Unknown".
        let size = engine.gpu_bytes.or(engine.memory_bytes).filter(|size| *size > 0).unwrap_or(model.manifest.size);
        Running {
            name: model.name.display(),
            model: model.name.display(),
            size,
            digest: &model.manifest.digest,
            details: Details::of(model),
            expires_at: Timestamp::of(expires_at),
            // Equal sizes are shown as "100% GPU", none as "100% CPU".
            size_vram: if engine.gpu_bytes.is_some() { size } else { 0 },
            context_length: engine.context_length.unwrap_or(model.card.context_length),
            plan_changes: &engine.changes,
        }
    };
    body(loaded.into_iter().map(running).collect())
}

fn body<T: Serialize>(models: Vec<T>) -> Vec<u8> {
    // Strings and numbers always become JSON.
    serde_json::to_vec(&Models { models }).unwrap_or_default()
}

/// A number as Ollama shows it: `7.6B`, `8B`, `134.52M`, `12K`.
fn human_number(number: u64) -> String {
    let scaled = |unit: u64, digits: usize, letter: char| {
        let digits = if number.is_multiple_of(unit) { 0 } else { digits };
        #[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
        let value = number as f64 / unit as f64;
        format!("{value:.digits$}{letter}")
    };
    match number {
        1_000_000_000.. => scaled(1_000_000_000, 1, 'B'),
        1_000_000.. => scaled(1_000_000, 2, 'M'),
        1000.. => scaled(1000, 0, 'K'),
        _ => number.to_string(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
pub(in crate::api) mod tests {
    use super::*;
    use crate::model::{Card, Manifest, ModelName};
    use serde_json::{Value, json};
    use std::time::UNIX_EPOCH;

    /// The model of the recorded answers.
    pub fn smollm2() -> Installed {
        Installed {
            name: ModelName::parse("smollm2:135m").expect("a valid name"),
            directory: "/models/smollm2".into(),
            adapter: None,
            modified_at: UNIX_EPOCH + Duration::from_secs(1_795_402_351),
            manifest: Manifest {
                name: "smollm2:135m".into(),
                digest: "084d77eeeafcb3d4d49683808fc408ef6299ea6f55c1219f35939eb3e38feb2e".into(),
                size: 98_363_007,
                format: "gguf".into(),
                quantization: "Q4_1".into(),
                license: Some("apache-2.0".into()),
                parameters: 134_515_008,
                ..Manifest::default()
            },
            card: Card {
                architecture: "LlamaForCausalLM".into(),
                family: "llama".into(),
                parameters: 134_515_008,
                context_length: 8192,
                embedding_length: 576,
                block_count: 30,
                head_count: 9,
                head_count_kv: 3,
                feed_forward_length: 1536,
                vocabulary_size: 49152,
                chat_template: Some("{% for message in messages %}…".into()),
                capabilities: vec![Capability::Completion],
                ..Card::default()
            },
        }
    }

    fn engine(expires_at: Option<SystemTime>) -> EngineSnapshot {
        EngineSnapshot {
            starts: 1,
            restarts_by_failure: Vec::new(),
            wedges: 0,
            replayed: 0,
            start_phases: Vec::new(),
            model: smollm2().name,
            key: smollm2().engine_key(),
            state: "ready",
            serves: true,
            loaded: true,
            phase: "",
            percent: 100,
            generation: 1,
            restarts: 0,
            leases: 0,
            waiting: 0,
            oldest_wait: None,
            estimate: Duration::ZERO,
            failure: None,
            failure_name: None,
            changes: Vec::new(),
            memory_bytes: Some(500),
            gpu_bytes: None,
            context_length: Some(2048),
            start_took: None,
            expires_at,
        }
    }

    fn read(body: &[u8]) -> Value {
        serde_json::from_slice(body).expect("lists are JSON")
    }

    #[test]
    fn tags_hold_what_the_recorded_server_said() {
        let model = smollm2();
        let entry = &read(&tags([&model]))["models"][0];
        assert_eq!(
            *entry,
            json!({"name": "smollm2:135m", "model": "smollm2:135m", "modified_at": "2026-11-23T02:52:31.000000+00:00",
                "size": 98_363_007,
                "digest": "084d77eeeafcb3d4d49683808fc408ef6299ea6f55c1219f35939eb3e38feb2e",
                "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
                    "parameter_size": "134.52M", "quantization_level": "Q4_1", "context_length": 8192,
                    "embedding_length": 576},
                "capabilities": ["completion"]})
        );
        assert_eq!(tags([]), br#"{"models":[]}"#);
    }

    #[test]
    fn running_models_say_where_they_are_and_until_when() {
        let model = smollm2();
        let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
        let mut stopped = engine(None);
        stopped.loaded = false;
        let engines = vec![engine(Some(in_an_hour)), engine(None), stopped];
        let snapshot = Snapshot { engines, ..Snapshot::default() };
        let models = read(&running(&snapshot, |_| Some(&model)));
        assert_eq!(models["models"].as_array().map(Vec::len), Some(2));
        let forever = &models["models"][0];
        assert!(forever["expires_at"].as_str().is_some_and(|text| text.starts_with("23")), "{forever}");
        assert_eq!(
            (&forever["size"], &forever["size_vram"], &forever["context_length"]),
            (&json!(500), &json!(0), &json!(2048))
        );
        assert_eq!(models["models"][1]["expires_at"], Timestamp::of(in_an_hour).as_str());
        let on_gpu = EngineSnapshot { gpu_bytes: Some(700), ..engine(None) };
        let models = read(&running(&Snapshot { engines: vec![on_gpu], ..Snapshot::default() }, |_| Some(&model)));
        assert_eq!((&models["models"][0]["size"], &models["models"][0]["size_vram"]), (&json!(700), &json!(700)));
    }

    #[test]
    fn numbers_are_shown_as_ollama_shows_them() {
        for (number, text) in [
            (134_515_008, "134.52M"),
            (7_615_616_512, "7.6B"),
            (8_000_000_000, "8B"),
            (137_000_000, "137M"),
            (12_300, "12K"),
            (999, "999"),
        ] {
            assert_eq!(human_number(number), text);
        }
    }
}
