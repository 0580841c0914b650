//! The threads on which connections live.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context as TaskContext, Poll};

use tokio::runtime;
use tokio::task::JoinHandle;

use crate::error::{Context, Error, ErrorKind, Result};

/// For TLS, digests and files are other threads' work.
const THREADS: usize = 2;
/// These look up names, and do what waits for the disk.
const BLOCKING_THREADS: usize = 32;

/// A tokio runtime of our own, so that the host needs none, or may have another.
#[derive(Debug)]
pub(super) struct Runtime(Option<runtime::Runtime>);

impl Runtime {
    pub(super) fn start() -> Result<Self> {
        let started = runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("coracle-registry")
            .enable_all()
            .build();
        Ok(Self(Some(started.context(|| "start the threads for connections")?)))
    }

    /// Runs `future` until it ends or the answer is dropped.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<Task<T>> {
        let runtime = self.0.as_ref().ok_or_else(ended)?;
        Ok(Task(runtime.spawn(future)))
    }

    /// Runs `future` and waits for it, which works on threads of another runtime too: they are blocked.
    pub(super) fn block_on<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let runtime = self.0.as_ref().ok_or_else(ended)?;
        let (sender, receiver) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            let _ = sender.send(future.await);
        });
        receiver.recv().unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // A plain drop waits, and panics on a thread of a runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::InvalidState, "the threads for connections have ended")
}

/// A running future; dropped, it is broken off.
#[derive(Debug)]
pub(super) struct Task<T>(JoinHandle<Result<T>>);

impl<T> Future for Task<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.0).poll(context).map(|joined| joined.unwrap_or_else(|_| Err(ended())))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
