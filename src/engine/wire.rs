//! One HTTP/1.1 connection to an engine, driven by whoever waits for its answer.
//!
//! hyper's client gives every connection a task of its own and hands over each chunk by itself. On the way of every token
//! that is two more wake-ups, and tokens that arrive together leave one by one. Here one read takes all that has come,
//! however many chunks that is, in the task that writes to the client (docs/performance.md has the figures).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;

/// Most bytes taken by one read.
const READ: usize = 8 << 10;
/// Longest head of an answer, in bytes.
const HEAD_LIMIT: usize = 64 << 10;
/// Most headers of an answer.
const HEADERS: usize = 64;
/// Longest line that gives a chunk's size, in bytes; extensions included.
const SIZE_LINE_LIMIT: usize = 1 << 10;
/// A body up to this size is sent together with its head.
const SMALL_BODY: usize = 32 << 10;

thread_local! {
    /// Where a read puts what has come. Every thread has one for all of its connections: most of them wait, and those
    /// thousands should cost nothing.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// A connection between two requests, or on its way to an answer.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    /// What was read and not yet understood.
    unread: BytesMut,
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub status: StatusCode,
    /// What the body is, where the engine says so.
    pub content_type: Option<HeaderValue>,
    pub framing: Framing,
    /// Whether another request may follow.
    pub keeps_alive: bool,
}

/// How far the body of an answer has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are to come.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked(Chunk),
    /// The end of the connection is the end of the body.
    UntilClose,
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    AfterData,
    Trailer,
    End,
}

impl Connection {
    pub(super) async fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        Ok(Self { stream, unread: BytesMut::new() })
    }

    /// Whether a kept connection still stands. An engine says nothing unasked: bytes are as bad as the end.
    pub(super) fn stands(&mut self) -> bool {
        self.unread.is_empty()
            && matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request. `head` ends before the header that gives the body's length.
    pub(super) async fn send(&mut self, mut head: Vec<u8>, body: &[u8]) -> io::Result<()> {
        head.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        if body.len() <= SMALL_BODY {
            head.extend_from_slice(body);
            return self.stream.write_all(&head).await;
        }
        self.stream.write_all(&head).await?;
        self.stream.write_all(body).await
    }

    /// Waits for the head of the answer.
    pub(super) async fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some((length, head)) = parse_head(&self.unread)? {
                self.unread.advance(length);
                // Interim answers say that the real one is still to come.
                if !head.status.is_informational() {
                    return Ok(head);
                }
                continue;
            }
            if self.unread.len() > HEAD_LIMIT {
                return Err(invalid("the head of an answer is too long"));
            }
            if poll_fn(|context| self.poll_read(context)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads all of the body that has come, into `body`; true at its end.
    pub(super) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        framing: &mut Framing,
        body: &mut BytesMut,
    ) -> Poll<io::Result<bool>> {
        loop {
            let before = body.len();
            let done = framing.take(&mut self.unread, body)?;
            if done || body.len() > before {
                return Poll::Ready(Ok(done));
            }
            if ready!(self.poll_read(context))? == 0 {
                let whole = *framing == Framing::UntilClose;
                return Poll::Ready(if whole { Ok(true) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
            }
        }
    }

    /// Reads once; 0 at the end of the connection.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
            self.unread.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// Whether nothing of an earlier answer is left to be read.
    pub(super) fn is_clean(&self) -> bool {
        self.unread.is_empty()
    }
}

impl Framing {
    /// Moves what belongs to the body from `unread` to `body`; true when that was all of it.
    fn take(&mut self, unread: &mut BytesMut, body: &mut BytesMut) -> io::Result<bool> {
        match self {
            Self::Length(left) => {
                *left -= take(unread, *left, body);
                Ok(*left == 0)
            }
            Self::UntilClose => {
                take(unread, u64::MAX, body);
                Ok(false)
            }
            Self::Chunked(chunk) => {
                while chunk.step(unread, body)? {}
                Ok(*chunk == Chunk::End)
            }
        }
    }
}

impl Chunk {
    /// Goes one step further; false when more bytes are needed, or none.
    fn step(&mut self, unread: &mut BytesMut, body: &mut BytesMut) -> io::Result<bool> {
        if let Self::Data(left) = *self {
            let left = left - take(unread, left, body);
            *self = if left == 0 { Self::AfterData } else { Self::Data(left) };
            return Ok(left == 0);
        }
        if *self == Self::End {
            return Ok(false);
        }
        let Some(end) = memchr::memchr(b'\n', unread) else {
            let endless = unread.len() > SIZE_LINE_LIMIT;
            return if endless { Err(invalid("a chunk's size without end")) } else { Ok(false) };
        };
        let line = unread[..end].strip_suffix(b"\r").unwrap_or(&unread[..end]);
        *self = match *self {
            Self::Size => match size(line)? {
                0 => Self::Trailer,
                size => Self::Data(size),
            },
            Self::AfterData if line.is_empty() => Self::Size,
            Self::AfterData => return Err(invalid("a chunk longer than its size")),
            Self::Trailer if line.is_empty() => Self::End,
            other => other,
        };
        unread.advance(end + 1);
        Ok(true)
    }
}

/// The size on the line before a chunk; extensions are passed over.
fn size(line: &[u8]) -> io::Result<u64> {
    let digits = line.split(|byte| matches!(byte, b';' | b' ')).next().unwrap_or_default();
    let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    size.ok_or_else(|| invalid("a chunk without a size"))
}

/// Moves at most `most` bytes and tells how many.
fn take(unread: &mut BytesMut, most: u64, body: &mut BytesMut) -> u64 {
    let length = unread.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    body.extend_from_slice(&unread[..length]);
    unread.advance(length);
    length as u64
}

/// The head that stands at the beginning of these bytes, and its length; `None` when it is not whole.
fn parse_head(bytes: &[u8]) -> io::Result<Option<(usize, Head)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).map_err(|error| invalid(&error.to_string()))? else {
        return Ok(None);
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| invalid("an answer without a status"))?;
    let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let value = |name: &str| header(name).and_then(|found| std::str::from_utf8(found.value).ok()).map(str::trim);
    let framing = if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        Framing::Chunked(Chunk::Size)
    } else if let Some(length) = value("content-length") {
        Framing::Length(length.parse().map_err(|_| invalid("an answer of no length"))?)
    } else if status == StatusCode::NO_CONTENT || status.is_informational() {
        Framing::Length(0)
    } else {
        Framing::UntilClose
    };
    let closes = value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let keeps_alive = response.version == Some(1) && !closes && framing != Framing::UntilClose;
    let content_type = header("content-type").and_then(|found| HeaderValue::from_bytes(found.value).ok());
    Ok(Some((length, Head { status, content_type, framing, keeps_alive })))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The body so far as one piece.
pub(super) fn piece(body: &mut BytesMut) -> Bytes {
    body.split().freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a body that arrives in these pieces.
    fn decoded(mut framing: Framing, pieces: &[&[u8]]) -> io::Result<(String, bool)> {
        let (mut unread, mut body, mut done) = (BytesMut::new(), BytesMut::new(), false);
        for piece in pieces {
            unread.extend_from_slice(piece);
            done = framing.take(&mut unread, &mut body)?;
        }
        Ok((String::from_utf8_lossy(&body).into_owned(), done))
    }

    const CHUNKED: Framing = Framing::Chunked(Chunk::Size);

    #[test]
    fn chunks_are_joined_wherever_the_bytes_are_cut() {
        let wire = b"6;x=y\r\ndata: \r\nA\r\n0123456789\r\n0\r\ntrailer: x\r\n\r\n";
        for cut in 0..wire.len() {
            let (text, done) = decoded(CHUNKED, &[&wire[..cut], &wire[cut..]]).expect("chunks");
            assert_eq!((text.as_str(), done), ("data: 0123456789", true), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(decoded(CHUNKED, &bytes).expect("chunks"), ("data: 0123456789".into(), true));
    }

    #[test]
    fn a_body_is_not_done_before_its_end() {
        assert_eq!(decoded(CHUNKED, &[b"5\r\nhello\r\n"]).expect("chunks"), ("hello".into(), false));
        assert_eq!(decoded(CHUNKED, &[b"5\r\nhel"]).expect("chunks"), ("hel".into(), false));
        assert_eq!(decoded(Framing::Length(5), &[b"hel"]).expect("bytes"), ("hel".into(), false));
        assert_eq!(decoded(Framing::Length(5), &[b"hel", b"lo"]).expect("bytes"), ("hello".into(), true));
        assert_eq!(decoded(Framing::UntilClose, &[b"hel", b"lo"]).expect("bytes"), ("hello".into(), false));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let endless = vec![b'1'; 2000];
        for wire in [b"x\r\n".as_slice(), b"\r\n", b"3\r\nhello\r\n", b"fffffffffffffffff\r\n", &endless] {
            assert!(decoded(CHUNKED, &[wire]).is_err(), "{}", String::from_utf8_lossy(wire));
        }
    }

    #[test]
    fn heads_tell_how_the_body_ends_and_whether_the_connection_stays() {
        let head = |text: &str| parse_head(text.as_bytes()).expect("a head").map(|(_, head)| head);
        let chunked = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: Chunked\r\n\r\n";
        let chunked = head(chunked).expect("whole");
        assert_eq!((chunked.framing, chunked.keeps_alive), (CHUNKED, true));
        assert_eq!(chunked.content_type, Some(HeaderValue::from_static("text/plain")));
        let length = head("HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\nconnection: close\r\n\r\n").expect("whole");
        assert_eq!((length.framing, length.keeps_alive), (Framing::Length(7), false));
        assert_eq!(length.status, StatusCode::NOT_FOUND);
        let old = head("HTTP/1.0 200 OK\r\n\r\n").expect("whole");
        assert_eq!((old.framing, old.keeps_alive), (Framing::UntilClose, false));
        assert_eq!(head("HTTP/1.1 200 OK\r\ncontent-le"), None);
        assert!(parse_head(b"garbage\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n").is_err());
    }
}
