//! Stacks of layers.

use std::fs;

use coracle::layers::Rootfs;
use coracle_benches::Fixture;
use criterion::Criterion;

fn stack(c: &mut Criterion) {
    let fixture = Fixture::new().expect("make the root file system");
    let mut layers = vec![fixture.root()];
    for i in 1..100 {
        let layer = fixture.path().join(format!("layer{i}"));
        fs::create_dir(&layer).expect("make a layer");
        fs::write(layer.join(format!("file{i}")), "content").expect("fill it");
        layers.push(layer);
    }
    let scratch = fixture.path().join("scratch");
    for count in [1, 10, 100] {
        c.bench_function(&format!("stack of {count}"), |b| {
            b.iter(|| Rootfs::stack(&layers[..count]).writable(&scratch).expect("stack"));
        });
    }
    c.bench_function("stack of 10, host's users", |b| {
        b.iter(|| Rootfs::stack(&layers[..10]).host_ids().writable(&scratch).expect("stack"));
    });
}

/// The size of the layers below does not count, that of the change does.
fn changes(c: &mut Criterion) {
    let fixture = Fixture::new().expect("make the root file system");
    for (below, changed) in [(100, 1), (10_000, 1), (10_000, 1_000)] {
        let layer = fixture.path().join(format!("of{below}-{changed}"));
        fs::create_dir(&layer).expect("make a layer");
        for i in 0..below {
            fs::write(layer.join(format!("file{i}")), "content").expect("fill it");
        }
        let scratch = fixture.path().join(format!("scratch{below}-{changed}"));
        let rootfs = Rootfs::stack([&layer]).host_ids().writable(&scratch).expect("stack");
        for i in 0..changed {
            fs::write(scratch.join(format!("upper/new{i}")), "content").expect("change it");
        }
        c.bench_function(&format!("{changed} changes on {below} files"), |b| {
            b.iter(|| assert_eq!(rootfs.changes().expect("list them").len(), changed));
        });
    }
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    stack(&mut c);
    changes(&mut c);
    c.final_summary();
}
