//! One port: its socket, and taking connections from it until nobody is wanted any more.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Phase;
use super::connection::{Guided, connection};
use super::front::{Front, Visitor};

/// Connections that may wait in the kernel until they are taken. The usual 128 overflow when a thousand clients come at
/// once, and then each of them waits a second for its next try.
const BACKLOG: i32 = 4096;

/// What the kernel keeps, in bytes, of an answer that its client does not take; it doubles this for its own book-keeping.
/// Without a limit it is megabytes, and it would take minutes of a stream to find out that nobody reads it.
const SEND_BUFFER: usize = 128 << 10;

/// Shortest and longest rest after a connection could not be taken.
const REST: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often it is told that connections cannot be taken.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A port that clients come in by.
#[derive(Debug)]
pub struct Door {
    /// Its socket.
    pub listener: TcpListener,
    /// Whether somebody else holds the socket too (systemd's socket activation): who comes when this vllama does not
    /// serve any more waits in it for the next one.
    pub inherited: bool,
}

/// Takes the connections of one door, and serves them to their ends.
pub(super) async fn attend(door: Door, front: Arc<Front>, mut phase: watch::Receiver<Phase>) {
    let Door { listener, inherited } = door;
    if let Err(error) = prepare(&listener, inherited) {
        tracing::debug!(%error, "an option of the port could not be set");
    }
    // Only a server for this machine alone has to fear pages that make a name point to it.
    let local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let (close, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    let counted = front.clone();
    let mut ends = std::pin::pin!(async {
        draining(&mut phase).await;
        if !inherited {
            counted.running().none().await;
        }
    });
    let mut trouble = Trouble::default();
    loop {
        let accepted = tokio::select! {
            () = &mut ends => break,
            // Its outcome is nobody's business: a panic has been logged, and the rest was the client's doing.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                trouble = Trouble { told: trouble.told, ..Trouble::default() };
                let visitor = Visitor { local, address: address.ip(), in_lobby: false };
                let guest = front.crowd().enter().await;
                let counted = front.metrics().connection();
                let connection = connection(Guided { stream, guest, visitor }, front.clone(), closing.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(counted);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                front.metrics().connection_refused();
                tokio::time::sleep(trouble.rest(&error)).await;
            }
        }
    }
    drop(listener);
    tracing::debug!(connections = connections.len(), "the port is closed; finishing what runs");
    front.running().none().await;
    close.send_replace(true);
    while connections.join_next().await.is_some() {}
}

/// Sets what its connections inherit, and how many of them may wait.
fn prepare(listener: &TcpListener, inherited: bool) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_send_buffer_size(SEND_BUFFER)?;
    if inherited {
        // Whoever opened it has said how many may wait.
        return Ok(());
    }
    socket.listen(BACKLOG)
}

/// Whether the error came with the connection, and the next one may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | PermissionDenied)
}

/// Connections cannot be taken. Descriptors are divided up so that it is not for want of one of ours; the machine may have
/// run out of them, or of memory.
#[derive(Default)]
struct Trouble {
    times: u32,
    told: Option<Instant>,
}

impl Trouble {
    /// How long to leave it alone: a connection that waits in the kernel makes the port readable all the time.
    fn rest(&mut self, error: &io::Error) -> Duration {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(%error, "connections cannot be taken; trying on");
        }
        let rest = REST.0.saturating_mul(1 << self.times.min(16)).min(REST.1);
        self.times += 1;
        rest
    }
}

/// Waits until it is time to end; without a sender there is nobody left to serve for.
async fn draining(shutdown: &mut watch::Receiver<Phase>) {
    let _ = shutdown.wait_for(|phase| *phase == Phase::Draining).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_tried_again_ever_more_rarely() {
        let mut trouble = Trouble::default();
        let error = io::Error::from_raw_os_error(24);
        assert!(!is_of_one_connection(&error));
        let rests: Vec<_> = (0..9).map(|_| trouble.rest(&error).as_millis()).collect();
        assert_eq!(rests, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }
}
