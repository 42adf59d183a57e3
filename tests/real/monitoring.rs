//! What boards and alerts ask of the engine, which only the engine itself can name.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::Vllama;

/// Each metric of vLLM's that a board or a rule asks for is on the page of a vllama with this engine.
pub(crate) async fn engines_metrics(vllama: &Vllama) {
    let asked: BTreeSet<String> =
        ["grafana/boards", "prometheus/rules"].into_iter().flat_map(files).flat_map(|text| names(&text)).collect();
    assert!(asked.contains("vllm:kv_cache_usage_perc"), "{asked:?}");
    let page = vllama.get("/metrics").await.text();
    let told: BTreeSet<&str> = page.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let missing: Vec<_> = asked.iter().filter(|name| !told.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "asked for and not told: {missing:?}");
}

fn files(directory: &str) -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
}

/// The metrics of vLLM's in a text.
fn names(text: &str) -> Vec<String> {
    let rest = |(at, _)| &text[at..];
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':')).collect();
    text.match_indices("vllm:").map(rest).map(name).collect()
}
