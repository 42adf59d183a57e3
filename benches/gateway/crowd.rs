//! What a crowd does to those who work: ten thousand connections that rest and a thousand clients that read slowly, beside
//! two hundred streams (issue 5, shown by 4). The crowd is a process of its own, so that it does not slow the clients that
//! are measured.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::load::{self, Target, Times};
use crate::server::{self, Server};

/// The argument that makes this program the crowd.
pub const ROLE: &str = "--crowd";

/// Connections that have asked once and rest.
pub const IDLE: usize = 10_000;
/// Clients that read slowly.
pub const SLOW: usize = 1_000;
/// Streams that are measured.
pub const ACTIVE: usize = 200;
/// Tokens a second of each of them, and tokens of each in a round.
const RATE: &str = "10";
const TOKENS: usize = 60;
/// Rounds without and with the crowd, in turns.
const ROUNDS: usize = 4;
/// Bytes that a slow reader takes a second.
const SIP: usize = 4096;
/// Bytes of an answer that a slow reader is given: more than all buffers on the way hold, and more than it ever reads.
const ANSWER: usize = 2 << 20;
/// Longest wait for the crowd to gather, or for vllama to have filled its buffers.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was seen.
#[derive(Default)]
pub struct Seen {
    /// From the moment the engine wrote a token to the moment its line is read: alone, and in the crowd.
    pub delays: [Times; 2],
    /// Seconds until the whole stream was there: alone, and in the crowd.
    pub whole: [Times; 2],
    /// Resident memory in bytes: with nobody, with those who rest, with the slow readers too, when all have gone.
    pub memory: [u64; 4],
}

/// Measures all of it against one vllama.
pub async fn measure() -> Seen {
    let answers = tempfile::Builder::new().prefix("vllama-bench-").tempdir().expect("a temporary directory");
    write_answer(&answers.path().join("crowd"));
    let server = Server::start(&[
        ("FAKE_VLLM_TOKEN_RATE", RATE),
        ("FAKE_VLLM_STAMP", "1"),
        ("FAKE_VLLM_REPLAY_DIR", &answers.path().to_string_lossy()),
        ("VLLAMA_MAX_CONNECTIONS", "12000"),
    ])
    .await;
    let target = Target::Vllama(server.address);
    let mut seen = Seen::default();
    seen.memory[0] = server.memory();
    load::streams(&target, ACTIVE, TOKENS / 4, true).await;
    for round in 0..ROUNDS {
        seen.note(0, &target).await;
        let mut crowd = Crowd::new(server.address);
        crowd.order("rest");
        settled(&server).await;
        if round == 0 {
            seen.memory[1] = server.memory();
        }
        crowd.order("read");
        settled(&server).await;
        if round == 0 {
            seen.memory[2] = server.memory();
        }
        seen.note(1, &target).await;
        crowd.order("leave");
        settled(&server).await;
    }
    seen.memory[3] = server.memory();
    seen
}

impl Seen {
    async fn note(&mut self, way: usize, target: &Target) {
        let begun = Instant::now();
        let streams = load::streams(target, ACTIVE, TOKENS, true).await;
        self.whole[way].push(begun.elapsed().as_secs_f64());
        self.delays[way].extend(streams.delays);
    }
}

/// Chunks of an answer as vLLM writes them, without an end.
fn write_answer(file: &Path) {
    let event = format!(
        "data: {{\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{}\",\"choices\":[{{\"index\":0,\
         \"delta\":{{\"content\":\"{}\"}},\"finish_reason\":null}}]}}\n\n",
        crate::model::NAME,
        "word ".repeat(20)
    );
    std::fs::write(file, event.repeat(ANSWER / event.len())).expect("a file");
}

/// Waits until vllama has nothing to do but for what the slow readers sip.
async fn settled(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = server.processor_time();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if server.processor_time() - before < Duration::from_millis(25) {
            return;
        }
        assert!(Instant::now() < deadline, "vllama never comes to rest");
    }
}

/// The crowd, as this process sees it; gone when dropped.
struct Crowd {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Crowd {
    fn new(address: SocketAddr) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.args([ROLE, &address.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the crowd starts");
        let (orders, answers) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { child, orders, answers: BufReader::new(answers) }
    }

    /// Says what to do, and waits until it is done.
    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the crowd listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the crowd answers");
        assert_eq!(line.trim(), order, "the crowd has failed");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the crowd does.
pub fn run(address: &str) {
    server::raise_limits();
    let target = Target::Vllama(address.parse().expect("an address"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (sender, mut orders) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for order in std::io::stdin().lines().map_while(Result::ok) {
                let _ = sender.send(order);
            }
        });
        let (mut resting, mut reading) = (Vec::new(), Vec::new());
        while let Some(order) = orders.recv().await {
            match &*order {
                "rest" => resting = rest(&target, IDLE).await,
                "read" => {
                    for _ in 0..SLOW {
                        let stream = begun(&target).await;
                        reading.push(tokio::spawn(sip(stream)));
                    }
                }
                "leave" => {
                    reading.drain(..).for_each(|reader| reader.abort());
                    resting.clear();
                }
                _ => return,
            }
            println!("{order}");
        }
    });
}

/// Connections that have asked once, and keep still.
async fn rest(target: &Target, number: usize) -> Vec<TcpStream> {
    let mut resting = Vec::with_capacity(number);
    let mut buffer = [0; 4096];
    for _ in 0..number {
        let mut stream = connect(target).await;
        stream.write_all(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("a question");
        let read = stream.read(&mut buffer).await.expect("an answer");
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..read]));
        resting.push(stream);
    }
    resting
}

/// A stream whose first bytes have come.
async fn begun(target: &Target) -> TcpStream {
    let mut stream = connect(target).await;
    let request = target.request(&format!("FAKE:replay crowd {}", 64 << 10), true);
    stream.write_all(&request).await.expect("a request on its way");
    let mut buffer = [0; 256];
    let read = stream.read(&mut buffer).await.expect("an answer");
    assert!(buffer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..read]));
    stream
}

async fn connect(target: &Target) -> TcpStream {
    let Target::Vllama(address) = target else { unreachable!("the crowd goes to vllama") };
    TcpStream::connect(address).await.expect("a connection")
}

/// Reads a little every second.
async fn sip(mut stream: TcpStream) {
    let mut buffer = [0; SIP];
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let read = stream.read(&mut buffer).await.expect("the answer goes on");
        assert_ne!(read, 0, "slow readers are not cut off");
    }
}
