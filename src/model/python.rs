//! The embedded Python scripts (import, download), run by the engine's Python.
//!
//! A script tells what it does as JSON, one object a line on standard output; libraries may print what they like in
//! between. Whoever drops a [`Running`] ends the script and everything below it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use crate::init::{Exit, Session, Spawner, Spec};

/// Makes a checkpoint of a GGUF file: arguments are the file and an empty directory.
pub const IMPORT_GGUF: &str = include_str!("import_gguf.py");

/// Downloads a checkpoint from the hub: its argument is an order in JSON.
pub const DOWNLOAD: &str = include_str!("download.py");

/// Longest line of a script that is read, in bytes; what is beyond is cut off.
const LINE_LIMIT: u64 = 1 << 20;
/// Bytes of a script's last words that are kept.
const LAST_WORDS: usize = 64 << 10;
/// Lines that may wait to be read before the script has to wait.
const WAITING_LINES: usize = 256;

/// The engine's Python.
#[derive(Clone)]
pub struct Python {
    /// The interpreter.
    program: PathBuf,
    /// The whole environment scripts get.
    environment: Vec<(OsString, OsString)>,
    spawner: Spawner,
}

impl Python {
    /// The Python beside `engine`, the `vllm` program, with this environment.
    #[must_use]
    pub fn beside(engine: &Path, environment: &[(String, String)], spawner: Spawner) -> Self {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { program: engine.with_file_name("python"), environment, spawner }
    }

    /// The interpreter's path.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs the text of a script with these arguments, and these variables beside the common ones.
    ///
    /// # Errors
    /// When the interpreter cannot be started.
    pub fn run(
        &self,
        script: &str,
        arguments: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> std::io::Result<Running> {
        let mut environment = self.environment.clone();
        for (name, value) in variables {
            environment.retain(|(known, _)| *known != name);
            environment.push((name, value));
        }
        let spec = Spec {
            program: self.program.clone(),
            arguments: [OsString::from("-c"), script.into()].into_iter().chain(arguments).collect(),
            environment,
            directory: "/".into(),
            // As engines: it can be started again.
            out_of_memory_score: 500,
        };
        let (on_exit, exit) = oneshot::channel();
        let child = self.spawner.spawn(&spec, Box::new(move |status| _ = on_exit.send(status)))?;
        let session = child.handle();
        let (sender, lines) = mpsc::channel(WAITING_LINES);
        if let Some(pipe) = child.stdout {
            thread("script", move || read_lines(pipe, &sender))?;
        }
        let (last, said) = oneshot::channel();
        if let Some(pipe) = child.stderr {
            thread("script", move || _ = last.send(last_line(File::from(pipe))))?;
        }
        Ok(Running { session, lines, exit, said })
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// A script at work. Dropping it kills the script.
pub struct Running {
    session: Session,
    lines: mpsc::Receiver<Vec<u8>>,
    exit: oneshot::Receiver<Exit>,
    said: oneshot::Receiver<String>,
}

impl Running {
    /// The next thing the script tells; `None` when it has closed its output. Safe to cancel.
    pub async fn next<Event: DeserializeOwned>(&mut self) -> Option<Event> {
        loop {
            let line = self.lines.recv().await?;
            if let Ok(event) = serde_json::from_slice(&line) {
                return Some(event);
            }
        }
    }

    /// As [`Running::next`], for a thread outside the runtime.
    pub fn blocking_next<Event: DeserializeOwned>(&mut self) -> Option<Event> {
        loop {
            let line = self.lines.blocking_recv()?;
            if let Ok(event) = serde_json::from_slice(&line) {
                return Some(event);
            }
        }
    }

    /// Waits for the end: how it ended, and the last line of its standard error, which is for the unforeseen.
    pub async fn ended(mut self) -> (Exit, String) {
        let exit = (&mut self.exit).await;
        let said = (&mut self.said).await.unwrap_or_default();
        // Without a reaper nothing is known; the program is on its way out then.
        (exit.unwrap_or(Exit::Code(1)), said)
    }

    /// As [`Running::ended`], for a thread outside the runtime.
    #[must_use]
    pub fn blocking_ended(mut self) -> (Exit, String) {
        // A oneshot receiver cannot be waited for through a reference outside the runtime: one that is closed takes its
        // place, and `self`, with the session to end, still goes the common way.
        let exit = std::mem::replace(&mut self.exit, oneshot::channel().1).blocking_recv();
        let said = std::mem::replace(&mut self.said, oneshot::channel().1).blocking_recv().unwrap_or_default();
        (exit.unwrap_or(Exit::Code(1)), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is left of one that ended by itself, and then nothing happens.
        self.session.kill_all();
    }
}

fn read_lines(pipe: OwnedFd, lines: &mpsc::Sender<Vec<u8>>) {
    let mut pipe = BufReader::new(File::from(pipe));
    loop {
        let mut line = Vec::new();
        match pipe.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line) {
            Ok(1..) if lines.blocking_send(line).is_ok() => {}
            // The end, or nobody listens any more: the script dies of its closed pipe, if it has not been killed.
            _ => return,
        }
    }
}

/// The last line that says anything, of the last bytes that came.
fn last_line(mut pipe: impl Read) -> String {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    // What was read before an error counts all the same.
    while let Ok(length @ 1..) = pipe.read(&mut piece) {
        bytes.extend_from_slice(&piece[..length]);
        if bytes.len() > 2 * LAST_WORDS {
            bytes.drain(..bytes.len() - LAST_WORDS);
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}
