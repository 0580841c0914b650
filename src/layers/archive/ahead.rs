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

#[cfg(feature = "container")]
impl Ahead {
    /// What `write` writes on another thread. Its error comes at the end.
    pub(crate) fn of_writer<'scope>(
        scope: &'scope Scope<'scope, '_>,
        write: impl FnOnce(&mut Chunks) -> io::Result<()> + Send + 'scope,
    ) -> io::Result<Self> {
        let (full, chunks) = sync_channel(CHUNKS - 2);
        let (used, empty) = sync_channel::<Vec<u8>>(CHUNKS);
        thread::Builder::new().name("write-ahead".into()).spawn_scoped(scope, move || {
            let mut writer = Chunks { full, empty, chunk: Vec::new() };
            if let Err(err) = write(&mut writer).and_then(|()| io::Write::flush(&mut writer)) {
                // Nobody may be there any more to hear of it.
                let _ = writer.full.send(Err(err));
            }
        })?;
        Ok(Self { chunks, used, chunk: Vec::new(), position: 0 })
    }
}

/// Where the data comes from that another thread reads.
#[cfg(feature = "container")]
#[derive(Debug)]
pub(crate) struct Chunks {
    full: SyncSender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
}

#[cfg(feature = "container")]
impl io::Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let len = data.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&data[..len]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let mut next = self.empty.try_recv().unwrap_or_default();
        next.clear();
        let chunk = std::mem::replace(&mut self.chunk, next);
        self.full.send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
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

    #[cfg(feature = "container")]
    #[test]
    fn what_is_written_arrives_in_order_and_the_error_last() {
        use std::io::Write;

        let data: Vec<u8> = (0..2 * CHUNK + 17).map(|i| (i % 251).to_le_bytes()[0]).collect();
        thread::scope(|scope| {
            let written = data.as_slice();
            let mut ahead = Ahead::of_writer(scope, |writer| {
                writer.write_all(written)?;
                writer.flush()?;
                Err(io::Error::from_raw_os_error(libc::EIO))
            })
            .unwrap();
            let mut read = Vec::new();
            let err = ahead.read_to_end(&mut read).unwrap_err();
            assert_eq!((err.raw_os_error(), read == data), (Some(libc::EIO), true));
        });
        let (told, heard) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let mut ahead = Ahead::of_writer(scope, move |writer| {
                let written = io::copy(&mut io::repeat(1), writer).map(drop);
                told.send(written.as_ref().unwrap_err().kind()).unwrap();
                written
            })
            .unwrap();
            ahead.read_exact(&mut [0; 10]).unwrap();
        });
        assert_eq!(heard.recv().unwrap(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_thread_ends_when_nobody_listens() {
        thread::scope(|scope| {
            let mut ahead = Ahead::of(scope, io::repeat(1)).unwrap();
            ahead.read_exact(&mut [0; 10]).unwrap();
        });
    }
}
