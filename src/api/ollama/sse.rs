//! Cuts a stream of server-sent events into their data, wherever the network has cut it.

use memchr::memchr;

/// The unfinished line at the end of what has been read so far.
#[derive(Debug, Default)]
pub struct Events {
    rest: Vec<u8>,
}

impl Events {
    /// Takes in bytes and calls `event` with the data of each complete `data:` line, borrowed where possible. The engine
    /// writes every event as one such line, so there is no need to wait for the empty line behind it. Comments and
    /// other fields are skipped. Stops early when `event` returns false.
    pub fn read(&mut self, mut bytes: &[u8], mut event: impl FnMut(&[u8]) -> bool) {
        if !self.rest.is_empty() {
            let Some(end) = memchr(b'\n', bytes) else {
                self.rest.extend_from_slice(bytes);
                return;
            };
            self.rest.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.rest);
            if !data(&line).is_none_or(&mut event) {
                return;
            }
            // Its room is used again.
            self.rest = line;
            self.rest.clear();
        }
        while let Some(end) = memchr(b'\n', bytes) {
            if !data(&bytes[..end]).is_none_or(&mut event) {
                return;
            }
            bytes = &bytes[end + 1..];
        }
        self.rest.extend_from_slice(bytes);
    }
}

/// What follows `data:` on a line.
fn data(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let data = line.strip_prefix(b"data:")?;
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        ": keep-alive\r\n\ndata: {\"a\":\"é\"}\n\nevent: x\ndata:two\r\n\r\ndata: [DONE]\n\ndata: cut".as_bytes();

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = Events::default();
        let mut found = Vec::new();
        for piece in pieces {
            reader.read(piece, |data| {
                found.push(String::from_utf8_lossy(data).into_owned());
                true
            });
        }
        found
    }

    #[test]
    fn events_are_found_wherever_the_bytes_are_cut() {
        let expected = ["{\"a\":\"é\"}", "two", "[DONE]"];
        assert_eq!(events(&[STREAM]), expected);
        for first in 0..STREAM.len() {
            let (one, rest) = STREAM.split_at(first);
            assert_eq!(events(&[one, rest]), expected, "cut at {first}");
            let (two, three) = rest.split_at(rest.len() / 2);
            assert_eq!(events(&[one, two, three]), expected, "cut at {first}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(events(&bytes), expected);
    }

    #[test]
    fn reading_stops_when_nobody_wants_more() {
        let mut count = 0;
        Events::default().read(STREAM, |_| {
            count += 1;
            false
        });
        assert_eq!(count, 1);
    }
}
