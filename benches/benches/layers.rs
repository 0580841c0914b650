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

fn main() {
    let mut c = Criterion::default().configure_from_args();
    stack(&mut c);
    c.final_summary();
}
