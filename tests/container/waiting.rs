//! Waiting for the end of containers in tasks.

use std::fs;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use coracle::ErrorKind;
use coracle::container::Restart;
use coracle::namespaces::Signal;

use crate::common::{alone, require};
use crate::detached::detach;
use crate::scene;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The least that an executor can be.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_task_waits_under_any_executor() {
    let scene = require!(scene("container-exited"));
    let builder = scene.engine.container("box");
    let short = builder.clone().command(["sh", "-c", "exit 7"]).create().unwrap();
    assert_eq!(block_on(short.exited()).unwrap_err().kind(), ErrorKind::InvalidState);
    short.start().unwrap();
    for _ in 0..2 {
        assert_eq!(block_on(short.exited()).unwrap().code(), Some(7));
    }
    short.remove().unwrap();
    let gone = builder.clone().command(["false"]).remove_on_exit().start().unwrap();
    assert_eq!(block_on(gone.exited()).unwrap().code(), Some(1));
    assert_eq!(gone.status().unwrap_err().kind(), ErrorKind::NotFound);
    // What is started anew has not ended.
    let counts = "echo x >> /n; sleep 0.1; exit $(wc -l < /n)";
    let again = builder.command(["sh", "-c", counts]).restart(Restart::OnFailure(2));
    let again = again.start().unwrap();
    assert_eq!(block_on(again.exited()).unwrap().code(), Some(3));
}

#[test]
fn many_tasks_wait_in_one_thread() {
    let scene = require!(scene("container-exited-many"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let runs = scene.engine.container("box").command(["sleep", "600"]).start().unwrap();
    let all = (1..=20).map(|code| {
        let command = ["sh".to_owned(), "-c".to_owned(), format!("exit {code}")];
        scene.engine.container("box").command(command).start().unwrap()
    });
    let all: Vec<_> = all.collect();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for container in all {
            tasks.spawn(async move { container.exited().await.unwrap().code().unwrap() });
        }
        let mut codes = tasks.join_all().await;
        codes.sort_unstable();
        assert_eq!(codes, (1..=20).collect::<Vec<_>>());
        // Two wait for the same, and one of them gives up.
        let moment = Duration::from_millis(20);
        assert!(tokio::time::timeout(moment, runs.exited()).await.is_err());
        let (end, ()) = tokio::join!(runs.exited(), async { runs.kill(Signal::KILL).unwrap() });
        assert_eq!(end.unwrap().signal(), Some(Signal::KILL));
    });
}

#[test]
fn another_processs_container_wakes_a_task_too() {
    alone(|| {
        let scene = require!(scene("container-exited-elsewhere"));
        scene.warm_up();
        let container = scene.engine.container("box").command(["sleep", "600"]).create().unwrap();
        assert!(detach(&scene, container.id().as_str()).status().unwrap().success());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut before = 0;
            for turn in 0..50 {
                let moment = Duration::from_millis(1);
                assert!(tokio::time::timeout(moment, container.exited()).await.is_err());
                // The first brings the engine's thread.
                before = if turn == 0 { descriptors() } else { before };
            }
            let (end, ()) =
                tokio::join!(container.exited(), async { container.kill(Signal::KILL).unwrap() });
            assert_eq!(end.unwrap().signal(), Some(Signal::KILL));
            assert!(descriptors() <= before, "{} {before}", descriptors());
        });
        container.remove().unwrap();
    });
}
