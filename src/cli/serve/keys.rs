//! The key file of a server: made at the first start, taken up when it changes; and what keys have used, kept over restarts.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::access::{Entry, Gate, KeyFile, Limits, Now, Scope, Secret, Usage};
use crate::cli::key::problem;
use crate::cli::problem::Problem;
use crate::config::Config;
use crate::disk::{self, Lasting};

/// How often the file is looked at. A revoked key is good for so long.
const LOOK: Duration = Duration::from_millis(500);
/// Looks between two times that what keys have used is written down.
const LOOKS_PER_NOTE: u32 = 10;

/// The keys of a server.
pub(super) struct Keys {
    /// Looks at requests.
    pub gate: Arc<Gate>,
    file: KeyFile,
    usage: PathBuf,
    seen: Mutex<Seen>,
}

/// What a file looked like: when it was changed (seconds and nanoseconds), its number and its length. `None` without one.
type Seen = Option<(i64, i64, u64, u64)>;

impl Keys {
    /// Reads the key file, or makes it with one key for everything, which is told on standard error and nowhere else; `None`
    /// when no keys are asked for.
    pub(super) fn open(config: &Config) -> Result<Option<Self>, Problem> {
        let Some(path) = &config.keys else { return Ok(None) };
        let file = KeyFile::new(path);
        let failed = |error| problem(&file, "use the key file", error);
        let seen = look(path);
        let entries = match file.read().map_err(failed)? {
            Some(entries) => entries,
            None => first(&file, config.json_logs).map_err(failed)?,
        };
        if !entries.iter().any(Entry::is_good) {
            tracing::warn!(
                file = %path.display(),
                "no key is good, so nobody may ask anything; add one with `vllama key add NAME`"
            );
        }
        let usage = config.state.join("key-usage.json");
        let gate = Gate::new(&entries, &read_usage(&usage));
        Ok(Some(Self { gate, file, usage, seen: Mutex::new(seen) }))
    }

    /// Takes the file up if it has changed; one that cannot be used changes nothing. Reads a file, so it may block for a
    /// moment.
    pub(super) fn look(&self) {
        let now = look(self.file.path());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return;
        }
        // Also when it cannot be used: that is said once.
        *seen = now;
        let file = self.file.path().display();
        match self.file.read() {
            Ok(Some(entries)) => {
                self.gate.change(&entries);
                let good = entries.iter().filter(|entry| entry.is_good()).count();
                tracing::info!(%file, good, "the keys have been read again");
            }
            Ok(None) => tracing::error!(%file, "the key file is gone; its keys stay good until it is back"),
            Err(error) => tracing::error!(%file, %error, "the key file cannot be used, and nothing changes"),
        }
    }

    /// Writes down what keys have used, if that has changed.
    pub(super) fn note(&self) {
        let Some(usage) = self.gate.changed_usage(Now::read()) else { return };
        // Numbers by digests always become JSON. Who has used how much is for the eyes of the operator.
        let text = serde_json::to_vec(&usage).unwrap_or_default();
        if let Err(error) = disk::replace(&self.usage, &text, 0o600, Lasting::Unsynced) {
            let file = self.usage.display();
            tracing::warn!(%file, %error, "what keys have used today cannot be written down; a restart forgets it");
        }
    }

    /// Looks at the file again and again.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for turn in 1_u32.. {
            tick.tick().await;
            let keys = self.clone();
            // A panic in it has been logged, and nothing has changed.
            let _ = tokio::task::spawn_blocking(move || {
                keys.look();
                if turn % LOOKS_PER_NOTE == 0 {
                    keys.note();
                }
            })
            .await;
        }
    }
}

fn look(path: &Path) -> Seen {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.mtime(), facts.mtime_nsec(), facts.ino(), facts.len()))
}

/// Makes the file with its first key.
fn first(file: &KeyFile, as_json: bool) -> Result<Vec<Entry>, crate::access::FileError> {
    let secret = Secret::new()?;
    // A fixed name that is a name.
    let name = "admin".parse().map_err(std::io::Error::other)?;
    let made = file.create(Entry::new(name, &secret, Scope::ALL.to_vec(), Limits::default()))?;
    if made {
        tell_first(file.path(), &secret, as_json);
    }
    // Another vllama may have been quicker.
    Ok(file.read()?.unwrap_or_default())
}

/// Not through the log, which may go to other places than standard error.
fn tell_first(file: &Path, secret: &Secret, as_json: bool) {
    if as_json {
        let message = "a key for everything was made; it is told only this once, so keep it";
        eprintln!(
            "{}",
            json!({"level": "INFO", "message": message, "name": "admin", "key": secret.tell(), "file": file.display().to_string()})
        );
    } else {
        eprintln!(
            "\nA key for everything was made, named admin. It is told only this once, so keep it:\n\n    {}\n\n\
             More keys: vllama key add NAME --keys {}\n",
            secret.tell(),
            file.display()
        );
    }
}

fn read_usage(path: &Path) -> Usage {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "what keys have used today cannot be read, and counts anew");
            Usage::default()
        }),
        Err(_) => Usage::default(),
    }
}

/// Says so when strangers may come in.
pub(super) fn warn_if_open(addresses: &[SocketAddr]) {
    for address in addresses.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
        tracing::warn!(
            %address,
            "NO KEYS ARE ASKED FOR, and other machines can reach this address: whoever does may use, change and delete the \
             models. Ask for keys with --keys FILE (VLLAMA_KEYS), or listen on 127.0.0.1 (OLLAMA_HOST)"
        );
    }
}
