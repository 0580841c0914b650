//! A test that has a real server to itself: `cargo test --example test_harness` (Debian: `apt install redis-server`).
//!
//! The server sees the host's programs read-only, and has a `/tmp` and a network of its own, and a minute. However the
//! test ends, it is gone when the test is, with all that it has written; any number of such tests run side by side, as the
//! port is taken in no network but its own.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use coracle::namespaces::{Child, Command, Stdio};

struct Redis(Child);

impl Redis {
    /// Returns when it takes connections.
    fn start() -> coracle::Result<Self> {
        let mut server = Command::new("redis-server");
        server.args(["--save", "", "--dir", "/tmp"]).isolated().timeout(Duration::from_secs(60));
        let mut child = server.stdout(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let ready = log.any(|line| line.is_ok_and(|line| line.contains("Ready to accept")));
        assert!(ready, "redis has ended: {}", child.wait()?);
        Ok(Self(child))
    }

    /// Has a client inside send a command; returns what it prints.
    fn tell(&mut self, words: &[&str]) -> coracle::Result<String> {
        let mut client = Command::new("redis-cli");
        client.args(words).stdout(Stdio::piped());
        let output = self.0.exec(&mut client)?.wait_with_output()?;
        assert!(output.status.success(), "redis-cli {words:?}: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

#[cfg_attr(test, test)]
fn visits_are_counted() -> coracle::Result<()> {
    let (mut one, mut other) = (Redis::start()?, Redis::start()?);
    for visits in 1..=3 {
        assert_eq!(one.tell(&["incr", "visits"])?, visits.to_string());
    }
    assert_eq!(one.tell(&["get", "visits"])?, "3");
    assert_eq!(other.tell(&["get", "visits"])?, "", "each has a store of its own");
    Ok(())
}

fn main() -> coracle::Result<()> {
    visits_are_counted()
}
