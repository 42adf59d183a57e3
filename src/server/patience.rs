//! How long a client may take to send a head, and to take what it is sent. hyper has one time for that and for resting
//! between two requests; a head should take seconds, but clients that keep their connection for later must not lose it
//! after seconds.
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

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How far the requests of a connection are; shared by the connection and the request on it.
#[derive(Debug, Default)]
pub struct Patience {
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// Number of the rest that it takes; 0 while it does not.
    rests: AtomicUsize,
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

    /// The number of its rest, if a request has been answered and nothing of the next one has come.
    pub fn rests(&self) -> Option<usize> {
        Some(self.rests.load(Ordering::Relaxed)).filter(|rest| *rest > 0)
    }

    /// Notes that its answer has ended.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its client has begun a head and does not finish it, or does
/// not read what it is sent: the kernel's buffers and hyper's are full then, and its request holds a place that others wait for.
pub struct Patient<S> {
    stream: S,
    patience: Arc<Patience>,
    /// How long a head may take.
    time: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Whether the deadline counts.
    hurried: bool,
    /// Requests that had ended when that was decided.
    ended: usize,
    /// How long a client may take nothing of what waits for it.
    stall_time: Duration,
    stall: Pin<Box<Sleep>>,
    /// Whether something waits, so that this deadline counts.
    stalled: bool,
    /// Number of the last request in which the client was found to say no more.
    silent_in: usize,
}

impl<S> Patient<S> {
    /// The time for the first head begins at once.
    pub fn new(stream: S, patience: Arc<Patience>, time: Duration, stall_time: Duration) -> Self {
        let (deadline, stall) = (Box::pin(sleep(time)), Box::pin(sleep(stall_time)));
        Self {
            stream,
            patience,
            time,
            deadline,
            hurried: true,
            ended: 0,
            stall_time,
            stall,
            stalled: false,
            silent_in: 0,
        }
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
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        if !self.stalled {
            self.stalled = true;
            let deadline = Instant::now() + self.stall_time;
            self.stall.as_mut().reset(deadline);
        }
        if self.stall.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let (begun, ended) = (self.patience.begun.load(Ordering::Relaxed), self.patience.ended.load(Ordering::Relaxed));
        if begun != ended {
            // A request is being answered: no hurry.
            let is_end = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before;
            return if is_end { self.last_word(begun, context) } else { read };
        }
        if ended != self.ended {
            // The last request is over; the next may take its time to begin.
            (self.ended, self.hurried) = (ended, false);
        }
        let rest = if read.is_pending() && !self.hurried { ended } else { 0 };
        self.patience.rests.store(rest, Ordering::Relaxed);
        if read.is_ready() {
            if !self.hurried {
                self.hurried = true;
                let deadline = Instant::now() + self.time;
                self.deadline.as_mut().reset(deadline);
            }
            return read;
        }
        if self.hurried && self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
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

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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
