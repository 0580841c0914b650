//! Reading on a thread of its own, some way ahead of who needs the data.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

/// How much is read at a time, and how many of these there are between the two threads.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;

/// What another thread reads; it ends with the reader's end or first error, or soon after this value is dropped.
#[derive(Debug)]
pub(crate) struct Ahead {
    chunks: Receiver<io::Result<Vec<u8>>>,
    used: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    position: usize,
}

impl Ahead {
    pub(crate) fn of<'scope>(
        scope: &'scope Scope<'scope, '_>,
        mut reader: impl Read + Send + 'scope,
    ) -> io::Result<Self> {
        let (full, chunks) = sync_channel(CHUNKS - 2);
        let (used, empty) = sync_channel::<Vec<u8>>(CHUNKS);
        thread::Builder::new().name("read-ahead".into()).spawn_scoped(scope, move || {
            loop {
                let mut chunk = empty.try_recv().unwrap_or_default();
                let read = read_chunk(&mut reader, &mut chunk);
                let last = chunk.is_empty();
                if !last && full.send(Ok(chunk)).is_err() {
                    return;
                }
                if let Err(err) = read {
                    // Nobody may be there any more to hear of it.
                    let _ = full.send(Err(err));
                    return;
                }
                if last {
                    return;
                }
            }
        })?;
        Ok(Self { chunks, used, chunk: Vec::new(), position: 0 })
    }
}

fn read_chunk(reader: &mut impl Read, chunk: &mut Vec<u8>) -> io::Result<()> {
    chunk.resize(CHUNK, 0);
    let mut len = 0;
    let result = loop {
        match reader.read(&mut chunk[len..]) {
            Ok(0) => break Ok(()),
            Ok(n) => len += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => break Err(err),
        }
        if len == CHUNK {
            break Ok(());
        }
    };
    chunk.truncate(len);
    result
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.chunk.len() {
            self.position = 0;
            let used = std::mem::take(&mut self.chunk);
            if used.capacity() > 0 {
                // If there is no room for it, another is made later.
                let _ = self.used.try_send(used);
            }
            // An error here is the end: the thread has gone.
            if let Ok(next) = self.chunks.recv() {
                self.chunk = next?;
            }
        }
        Ok(&self.chunk[self.position..])
    }

    fn consume(&mut self, len: usize) {
        self.position = (self.position + len).min(self.chunk.len());
    }
}

/// `read` in the terms of the two calls of [`BufRead`].
pub(crate) fn read_buffered(from: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let mut data = from.fill_buf()?;
    let len = data.read(buffer)?;
    from.consume(len);
    Ok(len)
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order_and_the_error_last() {
        let data: Vec<u8> = (0..3 * CHUNK + 17).map(|i| (i % 251).to_le_bytes()[0]).collect();
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
        thread::scope(|scope| {
            let mut ahead = Ahead::of(scope, data.as_slice().chain(Failing)).unwrap();
            let mut read = Vec::new();
            let err = ahead.read_to_end(&mut read).unwrap_err();
            assert_eq!((err.raw_os_error(), read == data), (Some(libc::EIO), true));
            assert_eq!(ahead.read(&mut [0]).unwrap(), 0);
        });
    }

    #[test]
    fn the_thread_ends_when_nobody_listens() {
        thread::scope(|scope| {
            let mut ahead = Ahead::of(scope, io::repeat(1)).unwrap();
            ahead.read_exact(&mut [0; 10]).unwrap();
        });
    }
}
