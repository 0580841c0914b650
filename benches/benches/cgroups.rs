//! The life of a cgroup.

use coracle::cgroups::{Cgroup, Limits};
use coracle_benches::limits;
use criterion::{BatchSize, Criterion};

fn cgroup(c: &mut Criterion) {
    let name = format!("coracle-bench-{}", std::process::id());
    let create = || Cgroup::create(&name, &limits()).expect("create");
    c.bench_function("cgroup create and delete", |b| b.iter(|| create().delete()));
    c.bench_function("cgroup create", |b| {
        b.iter_batched(|| (), |()| create(), BatchSize::PerIteration);
    });
    let group = create();
    let fewer = Limits::new().pids(32).cpus(0.5);
    c.bench_function("cgroup set", |b| b.iter(|| group.set(&fewer)));
    c.bench_function("cgroup stats", |b| b.iter(|| group.stats()));
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    cgroup(&mut c);
    c.final_summary();
}
