//! How long a client may take to send a head. hyper has one time for that and for resting between two requests; a head
//! should take seconds, but clients that keep their connection for later must not lose it after seconds.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How far the requests of a connection are; shared by the connection and the request on it.
#[derive(Debug, Default)]
pub struct Patience {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Patience {
    /// Notes that a head has been read.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that its answer has ended.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its client has begun a head and does not finish it.
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
}

impl<S> Patient<S> {
    /// The time for the first head begins at once.
    pub fn new(stream: S, patience: Arc<Patience>, time: Duration) -> Self {
        Self { stream, patience, time, deadline: Box::pin(sleep(time)), hurried: true, ended: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let ended = self.patience.ended.load(Ordering::Relaxed);
        if self.patience.begun.load(Ordering::Relaxed) != ended {
            // A request is being answered: no hurry.
            return read;
        }
        if ended != self.ended {
            // The last request is over; the next may take its time to begin.
            (self.ended, self.hurried) = (ended, false);
        }
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
        Pin::new(&mut self.stream).poll_write(context, bytes)
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
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
