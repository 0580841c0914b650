//! Spawning, from a plain process to a container with everything.

use std::hint::black_box;
use std::thread;

use coracle::namespaces::{Command, Stdio, UserNamespace};
use coracle_benches::{Fixture, container, quiet};
use criterion::Criterion;

fn run(command: &mut Command) {
    let status = command.status().expect("spawn");
    assert!(status.success(), "{status}");
}

fn spawn(c: &mut Criterion) {
    let fixture = Fixture::new().expect("make the root file system");
    let root = fixture.root();
    let mut group = c.benchmark_group("spawn");
    group.sample_size(50);
    let mut plain = quiet(Command::new(root.join("bin/true")));
    group.bench_function("plain", |b| b.iter(|| run(&mut plain)));
    let mut isolated = quiet(Command::new("/bin/true"));
    isolated.isolated();
    group.bench_function("isolated", |b| b.iter(|| run(&mut isolated)));
    let mut full = container("/bin/true", &root);
    group.bench_function("container", |b| b.iter(|| run(&mut full)));
    let mut host = container("/bin/true", &root);
    host.host_users();
    group.bench_function("container, host's users", |b| b.iter(|| run(&mut host)));
    let users = UserNamespace::automatic().expect("make a user namespace");
    let mut ahead = container("/bin/true", &root);
    ahead.user_namespace(&users);
    group.bench_function("container, user namespace made ahead", |b| b.iter(|| run(&mut ahead)));
    group.bench_function("container, from 8 threads at once", |b| {
        b.iter(|| {
            thread::scope(|scope| {
                for _ in 0..8 {
                    let mut command = full.clone();
                    scope.spawn(move || run(&mut command));
                }
            });
        });
    });
    let memory = vec![1u8; 8 << 30];
    group.bench_function("container, from a host of 8 GiB", |b| b.iter(|| run(&mut full)));
    drop(black_box(memory));
    group.finish();
}

fn exec(c: &mut Criterion) {
    let fixture = Fixture::new().expect("make the root file system");
    let mut sleep = container("/bin/sleep", fixture.root());
    let child = sleep.arg("1000000").spawn().expect("spawn");
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    c.bench_function("exec", |b| {
        b.iter(|| {
            let status = child.exec(&mut command).and_then(|mut child| child.wait());
            assert!(status.expect("exec").success());
        });
    });
}

fn users(c: &mut Criterion) {
    c.bench_function("UserNamespace::automatic", |b| b.iter(UserNamespace::automatic));
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    spawn(&mut c);
    exec(&mut c);
    users(&mut c);
    c.final_summary();
}
