//! The server with handlers of its own, over real sockets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::router::{Entry, Intake};
use super::*;
use crate::access::Access;
use crate::api::{self, Answering, Call, Reply, ollama};

mod crowd;

const GET: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];
const SOON: Duration = Duration::from_secs(5);

struct Server {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    settings: watch::Sender<Arc<Settings>>,
    served: JoinHandle<()>,
    /// Waiting handlers now.
    waiting: Arc<AtomicUsize>,
    /// Lets one waiting handler go on.
    release: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
}

/// Counts itself while it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An answer without end.
struct Flood {
    _counted: Counted,
}

impl http_body::Body for Flood {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[b'x'; 8192])))))
    }
}

fn entry(
    methods: &'static [Method],
    path: &'static str,
    handler: impl Fn(Call) -> Answering + Send + Sync + 'static,
) -> Entry {
    Entry {
        methods,
        path,
        intake: Intake::Whole,
        access: Access::Open,
        handler: Box::new(handler),
        refuse: |status, text, _| ollama::error::refuse(status, text),
    }
}

fn plain(body: impl Into<Bytes>) -> Reply {
    api::whole(StatusCode::OK, "text/plain", body)
}

impl Server {
    async fn start(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let waiting = Arc::new(AtomicUsize::new(0));
        let release: Arc<Mutex<Vec<oneshot::Sender<()>>>> = Arc::default();
        let (count, senders) = (waiting.clone(), release.clone());
        let wait = move |_: Call| -> Answering {
            let (sender, receiver) = oneshot::channel();
            count.fetch_add(1, Ordering::SeqCst);
            senders.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
            let counted = Counted(count.clone());
            Box::pin(async move {
                let _counted = counted;
                let _ = receiver.await;
                plain("waited")
            })
        };
        let router = Router::of([
            entry(GET, "/hello", |_| Box::pin(async { plain("hello") })),
            entry(POST, "/echo", |call| Box::pin(async move { plain(call.body) })),
            Entry {
                intake: Intake::Stream,
                ..entry(POST, "/take/{name}", |mut call| {
                    Box::pin(async move {
                        let mut taken = format!("{} of {:?}:", call.parameter, call.upload.length());
                        loop {
                            match call.upload.next().await {
                                Ok(Some(bytes)) => taken.push_str(&String::from_utf8_lossy(&bytes)),
                                Ok(None) => return plain(taken),
                                Err(refused) => {
                                    call.upload.discard().await;
                                    return ollama::error::refuse(refused.status, &refused.text);
                                }
                            }
                        }
                    })
                })
            },
            entry(GET, "/busy", |_| Box::pin(async { ollama::error::refuse(StatusCode::SERVICE_UNAVAILABLE, "busy") })),
            entry(GET, "/flood", {
                let floods = waiting.clone();
                move |_| {
                    floods.fetch_add(1, Ordering::SeqCst);
                    let flood = Flood { _counted: Counted(floods.clone()) };
                    Box::pin(async { Reply::new(api::Body::Stream(Box::pin(flood))) })
                }
            }),
            entry(GET, "/id", |call| Box::pin(async move { plain(call.request_id.to_string()) })),
            entry(GET, "/panic", |_| Box::pin(async { panic!("a bug for a test") })),
            entry(GET, "/panic-early", |_| panic!("an early bug for a test")),
            entry(POST, "/wait", wait.clone()),
            entry(POST, "/api/chat", wait),
            entry(GET, "/health/live", |_| Box::pin(async { plain("alive") })),
            entry(GET, "/patience", |call| Box::pin(async move { plain(format!("{:?}", call.patience)) })),
        ]);
        let (phase, shutdown) = watch::channel(Phase::Serving);
        let (settings, seen) = watch::channel(Arc::new(settings));
        let doors = vec![Door { listener, inherited: false }];
        let served = tokio::spawn(serve_routes(doors, router, seen, shutdown, Watchers::default()));
        Self { address, phase, settings, served, waiting, release }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// Sends a request on a connection of its own and returns everything that comes back.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        read_to_end(&mut stream).await
    }

    async fn until_waiting(&self, count: usize) {
        let there = async {
            while self.waiting.load(Ordering::SeqCst) != count {
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, there).await.expect("the handlers are there in time");
    }

    fn release(&self) {
        self.release.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text)).await.expect("the connection ends").expect("text");
    text
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn routes_answer_and_what_is_none_is_told_in_plain_text() {
    let server = Server::start(Settings::default()).await;
    for (request, status, parts) in [
        (get("/hello"), 200, &["\r\n\r\nhello", "server: vllama/", "x-request-id: "][..]),
        (get("/hello?ts=1"), 200, &["hello"]),
        (get("/nothing"), 404, &["content-type: text/plain\r\n", "\r\n\r\n404 page not found"]),
        (get("/echo"), 405, &["allow: POST\r\n", "\r\n\r\n405 method not allowed"]),
        (post("/hello", ""), 405, &["allow: GET, HEAD\r\n"]),
        (get("/hello/?a=b"), 301, &["location: /hello?a=b\r\n"]),
        (post("/echo/", "x"), 307, &["location: /echo\r\n"]),
        (post("/echo", "{\"a\":1}"), 200, &["\r\n\r\n{\"a\":1}"]),
    ] {
        let answer = server.ask(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
        for part in parts {
            assert!(answer.contains(part), "{part} in {answer}");
        }
    }
}

#[tokio::test]
async fn head_has_the_headers_and_no_body() {
    let server = Server::start(Settings::default()).await;
    let answer = server.ask("HEAD /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("content-length: 5\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_request_id_is_taken_and_given_back() {
    let server = Server::start(Settings::default()).await;
    let answer =
        server.ask("GET /id HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: abc-1\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("x-request-id: abc-1\r\n") && answer.ends_with("\r\n\r\nabc-1"), "{answer}");
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_connection_lives_on() {
    let server = Server::start(Settings::default()).await;
    for path in ["/panic", "/panic-early"] {
        let mut stream = server.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n{}", get("/hello"));
        stream.write_all(request.as_bytes()).await.expect("the requests are sent");
        let answers = read_to_end(&mut stream).await;
        assert!(answers.starts_with("HTTP/1.1 500 ") && answers.contains("{\"error\":\"vllama met a bug"), "{answers}");
        assert!(answers.ends_with("\r\n\r\nhello"), "{answers}");
    }
}

#[tokio::test]
async fn a_body_or_a_head_that_is_too_large_is_refused() {
    let settings = Settings { body_limit: 1000, header_limit: 8192, ..Settings::default() };
    let server = Server::start(settings).await;
    let fits = server.ask(&post("/echo", &"x".repeat(1000))).await;
    assert!(fits.starts_with("HTTP/1.1 200 "), "{fits}");
    let told = server.ask(&post("/echo", &"x".repeat(1001))).await;
    let chunked = "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001));
    for answer in [told, server.ask(&format!("{chunked}{body}")).await] {
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("{\"error\":\"request body too large: the limit is 1000 bytes"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    let head = format!("GET /hello HTTP/1.1\r\nHost: localhost\r\nX-Big: {}\r\n\r\n", "x".repeat(20_000));
    let answer = server.ask(&head).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_taken_as_it_comes_has_bounds_too() {
    let short = Duration::from_millis(200);
    let settings = Settings { body_limit: 10, upload_limit: 100_000, body_timeout: short, ..Settings::default() };
    let server = Server::start(settings).await;
    let answer = server.ask(&post("/take/it", &"x".repeat(90_000))).await;
    let wanted = format!("it of Some(90000):{}", "x".repeat(90_000));
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&wanted), "{} bytes", answer.len());
    for path in ["/take", "/take/", "/take/a/b"] {
        assert!(server.ask(&post(path, "x")).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    assert!(server.ask(&get("/take/it")).await.starts_with("HTTP/1.1 405 "));
    let chunked = "POST /take/it HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = format!("186a1\r\n{}\r\n0\r\n\r\n", "x".repeat(100_001));
    for answer in
        [server.ask(&post("/take/it", &"x".repeat(100_001))).await, server.ask(&format!("{chunked}{body}")).await]
    {
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("the limit is 100000 bytes"), "{answer}");
    }
    let silent = "POST /take/it HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab";
    let answer = server.ask(silent).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("not received in time"), "{answer}");
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_idle_ones_are_not() {
    let short = Duration::from_millis(100);
    let settings = Settings { header_timeout: short, body_timeout: short, ..Settings::default() };
    let server = Server::start(settings).await;
    for beginning in ["", "GET /hello HTTP/1.1\r\nHost: loc"] {
        let answer = server.ask(beginning).await;
        assert!(!answer.contains("200"), "{answer}");
    }
    let answer = server.ask("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("not received in time"), "{answer}");
    let mut stream = server.connect().await;
    for last in [false, true] {
        let request = if last { get("/hello") } else { "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned() };
        stream.write_all(request.as_bytes()).await.expect("the connection is still open");
        if !last {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).await.expect("an answer");
            assert!(count > 0, "an answer");
            // Longer than a head may take: the time itself is what is tested.
            tokio::time::sleep(short * 3).await;
        }
    }
    assert!(read_to_end(&mut stream).await.ends_with("hello"));
}

#[tokio::test]
async fn a_connection_that_only_rests_is_closed_in_the_end() {
    let settings = Settings { idle_timeout: Duration::from_millis(100), ..Settings::default() };
    let server = Server::start(settings).await;
    let answer = server.ask("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let server = Server::start(Settings::default()).await;
    let mut stream = server.connect().await;
    stream.write_all(post("/api/chat", "{}").as_bytes()).await.expect("the request is sent");
    server.until_waiting(1).await;
    drop(stream);
    server.until_waiting(0).await;
}

#[tokio::test]
async fn a_client_that_has_said_its_last_word_gets_what_takes_no_model() {
    let server = Server::start(Settings::default()).await;
    let kept = |request: String| request.replace("Connection: close\r\n", "");
    let say = async |request: &str| {
        let mut stream = server.connect().await;
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream.shutdown().await.expect("a last word");
        stream
    };
    let chunked = "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    for (request, answer) in [
        (kept(get("/hello")), "hello"),
        (kept(get("/hello")) + &kept(post("/echo", "{}")), "{}"),
        (chunked.to_owned(), "{}"),
        (kept(post("/take/it", "abc")), "abc"),
    ] {
        let heard = read_to_end(&mut say(&request).await).await;
        assert!(heard.ends_with(answer), "{request}: {heard}");
    }
    let mut slow = say(&kept(post("/wait", "{}"))).await;
    server.until_waiting(1).await;
    server.release();
    let heard = read_to_end(&mut slow).await;
    assert!(heard.ends_with("waited"), "{heard}");
    // TCP does not tell it from a client that has left, for which no model should work.
    let mut chat = say(&kept(post("/api/chat", "{}"))).await;
    assert_eq!(read_to_end(&mut chat).await, "");
    server.until_waiting(0).await;
    let mut torn = say("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{}").await;
    assert!(read_to_end(&mut torn).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_request_that_names_two_hosts_is_refused_and_a_whole_url_names_the_one_that_counts() {
    let server = Server::start(Settings::default()).await;
    for (first, hosts, status) in [
        ("/hello", "Host: localhost\r\nHost: evil.example\r\n", "400"),
        ("/hello", "Host: localhost\r\nHost: localhost\r\n", "400"),
        ("http://localhost:1/hello", "Host: localhost\r\n", "200"),
        ("http://evil.example/hello", "Host: localhost\r\n", "403"),
        ("http://localhost@evil.example/hello", "Host: localhost\r\n", "403"),
        ("http://localhost/hello", "Host: evil.example\r\n", "200"),
    ] {
        let answer = server.ask(&format!("GET {first} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{first} {hosts}: {answer}");
    }
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_meanwhile_answers_each_with_a_close() {
    let server = Server::start(Settings::default()).await;
    let kept = get("/hello").replace("Connection: close\r\n", "");
    let mut idle = server.connect().await;
    idle.write_all(kept.as_bytes()).await.expect("sent");
    let mut bytes = [0; 1024];
    let length = idle.read(&mut bytes).await.expect("an answer");
    assert!(!String::from_utf8_lossy(&bytes[..length]).contains("connection: close"));
    let mut running = server.connect().await;
    running.write_all(post("/wait", "{}").replace("Connection: close\r\n", "").as_bytes()).await.expect("sent");
    server.until_waiting(1).await;
    let mut silent = server.connect().await;
    server.phase.send_replace(Phase::Draining);
    for answer in [
        {
            idle.write_all(kept.as_bytes()).await.expect("the kept connection is open");
            read_to_end(&mut idle).await
        },
        server.ask(&kept).await,
    ] {
        assert!(answer.ends_with("hello") && answer.contains("connection: close\r\n"), "{answer}");
    }
    let busy = server.ask(&get("/busy")).await;
    assert!(busy.starts_with("HTTP/1.1 503 ") && busy.contains("retry-after: 5\r\n"), "{busy}");
    assert!(!server.served.is_finished());
    server.release();
    let answer = read_to_end(&mut running).await;
    assert!(answer.ends_with("waited") && answer.contains("connection: close"), "{answer}");
    timeout(SOON, server.served).await.expect("the server ends").expect("without a panic");
    assert_eq!(read_to_end(&mut silent).await, "", "idle connections are closed");
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn settings_may_change_between_two_requests_of_a_connection() {
    let server = Server::start(Settings::default()).await;
    let page = get("/hello").replace("\r\n\r\n", "\r\nOrigin: https://a.example\r\n\r\n");
    assert!(server.ask(&page).await.starts_with("HTTP/1.1 403 "));
    let origins = Origins::new(&["https://a.example".to_owned()]);
    server.settings.send_replace(Arc::new(Settings { origins, body_limit: 3, ..Settings::default() }));
    assert!(server.ask(&page).await.starts_with("HTTP/1.1 200 "));
    assert!(server.ask(&post("/echo", "long")).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off_and_one_that_reads_slowly_is_not() {
    let settings = Settings { stall_timeout: Duration::from_millis(300), ..Settings::default() };
    let server = Server::start(settings).await;
    let mut stalled = server.connect().await;
    stalled.write_all(get("/flood").as_bytes()).await.expect("sent");
    server.until_waiting(1).await;
    server.until_waiting(0).await;
    let mut slow = server.connect().await;
    slow.write_all(get("/flood").as_bytes()).await.expect("sent");
    let began = std::time::Instant::now();
    let mut piece = vec![0; 1 << 20];
    while began.elapsed() < Duration::from_secs(1) {
        slow.read_exact(&mut piece).await.expect("the answer goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.waiting.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn pages_of_other_origins_are_kept_out() {
    let server = Server::start(Settings::default()).await;
    let ask = |method: &str, host: &str, origin: &str| {
        format!("{method} /hello HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n")
    };
    let answer = server.ask(&ask("GET", "localhost", "http://localhost:3000")).await;
    assert!(answer.contains("access-control-allow-origin: http://localhost:3000\r\n"), "{answer}");
    assert!(answer.contains("vary: Origin\r\n") && answer.ends_with("hello"), "{answer}");
    let answer = server.ask(&ask("OPTIONS", "localhost", "http://localhost:3000")).await;
    assert!(answer.starts_with("HTTP/1.1 204 ") && answer.contains("access-control-max-age: 43200\r\n"), "{answer}");
    let answer = server.ask(&ask("GET", "localhost", "https://evil.example")).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = server.ask(&ask("GET", "evil.example", "http://evil.example")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}
