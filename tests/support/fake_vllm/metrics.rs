//! `GET /metrics`: the names a supervisor reads, with true values.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::engine::Engine;

/// The Prometheus text.
pub fn render(engine: &Engine) -> String {
    if let Some(page) = &engine.settings.metrics {
        return std::fs::read_to_string(page).expect("FAKE_VLLM_METRICS: a file");
    }
    let labels = format!("engine=\"0\",model_name=\"{}\"", engine.arguments.served_names[0]);
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, &str, f64)]| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (suffix, extra, value) in samples {
            let _ = writeln!(text, "{name}{suffix}{{{labels}{extra}}} {value:?}");
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
    let count = |value: u64| value as f64;
    let running = engine.running.load(Ordering::SeqCst) as u64;
    let iterations = count(engine.iterations.load(Ordering::Relaxed));
    let prompt = count(engine.prompt_tokens.load(Ordering::Relaxed));
    let generated = count(engine.generation_tokens.load(Ordering::Relaxed));
    let [stopped, lengths] = [0, 1].map(|reason| count(engine.finished[reason].load(Ordering::Relaxed)));

    let running_help = "Number of requests in model execution batches.";
    family("vllm:num_requests_running", "gauge", running_help, &[("", "", count(running))]);
    let waiting_help = "Number of requests waiting to be processed.";
    family("vllm:num_requests_waiting", "gauge", waiting_help, &[("", "", 0.0)]);
    let usage_help = "KV-cache usage. 1 means 100 percent usage.";
    family("vllm:kv_cache_usage_perc", "gauge", usage_help, &[("", "", 0.0)]);
    family("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", &[("", "", prompt)]);
    family("vllm:generation_tokens_total", "counter", "Number of generation tokens processed.", &[("", "", generated)]);
    let preemptions_help = "Cumulative number of preemption from the engine.";
    family("vllm:num_preemptions_total", "counter", preemptions_help, &[("", "", 0.0)]);
    // No prompt is ever found again: it keeps none.
    family("vllm:prefix_cache_queries_total", "counter", "Prefix cache queries, in tokens.", &[("", "", prompt)]);
    family("vllm:prefix_cache_hits_total", "counter", "Prefix cache hits, in tokens.", &[("", "", 0.0)]);
    let finished = [("", ",finished_reason=\"stop\"", stopped), ("", ",finished_reason=\"length\"", lengths)];
    family("vllm:request_success_total", "counter", "Count of successfully processed requests.", &finished);
    let steps = [("_bucket", ",le=\"+Inf\"", iterations), ("_count", "", iterations), ("_sum", "", prompt + generated)];
    family("vllm:iteration_tokens_total", "histogram", "Histogram of number of tokens per engine_step.", &steps);
    text
}
