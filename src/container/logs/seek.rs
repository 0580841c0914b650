//! Where in a file to begin.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::time::SystemTime;

use super::MOST_DISORDER;
use super::logs::Filter;
use super::record::Record;
use super::source::{LONGEST_LINE, Source, read_at};

const BLOCK: usize = 64 << 10;

/// Where a line begins, at or before the first one of `since` or later, found in a few steps.
///
/// Times are in order but for [`MOST_DISORDER`], so what lies before a line that is older than that is older too.
pub(super) fn since(source: &Source, since: SystemTime) -> io::Result<u64> {
    // The time of the last change of a file stands for its last line's when a writer opens it: twice.
    let Some(old) = since.checked_sub(2 * MOST_DISORDER) else { return Ok(0) };
    let mut low = 0;
    let mut high = source.end.map_or_else(|| source.file.metadata().map(|file| file.len()), Ok)?;
    while high - low > BLOCK as u64 {
        let middle = low + (high - low) / 2;
        match line_after(&source.file, middle, high)? {
            Some((start, time)) if time < old && start < high => low = start,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The first line that begins after `offset` and can be understood: where it begins, and its time.
fn line_after(file: &File, offset: u64, end: u64) -> io::Result<Option<(u64, SystemTime)>> {
    let mut buffer = vec![0; BLOCK];
    let mut filled = 0;
    let mut tried = 0;
    loop {
        let from = offset + filled as u64;
        if from >= end || filled > LONGEST_LINE {
            return Ok(None);
        }
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
        match read_at(file, &mut buffer[filled..], from)? {
            0 => return Ok(None),
            read => filled += read,
        }
        let mut newlines = memchr::memchr_iter(b'\n', &buffer[tried..filled]).map(|at| tried + at);
        let mut start = newlines.next();
        for end in newlines {
            let begin = start.map_or(end, |start| start + 1);
            if let Some(record) = Record::parse(&buffer[begin..end]) {
                return Ok(Some((offset + begin as u64, record.time)));
            }
            start = Some(end);
        }
        tried = start.unwrap_or(filled);
    }
}

/// Leaves of the files, the oldest first, what holds the last `count` lines that the filter lets through.
pub(super) fn tail(files: &mut VecDeque<Source>, count: usize, filter: &Filter) -> io::Result<()> {
    let mut left = count;
    // Whether a line of this stream goes on at the end.
    let mut seen = [false; 2];
    for index in (0..files.len()).rev() {
        let found = backwards(&files[index], |line| {
            let Some(record) = Record::parse(line).filter(|record| filter.wants(record)) else {
                return true;
            };
            let first = !std::mem::replace(&mut seen[record.stream as usize], true);
            // Pieces belong to the line that ends after them.
            if !record.partial || first {
                if left == 0 {
                    return false;
                }
                left -= 1;
            }
            true
        })?;
        if let Some(offset) = found {
            files[index].seek(offset);
            files.drain(..index);
            break;
        }
    }
    Ok(())
}

/// Shows whole lines from the last to the first, until one is refused: then where the one after it begins.
fn backwards(source: &Source, mut wanted: impl FnMut(&[u8]) -> bool) -> io::Result<Option<u64>> {
    let mut start = source.end.map_or_else(|| source.file.metadata().map(|file| file.len()), Ok)?;
    // From `start` on; ends with a newline once the unfinished line at the end of the file is cut off.
    let mut buffer: Vec<u8> = Vec::new();
    let mut whole = false;
    loop {
        let Some(newline) = memchr::memrchr(b'\n', &buffer[..buffer.len() - usize::from(whole)])
        else {
            if start == 0 {
                return Ok(
                    (whole && !wanted(&buffer[..buffer.len() - 1])).then_some(buffer.len() as u64)
                );
            }
            let step = start.min(BLOCK.max(buffer.len()) as u64);
            start -= step;
            let mut longer = vec![0; usize::try_from(step).unwrap_or(BLOCK)];
            let read = fill_at(&source.file, &mut longer, start)?;
            if read < longer.len() || buffer.len() > LONGEST_LINE {
                // It was cut short, or is nobody's line: what is known of it is dropped.
                buffer.clear();
                whole = false;
                longer.truncate(read);
            }
            longer.append(&mut buffer);
            buffer = longer;
            continue;
        };
        if whole && !wanted(&buffer[newline + 1..buffer.len() - 1]) {
            return Ok(Some(start + buffer.len() as u64));
        }
        buffer.truncate(newline + 1);
        whole = true;
    }
}

fn fill_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_at(file, &mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
