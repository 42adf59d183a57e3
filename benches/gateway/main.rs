//! What the gateway costs: the same load straight to the fake engine's socket and through vllama, in the same run.
//!
//! The difference of the two lines is vllama, since client code, engine and machine are the same. A relay that only copies
//! bytes is measured beside them: what it costs is the price of standing in between, whoever does. Run it by
//! `cargo bench --bench gateway`; `VLLAMA_BENCH_BINARY` names another vllama, else `dist/vllama` is taken when it is
//! there. The load generator shares the machine's cores with what it measures: figures compare, they do not add up.

mod bare;
mod crowd;
mod load;
#[path = "../../tests/support/harness/model.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod model;
mod relay;
mod scheduler;
mod server;
mod swap;

use std::path::Path;
use std::time::{Duration, Instant};

use bare::Bare;
use load::{Streams, Target, Times};
use relay::Relay;
use server::Server;

/// Streams at a time, tokens a second of each, tokens of each. Slower with more streams, so that two cores keep up.
/// 0 = as fast as the engine can.
const STREAMS: &[(usize, u32, usize)] = &[(1, 100, 200), (64, 50, 200), (512, 10, 40), (64, 0, 8000)];

/// Users of a real engine at a time, and tokens of each.
const USERS: [(usize, usize); 3] = [(1, 100), (10, 100), (50, 50)];

/// Connections that ask for whole answers, and for how long.
const WHOLE: (usize, Duration) = (16, Duration::from_secs(3));

/// Connections that ask for whole answers in turn, requests a second of all of them, and for how long.
const PACED: (u32, u32, Duration) = (64, 1000, Duration::from_secs(5));

/// Streams that are open and silent.
const SILENT: usize = 1000;

fn main() {
    if let [_, role, engine] = &*std::env::args().collect::<Vec<_>>()
        && role == relay::ROLE
    {
        return relay::run(engine.into());
    }
    if let [_, role, directory] = &*std::env::args().collect::<Vec<_>>()
        && role == scheduler::ROLE
    {
        return scheduler::run(directory.into());
    }
    if let [_, role, address] = &*std::env::args().collect::<Vec<_>>()
        && role == crowd::ROLE
    {
        return crowd::run(address);
    }
    // `cargo test --all-targets` builds and runs this too, and a debug build's figures mean nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: figures need `cargo bench --bench gateway`");
        return;
    }
    server::raise_limits();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        println!("vllama: {}\n", server::binary().display());
        println!("| measure | direct | relay | vllama | difference |\n|---|---|---|---|---|");
        // `cargo bench --bench gateway -- streams` measures that part alone.
        let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
        let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| word == part);
        if wanted("start") {
            start().await;
        }
        if wanted("scheduler") {
            scheduler::measure();
        }
        if wanted("whole") {
            whole().await;
        }
        if wanted("requests") {
            requests().await;
        }
        if wanted("streams") {
            for (streams, rate, tokens) in STREAMS {
                stream(*streams, *rate, *tokens).await;
            }
        }
        if wanted("silent") {
            silent().await;
        }
        // Only when asked for: they take minutes.
        if parts.iter().any(|word| word == "real") {
            real("python").await;
        }
        if parts.iter().any(|word| word == "frontends") {
            // The first one again at the end: what changes between its two runs is the machine.
            for frontend in ["python", "rust", "python"] {
                real(frontend).await;
            }
        }
        if parts.iter().any(|word| word == "defaults") {
            defaults().await;
        }
        if parts.iter().any(|word| word == "swap") {
            swap().await;
        }
        if parts.iter().any(|word| word == "crowd") {
            in_a_crowd().await;
        }
    });
}

/// One line of the table; `difference` is vllama against the direct line, or against the relay where there is none.
fn row(measure: &str, [direct, relay, vllama]: [&str; 3], difference: &str) {
    println!("| {measure} | {direct} | {relay} | {vllama} | {difference} |");
}

async fn start() {
    let mut times = Vec::new();
    let mut memory = 0;
    for _ in 0..7 {
        let server = Server::start(&[]).await;
        times.push(server.listening.as_secs_f64() * 1000.0);
        memory = server.memory();
    }
    row("exec to listening, median of 7 (ms)", ["", "", &format!("{:.1}", percentile(&mut times, 50))], "");
    row("resident memory, idle (MiB)", ["", "", &format!("{:.1}", mebibytes(memory))], "");
}

async fn whole() {
    let server = Server::start(&[("FAKE_VLLM_TOKEN_RATE", "0")]).await;
    let relay = Relay::start(&server.socket());
    let (connections, time) = WHOLE;
    let direct = load::whole(&server.engine(), connections, time).await;
    let before = relay.processor_time();
    let relayed = load::whole(&Target::Relay(relay.address), connections, time).await;
    let relay_each = microseconds(relay.processor_time() - before, relayed.answers);
    let before = server.processor_time();
    let vllama = load::whole(&server.gateway(), connections, time).await;
    let each = microseconds(server.processor_time() - before, vllama.answers);
    let second = |answers: usize| format!("{:.0}", answers as f64 / time.as_secs_f64());
    row(
        &format!("whole answers a second, {connections} connections"),
        [&second(direct.answers), &second(relayed.answers), &second(vllama.answers)],
        &format!("× {:.2}", vllama.answers as f64 / direct.answers as f64),
    );
    row(
        "processor time of a whole answer (µs)",
        ["", &format!("{relay_each:.0}"), &format!("{each:.0}")],
        &format!("{:+.0}", each - relay_each),
    );
    latency("time of a whole answer", [direct.times, relayed.times, vllama.times]);
}

async fn requests() {
    let server = Server::start(&[("FAKE_VLLM_TOKEN_RATE", "0")]).await;
    let relay = Relay::start(&server.socket());
    let (connections, a_second, time) = PACED;
    let mut ways = Vec::new();
    for target in [server.engine(), Target::Relay(relay.address), server.gateway()] {
        load::paced(&target, connections, a_second, time / 10).await;
        ways.push(load::paced(&target, connections, a_second, time).await);
    }
    let ways: [Times; 3] = ways.try_into().expect("three ways");
    latency(&format!("time of a whole answer, {a_second} requests a second"), ways);
}

/// What one way took.
struct Way {
    streams: Streams,
    elapsed: Duration,
    /// Processor time of what stands in between.
    spent: Duration,
}

impl Way {
    async fn measure(
        target: &Target,
        (streams, tokens, timed): (usize, usize, bool),
        processor_time: impl Fn() -> Duration,
    ) -> Self {
        let (before, begun) = (processor_time(), Instant::now());
        let streams = load::streams(target, streams, tokens, timed).await;
        Self { streams, elapsed: begun.elapsed(), spent: processor_time() - before }
    }

    fn microseconds_a_line(&self) -> f64 {
        microseconds(self.spent, self.streams.lines)
    }
}

async fn stream(streams: usize, rate: u32, tokens: usize) {
    let rate_text = rate.to_string();
    let stamp = (rate > 0).then_some(("FAKE_VLLM_STAMP", "1"));
    let environment: Vec<_> = [("FAKE_VLLM_TOKEN_RATE", &*rate_text)].into_iter().chain(stamp).collect();
    let server = Server::start(&environment).await;
    let relay = Relay::start(&server.socket());
    let speed = if rate == 0 { "at full speed".to_owned() } else { format!("at {rate}/s") };
    let plural = if streams == 1 { "stream" } else { "streams" };
    let name = |what: &str| format!("{what}, {streams} {plural} {speed}");
    let relayed = Target::Relay(relay.address);
    // Whoever goes first would otherwise pay for the engine's first pages.
    for target in [&server.engine(), &relayed, &server.gateway()] {
        load::streams(target, streams, 1, true).await;
    }
    let size = (streams, tokens, rate > 0);
    let direct = Way::measure(&server.engine(), size, || Duration::ZERO).await;
    let relayed_way = Way::measure(&relayed, size, || relay.processor_time()).await;
    let vllama = Way::measure(&server.gateway(), size, || server.processor_time()).await;
    let (relay_each, each) = (relayed_way.microseconds_a_line(), vllama.microseconds_a_line());
    if rate == 0 {
        let second = |way: &Way| way.streams.lines as f64 / way.elapsed.as_secs_f64();
        let text = |way: &Way| format!("{:.0}", second(way));
        let ratio = format!("× {:.2}", second(&vllama) / second(&direct));
        row(&name("lines a second"), [&text(&direct), &text(&relayed_way), &text(&vllama)], &ratio);
    } else {
        let ways = [direct, relayed_way, vllama].map(|way| way.streams);
        let [direct, relayed_way, vllama] = ways.map(|streams| (streams.first, streams.delays));
        latency(&name("first line"), [direct.0, relayed_way.0, vllama.0]);
        latency(&name("token sent to line read"), [direct.1, relayed_way.1, vllama.1]);
    }
    let difference = format!("{:+.1}", each - relay_each);
    row(&name("processor time a line (µs)"), ["", &format!("{relay_each:.1}"), &format!("{each:.1}")], &difference);

    // One stream gives one first line; more of them one after the other give a distribution.
    if streams == 1 {
        let direct = load::first_lines(&server.engine(), 300).await;
        let relayed = load::first_lines(&relayed, 300).await;
        let vllama = load::first_lines(&server.gateway(), 300).await;
        latency("first line, 300 short streams one by one", [direct, relayed, vllama]);
    }
}

fn microseconds(spent: Duration, count: usize) -> f64 {
    spent.as_secs_f64() * 1e6 / count as f64
}

/// Tokens a second of the real engine with this frontend, straight and through vllama, in turns, and what a token costs
/// the engine.
async fn real(frontend: &str) {
    let Some(venv) = std::env::var_os("VLLAMA_TEST_VENV") else {
        println!("skipped: the real engine, since VLLAMA_TEST_VENV names no virtual environment");
        return;
    };
    let server = Server::start_real(Path::new(&venv), &[("VLLAMA_ENGINE_FRONTEND", frontend)]).await;
    let targets = [server.engine(), server.gateway()];
    load::stories(&targets[0], 10, 10).await;
    for (users, tokens) in USERS {
        // Both ways ask for the same tokens; lines would not do, since the engine writes some without text.
        let mut seconds = [0.0; 2];
        let before = server.engine_processor_time();
        for round in 0..4 {
            for way in [round % 2, 1 - round % 2] {
                let begun = Instant::now();
                let lines = load::stories(&targets[way], users, tokens).await.lines;
                seconds[way] += begun.elapsed().as_secs_f64();
                assert!(lines >= users * tokens * 9 / 10, "{lines} lines: stories ended early");
            }
        }
        let [direct, vllama] = seconds.map(|seconds| (4 * users * tokens) as f64 / seconds);
        let measure = |what: &str| format!("{what}, {frontend} frontend, {users} users");
        row(
            &measure("tokens a second"),
            [&format!("{direct:.1}"), "", &format!("{vllama:.1}")],
            &format!("× {:.3}", vllama / direct),
        );
        let spent = microseconds(server.engine_processor_time() - before, 8 * users * tokens) / 1000.0;
        row(&measure("the engine's processor time a token (ms)"), [&format!("{spent:.2}"), "", ""], "");
    }
}

/// Tokens a second through vllama, beside `vllm serve` with its default flags and no vllama at all. Each has the machine to
/// itself: engines that wait still take processor time from each other.
async fn defaults() {
    let Some(venv) = std::env::var_os("VLLAMA_TEST_VENV") else {
        println!("skipped: vLLM's default flags, since VLLAMA_TEST_VENV names no virtual environment");
        return;
    };
    let mut seen = [[(0, Duration::ZERO); USERS.len()]; 2];
    for _ in 0..2 {
        let mut server = Server::start_real(Path::new(&venv), &[]).await;
        let bare = Bare::like(&server.socket()).with_default_flags();
        crowds(&server.gateway(), &mut seen[1]).await;
        server.stop();
        let _engine = bare.start().await;
        crowds(&Target::Engine(bare.socket()), &mut seen[0]).await;
    }
    for (place, (users, _)) in USERS.into_iter().enumerate() {
        // Not the same tokens: flags change what a small model says, and where it ends.
        let [direct, vllama] = seen.map(|seen| seen[place].0 as f64 / seen[place].1.as_secs_f64());
        row(
            &format!("tokens a second beside vLLM with default flags, {users} users"),
            [&format!("{direct:.1}"), "", &format!("{vllama:.1}")],
            &format!("× {:.3}", vllama / direct),
        );
    }
}

/// Lines, and the time they took, of each number of users, three times over.
async fn crowds(target: &Target, seen: &mut [(usize, Duration); USERS.len()]) {
    load::stories(target, 10, 10).await;
    for ((users, tokens), seen) in USERS.into_iter().zip(seen) {
        for _ in 0..3 {
            let begun = Instant::now();
            seen.0 += load::stories(target, users, tokens).await.lines;
            seen.1 += begun.elapsed();
        }
    }
}

/// Seconds to the first token: of a bare start of vLLM, and of a swap.
async fn swap() {
    let Some(venv) = std::env::var_os("VLLAMA_TEST_VENV") else {
        println!("skipped: swaps, since VLLAMA_TEST_VENV names no virtual environment");
        return;
    };
    let mut times = swap::measure(Path::new(&venv)).await;
    let [direct, vllama] = times.each_mut().map(|times| percentile(times, 50));
    let measure = "first token after a swap, beside a bare start, median (s)";
    row(measure, [&format!("{direct:.1}"), "", &format!("{vllama:.1}")], &format!("× {:.2}", vllama / direct));
    println!("\nbare starts {:.1?}, swaps {:.1?}", times[0], times[1]);
}

/// Streams alone, and in a crowd of connections that rest and clients that read slowly.
async fn in_a_crowd() {
    let mut seen = crowd::measure().await;
    println!("\n| {} streams at a time | alone | in the crowd | |\n|---|---|---|---|", crowd::ACTIVE);
    for percent in [50, 99] {
        let [alone, crowded] = seen.delays.each_mut().map(|times| percentile(times, percent));
        let measure = format!("token sent to line read, p{percent} (ms)");
        println!("| {measure} | {alone:.3} | {crowded:.3} | × {:.2} |", crowded / alone);
    }
    let [alone, crowded] = seen.whole.each_mut().map(|times| percentile(times, 100));
    println!("| whole streams, the slowest round (s) | {alone:.3} | {crowded:.3} | × {:.3} |", crowded / alone);
    let [nobody, resting, reading, after] = seen.memory.map(mebibytes);
    let each = |more: f64, number: usize| format!("{:.1} KiB each", more * 1024.0 / number as f64);
    println!("\n| resident memory (MiB) | | |\n|---|---|---|\n| nobody | {nobody:.1} | |");
    println!("| {} connections that rest | {resting:.1} | {} |", crowd::IDLE, each(resting - nobody, crowd::IDLE));
    println!("| and {} slow readers | {reading:.1} | {} |", crowd::SLOW, each(reading - resting, crowd::SLOW));
    println!("| when all have gone | {after:.1} | |");
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
        ["", "", &format!("{:.1}", mebibytes(with))],
        &difference,
    );
    drop(open);
}

/// Two lines of the table: median and 99th percentile.
fn latency(measure: &str, mut ways: [Times; 3]) {
    for percent in [50, 99] {
        let [direct, relay, vllama] = ways.each_mut().map(|times| percentile(times, percent));
        row(
            &format!("{measure}, p{percent} (ms)"),
            [&format!("{direct:.3}"), &format!("{relay:.3}"), &format!("{vllama:.3}")],
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
