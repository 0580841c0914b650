//! Stacks of layers.

use std::fs;

use coracle::layers::{Driver, LayerStore, Rootfs};
use coracle_benches::{Fixture, container};
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

/// From layers in a store to the end of a container of `true` on them: the deeper image may take 1.3 times as long.
fn depth(c: &mut Criterion) {
    let fixture = Fixture::new().expect("make the root file system");
    let directory = fixture.path().join("layers");
    let store = LayerStore::open_with(directory, Driver::Overlay).expect("open the store");
    let names: Vec<_> = (1..=120).map(|i| format!("layer{i}")).collect();
    let keys: Vec<_> = names.iter().map(String::as_str).collect();
    for (i, key) in keys.iter().enumerate() {
        let staging = store.prepare(&keys[..i]).expect("prepare a layer");
        if i == 0 {
            let source = fixture.root();
            let mut copy = std::process::Command::new("cp");
            let copied = copy.arg("-aT").arg(source).arg(staging.tree()).status();
            assert!(copied.is_ok_and(|status| status.success()), "copy the root file system");
        }
        fs::write(staging.tree().join(format!("file{i}")), "content").expect("fill a layer");
        staging.commit(key).expect("commit a layer");
    }
    let scratch = fixture.path().join("scratch");
    for count in [1, 16, 120] {
        c.bench_function(&format!("start on {count} layers"), |b| {
            b.iter(|| {
                let stack = store.stack(&keys[..count]).expect("find the layers");
                let rootfs = stack.writable(&scratch).expect("stack");
                let status = container("/bin/true", &rootfs).status().expect("run");
                assert!(status.success());
            });
        });
    }
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    stack(&mut c);
    changes(&mut c);
    depth(&mut c);
    c.final_summary();
}
