//! Where files have nothing but zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::reader::Regions;

/// What is looked at as one.
const BLOCK: u64 = 64 << 10;
const BLOCK_LEN: usize = 64 << 10;
/// How much of it usually suffices to see that there is more than zeros.
const PROBE: usize = 4 << 10;
/// Shorter runs of zeros are written.
const SHORTEST: u64 = 1 << 20;

/// The parts of a file that are more than zeros, offset and length, if it is worth to write these alone.
///
/// It moves the position in the file. It depends on the content, not on where the file system has holes: they make it faster.
pub(super) fn regions(file: &File, size: u64) -> io::Result<Option<Regions>> {
    if size < SHORTEST {
        return Ok(None);
    }
    let mut regions: Regions = Vec::new();
    let (mut at, mut zeros_from, mut holes) = (0, None, 0);
    let mut buffer = vec![0; BLOCK_LEN];
    let mut begin = 0;
    while at < size {
        let data = next_data(file, at)?.unwrap_or(size).min(size);
        let next =
            if data - data % BLOCK > at { data - data % BLOCK } else { (at + BLOCK).min(size) };
        let zeros = next - at > BLOCK || is_zero(file, at, next - at, &mut buffer)?;
        if zeros {
            zeros_from.get_or_insert(at);
        }
        if let Some(from) = zeros_from
            && (!zeros || next == size)
        {
            let to = if zeros { next } else { at };
            if to - from >= SHORTEST {
                if from > begin {
                    regions.push((begin, from - begin));
                }
                holes += to - from;
                begin = to;
            }
            zeros_from = None;
        }
        at = next;
    }
    if holes < size / 2 || holes == 0 {
        return Ok(None);
    }
    // A file that ends in a hole has an empty region there.
    regions.push((begin, size - begin));
    Ok(Some(regions))
}

/// Where the next data is, at `at` or behind, as far as the file system knows; `None` if there is none.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    let offset = i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
    match lseek(file, offset, Whence::SeekData) {
        Ok(data) => Ok(u64::try_from(data).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) => Ok(Some(at)),
        Err(errno) => Err(errno.into()),
    }
}

fn is_zero(file: &File, at: u64, len: u64, buffer: &mut [u8]) -> io::Result<bool> {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
    let mut done = 0;
    while done < len {
        let most = if done == 0 { PROBE.min(len) } else { len };
        let n = file.read_at(&mut buffer[done..most], at + done as u64)?;
        if n == 0 {
            return Ok(true);
        }
        if buffer[done..done + n].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        done += n;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(parts: &[(u64, u64)], size: u64) -> Option<Vec<(u64, u64)>> {
        let written = tempfile::tempfile().unwrap();
        let sparse = tempfile::tempfile().unwrap();
        let zeros = vec![0; 1 << 20];
        for at in (0..size).step_by(1 << 20) {
            let len = (size - at).min(1 << 20);
            written.write_all_at(&zeros[..usize::try_from(len).unwrap()], at).unwrap();
        }
        sparse.set_len(size).unwrap();
        for file in [&written, &sparse] {
            for &(offset, len) in parts {
                file.write_all_at(&vec![b'x'; usize::try_from(len).unwrap()], offset).unwrap();
            }
        }
        let found = [&written, &sparse].map(|file| regions(file, size).unwrap());
        assert_eq!(found[0], found[1], "holes and zeros differ");
        let [found, _] = found;
        found
    }

    #[test]
    fn holes_are_found_in_the_content_alone() {
        const M: u64 = 1 << 20;
        assert_eq!(found(&[], 100), None);
        assert_eq!(found(&[], 5 * M), Some(vec![(5 * M, 0)]));
        assert_eq!(found(&[(0, 5 * M)], 5 * M), None);
        assert_eq!(found(&[(0, 1)], 5 * M), Some(vec![(0, BLOCK), (5 * M, 0)]));
        assert_eq!(found(&[(5 * M - 1, 1)], 5 * M), Some(vec![(5 * M - BLOCK, BLOCK)]));
        assert_eq!(
            found(&[(3 * M + 5, 10)], 6 * M + 7),
            Some(vec![(3 * M, BLOCK), (6 * M + 7, 0)])
        );
        // Short runs, and too few.
        assert_eq!(found(&[(0, M), (M + M / 2, M), (3 * M, M)], 4 * M), None);
        assert_eq!(found(&[(0, 3 * M)], 4 * M + 5), None);
    }
}
