//! Streams whose digest is taken as they are read.

use std::io::{self, BufRead, Read};

use super::digest::{Digest, Hasher};
use crate::error::{Error, ErrorKind};
use crate::layers::read_buffered;

/// Takes the digest and length of what is consumed, and fails where that passes a limit.
pub(super) struct Hashed<R> {
    from: R,
    hasher: Hasher,
    len: u64,
    limit: u64,
}

impl<R: BufRead> Hashed<R> {
    pub(super) fn new(from: R, limit: u64) -> Self {
        Self { from, hasher: Hasher::default(), len: 0, limit }
    }

    /// Reads to the end. Returns the digest and length of all.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        loop {
            match self.fill_buf().map(<[u8]>::len) {
                Ok(0) => return Ok((self.hasher.finish(), self.len)),
                Ok(len) => self.consume(len),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let data = self.from.fill_buf()?;
        if self.len + data.len() as u64 > self.limit {
            let message = format!("it has more than {} bytes after decompression", self.limit);
            return Err(Error::new(ErrorKind::ResourceExhausted, message)
                .with_hint("raise the limit if its source is to be trusted")
                .into());
        }
        Ok(data)
    }

    fn consume(&mut self, len: usize) {
        if let Ok(data) = self.from.fill_buf() {
            self.hasher.update(&data[..len]);
            self.len += len as u64;
        }
        self.from.consume(len);
    }
}

impl<R: BufRead> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Context;

    #[test]
    fn what_is_read_in_any_way_counts() {
        let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut hashed = Hashed::new(&data[..], data.len() as u64);
        hashed.read_exact(&mut [0; 1000]).unwrap();
        hashed.consume(5);
        assert_eq!(hashed.finish().unwrap(), (Digest::of(&data), data.len() as u64));
    }

    #[test]
    fn the_limit_is_the_last_byte_that_may_come() {
        Hashed::new(&[1; 10][..], 10).finish().unwrap();
        let passed = Hashed::new(&[1; 11][..], 10).finish();
        let err = passed.context(|| "read").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err}");
    }
}
