//! Pipes of an engine → lines. Progress bars end their lines with `\r`, so both ends count; colours are taken out.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::log::LINE_LIMIT;

/// Reads `pipe` to its end in a task of its own and sends every line that is not empty.
///
/// # Errors
/// When the descriptor is no pipe.
pub fn read_lines(pipe: OwnedFd, lines: mpsc::Sender<String>) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    tokio::spawn(async move {
        let mut splitter = Splitter::default();
        let mut buffer = vec![0; 8 << 10];
        // A read error is the end of the pipe, too.
        while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
            for line in splitter.take(&buffer[..read]) {
                // Nobody listens any more: keep reading, so that the engine never blocks on a full pipe.
                let _ = lines.send(line).await;
            }
        }
        if let Some(line) = splitter.rest() {
            let _ = lines.send(line).await;
        }
    });
    Ok(())
}

/// Cuts bytes into lines; a line longer than [`LINE_LIMIT`] is cut there.
#[derive(Default)]
struct Splitter {
    begun: Vec<u8>,
}

impl Splitter {
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, ended) = match piece {
                [text @ .., b'\n' | b'\r'] => (text, true),
                text => (text, false),
            };
            let room = LINE_LIMIT.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                lines.extend(self.rest());
            }
        }
        lines
    }

    fn rest(&mut self) -> Option<String> {
        let line = without_escapes(&String::from_utf8_lossy(&std::mem::take(&mut self.begun)));
        (!line.trim().is_empty()).then_some(line)
    }
}

/// The text without terminal escape sequences (`ESC [ … letter`) and other control characters.
fn without_escapes(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            let _ = characters.by_ref().skip_while(|character| *character == '[').find(char::is_ascii_alphabetic);
        } else if !character.is_control() || character == '\t' {
            clean.push(character);
        }
    }
    clean.truncate(clean.trim_end().len());
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_both_ends_wherever_the_pieces_break() {
        let text = "one\r  50%|bar\rtwo\n\n\u{1b}[32mgreen\u{1b}[0m über\nlast".as_bytes();
        for cut in 0..text.len() {
            let mut splitter = Splitter::default();
            let mut lines = splitter.take(&text[..cut]);
            lines.extend(splitter.take(&text[cut..]));
            lines.extend(splitter.rest());
            assert_eq!(lines, ["one", "  50%|bar", "two", "green über", "last"], "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut splitter = Splitter::default();
        for _ in 0..100 {
            assert!(splitter.take(&[b'x'; 8 << 10]).is_empty());
        }
        assert_eq!(splitter.rest().map(|line| line.len()), Some(LINE_LIMIT));
    }
}
