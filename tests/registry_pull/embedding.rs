//! What a pull does to the process that asks for it.

use std::collections::BTreeSet;
use std::fs;
use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::common::relay::{Fault, Rule};
use crate::common::{alone, audit, require, time_limit};
use crate::{client, scene, wait_until_clean};

/// The simplest executor there is.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: IntoFuture>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut future, mut context) = (pin!(future.into_future()), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn threads() -> BTreeSet<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.map(|task| task.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn no_runtime_is_needed_to_await_it() {
    let scene = require!(scene("embed-executor"));
    let registry = client();
    let image = block_on(registry.pull(scene.relay.name("app:1"), &scene.store)).unwrap();
    scene.check(&image);
}

#[tokio::test(flavor = "current_thread")]
async fn a_runtime_of_one_thread_that_is_blocked_is_none_in_the_way() {
    let scene = require!(scene("embed-one-thread"));
    let registry = client();
    let image = scene.pull(&registry).unwrap();
    scene.check(&image);
    drop(registry);
    // A client that is dropped while it is asked for something.
    let registry = client();
    let running = registry.pull(scene.relay.name("app:1"), &scene.store).into_future();
    drop(registry);
    assert_eq!(running.await.unwrap(), image);
}

#[test]
fn threads_and_descriptors_end_with_the_client() {
    alone(|| {
        let scene = require!(scene("embed-leaks"));
        // What the first pull opens for good, if anything, is not a leak.
        scene.pull(&client()).unwrap();
        scene.relay.hang_up();
        let (fds, tasks) = settle(|| true);
        let before = audit::state();
        for _ in 0..5 {
            let registry = client();
            scene.store.remove(&scene.relay.name("app:1")).unwrap();
            scene.store.collect_garbage().unwrap();
            scene.pull(&registry).unwrap();
            assert!(threads().len() > tasks.len(), "no threads to see");
        }
        settle(|| {
            scene.relay.hang_up();
            (audit::fds().len(), threads().len()) == (fds.len(), tasks.len())
        });
        assert_eq!(audit::state(), before);
    });
}

#[test]
fn what_is_broken_off_leaves_no_thread() {
    alone(|| {
        let scene = require!(scene("embed-broken-off"));
        scene.pull(&client()).unwrap();
        scene.store.remove(&scene.relay.name("app:1")).unwrap();
        scene.store.collect_garbage().unwrap();
        scene.relay.hang_up();
        let (fds, tasks) = settle(|| true);
        scene.relay.rule(Rule::get("/v2/app/blobs/").fault(Fault::StallAfter(1000)));
        for _ in 0..5 {
            let registry = client();
            let mut pull =
                pin!(registry.pull(scene.relay.name("app:1"), &scene.store).into_future());
            let before = scene.relay.requests().len();
            assert!(pull.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            scene.relay.wait_for(|seen| (seen.len() > before + 2).then_some(()));
        }
        wait_until_clean(&scene.store);
        settle(|| {
            // The last connection may be made only now; nobody is there for it any more.
            scene.relay.hang_up();
            (audit::fds().len(), threads().len()) == (fds.len(), tasks.len())
        });
    });
}

/// Waits until this is so, and says what there is then.
fn settle(so: impl Fn() -> bool) -> (BTreeSet<String>, BTreeSet<String>) {
    let end = Instant::now() + time_limit(Duration::from_secs(30));
    let mut last = (audit::fds(), threads());
    // Threads of the relay and the client end a moment later.
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = (audit::fds(), threads());
        if so() && now == last {
            return now;
        }
        assert!(Instant::now() < end, "{now:?}");
        last = now;
    }
}
