//! What goes in and out of a container.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use coracle::ErrorKind;
use coracle::container::logs::Logs;
use coracle::container::{Attachment, LogConfig, LogDriver, Output};
use coracle::namespaces::{Command, Stdio, TerminalSize};

use crate::common::{alone, audit, require};
use crate::scene;

/// Everything until the end.
fn all(attachment: &Attachment) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match attachment.read().unwrap() {
            Output::Stdout(bytes) => out.extend(bytes),
            Output::Stderr(bytes) => err.extend(bytes),
            Output::Ended => break,
            other => panic!("{other:?}"),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn who_is_attached_from_the_start_sees_everything() {
    let scene = require!(scene("container-output"));
    let script = "echo out; echo err >&2; seq 1 100000";
    let container = scene.engine.container("box").command(["sh", "-c", script]).create().unwrap();
    let attachment = container.start_attached(TerminalSize::default()).unwrap();
    let (out, err) = all(&attachment);
    assert!(out.starts_with("out\n1\n2\n") && out.ends_with("\n100000\n"), "{}", out.len());
    assert_eq!((out.lines().count(), err.as_str()), (100_001, "err\n"));
    assert!(container.wait().unwrap().success());
    container.remove().unwrap();
}

#[test]
fn input_reaches_it_and_can_be_ended() {
    let scene = require!(scene("container-input"));
    let mut builder = scene.engine.container("box").command(["sh", "-c", "cat; echo done"]);
    builder.config_mut().stdin = true;
    let container = builder.create().unwrap();
    let attachment = container.start_attached(TerminalSize::default()).unwrap();
    let text: String = (0..50_000).map(|number| format!("line {number}\n")).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            attachment.write(text.as_bytes()).unwrap();
            attachment.close_input().unwrap();
        });
        let (out, _) = all(&attachment);
        assert!(out == format!("{text}done\n"), "{} bytes of {}", out.len(), text.len());
    });
    container.remove_forced().unwrap();
}

/// The kernel tells of bytes that were never read before it hands out those that were sent.
#[test]
fn what_nobody_reads_any_more_takes_nothing_along() {
    let scene = require!(scene("container-unread"));
    let builder = |script| {
        let mut builder = scene.engine.container("box").command(["sh", "-c", script]);
        builder.config_mut().stdin = true;
        builder.create().unwrap()
    };
    for _ in 0..60 {
        let container = builder("echo out");
        let attachment = container.start_attached(TerminalSize::default()).unwrap();
        // It may have ended.
        let _ = attachment.close_input();
        assert_eq!(all(&attachment).0, "out\n");
        container.wait().unwrap();
        container.remove().unwrap();
    }
    for _ in 0..20 {
        let container = builder("echo out; cat > /typed");
        let attachment = container.start_attached(TerminalSize::default()).unwrap();
        assert!(poll(&attachment, Duration::from_secs(60)));
        attachment.write(b"in\n").unwrap();
        attachment.close_input().unwrap();
        drop(attachment);
        let ended = container.wait_timeout(Duration::from_secs(60)).unwrap();
        assert!(ended.expect("its input has ended").success());
        let mut archive = Vec::new();
        container.copy_out("/typed").tar(&mut archive).unwrap();
        assert!(archive.windows(4).any(|bytes| bytes == b"in\n\0"));
        container.remove().unwrap();
    }
}

/// Whether something comes to be read.
fn poll(attachment: &Attachment, patience: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(attachment.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(patience).unwrap()).unwrap() == 1
}

#[test]
fn it_has_a_terminal_of_the_size_that_is_asked_for() {
    let scene = require!(scene("container-terminal"));
    let script = "stty size; read x; stty size; echo got $x; tty";
    let mut builder = scene.engine.container("box").command(["sh", "-c", script]);
    builder.config_mut().terminal = true;
    let container = builder.create().unwrap();
    let attachment = container.start_attached(TerminalSize::new(100, 30)).unwrap();
    let mut seen = String::new();
    while !seen.contains("30 100") {
        match attachment.read_timeout(Duration::from_secs(30)).unwrap() {
            Some(Output::Stdout(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    attachment.resize(TerminalSize::new(120, 40)).unwrap();
    attachment.write(b"hello\n").unwrap();
    seen.push_str(&all(&attachment).0);
    assert!(
        seen.contains("40 120") && seen.contains("got hello") && seen.contains("/dev/pts/"),
        "{seen}"
    );
    assert!(container.wait().unwrap().success());
    container.remove().unwrap();
}

#[test]
fn several_may_be_attached_and_leave_again() {
    let scene = require!(scene("container-several"));
    let script = "while read x; do echo you said $x; done";
    let mut builder = scene.engine.container("box").command(["sh", "-c", script]);
    builder.config_mut().stdin = true;
    let container = builder.start().unwrap();
    let one = container.attach().unwrap();
    // As another process would.
    let engine = coracle::Engine::open(scene.dir.join("root")).unwrap();
    let two = engine.find(container.id().as_str()).unwrap().attach().unwrap();
    one.write(b"a\n").unwrap();
    for attachment in [&one, &two] {
        assert_eq!(attachment.read().unwrap(), Output::Stdout(b"you said a\n".to_vec()));
    }
    drop(one);
    two.write(b"b\n").unwrap();
    assert_eq!(two.read().unwrap(), Output::Stdout(b"you said b\n".to_vec()));
    two.close_input().unwrap();
    assert_eq!(two.read().unwrap(), Output::Ended);
    assert!(container.wait().unwrap().success());
    assert!(container.attach().is_err());
    container.remove().unwrap();
}

#[test]
fn other_programs_run_in_it_from_this_process_and_from_another() {
    let scene = require!(scene("container-exec"));
    let builder =
        scene.engine.container("box").command(["sleep", "600"]).env("A", "of the container");
    let container = builder.name("it").start().unwrap();
    let theirs = coracle::Engine::open(scene.dir.join("root")).unwrap().find("it").unwrap();
    for container in [&container, &theirs] {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $A $B; hostname; id -u; ps | grep -c sleep; cat"]);
        command.env("B", "of the call").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = container.exec_command(command).unwrap();
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let id = container.id().short();
        assert!(out.starts_with(&format!("of the container of the call\n{id}\n0\n")), "{out}");
        assert!(child.wait().unwrap().success());
        let mut command = Command::new("id");
        command.arg("-u").user("anna").stdout(Stdio::piped());
        let output = container.exec_command(command).unwrap().wait_with_output().unwrap();
        assert_eq!(output.stdout, b"1000\n");
    }
    // One that nobody waits for does not keep the container from ending.
    let left = container.exec(["sleep", "600"]).unwrap();
    container.stop(Duration::ZERO).unwrap();
    drop(left);
    container.remove().unwrap();
}

#[test]
fn what_it_writes_is_kept_and_can_be_followed() {
    let scene = require!(scene("container-logs"));
    let script = "echo one; echo two >&2; sleep 0.2; echo three; printf end";
    let container = scene.engine.container("box").command(["sh", "-c", script]).create().unwrap();
    assert_eq!(container.logs().unwrap().into_iter().count(), 0);
    container.start().unwrap();
    let text = |logs: Logs| -> Vec<String> {
        logs.into_iter().map(|line| line.unwrap().to_string()).collect()
    };
    let followed = text(container.logs().unwrap().follow());
    assert_eq!(followed.len(), 4, "{followed:?}");
    assert_eq!(followed[2..], ["three", "end"]);
    assert_eq!(text(container.logs().unwrap().tail(2)), ["three", "end"]);
    assert_eq!(text(container.logs().unwrap().stderr_only()), ["two"]);
    container.wait().unwrap();
    // A second life goes on where the first has ended.
    container.start().unwrap();
    container.wait().unwrap();
    assert_eq!(text(container.logs().unwrap()).len(), 8);
    container.remove().unwrap();

    let mut builder =
        scene.engine.container("box").command(["sh", "-c", "yes 0123456789 | head -n 100000"]);
    builder.config_mut().log = LogConfig::json_file(64 << 10, 3);
    let container = builder.create().unwrap();
    container.start().unwrap();
    container.wait().unwrap();
    let directory =
        scene.dir.join("root/containers/by-id").join(container.id().as_str()).join("log");
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 3);
    let kept = text(container.logs().unwrap());
    assert!(kept.len() > 500 && kept.iter().all(|line| line == "0123456789"), "{}", kept.len());
    container.remove().unwrap();

    let mut builder = scene.engine.container("box").command(["true"]);
    builder.config_mut().log.driver = LogDriver::None;
    let container = builder.create().unwrap();
    assert_eq!(container.logs().unwrap_err().kind(), ErrorKind::Unsupported);
    container.remove().unwrap();
}

#[test]
fn who_reads_slowly_gets_everything_that_was_written_before_the_end() {
    let scene = require!(scene("container-slow"));
    let container = scene.engine.container("box").command(["seq", "1", "150000"]).create().unwrap();
    let attachment = container.start_attached(TerminalSize::default()).unwrap();
    // It ends while most of it waits here.
    assert!(container.wait().unwrap().success());
    std::thread::sleep(Duration::from_millis(200));
    let (out, _) = all(&attachment);
    assert!(out.ends_with("\n150000\n") && out.lines().count() == 150_000, "{}", out.len());
    assert!(attachment.exit_status().unwrap().success());
    container.remove().unwrap();
}

#[test]
fn what_a_flood_takes_is_given_back() {
    alone(|| {
        let scene = require!(scene("container-flood"));
        scene.warm_up();
        let script = "dd if=/dev/zero bs=64k count=1024 2>/dev/null; echo > /done; exec sleep 600";
        let builder = scene.engine.container("box");
        let before = audit::own_memory();
        let container = builder.command(["sh", "-c", script]).start().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while !container.exec(["test", "-e", "/done"]).unwrap().wait().unwrap().success() {
            assert!(Instant::now() < until, "it does not come to an end");
        }
        while audit::own_memory() > before + 1024 {
            assert!(Instant::now() < until, "{} KiB, before {before}", audit::own_memory());
            std::thread::sleep(Duration::from_millis(50));
        }
        container.remove_forced().unwrap();
    });
}
