//! What the gateway costs: the same load straight to the fake engine's socket and through vllama, in the same run.
//!
//! The difference of the two lines is vllama, since client code, engine and machine are the same. Run it by
//! `cargo bench --bench gateway`; `VLLAMA_BENCH_BINARY` names another vllama, else `dist/vllama` is taken when it is
//! there. The load generator shares the machine's cores with what it measures: figures compare, they do not add up.

mod load;
#[path = "../../tests/support/harness/model.rs"]
mod model;
mod server;

use std::time::{Duration, Instant};

use load::{Target, Times};
use server::Server;

/// Streams at a time, tokens a second of each, tokens of each. Slower with more streams, so that two cores keep up.
/// 0 = as fast as the engine can.
const STREAMS: &[(usize, u32, usize)] = &[(1, 100, 200), (64, 50, 200), (512, 10, 40), (64, 0, 3000)];

/// Connections that ask for whole answers, and for how long.
const WHOLE: (usize, Duration) = (16, Duration::from_secs(3));

/// Streams that are open and silent.
const SILENT: usize = 1000;

fn main() {
    // `cargo test --all-targets` builds and runs this too, and a debug build's figures mean nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: figures need `cargo bench --bench gateway`");
        return;
    }
    server::raise_limits();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        println!("vllama: {}\n", server::binary().display());
        println!("| measure | direct | vllama | difference |\n|---|---|---|---|");
        // `cargo bench --bench gateway -- streams` measures that part alone.
        let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
        let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| word == part);
        if wanted("start") {
            start().await;
        }
        if wanted("whole") {
            whole().await;
        }
        if wanted("streams") {
            for (streams, rate, tokens) in STREAMS {
                stream(*streams, *rate, *tokens).await;
            }
        }
        if wanted("silent") {
            silent().await;
        }
    });
}

/// One line of the table.
fn row(measure: &str, direct: &str, vllama: &str, difference: &str) {
    println!("| {measure} | {direct} | {vllama} | {difference} |");
}

async fn start() {
    let mut times = Vec::new();
    let mut memory = 0;
    for _ in 0..7 {
        let server = Server::start(&[]).await;
        times.push(server.listening.as_secs_f64() * 1000.0);
        memory = server.memory();
    }
    row("exec to listening, median of 7 (ms)", "", &format!("{:.1}", percentile(&mut times, 50)), "");
    row("resident memory, idle (MiB)", "", &format!("{:.1}", mebibytes(memory)), "");
}

async fn whole() {
    let server = Server::start(&[("FAKE_VLLM_TOKEN_RATE", "0")]).await;
    let (connections, time) = WHOLE;
    let direct = load::whole(&server.engine(), connections, time).await;
    let before = server.processor_time();
    let vllama = load::whole(&server.gateway(), connections, time).await;
    let each = (server.processor_time() - before).as_secs_f64() * 1e6 / vllama.answers as f64;
    let second = |answers: usize| answers as f64 / time.as_secs_f64();
    row(
        &format!("whole answers a second, {connections} connections"),
        &format!("{:.0}", second(direct.answers)),
        &format!("{:.0}", second(vllama.answers)),
        &format!("× {:.2}", vllama.answers as f64 / direct.answers as f64),
    );
    row("processor time of a whole answer (µs)", "", &format!("{each:.0}"), "");
    latency("time of a whole answer", direct.times, vllama.times);
}

async fn stream(streams: usize, rate: u32, tokens: usize) {
    let server = Server::start(&[("FAKE_VLLM_TOKEN_RATE", &rate.to_string()), ("FAKE_VLLM_STAMP", "1")]).await;
    let speed = if rate == 0 { "at full speed".to_owned() } else { format!("at {rate}/s") };
    let plural = if streams == 1 { "stream" } else { "streams" };
    let name = |what: &str| format!("{what}, {streams} {plural} {speed}");
    // Whoever goes first would otherwise pay for the engine's first pages.
    for target in [server.engine(), server.gateway()] {
        load::streams(&target, streams, 1).await;
    }
    let direct_begun = Instant::now();
    let direct = load::streams(&server.engine(), streams, tokens).await;
    let direct_elapsed = direct_begun.elapsed();
    let (before, begun) = (server.processor_time(), Instant::now());
    let vllama = load::streams(&server.gateway(), streams, tokens).await;
    let (spent, elapsed) = (server.processor_time() - before, begun.elapsed());
    if rate == 0 {
        let second = |lines: usize, elapsed: Duration| lines as f64 / elapsed.as_secs_f64();
        let (direct, vllama) = (second(direct.lines, direct_elapsed), second(vllama.lines, elapsed));
        let ratio = format!("× {:.2}", vllama / direct);
        row(&name("lines a second"), &format!("{direct:.0}"), &format!("{vllama:.0}"), &ratio);
    } else {
        latency(&name("first line"), direct.first, vllama.first);
        latency(&name("token sent to line read"), direct.delays, vllama.delays);
    }
    let each = spent.as_secs_f64() * 1e6 / vllama.lines as f64;
    row(&name("processor time a line (µs)"), "", &format!("{each:.1}"), "");
    let share = spent.as_secs_f64() * 100.0 / elapsed.as_secs_f64();
    row(&name("processor time of vllama (% of a core)"), "", &format!("{share:.0}"), "");

    // One stream gives one first line; more of them one after the other give a distribution.
    if streams == 1 {
        let direct = load::first_lines(&server.engine(), 300).await;
        let vllama = load::first_lines(&server.gateway(), 300).await;
        latency("first line, 300 short streams one by one", direct, vllama);
    }
}

async fn silent() {
    let server = Server::start(&[]).await;
    let idle = server.memory();
    let open = load::silent(&server.gateway(), SILENT).await;
    let with = server.memory();
    let each = (with.saturating_sub(idle)) as f64 / 1024.0 / SILENT as f64;
    let difference = format!("{each:.1} KiB a stream");
    row(
        &format!("resident memory, {SILENT} silent streams (MiB)"),
        "",
        &format!("{:.1}", mebibytes(with)),
        &difference,
    );
    drop(open);
}

/// Two lines of the table: median and 99th percentile.
fn latency(measure: &str, mut direct: Times, mut vllama: Times) {
    for percent in [50, 99] {
        let (direct, vllama) = (percentile(&mut direct, percent), percentile(&mut vllama, percent));
        row(
            &format!("{measure}, p{percent} (ms)"),
            &format!("{direct:.3}"),
            &format!("{vllama:.3}"),
            &format!("{:+.3}", vllama - direct),
        );
    }
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get(last * percent / 100).copied().unwrap_or(f64::NAN)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Where load goes, and in which dialect.
impl Server {
    fn gateway(&self) -> Target {
        Target::Vllama(self.address)
    }

    fn engine(&self) -> Target {
        Target::Engine(self.socket())
    }
}
