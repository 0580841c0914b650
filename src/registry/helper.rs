//! Programs that keep credentials: <https://github.com/docker/docker-credential-helpers>.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::{Command, Output, Stdio};

/// What a pipe holds, so that writing never waits for the program.
const MAX_INPUT: usize = 60 << 10;
/// What is shown of what it says.
const SHOWN: usize = 200;

/// The program `docker-credential-NAME`.
#[derive(Debug)]
pub(super) struct Helper<'a> {
    pub(super) name: &'a str,
    pub(super) timeout: Duration,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stored<'a> {
    #[serde(rename = "ServerURL")]
    server_url: &'a str,
    username: &'a str,
    secret: &'a str,
}

impl Helper<'_> {
    /// Has it keep a secret for a server.
    pub(super) fn store(&self, server_url: &str, username: &str, secret: &str) -> Result<()> {
        let input = serde_json::to_vec(&Stored { server_url, username, secret });
        let input = input.map_err(|_| Error::invalid("the credentials cannot be written"))?;
        self.run("store", &input, Some(secret))
    }

    /// Has it forget what it keeps for a server, if it keeps something.
    pub(super) fn erase(&self, server_url: &str) -> Result<()> {
        self.run("erase", server_url.as_bytes(), None)
    }

    fn run(&self, action: &str, input: &[u8], secret: Option<&str>) -> Result<()> {
        let program = format!("docker-credential-{}", self.name);
        let attempt = || format!("run {program} {action}");
        if self.name.contains('/') {
            return Err(Error::invalid("a credential helper's name has no slash in it"))
                .context(attempt);
        }
        if input.len() > MAX_INPUT {
            return Err(Error::invalid("the credentials are too long")).context(attempt);
        }
        let mut command = Command::new(&program);
        command.arg(action).timeout(self.timeout);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|err| match err.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied => err.with_hint(
                "Docker's config.json names this credential helper (credsStore, credHelpers); it must be in PATH",
            ),
            _ => err,
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not want to know has its reasons, and says how it went.
            let _ = stdin.write_all(input);
        }
        let output = child.wait_with_output().context(attempt)?;
        if output.status.success() {
            return Ok(());
        }
        Err(explain(&output, secret)).context(attempt)
    }
}

fn explain(output: &Output, secret: Option<&str>) -> Error {
    if output.status.timed_out() {
        return Error::new(ErrorKind::TimedOut, output.status.to_string())
            .with_hint("it may wait for someone to unlock what it keeps");
    }
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    let said = said.iter().map(|said| said.trim()).find(|said| !said.is_empty());
    let mut message = output.status.to_string();
    // It may repeat what it was given.
    let tells = |said: &str| secret.is_some_and(|secret| said.contains(secret));
    if let Some(said) = said.filter(|said| !tells(said)) {
        message.push_str(": ");
        message.extend(said.chars().take(SHOWN));
    }
    Error::new(ErrorKind::Unavailable, message)
}
