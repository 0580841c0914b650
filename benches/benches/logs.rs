//! How fast lines are written to a log, in memory: bytes that the container prints a second.

use std::time::SystemTime;

use coracle::MIB;
use coracle::container::logs::{Batch, Format, LogWriter, Rotation, Stream};
use criterion::{Criterion, Throughput};

/// As much as a reader of a pipe takes at once.
const CHUNK: usize = 1 << 20;

fn logs(c: &mut Criterion) {
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    for format in [Format::Cri, Format::JsonFile] {
        for length in [2, 100, 1000, 16 << 10] {
            let dir = tempfile::Builder::new()
                .prefix("coracle-benches-")
                .tempdir_in("/dev/shm")
                .expect("make a directory");
            let rotation = Rotation::new().max_size(64 * MIB).max_files(2);
            let mut writer = LogWriter::open(&dir, format, rotation).expect("open a log");
            let mut line = b"abcdefgh".repeat(length / 8 + 1);
            line.truncate(length - 1);
            line.push(b'\n');
            let chunk: Vec<u8> = line.iter().copied().cycle().take(CHUNK).collect();
            let mut batch = Batch::new();
            group.bench_function(format!("{format:?}, lines of {length} bytes"), |b| {
                b.iter(|| {
                    writer
                        .write(&mut batch, Stream::Stdout, SystemTime::now(), &chunk)
                        .expect("write lines");
                });
            });
        }
    }
    group.finish();
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    logs(&mut c);
    c.final_summary();
}
