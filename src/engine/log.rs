//! The engine's log: every line goes to a file that is rotated by size, the last ones are kept for [`super::failure`].

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Size at which the file is rotated, in bytes.
const FILE_LIMIT: u64 = 16 << 20;
/// How many rotated files are kept.
const KEPT: usize = 3;
/// How many lines are remembered for the classification of a failure.
const REMEMBERED: usize = 200;
/// Longest line that is kept, in bytes; the rest of it is cut.
pub const LINE_LIMIT: usize = 16 << 10;

/// The log of one engine over all its generations. Writing never fails a caller: a full disk must not stop an engine.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    lines: VecDeque<String>,
}

impl Log {
    /// Opens the log at `path` for appending; says so once when that does not work and goes on without a file.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let (file, written) = match open(path) {
            Ok((file, written)) => (Some(file), written),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot write the engine's log file; going on without it");
                (None, 0)
            }
        };
        Self { path: path.into(), file, written, lines: VecDeque::with_capacity(REMEMBERED) }
    }

    /// Takes in one line, without its end.
    pub fn line(&mut self, line: &str) {
        if self.lines.len() == REMEMBERED {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
        let Some(file) = &mut self.file else { return };
        let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
        if writeln!(file, "{now} {line}").is_ok() {
            self.written += line.len() as u64 + 26;
        }
        if self.written >= FILE_LIMIT {
            self.rotate();
        }
    }

    /// Forgets the remembered lines: a new generation begins.
    pub fn begin(&mut self) {
        self.lines.clear();
    }

    /// The last lines of this generation, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    fn rotate(&mut self) {
        let numbered = |number: usize| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..KEPT).rev() {
            // The first rotations find no older file.
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        let _ = fs::rename(&self.path, numbered(1));
        (self.file, self.written) = open(&self.path).map_or((None, 0), |(file, written)| (Some(file), written));
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let written = file.metadata()?.len();
    Ok((file, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_rotated_and_the_last_lines_are_remembered() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("logs/vllm.log");
        let mut log = Log::open(&path);
        let long = "x".repeat(1 << 20);
        for _ in 0..40 {
            log.line(&long);
        }
        log.begin();
        for number in 0..300 {
            log.line(&number.to_string());
        }
        assert_eq!(log.lines().count(), 200);
        assert_eq!(log.lines().next(), Some("100"));
        assert!(fs::metadata(&path).expect("a file").len() < FILE_LIMIT);
        assert!(directory.path().join("logs/vllm.log.2").exists());
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nobody() {
        let mut log = Log::open(Path::new("/proc/none/vllm.log"));
        log.line("hello");
        assert_eq!(log.lines().last(), Some("hello"));
    }
}
