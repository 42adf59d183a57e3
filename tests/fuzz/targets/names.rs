//! Names of models and times to live.

use serde_json::value::RawValue;
use vllama::api::ollama::keep_alive;
use vllama::api::ollama::names::Wanted;
use vllama::model::ModelName;
use vllama::scheduler::KeepAlive;

use super::Target;

pub const MODEL_NAME: Target = Target {
    name: "model_name",
    run: model_name,
    seeds: || {
        let names = ["smollm2:135m", "hf.co/unsloth/X-GGUF:Q4_K_M", "http://localhost:5000/me/foo", "Qwen/Qwen2.5-7B"];
        names.map(|name| name.as_bytes().to_vec()).to_vec()
    },
    words: &["/", ":", "..", ".", "library", "latest", ":local", ":cloud", "-cloud", "registry.ollama.ai", "https://"],
};

pub const KEEP_ALIVE: Target = Target {
    name: "keep_alive",
    run: times,
    seeds: || {
        let times = ["300", "-1", "1.5", "\"5m0s\"", "\"1h30m\"", "\"-0.5ms\"", "\"24h\"", "true", "\"\""];
        times.map(|time| time.as_bytes().to_vec()).to_vec()
    },
    words: &["ns", "us", "µs", "ms", "s", "m", "h", "d", "-", "+", ".", "0", "9223372036", "1e30"],
};

/// A name that is taken can be written down and read again, and never leads out of the store.
fn model_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Wanted::parse(text);
    let Ok(name) = ModelName::parse(text) else { return };
    for written in [name.display(), name.full()] {
        assert_eq!(ModelName::parse(&written).as_ref(), Ok(&name), "{written}");
    }
    for part in name.key() {
        assert!(!part.is_empty() && part != "." && part != "..", "{part:?}");
        assert!(!part.contains(['/', '\\', '\0']) && !part.starts_with(['.', '-']), "{part:?}");
    }
}

/// A time that is taken is no longer than Go's longest, or for ever.
fn times(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let kept = [
        keep_alive::parse_setting(text).ok(),
        serde_json::from_str::<&RawValue>(text).ok().and_then(|raw| keep_alive::parse(raw).ok()),
    ];
    for kept in kept.into_iter().flatten() {
        if let KeepAlive::For(time) = kept {
            assert!(time.as_secs() <= 9_223_372_036, "{time:?}");
        }
    }
}
