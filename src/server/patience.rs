//! How long a client may take to send a head, and to take what it is sent; and whether its connection rests, where it may
//! take much longer. hyper would have one time for both.
//!
//! And what becomes of the request of a client that has said its last word: some (`nc -N`, `socat`) shut their half of the
//! connection down and wait for the answer. TCP does not tell them from those who have left, so what may be long in coming
//! is given up, as in Ollama, and what is there at once is answered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How far the requests of a connection are; shared by the connection and the request on it.
#[derive(Debug, Default)]
pub struct Patience {
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// One more than the requests that had ended when something of the next head came; 0 before the first one, where there
    /// is no hurry.
    hurry: AtomicUsize,
    /// Whether something waits to be taken.
    stalled: AtomicBool,
    /// Whether the last answer said that the connection is closed after it.
    closes: AtomicBool,
    /// Whether the request that is being answered needs its client no more.
    outlasts: AtomicBool,
}

impl Patience {
    /// Notes that a head has been read.
    pub fn begin(&self) {
        self.outlasts.store(false, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the request has come to its end and is answered at once, so that its client need say no more.
    pub fn outlast(&self) {
        self.outlasts.store(true, Ordering::Relaxed);
    }

    /// Whether any head has been read.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > 0
    }

    /// Notes that its answer has ended.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the connection is closed after the answer that begins now.
    pub fn close(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }

    /// Whether nothing is to be read or written for now: all requests have been answered, and nothing more has come.
    pub fn rests(&self) -> bool {
        let may_rest = !self.stalled.load(Ordering::Relaxed) && !self.closes.load(Ordering::Relaxed);
        may_rest && self.all_ended().is_some_and(|ended| !self.is_hurried(ended))
    }

    /// How many have ended, if none is being answered.
    fn all_ended(&self) -> Option<usize> {
        let ended = self.ended.load(Ordering::Relaxed);
        (self.begun.load(Ordering::Relaxed) == ended).then_some(ended)
    }

    fn is_hurried(&self, ended: usize) -> bool {
        self.hurry.load(Ordering::Relaxed) == ended + 1
    }

    fn hurry(&self, ended: usize) {
        self.hurry.store(ended + 1, Ordering::Relaxed);
    }
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// To send a head, once it has begun.
    pub head: Duration,
    /// To take some of what waits for it.
    pub stall: Duration,
}

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its client has begun a head and does not finish it, or does
/// not read what it is sent: the kernel's buffers and hyper's are full then, and its request holds a place that others wait for.
///
/// Its timers exist only while they count, which for nearly all connections is never.
pub struct Patient<S> {
    stream: S,
    /// What was read before, and comes first.
    unread: Bytes,
    patience: Arc<Patience>,
    times: Times,
    /// There while a head has to come in time.
    head: Option<Pin<Box<Sleep>>>,
    /// There while something waits to be taken.
    stall: Option<Pin<Box<Sleep>>>,
    /// Number of the last request in which the client was found to say no more.
    silent_in: usize,
}

impl<S> Patient<S> {
    /// The time for a head begins with its first byte.
    pub fn new(stream: S, patience: Arc<Patience>, times: Times) -> Self {
        Self { stream, unread: Bytes::new(), patience, times, head: None, stall: None, silent_in: 0 }
    }

    /// Puts back what was read too much.
    pub fn put_back(&mut self, unread: Bytes) {
        self.unread = unread;
    }

    /// The stream alone.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// What becomes of the end of what a client says while its request, of this number, is being answered.
    fn last_word(&mut self, request: usize, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.patience.outlasts.load(Ordering::Relaxed) {
            // It is asked again when the answer has been written.
            return Poll::Pending;
        }
        if self.silent_in != request {
            // The request came just now, and has its turn after this.
            self.silent_in = request;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// What becomes of a write: one that cannot go on is given up after a while.
    fn within<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.patience.stalled.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(self.times.stall)));
        stall.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    fn read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.read(context, buffer);
        let Some(ended) = self.patience.all_ended() else {
            // A request is being answered: no hurry.
            self.head = None;
            let is_end = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before;
            let request = self.patience.begun.load(Ordering::Relaxed);
            return if is_end { self.last_word(request, context) } else { read };
        };
        let hurried = self.patience.is_hurried(ended);
        if read.is_ready() && !hurried {
            self.patience.hurry(ended);
            self.head = None;
        }
        if read.is_ready() || !hurried {
            return read;
        }
        let time = self.times.head;
        let head = self.head.get_or_insert_with(|| Box::pin(sleep(time)));
        head.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.within(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Nothing while it rests: then hyper is done with it, but its client is not.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.patience.rests() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.within(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
