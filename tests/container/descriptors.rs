//! Hosts that have no descriptors left.

use std::fs::{self, File};
use std::iter;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

use coracle::ErrorKind;
use coracle::container::{Phase, Restart};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;

use crate::common::{alone, require};
use crate::detached::{detach, until};
use crate::{example, scene};

/// Has all descriptors that the process may have, and those that become free, until it is dropped.
struct Taker {
    enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Taker {
    /// Looks for those that have become free after pauses of this length.
    fn start(pause: Duration) -> Self {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 256, hard).unwrap();
        let (enough, all) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(2)));
        let (told, taken) = (enough.clone(), all.clone());
        let thread = std::thread::spawn(move || {
            let mut files = Vec::new();
            let mut take = || files.extend(iter::from_fn(|| File::open("/dev/null").ok()));
            take();
            taken.wait();
            while !told.load(Ordering::Relaxed) {
                take();
                std::thread::sleep(pause);
            }
        });
        all.wait();
        Self { enough, thread: Some(thread) }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn who_has_too_few_takes_a_container_for_dead_no_more_than_others_do() {
    alone(|| {
        let scene = require!(scene("container-detached-descriptors"));
        let builder = scene.engine.container("box").command(["sleep", "600"]);
        let container = builder.create().unwrap();
        assert!(detach(&scene, container.id().as_str()).status().unwrap().success());
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let used = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let mut refused = 0;
        let mut failed = |err: coracle::Error| {
            assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
            refused += 1;
        };
        for most in 3..used + 16 {
            setrlimit(Resource::RLIMIT_NOFILE, most, hard).unwrap();
            match container.status() {
                Ok(status) => assert_eq!(status.phase, Phase::Running, "of {most}"),
                Err(err) => failed(err),
            }
            // The lock is what puts in order what the dead have left.
            if let Err(err) = container.rename("other") {
                failed(err);
            }
        }
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert!(refused >= 4, "{refused}");
        assert!(container.exec(["true"]).unwrap().wait().unwrap().success());
        container.remove_forced().unwrap();
    });
}

#[test]
fn what_ends_meanwhile_is_written_down_later() {
    alone(|| {
        let scene = require!(scene("container-descriptors"));
        let script = "until [ -e /shared/go ]; do sleep 0.01; done; echo it ends; exit 3";
        let shared = scene.dir.join("shared");
        fs::create_dir(&shared).unwrap();
        let builder = scene.engine.container("box").command(["sh", "-c", script]);
        let builder = builder.volume(&shared, "/shared");
        let kept = builder.clone().start().unwrap();
        let gone = builder.clone().remove_on_exit().start().unwrap();
        let again = builder.restart(Restart::OnFailure(1)).start().unwrap();
        let go = File::create_new(shared.join("wait")).unwrap();
        let taken = Taker::start(Duration::from_micros(10));
        fs::rename(shared.join("wait"), shared.join("go")).unwrap();
        drop(go);
        std::thread::sleep(Duration::from_millis(500));
        drop(taken);
        assert_eq!(kept.wait().unwrap().code(), Some(3));
        let mut log = kept.logs().unwrap().lines().unwrap();
        // There was none for the log either, unless one that had just ended left it in time.
        let line = log.next().unwrap().unwrap().text().into_owned();
        assert!(line == "it ends" || line.starts_with("coracle: lines lost here: 1 "), "{line}");
        until("it goes", || gone.status().is_err_and(|err| err.kind() == ErrorKind::NotFound));
        until("it ends twice", || {
            let status = again.status().unwrap();
            status.phase == Phase::Exited && status.restarts == 1
        });
        kept.remove().unwrap();
        again.remove().unwrap();
    });
}

#[test]
fn who_knocks_is_let_in_later_and_the_host_rests_until_then() {
    alone(|| {
        let scene = require!(scene("container-descriptors-door"));
        let script = "read line; echo \"$line\"";
        let mut builder = scene.engine.container("box").command(["sh", "-c", script]);
        builder.config_mut().stdin = true;
        let container = builder.start().unwrap();
        let mut attach = Command::new("sh")
            .args(["-c", r#"sleep 0.2; echo typed | exec "$0" --root "$1" attach "$2""#])
            .arg(example("coracle"))
            .arg(scene.dir.join("root"))
            .arg(container.id().as_str())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let taken = Taker::start(Duration::from_millis(10));
        let used = || getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let before = used();
        std::thread::sleep(Duration::from_millis(1000));
        let after = used();
        let spent =
            after.user_time() + after.system_time() - before.user_time() - before.system_time();
        assert!(spent.num_milliseconds() < 500, "{spent}");
        assert!(attach.try_wait().unwrap().is_none());
        drop(taken);
        assert!(attach.wait().unwrap().success());
        assert!(container.wait().unwrap().success());
        container.remove().unwrap();
    });
}
