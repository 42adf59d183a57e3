//! More clients than places, and clients that want more than their share.

use tokio::net::TcpSocket;

use super::*;

/// A request that leaves its connection open.
fn kept(path: &str) -> String {
    get(path).replace("Connection: close\r\n", "")
}

/// Sends one and reads its answer, which is short.
async fn ask_on(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut bytes = [0; 4096];
    let length = timeout(SOON, stream.read(&mut bytes)).await.expect("in time").expect("an answer");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Begins a request that waits for its release.
async fn waiting(server: &Server, path: &str, number: usize) -> TcpStream {
    let mut stream = server.connect().await;
    stream.write_all(post(path, "0123456789").as_bytes()).await.expect("the request is sent");
    server.until_waiting(number).await;
    stream
}

#[tokio::test]
async fn who_finds_no_place_is_told_to_come_back_and_operators_are_answered() {
    let server = Server::start(Settings { max_connections: 1, ..Settings::default() }).await;
    let mut first = waiting(&server, "/wait", 1).await;
    for request in [get("/hello"), kept("/hello"), post("/echo", &"x".repeat(100_000))] {
        let answer = server.ask(&request).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("VLLAMA_MAX_CONNECTIONS"), "{answer}");
        assert!(answer.contains("retry-after: 1\r\n") && answer.contains("connection: close\r\n"), "{answer}");
    }
    let answer = server.ask(&kept("/health/live")).await;
    assert!(answer.ends_with("alive") && answer.contains("connection: close\r\n"), "{answer}");
    server.release();
    assert!(read_to_end(&mut first).await.ends_with("waited"));
    assert!(server.ask(&get("/hello")).await.ends_with("hello"), "there is a place again");
}

#[tokio::test]
async fn the_connection_that_has_rested_longest_makes_room() {
    let server = Server::start(Settings { max_connections: 3, ..Settings::default() }).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = server.connect().await;
        assert!(ask_on(&mut stream, &kept("/hello")).await.ends_with("hello"));
        streams.push(stream);
    }
    // The first one has something to do again, so now the second one has rested longest.
    assert!(ask_on(&mut streams[0], &kept("/hello")).await.ends_with("hello"));
    assert!(server.ask(&get("/hello")).await.ends_with("hello"), "a newcomer finds a place");
    assert_eq!(read_to_end(&mut streams[1]).await, "", "it has made room");
    for stream in [0, 2] {
        assert!(ask_on(&mut streams[stream], &kept("/hello")).await.ends_with("hello"), "{stream} is still there");
    }
}

#[tokio::test]
async fn many_who_say_nothing_do_not_keep_operators_out() {
    let server = Server::start(Settings { max_connections: 1, ..Settings::default() }).await;
    let _first = waiting(&server, "/wait", 1).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(server.connect().await);
    }
    let asked = std::time::Instant::now();
    assert!(server.ask(&get("/health/live")).await.ends_with("alive"));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(read_to_end(&mut silent[0]).await, "", "the oldest in the lobby had to leave");
}

#[tokio::test]
async fn requests_are_bounded_by_the_descriptors_they_may_need() {
    let server = Server::start(Settings { max_requests: 1, ..Settings::default() }).await;
    let _first = waiting(&server, "/wait", 1).await;
    for path in ["/echo", "/take/it"] {
        let answer = server.ask(&post(path, "x")).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("ulimit -n"), "{answer}");
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    }
    assert!(server.ask(&get("/hello")).await.ends_with("hello"), "this one needs no second descriptor");
    server.release();
    server.until_waiting(0).await;
    let answered = async {
        while !server.ask(&post("/echo", "x")).await.ends_with("\r\n\r\nx") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, answered).await.expect("a descriptor is given back");
}

#[tokio::test]
async fn one_client_has_no_more_streams_than_its_share_and_others_have_theirs() {
    let server = Server::start(Settings { streams_per_client: 1, ..Settings::default() }).await;
    let mut first = waiting(&server, "/api/chat", 1).await;
    let answer = server.ask(&post("/api/chat", "{}")).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("VLLAMA_STREAMS_PER_CLIENT"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(server.ask(&post("/echo", "x")).await.ends_with("\r\n\r\nx"), "other routes are not counted");
    let other = TcpSocket::new_v4().expect("a socket");
    other.bind("127.0.0.2:0".parse().expect("an address")).expect("another address of this machine");
    let mut other = other.connect(server.address).await.expect("a connection");
    other.write_all(post("/api/chat", "{}").as_bytes()).await.expect("sent");
    server.until_waiting(2).await;
    server.release();
    for stream in [&mut first, &mut other] {
        assert!(read_to_end(stream).await.ends_with("waited"));
    }
    let _again = waiting(&server, "/api/chat", 1).await;
    server.settings.send_replace(Arc::new(Settings { streams_per_client: 2, ..Settings::default() }));
    let _second = waiting(&server, "/api/chat", 2).await;
}

#[tokio::test]
async fn bodies_of_all_requests_together_are_bounded() {
    let server = Server::start(Settings { body_limit: 10, ..Settings::default() }).await;
    let mut streams = Vec::new();
    for number in 1..=16 {
        streams.push(waiting(&server, "/wait", number).await);
    }
    let answer = server.ask(&post("/echo", "0123456789")).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many large requests"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    server.release();
    for stream in &mut streams {
        read_to_end(stream).await;
    }
    assert!(server.ask(&post("/echo", "0123456789")).await.ends_with("0123456789"));
}

#[tokio::test]
async fn the_clients_own_patience_counts_more_than_the_servers() {
    let server = Server::start(Settings { patience: Some(Duration::from_secs(9)), ..Settings::default() }).await;
    assert!(server.ask(&get("/patience")).await.ends_with("Some(9s)"));
    let told = get("/patience").replace("Connection", "Prefer: wait=20\r\nConnection");
    assert!(server.ask(&told).await.ends_with("Some(20s)"));
    server.settings.send_replace(Arc::new(Settings::default()));
    assert!(server.ask(&get("/patience")).await.ends_with("None"));
}
