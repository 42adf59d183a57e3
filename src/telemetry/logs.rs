//! Log lines: for people on a terminal, or one JSON object a line for machines.
//!
//! Nothing secret is ever given to a log macro: no `Authorization` header, no text of a prompt or an answer.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::{fmt, io};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as lines, reload};

use super::Timestamp;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people; with colours or without.
    Human {
        /// Whether colours are wanted.
        colour: bool,
    },
    /// One object a line: `timestamp`, `level`, `target`, the fields of the request and of the event, `message`.
    Json,
}

/// Takes a whole log line and writes it; lines must not run across a progress bar.
pub type Pen = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Switches between the wanted filter and debug logs.
type Filter = reload::Handle<Targets, Registry>;

static FILTER: OnceLock<(Filter, Mutex<Targets>)> = OnceLock::new();

/// Starts logging through `pen`. With `priorities` each line begins with its own for the journal, which takes it off again
/// (sd-daemon(3)). Panics are logged too, so that no line of the stream is anything but a log line.
/// A second call changes nothing.
pub fn init(format: Format, priorities: bool, wanted: Targets, pen: Pen) {
    let (filter, handle) = reload::Layer::new(wanted.clone());
    let paper = Paper(pen);
    let layer = match format {
        Format::Human { colour } => lines::layer()
            .with_writer(paper)
            .with_ansi(colour)
            .event_format(Ranked { priorities, line: lines::format().with_target(false) })
            .boxed(),
        Format::Json => lines::layer()
            .with_writer(paper)
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(Ranked { priorities, line: JsonLine })
            .boxed(),
    };
    if tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().is_ok() {
        // Only the first call gets here.
        let _ = FILTER.set((handle, Mutex::new(wanted)));
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let message = panic.payload_as_str().unwrap_or("no message");
            tracing::error!(place, "a bug in vllama made a task panic: {message}");
        }));
    }
}

/// Another filter than the one at the start, from now on.
pub fn set_filter(next: Targets) {
    if let Some((filter, wanted)) = FILTER.get() {
        wanted.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&next);
        if let Err(error) = filter.reload(next) {
            tracing::warn!(%error, "cannot change the log level");
        }
    }
}

/// Logs at debug level from now on, or at the wanted one again.
pub fn toggle_debug() {
    let Some((filter, wanted)) = FILTER.get() else { return };
    let debug = Targets::new().with_default(LevelFilter::DEBUG);
    let is_debug = filter.with_current(|current| *current == debug).unwrap_or(false);
    let next = if is_debug { wanted.lock().unwrap_or_else(PoisonError::into_inner).clone() } else { debug };
    match filter.reload(next) {
        Ok(()) => tracing::warn!(debug = !is_debug, "log level changed by a signal"),
        Err(error) => tracing::warn!(%error, "cannot change the log level"),
    }
}

/// Gives every log line to the pen in one piece.
struct Paper(Pen);

impl<'a> lines::MakeWriter<'a> for Paper {
    type Writer = Sheet<'a>;

    fn make_writer(&'a self) -> Sheet<'a> {
        Sheet(&self.0)
    }
}

/// One line being written; `tracing-subscriber` writes each event by one call.
struct Sheet<'a>(&'a Pen);

impl io::Write for Sheet<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        (self.0)(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts the priority of an event before its line, where it is wanted.
struct Ranked<L> {
    priorities: bool,
    line: L,
}

impl<S, N, L> FormatEvent<S, N> for Ranked<L>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    L: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.priorities {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        self.line.format_event(context, writer, event)
    }
}

/// The syslog priority of a level: error, warning, info and debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Writes an event as one flat JSON object.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line(Map::new());
        let metadata = event.metadata();
        line.put("timestamp", Timestamp::now().as_str());
        line.put("level", metadata.level().as_str());
        line.put("target", metadata.target());
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.as_str());
            if let Ok(Value::Object(fields)) = serde_json::from_str(fields) {
                line.0.extend(fields);
            }
        }
        event.record(&mut line);
        let text = serde_json::to_string(&line.0).map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

struct Line(Map<String, Value>);

impl Line {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What these events are written as.
    fn written(priorities: bool, events: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let copy = written.clone();
        let paper = Paper(Arc::new(move |line| copy.lock().expect("no writer panics").extend_from_slice(line)));
        let format = Ranked { priorities, line: JsonLine };
        let layer =
            lines::layer().with_writer(paper).with_ansi(false).fmt_fields(JsonFields::new()).event_format(format);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
        let bytes = written.lock().expect("no writer panicked").clone();
        String::from_utf8(bytes).expect("lines are UTF-8")
    }

    #[test]
    fn a_line_for_the_journal_begins_with_its_priority() {
        let text = written(true, || {
            tracing::error!("a");
            tracing::warn!("b");
            tracing::info!("c");
            tracing::debug!("d");
        });
        let priorities: Vec<_> = text.lines().filter_map(|line| line.split_once('{')).map(|(rank, _)| rank).collect();
        assert_eq!(priorities, ["<3>", "<4>", "<6>", "<7>"], "{text}");
    }

    #[test]
    fn a_json_line_is_one_flat_object_with_the_fields_of_its_request() {
        let text = written(false, || {
            let span = tracing::info_span!("request", request_id = "abc");
            span.in_scope(|| tracing::info!(status = 200_u16, model = "m:x", "two\nlines \"quoted\""));
        });
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let line: Map<String, Value> = serde_json::from_str(&text).expect("a line is JSON");
        for (name, value) in
            [("level", "INFO"), ("request_id", "abc"), ("model", "m:x"), ("message", "two\nlines \"quoted\"")]
        {
            assert_eq!(line[name], value, "{text}");
        }
        assert_eq!(line["status"], 200);
        assert!(line.contains_key("timestamp") && line.contains_key("target"));
    }
}
