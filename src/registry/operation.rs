//! What a registry can be asked.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use super::registry::Registry;
use super::runtime::Task;
use crate::error::{Error, ErrorKind, Result};

/// Something to ask of a registry. Nothing happens before it is awaited or [`blocking`](Self::blocking) is called.
#[must_use = "nothing is asked before it is awaited, or `blocking` is called"]
pub struct Operation<T> {
    registry: Registry,
    future: Pin<Box<dyn Future<Output = Result<T>> + Send>>,
}

impl<T: Send + 'static> Operation<T> {
    pub(super) fn new(
        registry: &Registry,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Self {
        Self { registry: registry.clone(), future: Box::pin(future) }
    }

    /// Asks and waits for the answer. On a thread of an async runtime this blocks the thread.
    ///
    /// # Errors
    ///
    /// Those of what is asked.
    pub fn blocking(self) -> Result<T> {
        self.registry.runtime()?.block_on(self.future)
    }
}

impl<T: Send + 'static> IntoFuture for Operation<T> {
    type Output = Result<T>;
    type IntoFuture = Running<T>;

    fn into_future(self) -> Running<T> {
        let Self { registry, future } = self;
        let task = registry.runtime().and_then(|runtime| runtime.spawn(future));
        Running { task: Some(task), _registry: registry }
    }
}

impl<T> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").finish_non_exhaustive()
    }
}

/// An [`Operation`] that has begun; a future for any executor. Dropped before its end, it is broken off, and leaves
/// nothing half done that shows.
#[derive(Debug)]
#[must_use = "it is broken off when it is dropped"]
pub struct Running<T> {
    task: Option<Result<Task<T>>>,
    /// Its threads run the task.
    _registry: Registry,
}

impl<T> Future for Running<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<T>> {
        match self.task.take() {
            Some(Ok(mut task)) => {
                let polled = Pin::new(&mut task).poll(context);
                if polled.is_pending() {
                    self.task = Some(Ok(task));
                }
                polled
            }
            Some(Err(err)) => Poll::Ready(Err(err)),
            None => Poll::Ready(Err(Error::new(ErrorKind::InvalidState, "it has ended already"))),
        }
    }
}
