//! The load: the leanest client that can tell lines and their times apart, the same for both ways.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// Milliseconds.
pub type Times = Vec<f64>;

/// Where load goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// vllama, in Ollama's dialect.
    Vllama(SocketAddr),
    /// The engine, in OpenAI's.
    Engine(PathBuf),
    /// The engine behind a relay that copies bytes.
    Relay(SocketAddr),
}

/// A duplex byte stream.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// What streams took.
#[derive(Default)]
pub struct Streams {
    /// From the request to the first line with a word.
    pub first: Times,
    /// From the moment the engine wrote a token to the moment its line is read here.
    pub delays: Times,
    /// Number of lines.
    pub lines: usize,
}

/// What whole answers took.
pub struct Whole {
    /// Each answer's time.
    pub times: Times,
    /// Number of answers.
    pub answers: usize,
}

impl Target {
    async fn connect(&self) -> Box<dyn Wire> {
        match self {
            Self::Vllama(address) | Self::Relay(address) => {
                let stream = TcpStream::connect(address).await.expect("a connection");
                stream.set_nodelay(true).expect("an option of the socket");
                Box::new(stream)
            }
            Self::Engine(socket) => Box::new(UnixStream::connect(socket).await.expect("a connection")),
        }
    }

    /// The bytes of a request with this prompt.
    pub fn request(&self, prompt: &str, stream: bool) -> Vec<u8> {
        let messages = format!(
            "\"model\":\"{}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}]",
            crate::model::NAME
        );
        let (path, body) = match self {
            Self::Vllama(_) => ("/api/chat", format!("{{{messages},\"stream\":{stream}}}")),
            Self::Engine(_) | Self::Relay(_) => {
                let usage = if stream { ",\"stream_options\":{\"include_usage\":true}" } else { "" };
                ("/v1/chat/completions", format!("{{{messages},\"stream\":{stream}{usage}}}"))
            }
        };
        post(path, &body)
    }

    /// A question to a real model that it answers at length, the same in both dialects: `tokens` at temperature 0.
    fn story(&self, user: usize, tokens: usize) -> Vec<u8> {
        let ask = format!(
            "\"model\":\"{}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Write a long story about the number {user}.\"}}],\
             \"stream\":true",
            crate::model::NAME
        );
        match self {
            Self::Vllama(_) => {
                post("/api/chat", &format!("{{{ask},\"options\":{{\"temperature\":0,\"num_predict\":{tokens}}}}}"))
            }
            Self::Engine(_) | Self::Relay(_) => {
                let body = format!(
                    "{{{ask},\"temperature\":0,\"max_tokens\":{tokens},\"top_k\":40,\"top_p\":0.9,\
                     \"stream_options\":{{\"include_usage\":true}}}}"
                );
                post("/v1/chat/completions", &body)
            }
        }
    }

    /// What stands once in each line with a word.
    fn mark(&self) -> &'static [u8] {
        match self {
            Self::Vllama(_) => b"\"done\":false",
            Self::Engine(_) | Self::Relay(_) => b"\"delta\":{\"content\"",
        }
    }
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length";
    format!("POST {path} HTTP/1.1\r\n{head}: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// This many users of a real model at a time, each of whom wants so many tokens.
pub async fn stories(target: &Target, users: usize, tokens: usize) -> Streams {
    let tasks = (0..users).map(|user| one_stream(target.clone(), target.story(user, tokens), 1, false));
    let streams = together(tasks).await;
    Streams { lines: streams.iter().map(|stream| stream.lines).sum(), ..Streams::default() }
}

/// This many streams at a time, each of so many words. `timed` asks for the times, too, which costs the client more.
pub async fn streams(target: &Target, number: usize, words: usize, timed: bool) -> Streams {
    let request = target.request(&format!("FAKE:count {words}"), true);
    let tasks = (0..number).map(|_| one_stream(target.clone(), request.clone(), words, timed));
    let mut all = Streams::default();
    for stream in together(tasks).await {
        all.first.extend(stream.first);
        all.delays.extend(stream.delays);
        all.lines += stream.lines;
    }
    all
}

/// Times to the first line, one short stream after the other.
pub async fn first_lines(target: &Target, number: usize) -> Times {
    let mut times = Times::new();
    for _ in 0..number {
        let request = target.request("FAKE:count 1", true);
        times.extend(one_stream(target.clone(), request, 1, true).await.first);
    }
    times
}

/// One vector, which needs the embedding model.
pub async fn embed(target: &Target, model: &str) {
    let mut wire = target.connect().await;
    let body = format!("{{\"model\":\"{model}\",\"input\":\"why is the sky blue?\"}}");
    wire.write_all(&post("/api/embed", &body)).await.expect("a request on its way");
    let mut bytes = Vec::new();
    while !is_complete(&bytes) {
        assert_ne!(wire.read_buf(&mut bytes).await.expect("an answer"), 0, "the connection stays open");
    }
    assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&bytes));
}

/// Unloads the chat model, and waits until nothing is loaded.
pub async fn unload(target: &Target) {
    let body = format!("{{\"model\":\"{}\",\"keep_alive\":0}}", crate::model::NAME);
    let ask = "GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut request = post("/api/generate", &body);
    loop {
        let mut wire = target.connect().await;
        wire.write_all(&request).await.expect("a request on its way");
        let mut bytes = Vec::new();
        while !is_complete(&bytes) {
            assert_ne!(wire.read_buf(&mut bytes).await.expect("an answer"), 0, "the connection stays open");
        }
        if bytes.ends_with(b"{\"models\":[]}") {
            return;
        }
        request = ask.into();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn one_stream(target: Target, request: Vec<u8>, words: usize, timed: bool) -> Streams {
    let mut wire = target.connect().await;
    let mark = memmem::Finder::new(target.mark());
    let sent = Instant::now();
    wire.write_all(&request).await.expect("a request on its way");
    let mut stream = Streams::default();
    let mut last = sent;
    // What was read, after the end of what came before: a mark may come in two parts.
    let mut buffer = vec![0; 64 * 1024];
    let mut kept = 0;
    loop {
        let read = wire.read(&mut buffer[kept..]).await.expect("an answer");
        assert_ne!(read, 0, "the answer has an end of its own");
        let now = Instant::now();
        let bytes = &buffer[..kept + read];
        if timed {
            stream.delays.extend(stamps(&bytes[kept..]).map(|stamp| nanoseconds().saturating_sub(stamp) as f64 / 1e6));
            for _ in mark.find_iter(bytes) {
                let time = (now - last).as_secs_f64() * 1000.0;
                if stream.lines == 0 {
                    stream.first.push(time)
                }
                stream.lines += 1;
                last = now;
            }
        } else {
            stream.lines += mark.find_iter(bytes).count();
        }
        if bytes.ends_with(b"\r\n0\r\n\r\n") {
            break;
        }
        let keep = bytes.len().min(target.mark().len() - 1);
        let start = bytes.len() - keep;
        buffer.copy_within(start..start + keep, 0);
        kept = keep;
    }
    assert!(stream.lines >= words, "{} of {words} words", stream.lines);
    stream
}

/// The times of sending that stand whole in these bytes: `"content":"<nanoseconds>"`.
fn stamps(bytes: &[u8]) -> impl Iterator<Item = u64> {
    const BEFORE: &[u8] = b"\"content\":\"";
    memmem::find_iter(bytes, BEFORE).filter_map(|at| {
        let text = &bytes[at + BEFORE.len()..];
        let end = memchr::memchr(b'"', text)?;
        std::str::from_utf8(&text[..end]).ok()?.parse().ok().filter(|stamp| *stamp > 1 << 60)
    })
}

fn nanoseconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_nanos()).expect("a clock before 2554")
}

/// This many connections ask for whole answers, one after the other, for so long.
pub async fn whole(target: &Target, connections: usize, time: Duration) -> Whole {
    let deadline = Instant::now() + time;
    let times: Times = together((0..connections).map(|_| many_wholes(target.clone(), deadline))).await.concat();
    Whole { answers: times.len(), times }
}

async fn many_wholes(target: Target, deadline: Instant) -> Times {
    let mut asker = Asker::new(&target).await;
    let mut times = Times::new();
    while Instant::now() < deadline {
        times.push(asker.ask().await);
    }
    times
}

/// So many requests a second for whole answers, from as many connections, for so long: each asks in its turn, whether or
/// not the others have their answers.
pub async fn paced(target: &Target, connections: u32, a_second: u32, time: Duration) -> Times {
    let step = Duration::from_secs(1) / a_second;
    let begun = tokio::time::Instant::now() + Duration::from_millis(50);
    let turns = (0..connections).map(|number| {
        let target = target.clone();
        async move {
            let mut asker = Asker::new(&target).await;
            let mut times = Times::new();
            let mut turn = begun + step * number;
            while turn < begun + time {
                tokio::time::sleep_until(turn).await;
                times.push(asker.ask().await);
                turn += step * connections;
            }
            times
        }
    });
    together(turns).await.concat()
}

/// A connection that asks for whole answers.
struct Asker {
    wire: Box<dyn Wire>,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Asker {
    async fn new(target: &Target) -> Self {
        let request = target.request("What is the capital of France?", false);
        Self { wire: target.connect().await, request, buffer: vec![0; 16 * 1024] }
    }

    /// Asks once; the time it took in milliseconds.
    async fn ask(&mut self) -> f64 {
        let sent = Instant::now();
        self.wire.write_all(&self.request).await.expect("a request on its way");
        let mut filled = 0;
        loop {
            let read = self.wire.read(&mut self.buffer[filled..]).await.expect("an answer");
            assert_ne!(read, 0, "the connection stays open");
            filled += read;
            if is_complete(&self.buffer[..filled]) {
                return sent.elapsed().as_secs_f64() * 1000.0;
            }
        }
    }
}

fn is_complete(bytes: &[u8]) -> bool {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length =
        head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
    bytes.len() == end + 4 + length.expect("an answer with a length")
}

/// Opens streams that say one word and no more.
pub async fn silent(target: &Target, number: usize) -> Vec<Box<dyn Wire>> {
    let mut open = Vec::new();
    for _ in 0..number {
        let mut wire = target.connect().await;
        wire.write_all(&target.request("FAKE:hang 1", true)).await.expect("a request on its way");
        open.push(wire);
    }
    for wire in &mut open {
        let mut bytes = Vec::new();
        while memmem::find(&bytes, target.mark()).is_none() {
            assert_ne!(wire.read_buf(&mut bytes).await.expect("a first word"), 0, "the stream stays open");
        }
    }
    open
}

/// Runs all of them on this thread at a time.
async fn together<T: 'static>(futures: impl Iterator<Item = impl Future<Output = T> + 'static>) -> Vec<T> {
    let local = tokio::task::LocalSet::new();
    let tasks: Vec<_> = futures.map(|future| local.spawn_local(future)).collect();
    local
        .run_until(async {
            let mut results = Vec::with_capacity(tasks.len());
            for task in tasks {
                results.push(task.await.expect("a client"));
            }
            results
        })
        .await
}
