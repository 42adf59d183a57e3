//! A stream of server-sent events with another name for the model in it, wherever the network has cut it.
//!
//! No event is read into a tree. The first that names the model shows where the name stands; of those after it only the
//! beginning is compared, since all chunks of one answer begin with the same bytes. Text of the model cannot be mistaken
//! for a name: its quotes are escaped.

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use memchr::memmem::{self, Finder};

use super::usage::UsageFinder;
use super::{Dialect, Meaning, model_name};
use crate::api::stream::Progress;
use crate::telemetry::Facts;

/// Rewrites the events of one answer.
#[derive(Debug)]
pub struct Events {
    dialect: &'static Dialect,
    /// The client's name as JSON; `None` where it is the engine's own.
    name: Option<Box<[u8]>>,
    /// The unfinished line at the end of what has been read so far.
    rest: Vec<u8>,
    /// Lines that belong to the data after them: the event's name.
    fields: Vec<u8>,
    /// How the last line that named the model began, up to the end of the name; empty before the first.
    beginning: Vec<u8>,
    /// The same with the client's name.
    renamed: Vec<u8>,
    key: Finder<'static>,
    usage: UsageFinder,
    /// Whether the event with the token counts is left out.
    hides_usage: bool,
    /// Whether the empty line after an event is left out with it.
    skips_end: bool,
    progress: Progress,
    /// Events with data so far.
    count: u64,
}

impl Events {
    /// Events of an answer by the model that the engine calls `served` and the client calls `asked`.
    #[must_use]
    pub fn new(dialect: &'static Dialect, served: &str, asked: &str) -> Self {
        Self {
            dialect,
            name: (served != asked).then(|| model_name::json(asked).into()),
            rest: Vec::new(),
            fields: Vec::new(),
            beginning: Vec::new(),
            renamed: Vec::new(),
            key: Finder::new(b"\"model\""),
            usage: UsageFinder::default(),
            hides_usage: false,
            skips_end: false,
            progress: Progress::Waiting,
            count: 0,
        }
    }

    /// Leaves out the event that has nothing but token counts: the client did not ask for it.
    #[must_use]
    pub fn hiding_usage(mut self, hides: bool) -> Self {
        self.hides_usage = hides;
        self
    }

    /// How far the stream has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Events with data so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes in bytes and writes the lines that are complete to `out`; notes token counts that pass.
    ///
    /// # Errors
    /// The data of an error event; nothing of it is in `out`, and nothing should be read after it.
    pub fn read(&mut self, mut bytes: &[u8], out: &mut BytesMut, facts: &Facts) -> Result<(), Bytes> {
        if !self.rest.is_empty() {
            let Some(end) = memchr(b'\n', bytes) else {
                self.rest.extend_from_slice(bytes);
                return Ok(());
            };
            self.rest.extend_from_slice(&bytes[..=end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.rest);
            self.line(&line, out, facts)?;
            // Its room is used again.
            self.rest = line;
            self.rest.clear();
        }
        while let Some(end) = memchr(b'\n', bytes) {
            self.line(&bytes[..=end], out, facts)?;
            bytes = &bytes[end + 1..];
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes one line, its end included.
    fn line(&mut self, line: &[u8], out: &mut BytesMut, facts: &Facts) -> Result<(), Bytes> {
        if let Some(data) = data(line) {
            match (self.dialect.meaning)(event_name(&self.fields), data) {
                Meaning::Error => return Err(Bytes::copy_from_slice(data)),
                Meaning::Last => self.progress = Progress::Done,
                Meaning::More => self.progress = self.progress.max(Progress::Begun),
            }
            facts.add_event();
            let counts = self.usage.note_event(line, facts);
            if counts && self.hides_usage && memmem::find(line, b"\"choices\":[]").is_some() {
                self.skips_end = true;
                return Ok(());
            }
            self.count += 1;
            self.flush(out);
            self.rename(line, out);
        } else if self.skips_end && line.trim_ascii().is_empty() {
            self.skips_end = false;
        } else if matches!(line.first(), Some(b':' | b'\n' | b'\r')) {
            // A comment, or the end of an event.
            self.flush(out);
            out.extend_from_slice(line);
        } else {
            self.fields.extend_from_slice(line);
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&self.fields);
        self.fields.clear();
    }

    fn rename(&mut self, line: &[u8], out: &mut BytesMut) {
        let Some(name) = &self.name else { return out.extend_from_slice(line) };
        if !self.beginning.is_empty() && line.starts_with(&self.beginning) {
            out.extend_from_slice(&self.renamed);
            return out.extend_from_slice(&line[self.beginning.len()..]);
        }
        let named = self.key.find(line).and_then(|_| {
            let data = data(line)?;
            let place = model_name::find_early(data, self.dialect.names)?;
            // The data is the line without its beginning and its end.
            let start = data.as_ptr() as usize - line.as_ptr() as usize;
            Some(start + place.range.start..start + place.range.end)
        });
        let Some(place) = named else { return out.extend_from_slice(line) };
        self.beginning.clear();
        self.beginning.extend_from_slice(&line[..place.end]);
        self.renamed.clear();
        self.renamed.extend_from_slice(&line[..place.start]);
        self.renamed.extend_from_slice(name);
        out.extend_from_slice(&self.renamed);
        out.extend_from_slice(&line[place.end..]);
    }
}

/// What follows `data:` on a line.
fn data(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let data = line.strip_prefix(b"data:")?;
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

/// The name that lines before the data give to the event.
fn event_name(fields: &[u8]) -> &[u8] {
    let mut lines = fields.split(|byte| *byte == b'\n');
    let name = lines.find_map(|line| line.strip_prefix(b"event:")).unwrap_or_default();
    name.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(name: &[u8], data: &[u8]) -> Meaning {
        match (name, data) {
            (b"error", _) => Meaning::Error,
            (_, b"[DONE]") => Meaning::Last,
            _ => Meaning::More,
        }
    }

    static DIALECT: Dialect =
        Dialect { names: &[&["model"], &["response", "model"]], meaning, error: |_, _| Vec::new() };

    fn rewritten(pieces: &[&[u8]], asked: &str) -> (String, Result<Progress, Bytes>) {
        let mut events = Events::new(&DIALECT, "m:latest", asked);
        let mut out = BytesMut::new();
        let mut outcome = Ok(());
        for piece in pieces {
            outcome = outcome.and_then(|()| events.read(piece, &mut out, &Facts::default()));
        }
        (String::from_utf8(out.to_vec()).expect("text"), outcome.map(|()| events.progress()))
    }

    const STREAM: &str = concat!(
        ": keep-alive\r\n\n",
        "data: {\"id\":\"c\",\"model\":\"m:latest\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\\\"m:latest\\\" é\"}}]}\n\n",
        "data: {\"id\":\"c\",\"model\":\"m:latest\",\"choices\":[]}\n\n",
        "event: response.created\nid: 7\ndata: {\"response\":{\"tools\":[{\"model\":\"m:latest\"}],\"model\":\"m:latest\"}}\n\n",
        "event: x\ndata: {\"item\":{\"model\":\"m:latest\"}}\n\n",
        "data: {\"id\" : \"d\", \"model\" : \"m:latest\" }\r\n\r\n",
        "data: [DONE]\n\n",
    );

    fn expected(asked: &str) -> String {
        STREAM
            .replace("c\",\"model\":\"m:latest\"", &format!("c\",\"model\":{asked}"))
            .replace("}],\"model\":\"m:latest\"", &format!("}}],\"model\":{asked}"))
            .replace("\"model\" : \"m:latest\"", &format!("\"model\" : {asked}"))
    }

    #[test]
    fn only_the_name_changes_wherever_the_bytes_are_cut() {
        let stream = STREAM.as_bytes();
        for (asked, json) in
            [("M", "\"M\""), ("a \"quoted\" one", r#""a \"quoted\" one""#), ("m:latest", "\"m:latest\"")]
        {
            let expected = (expected(json), Ok(Progress::Done));
            assert_eq!(rewritten(&[stream], asked), expected);
            for cut in 0..stream.len() {
                let (one, rest) = stream.split_at(cut);
                let (two, three) = rest.split_at(rest.len() / 2);
                assert_eq!(rewritten(&[one, two, three], asked), expected, "cut at {cut}");
            }
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(rewritten(&bytes, asked), expected);
        }
    }

    /// What a real engine said, cut at every boundary, must be the same with another name in it.
    #[test]
    fn recordings_of_the_engine_pass_wherever_they_are_cut() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vllm");
        let mut recordings = 0;
        for entry in std::fs::read_dir(directory).expect("the recordings").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(entry.path()).expect("a recording").replace("\r\n", "\n");
            let Some((head, stream)) = text.split_once("\n\n").filter(|(head, _)| head.contains("text/event-stream"))
            else {
                continue;
            };
            assert!(head.starts_with("HTTP/1.1 200"), "{name}");
            recordings += 1;
            // What was written by hand has a short name.
            let served = if name.starts_with("written-") { "m" } else { "smollm2:135m" };
            let named = &format!("\"model\":\"{served}\"");
            // Errors are told in the dialect's own words; their recordings pass up to them.
            let stream = stream.split("data: {\"error\"").next().unwrap_or_default();
            assert!(stream.contains(named), "{name}");
            let expected = stream.replace(named, "\"model\":\"M\"");
            let rewritten = |pieces: [&str; 2]| {
                let mut events = Events::new(&RECORDED, served, "M");
                let mut out = BytesMut::with_capacity(expected.len());
                for piece in pieces {
                    events.read(piece.as_bytes(), &mut out, &Facts::default()).expect("no error");
                }
                out
            };
            // All events are made alike: the first few and the last few show every boundary.
            for cut in (0..stream.len()).filter(|cut| *cut < 700 || stream.len() - cut < 500) {
                if let Some(pieces) = stream.split_at_checked(cut) {
                    assert_eq!(rewritten(pieces.into()), expected, "{name} cut at {cut}");
                }
            }
        }
        assert!(recordings > 15, "{recordings}");
    }

    static RECORDED: Dialect = Dialect {
        names: &[&["model"], &["response", "model"], &["message", "model"]],
        meaning: |_, data| if data.starts_with(b"{\"error\"") { Meaning::Error } else { Meaning::More },
        error: |_, _| Vec::new(),
    };

    #[test]
    fn an_error_leaves_nothing_of_itself_behind() {
        let stream = b"data: {\"a\":1}\n\nevent: error\ndata: {\"message\":\"bad\"}\n\ndata: [DONE]\n\n";
        for cut in 0..stream.len() {
            let (text, outcome) = rewritten(&[&stream[..cut], &stream[cut..]], "M");
            assert_eq!(text, "data: {\"a\":1}\n\n");
            assert_eq!(outcome, Err(Bytes::from_static(b"{\"message\":\"bad\"}")));
        }
    }

    #[test]
    fn counts_that_nobody_asked_for_are_noted_and_left_out() {
        let before = "data: {\"model\":\"m:latest\",\"choices\":[{\"text\":\"\\\"usage\\\":{\"}]}\n\n";
        let counts =
            "data: {\"model\":\"m:latest\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}\n\n";
        let stream = [before, counts, "data: [DONE]\n\n"].concat();
        for (hides, expected) in [(true, stream.replace(counts, "")), (false, stream.clone())] {
            for cut in 0..stream.len() {
                let mut events = Events::new(&DIALECT, "m:latest", "m:latest").hiding_usage(hides);
                let (mut out, facts) = (BytesMut::new(), Facts::default());
                for piece in [&stream[..cut], &stream[cut..]] {
                    events.read(piece.as_bytes(), &mut out, &facts).expect("no error");
                }
                assert_eq!((out, facts.tokens()), (BytesMut::from(&*expected), (5, 7)), "cut at {cut}");
            }
        }
    }

    #[test]
    fn progress_tells_the_beginning_and_the_end() {
        for (bytes, progress) in [
            (": comment\n\nevent: x\n", Progress::Waiting),
            ("data: {\"model\":", Progress::Waiting),
            ("data: {}\n", Progress::Begun),
            ("data: {}\n\ndata: [DONE]\n", Progress::Done),
        ] {
            assert_eq!(rewritten(&[bytes.as_bytes()], "M").1, Ok(progress), "{bytes}");
        }
    }
}
