//! Processes that are killed in the middle of a change, and what is known of what they have done.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Small steps of a pseudo-random sequence; the seed is told when a test fails.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// This test binary again, in the named test, marked.
pub fn again(test: &str, mark: &str, value: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("find the test binary"));
    command.args(["--exact", test, "--test-threads=1", "--nocapture"]).env(mark, value);
    command.stdin(Stdio::null());
    command
}

/// A line to who [follows](follow): `may be NAME WHAT` before a change, `is NAME WHAT` after it.
pub fn say(line: impl Display) {
    // One write, so that no line is cut.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{line}\n").as_bytes()).expect("write a line");
    out.flush().expect("write a line");
}

/// What each name must mean: one of these, or "nothing".
pub type Expected = BTreeMap<String, Vec<String>>;

/// Reads what the victim says, kills it a moment after so many lines, and reads on to its end.
pub fn follow(victim: &mut Child, expected: &mut Expected, after: u64, delay: Duration) -> u64 {
    let mut lines =
        BufReader::new(victim.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "@ready"), "the victim did not begin");
    let mut changes = 0;
    thread::scope(|scope| {
        let mut victim = Some(&mut *victim);
        for (number, line) in (1..).zip(std::iter::once("begun".to_owned()).chain(lines)) {
            if number > after
                && let Some(victim) = victim.take()
            {
                scope.spawn(move || {
                    thread::sleep(delay);
                    victim.kill().expect("kill the victim");
                });
            }
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["@may", "be", name, what] => {
                    let old = expected.entry(name.to_owned());
                    old.or_insert_with(|| vec!["nothing".to_owned()]).push(what.to_owned());
                }
                ["@is", name, what] => {
                    changes += 1;
                    expected.insert(name.to_owned(), vec![what.to_owned()]);
                }
                _ => {}
            }
        }
    });
    let status = victim.wait().expect("wait for the victim");
    assert_eq!(status.signal(), Some(libc::SIGKILL), "the victim failed by itself: {status}");
    changes
}
