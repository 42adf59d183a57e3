//! Whether the port is free, or vllama itself is there.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::facts::Port;

/// A vllama answers its health in microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest head of an answer that is read, in bytes.
const HEAD_LIMIT: u64 = 4096;

/// Tries to have the port, for a moment; asks who is there when it is taken.
pub(super) fn look(address: SocketAddr) -> Port {
    match TcpListener::bind(address) {
        Ok(_) => Port::Free(address),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => match who(address) {
            Some(version) => Port::Vllama(address, version),
            None => Port::Taken(address, "another program listens there".to_owned()),
        },
        Err(error) => Port::Taken(address, error.to_string()),
    }
}

/// Version of the vllama that listens there; `None` when it is none.
fn who(mut address: SocketAddr) -> Option<String> {
    if address.ip().is_unspecified() {
        let loopback = match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        address.set_ip(loopback);
    }
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("GET /health/live HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    // What came before an error counts all the same.
    let _ = stream.take(HEAD_LIMIT).read_to_end(&mut answer);
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    head.parse(&answer).ok()?;
    let server = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("server"))?;
    Some(std::str::from_utf8(server.value).ok()?.strip_prefix("vllama/")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_or_taken_by_somebody_else() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("its address");
        let stranger = std::thread::spawn(move || {
            let (mut stream, _) = taken.accept().expect("a connection");
            stream.write_all(b"HTTP/1.1 200 OK\r\nServer: ollama\r\nContent-Length: 0\r\n\r\n").expect("written");
        });
        assert!(matches!(look(address), Port::Taken(_, why) if why.contains("another program")));
        stranger.join().expect("the stranger");
        assert!(matches!(look("127.0.0.1:0".parse().expect("an address")), Port::Free(_)));
    }
}
