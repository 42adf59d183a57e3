//! Whether the port is free, or vllama itself is there.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use super::facts::Port;
use crate::cli::local_server;

/// A vllama answers its health in microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tries to have the port, for a moment; asks who is there when it is taken.
pub(super) fn look(address: SocketAddr) -> Port {
    match TcpListener::bind(address) {
        Ok(_) => Port::Free(address),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            match local_server::ask(address, "/health/live", PATIENCE).ok().and_then(|answer| answer.version) {
                Some(version) => Port::Vllama(address, version),
                None => Port::Taken(address, "another program listens there".to_owned()),
            }
        }
        Err(error) => Port::Taken(address, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
