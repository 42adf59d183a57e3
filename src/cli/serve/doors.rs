//! The ports: opened here, or handed over by a service manager that keeps them open while vllama is replaced.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use crate::cli::problem::Problem;
use crate::config::Config;
use crate::init::inherited_listeners;
use crate::server::Door;

/// Listening sockets.
pub(super) struct Sockets {
    listeners: Vec<TcpListener>,
    inherited: bool,
    monitoring: Option<TcpListener>,
}

/// What the server listens on.
pub(super) struct Doors {
    /// For clients.
    pub clients: Vec<Door>,
    /// For monitoring, where it is wanted.
    pub monitoring: Option<Door>,
}

/// The sockets that were handed over; to be called before anything else is opened.
pub(super) fn inherited(config: &Config) -> Result<Vec<OwnedFd>, Problem> {
    inherited_listeners(config.service.sockets).map_err(|error| {
        let fix = "pass listening TCP sockets (in a socket unit `ListenStream=`, without `Accept=yes`), or leave LISTEN_FDS unset";
        Problem::new("cannot take over the sockets that LISTEN_FDS announces", error, fix)
    })
}

/// Takes what was handed over, or else opens the port; and opens the one for monitoring.
pub(super) fn open(config: &Config, inherited: Vec<OwnedFd>) -> Result<Sockets, Problem> {
    let monitoring = config.metrics_listen.map(|address| listen(address, "VLLAMA_METRICS_LISTEN")).transpose()?;
    if inherited.is_empty() {
        let listener = listen(config.listen, "OLLAMA_HOST")?;
        return Ok(Sockets { listeners: vec![listener], inherited: false, monitoring });
    }
    let take = |descriptor: OwnedFd| {
        let listener = TcpListener::from(descriptor);
        // Fails on a socket that is none of TCP.
        listener.local_addr()?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    };
    let listeners = inherited.into_iter().map(take).collect::<Result<_, _>>().map_err(|error| {
        Problem::new(
            "cannot listen on an inherited socket",
            error,
            "pass TCP sockets (in a socket unit `ListenStream=PORT`)",
        )
    })?;
    Ok(Sockets { listeners, inherited: true, monitoring })
}

/// Opens a port; `variable` is the setting that names it.
fn listen(address: SocketAddr, variable: &str) -> Result<TcpListener, Problem> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        let fix = match error.kind() {
            ErrorKind::AddrInUse => {
                format!(
                    "stop what uses the port (another vllama, or ollama?), or choose another with {variable}=127.0.0.1:PORT"
                )
            }
            ErrorKind::PermissionDenied => format!("choose a port above 1023 with {variable}=127.0.0.1:PORT"),
            _ => format!("choose an address of this machine with {variable}"),
        };
        Problem::new(format!("cannot listen on {address}"), error, fix)
    })
}

impl Sockets {
    /// An address that clients can be told.
    pub(super) fn address(&self, config: &Config) -> SocketAddr {
        self.listeners.first().and_then(|listener| listener.local_addr().ok()).unwrap_or(config.listen)
    }

    /// All addresses.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The address of the port for monitoring, if there is one.
    pub(super) fn monitoring(&self) -> Option<SocketAddr> {
        self.monitoring.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// For the server; inside of the runtime.
    pub(super) fn doors(self) -> std::io::Result<Doors> {
        let door = |listener, inherited| {
            Ok::<_, std::io::Error>(Door { listener: tokio::net::TcpListener::from_std(listener)?, inherited })
        };
        Ok(Doors {
            clients: self
                .listeners
                .into_iter()
                .map(|listener| door(listener, self.inherited))
                .collect::<Result<_, _>>()?,
            monitoring: self.monitoring.map(|listener| door(listener, false)).transpose()?,
        })
    }
}
