//! The least that can stand between a client and the engine: a program that copies bytes from one socket to the other and
//! understands none of them. What it costs is the price of being a process in between, on this machine.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::server;

/// The argument that makes this program the relay.
pub const ROLE: &str = "--relay";

/// A running relay; killed when dropped.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Relay {
    /// Starts one in front of the engine's socket.
    pub fn start(engine: &Path) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child =
            Command::new(program).arg(ROLE).arg(engine).stdout(Stdio::piped()).spawn().expect("the relay starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("its address");
        Self { address: line.trim().parse().expect("an address"), child }
    }

    /// Processor time it has taken.
    pub fn processor_time(&self) -> Duration {
        server::processor_time(self.child.id())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the relay does, on as many threads as vllama has.
pub fn run(engine: PathBuf) {
    server::raise_limits();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        while let Ok((stream, _)) = listener.accept().await {
            let engine = engine.clone();
            tokio::spawn(async move {
                // Whoever hangs up ends the copy.
                let _ = copy(stream, &engine).await;
            });
        }
    });
}

async fn copy(mut client: TcpStream, engine: &Path) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut engine = UnixStream::connect(engine).await?;
    tokio::io::copy_bidirectional(&mut client, &mut engine).await?;
    Ok(())
}
