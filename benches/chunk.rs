//! What a chunk of a streamed answer costs on its way from the engine's bytes to the client's, without any socket: processor
//! time and allocations. `cargo bench --bench chunk`; words behind it pick rows by their beginning.
//!
//! The chunks are those a real engine sent (`tests/golden/vllm/`), over and over. *One a read* is the steady stream, where
//! every token comes by itself; *eight a read* is what is found under load.

#![allow(unsafe_code, reason = "an allocator that counts, and the clock of one thread")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use vllama::api::ollama::request::Logprobs;
use vllama::api::ollama::response::{Asked, Clock, Shape, Translator};
use vllama::api::ollama::stream::Lines;
use vllama::api::openai::stream::DIALECT;
use vllama::api::pass::events::Events;
use vllama::api::pass::stream::Passed;
use vllama::scheduler::EngineGone;
use vllama::telemetry::Facts;

/// Chunks of one measured stream.
const CHUNKS: usize = 20_000;
/// Streams that are measured; the quickest counts, since others use the machine too.
const ROUNDS: usize = 15;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator, and how often this thread has asked it for memory.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts one more; a thread that is ending has nothing to count with.
fn count() {
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is there to be written to.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "Linux has this clock");
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

/// A recorded stream, as events: its first, those to repeat, and its last.
struct Recording {
    first: String,
    middle: Vec<String>,
    last: Vec<String>,
}

impl Recording {
    fn read(name: &str) -> Self {
        let path = format!("{}/tests/golden/vllm/{name}.response.txt", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("a recorded answer");
        let (_head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let mut events: VecDeque<String> = body.split_inclusive("\n\n").map(str::to_owned).collect();
        let first = events.pop_front().expect("a first event");
        let ends = |event: &String| event.contains("\"finish_reason\":\"");
        let end = events.iter().position(ends).expect("a last token");
        let last = events.split_off(end).into();
        Self { first, middle: events.into(), last }
    }

    /// All of the stream in reads of so many events.
    fn reads(&self, batch: usize) -> Vec<Bytes> {
        let middle: Vec<_> = self.middle.iter().cycle().take(CHUNKS).map(String::as_str).collect();
        let mut reads = vec![Bytes::from(self.first.clone())];
        reads.extend(middle.chunks(batch).map(|events| Bytes::from(events.concat())));
        reads.push(Bytes::from(self.last.concat()));
        reads
    }
}

/// An engine's body that has all been received, in reads.
struct Received(std::vec::IntoIter<Bytes>);

impl Body for Received {
    type Data = Bytes;
    type Error = EngineGone;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, EngineGone>>> {
        Poll::Ready(self.0.next().map(|read| Ok(Frame::data(read))))
    }
}

/// What is asked of the stream.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    recording: &'static str,
    shape: Shape,
    logprobs: Logprobs,
    context: bool,
}

const WAYS: &[Way] = &[
    Way { name: "chat", recording: "chat-stream", shape: Shape::Chat, logprobs: None, context: false },
    Way { name: "generate", recording: "completion-stream", shape: Shape::Generate, logprobs: None, context: false },
    Way {
        name: "generate with context",
        recording: "completion-stream-token-ids",
        shape: Shape::Generate,
        logprobs: None,
        context: true,
    },
    Way {
        name: "chat with logprobs",
        recording: "chat-stream-logprobs",
        shape: Shape::Chat,
        logprobs: Some(3),
        context: false,
    },
    Way {
        name: "generate raw with logprobs",
        recording: "completion-stream-logprobs",
        shape: Shape::Generate,
        logprobs: Some(2),
        context: false,
    },
];

fn main() {
    // `cargo test --all-targets` builds and runs this too, and a debug build's figures mean nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: figures need `cargo bench --bench chunk`");
        return;
    }
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!("| a chunk of a stream | ns | allocations |\n|---|---|---|");
    for way in WAYS {
        for (batch, reads) in [(1, "one a read"), (8, "eight a read")] {
            let name = format!("{}, {reads}", way.name);
            if parts.is_empty() || parts.iter().any(|part| name.starts_with(part.as_str())) {
                row(&name, &measured(batch, way));
            }
        }
    }
    for (batch, reads) in [(1, "one a read"), (8, "eight a read")] {
        let name = format!("OpenAI's chat passed through, {reads}");
        if parts.is_empty() || parts.iter().any(|part| name.starts_with(part.as_str())) {
            row(&name, &passed(batch));
        }
    }
    if parts.is_empty() {
        row("the same bytes copied, one a read", &copied());
    }
}

fn row(name: &str, (time, allocations): &(f64, f64)) {
    println!("| {name} | {time:.0} | {allocations:.2} |");
}

/// Nanoseconds and allocations of a chunk.
fn measured(batch: usize, way: &Way) -> (f64, f64) {
    let reads = Recording::read(way.recording).reads(batch);
    best(&reads, |reads| {
        let asked = Asked { shape: way.shape, model: "smollm2:135m", logprobs: way.logprobs, context: way.context };
        let now = Instant::now();
        let clock = Clock { arrived: now, leased: now, first: None };
        let translator = Translator::new(&asked, clock, Arc::new(Facts::default()));
        let mut context = Context::from_waker(Waker::noop());
        let opened = pin!(Lines::open(Received(reads.into_iter()), (), translator)).poll(&mut context);
        let Poll::Ready(Ok(mut lines)) = opened else { panic!("a stream that has all been received") };
        let written = count_lines(&mut lines, &mut context);
        assert!(written > CHUNKS, "{written} lines");
    })
}

/// The same for OpenAI's dialect, whose bytes pass through with another name for the model.
fn passed(batch: usize) -> (f64, f64) {
    let reads = Recording::read("chat-stream").reads(batch);
    best(&reads, |reads| {
        let names = ("smollm2:135m".to_owned(), "SmolLM2".to_owned());
        let events = Events::new(&DIALECT, &names.0, &names.1);
        let mut context = Context::from_waker(Waker::noop());
        let facts = Arc::new(Facts::default());
        let opening = Passed::open(Received(reads.into_iter()), (), events, names, &DIALECT, facts);
        let Poll::Ready(Ok(mut events)) = pin!(opening).poll(&mut context) else {
            panic!("a stream that has all been received")
        };
        let written = count_lines(&mut events, &mut context);
        assert!(written > 2 * CHUNKS, "{written} lines");
    })
}

/// Reads a body that has all been made to its end.
fn count_lines<B>(body: &mut B, context: &mut Context<'_>) -> usize
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let mut lines = 0;
    while let Poll::Ready(Some(frame)) = Pin::new(&mut *body).poll_frame(context) {
        let data = frame.expect("no error").into_data().expect("only data");
        lines += memchr::memchr_iter(b'\n', &data).count();
    }
    lines
}

/// The least that could be done with them: a copy of every read.
fn copied() -> (f64, f64) {
    best(&Recording::read("chat-stream").reads(1), |reads| {
        let mut out = BytesMut::with_capacity(4096);
        for read in reads {
            out.extend_from_slice(&read);
            std::hint::black_box(out.split().freeze());
        }
    })
}

/// The quickest of several rounds.
fn best(reads: &[Bytes], work: impl Fn(Vec<Bytes>)) -> (f64, f64) {
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        let reads = reads.to_vec();
        let (before, begun) = (ALLOCATIONS.get(), processor_time());
        work(reads);
        let time = (processor_time() - begun).as_nanos() as f64 / CHUNKS as f64;
        let allocations = (ALLOCATIONS.get() - before) as f64 / CHUNKS as f64;
        best = (best.0.min(time), best.1.min(allocations));
    }
    best
}
