//! Tells a service manager how vllama is: sd_notify(3), one datagram a note.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Service;
use crate::init::Pulse;
use crate::scheduler::{Scheduler, Snapshot};

/// Most models that a status line names.
const MOST_NAMED: usize = 8;
/// A status line is renewed this often, when it says something new: requests come and go without a change of state.
const STATUS_PACE: Duration = Duration::from_secs(5);

/// The line to the service manager; says nothing where there is none.
#[derive(Clone, Default)]
pub(super) struct Notifier {
    line: Option<Arc<(UnixDatagram, SocketAddr)>>,
}

impl Notifier {
    /// To the socket that the service manager has named.
    pub(super) fn new(service: &Service) -> Self {
        let Some(socket) = &service.notify else { return Self::default() };
        let open = || {
            let address = match socket.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(socket)?,
            };
            let line = UnixDatagram::unbound()?;
            // A service manager that does not listen must not hold us.
            line.set_nonblocking(true)?;
            Ok::<_, std::io::Error>((line, address))
        };
        match open() {
            Ok(line) => Self { line: Some(Arc::new(line)) },
            Err(error) => {
                tracing::warn!(socket, %error, "the service manager cannot be told anything");
                Self::default()
            }
        }
    }

    /// Says it, if anybody listens.
    pub(super) fn say(&self, note: &str) {
        if let Some((line, address)) = self.line.as_deref()
            && let Err(error) = line.send_to_addr(note.as_bytes(), address)
        {
            tracing::debug!(%error, note, "the service manager could not be told");
        }
    }

    /// Tells what the models do, and that vllama lives, as long as the runtime turns and the main loop does. Never returns
    /// where there is something to tell.
    pub(super) async fn keep_telling(self, scheduler: Scheduler, watchdog: Option<Duration>, pulse: Pulse) {
        if self.line.is_none() {
            return;
        }
        // Half of the time leaves room for one that comes late.
        let mut beat = tokio::time::interval(watchdog.map_or(STATUS_PACE, |time| (time / 2).min(STATUS_PACE)));
        let mut changes = scheduler.changes();
        let mut told = String::new();
        let mut turns = None;
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = beat.tick() => {
                    let now = pulse.turns();
                    // A main loop that has not turned since it was asked to reaps nobody: better a new vllama.
                    if watchdog.is_some() && turns.replace(now) != Some(now) {
                        self.say("WATCHDOG=1");
                    }
                    pulse.ask();
                }
            }
            let status = status(&scheduler.snapshot());
            if status != told {
                self.say(&format!("STATUS={status}"));
                told = status;
            }
        }
    }
}

/// One line on all models that do something.
fn status(snapshot: &Snapshot) -> String {
    let up: Vec<_> = snapshot.engines.iter().filter(|engine| engine.state != "stopped" || engine.waiting > 0).collect();
    if up.is_empty() {
        return "no model is loaded".to_owned();
    }
    let mut words: Vec<_> = up
        .iter()
        .take(MOST_NAMED)
        .map(|engine| {
            let (model, state) = (engine.model.display(), engine.state);
            let mut words = format!("{model} {state}");
            if engine.state == "starting" {
                words.push_str(&format!(" {} %", engine.percent));
            }
            if engine.leases > 0 {
                words.push_str(&format!(", {} running", engine.leases));
            }
            if engine.waiting > 0 {
                words.push_str(&format!(", {} waiting", engine.waiting));
            }
            words
        })
        .collect();
    if up.len() > MOST_NAMED {
        words.push(format!("and {} more", up.len() - MOST_NAMED));
    }
    words.join("; ")
}
