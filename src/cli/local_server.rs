//! A question to the vllama that serves on this machine: one GET, one answer, no client library.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Longest answer that is read, in bytes: a report on many engines has some ten thousand.
const ANSWER_LIMIT: u64 = 1 << 20;

/// What a server on this machine has answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Version of vllama; `None` when it is another program.
    pub version: Option<String>,
    /// The body, as far as it came.
    pub body: Vec<u8>,
}

/// Asks who listens at this address (on loopback, where it is every address) for a path. Each step may take `patience`.
///
/// # Errors
/// Whatever kept the answer from coming; [`io::ErrorKind::InvalidData`] when it is no HTTP.
pub(super) fn ask(address: SocketAddr, path: &str, patience: Duration) -> io::Result<Answer> {
    let address = reachable(address);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let end = stream.take(ANSWER_LIMIT).read_to_end(&mut answer);
    // What came before an error counts all the same, if it is an answer.
    parsed(&answer).ok_or_else(|| end.err().unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not HTTP")))
}

/// An address that can be called, of one that can be listened on.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn parsed(answer: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let body = match head.parse(answer).ok()? {
        httparse::Status::Complete(length) => answer[length..].to_vec(),
        httparse::Status::Partial => return None,
    };
    let server = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("server"));
    let version = server.and_then(|header| std::str::from_utf8(header.value).ok()?.strip_prefix("vllama/"));
    Some(Answer { status: head.code?, version: version.map(str::to_owned), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_a_version_and_a_body() {
        let answer = parsed(b"HTTP/1.0 503 Service Unavailable\r\nServer: vllama/0.1.0\r\n\r\n{}").expect("an answer");
        assert_eq!((answer.status, answer.version.as_deref(), &*answer.body), (503, Some("0.1.0"), &b"{}"[..]));
        let stranger = parsed(b"HTTP/1.1 200 OK\r\nServer: ollama\r\n\r\n").expect("an answer");
        assert_eq!((stranger.status, stranger.version), (200, None));
        assert!(parsed(b"HTTP/1.1 200 OK\r\nServ").is_none() && parsed(b"SSH-2.0\r\n\r\n").is_none());
    }

    #[test]
    fn what_listens_everywhere_is_called_on_loopback() {
        for (listened, called) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.1.2.3:4", "10.1.2.3:4")] {
            let listened = listened.parse().expect("an address");
            assert_eq!(reachable(listened).to_string(), called);
        }
    }
}
