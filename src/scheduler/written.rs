//! A small JSON file, read once and kept up to date by a task of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::disk::{self, Lasting};

/// Longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The file. Its task ends with this, when what was given last has been written.
#[derive(Debug)]
pub(super) struct Written {
    text: watch::Sender<Vec<u8>>,
}

impl Written {
    /// Reads the file, which need not be there: one that cannot be read counts as empty. `what` it holds is for the log.
    pub(super) fn open<T: DeserializeOwned + Default>(path: PathBuf, what: &'static str) -> (Self, T) {
        let known = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "cannot read {what}; beginning anew");
            }
            T::default()
        });
        let (text, changes) = watch::channel(Vec::new());
        tokio::spawn(keep_written(path, what, changes));
        (Self { text }, known)
    }

    /// Writes this, soon.
    pub(super) fn write(&self, value: &impl Serialize) {
        // Numbers and texts always become JSON.
        self.text.send_replace(serde_json::to_vec_pretty(value).unwrap_or_default());
    }
}

/// Now, in whole seconds since 1970: when something remembered was seen.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Forgets what has not been seen for longest, until at most `most` are left. `seen` tells when each was.
pub(super) fn keep_latest<T>(known: &mut BTreeMap<String, T>, most: usize, seen: impl Fn(&T) -> u64) {
    while known.len() > most
        && let Some(oldest) = known.iter().min_by_key(|(_, value)| seen(value)).map(|(key, _)| key.clone())
    {
        known.remove(&oldest);
    }
}

async fn keep_written(path: PathBuf, what: &'static str, mut changes: watch::Receiver<Vec<u8>>) {
    while changes.changed().await.is_ok() {
        let text = changes.borrow_and_update().clone();
        let place = path.clone();
        let written = tokio::task::spawn_blocking(move || write(&place, &text)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(path = %path.display(), %error, "cannot write down {what}");
        }
    }
}

/// Reads such a file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // What a power cut takes away is found anew, and a program cannot end while a busy disk keeps one of its threads in a
    // sync.
    disk::replace(path, text, 0o644, Lasting::Unsynced)
}
