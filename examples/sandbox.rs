//! Runs an untrusted command: `cargo run --example sandbox -- python3 -c 'print(6 * 7)'`.
//!
//! It sees the host's programs and the working directory read-only, an empty /tmp, no network and no other
//! process, and is killed after ten seconds.

use std::process::ExitCode;
use std::time::Duration;

use coracle::namespaces::Command;

fn main() -> coracle::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().unwrap_or_else(|| "id".into());
    let status =
        Command::new(program).args(words).isolated().timeout(Duration::from_secs(10)).status()?;
    if !status.success() {
        eprintln!("{status}");
    }
    Ok(ExitCode::from(u8::try_from(status.shell_code()).unwrap_or(1)))
}
