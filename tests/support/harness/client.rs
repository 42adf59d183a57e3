//! An HTTP/1.1 client that hides nothing: status line, header lines, framing, each piece with its time of arrival; and
//! it can hang up at any point. A library would tidy up exactly what is tested here.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, UnixStream};

/// No answer of a test takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Client {
    /// An address of this machine.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A request without body.
    pub fn new(method: &str, path: &str) -> Self {
        let headers = vec![("Host".to_owned(), "localhost".to_owned())];
        Self { method: method.to_owned(), path: path.to_owned(), headers, body: None }
    }

    /// A POST of this JSON.
    pub fn post(path: &str, body: &Value) -> Self {
        Self::new("POST", path).header("Content-Type", "application/json").body(body.to_string())
    }

    /// Sets a header, instead of one of the same name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`.
    Length(usize),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The end of the connection.
    Close,
    /// There is none, as after HEAD and with 204.
    Nothing,
}

/// Status line and headers.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// Name and value as they came.
    pub headers: Vec<(String, String)>,
    /// How the body ends.
    pub framing: Framing,
}

impl Head {
    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Bytes that came together, and when.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Since the request was sent.
    pub after: Duration,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status line and headers.
    pub head: Head,
    /// The body as it came.
    pub pieces: Vec<Piece>,
}

impl Answer {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        let bytes = self.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
        String::from_utf8(bytes).expect("a body of UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?} ({})", self.status()))
    }

    /// The body as one JSON value a line, with nothing between them.
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        assert!(text.ends_with('\n'), "the last line is complete: {text:?}");
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        text.trim_end_matches('\n').split('\n').map(parse).collect()
    }

    /// The text of `error`.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("an error: {:?}", self.text())).to_owned()
    }
}

/// A duplex byte stream.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// One request on its way. Dropping it hangs up.
pub struct Exchange {
    wire: BufReader<Box<dyn Wire>>,
    method: String,
    sent: Instant,
    remaining: Option<usize>,
    done: bool,
    framing: Framing,
    /// Longest wait for the next bytes.
    pub patience: Duration,
}

impl Client {
    /// Connects and sends a request; the answer is read from the exchange.
    pub async fn send(&self, request: &Request) -> io::Result<Exchange> {
        // First, since a large one takes long to put together, and the server does not wait for a head for ever.
        let bytes = request.bytes();
        let mut exchange = self.connect().await?;
        exchange.write(&bytes).await?;
        exchange.method.clone_from(&request.method);
        Ok(exchange)
    }

    /// As [`Client::send`], but the kernel takes in no more than this many bytes that nobody reads.
    pub async fn send_with_window(&self, request: &Request, bytes: u32) -> io::Result<Exchange> {
        let mut exchange = self.connect_with_window(Some(bytes)).await?;
        exchange.write(&request.bytes()).await?;
        exchange.method.clone_from(&request.method);
        Ok(exchange)
    }

    /// Connects and says nothing yet.
    pub async fn connect(&self) -> io::Result<Exchange> {
        self.connect_with_window(None).await
    }

    async fn connect_with_window(&self, window: Option<u32>) -> io::Result<Exchange> {
        let wire: Box<dyn Wire> = match self {
            Self::Tcp(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                if let Some(bytes) = window {
                    socket.set_recv_buffer_size(bytes)?;
                }
                let stream = socket.connect(*address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        let wire = BufReader::with_capacity(16 * 1024, wire);
        let sent = Instant::now();
        let (method, framing) = (String::new(), Framing::Nothing);
        Ok(Exchange { wire, method, sent, remaining: None, done: false, framing, patience: PATIENCE })
    }

    /// Sends a request and reads the whole answer.
    pub async fn try_request(&self, request: &Request) -> io::Result<Answer> {
        self.send(request).await?.answer().await
    }

    /// Sends a request and reads the whole answer; a test fails where there is none.
    pub async fn request(&self, request: &Request) -> Answer {
        let answer = self.try_request(request).await;
        answer.unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.path))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(&Request::new("GET", path)).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(&Request::post(path, body)).await
    }
}

impl Exchange {
    /// Sends the next request over the same connection and reads the whole answer.
    pub async fn ask(&mut self, request: &Request) -> io::Result<Answer> {
        self.write(&request.bytes()).await?;
        self.method.clone_from(&request.method);
        self.answer().await
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.get_mut().write_all(bytes).await?;
        self.wire.get_mut().flush().await?;
        self.sent = Instant::now();
        Ok(())
    }

    /// Sends a request and reads the whole answer.
    pub async fn request(&mut self, request: &Request) -> io::Result<Answer> {
        self.write(&request.bytes()).await?;
        self.method.clone_from(&request.method);
        self.answer().await
    }

    /// Waits for status line and headers.
    pub async fn head(&mut self) -> io::Result<Head> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::other("no status line"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("a header without colon"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut head = Head { status, headers, framing: Framing::Close };
        head.framing = if self.method == "HEAD" || status == 204 || status == 304 {
            Framing::Nothing
        } else if head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            Framing::Chunked
        } else if let Some(length) = head.header("content-length").and_then(|value| value.parse().ok()) {
            Framing::Length(length)
        } else {
            Framing::Close
        };
        self.framing = head.framing;
        self.remaining = if let Framing::Length(length) = head.framing { Some(length) } else { None };
        self.done = matches!(head.framing, Framing::Nothing | Framing::Length(0));
        Ok(head)
    }

    /// Waits for the next piece of the body: one chunk, or what has come. `None` at its proper end.
    pub async fn piece(&mut self) -> io::Result<Option<Piece>> {
        if self.done {
            return Ok(None);
        }
        let bytes = match self.framing {
            Framing::Nothing => Vec::new(),
            Framing::Chunked => {
                let size = self.line().await?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16);
                let mut bytes = vec![0; size.map_err(io::Error::other)? + 2];
                within(self.patience, self.wire.read_exact(&mut bytes)).await?;
                bytes.truncate(bytes.len() - 2);
                bytes
            }
            Framing::Length(_) | Framing::Close => {
                let most = self.remaining.unwrap_or(16 * 1024).min(16 * 1024);
                let mut bytes = vec![0; most];
                let read = within(self.patience, self.wire.read(&mut bytes)).await?;
                bytes.truncate(read);
                if let Some(remaining) = &mut self.remaining {
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    *remaining -= read;
                }
                bytes
            }
        };
        self.done = bytes.is_empty() || self.remaining == Some(0);
        Ok((!bytes.is_empty()).then(|| Piece { after: self.sent.elapsed(), bytes }))
    }

    /// Reads head and body to the end. The exchange can then carry the next request.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        let head = self.head().await?;
        let mut pieces = Vec::new();
        while let Some(piece) = self.piece().await? {
            pieces.push(piece);
        }
        Ok(Answer { head, pieces })
    }

    /// Waits until the server has closed the connection, and returns what came before.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is a way of closing too.
        let _ = within(self.patience, self.wire.read_to_end(&mut bytes)).await;
        bytes
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if within(self.patience, self.wire.read_line(&mut line)).await? == 0 || !line.ends_with('\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

async fn within<T>(patience: Duration, reading: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(patience, reading).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
