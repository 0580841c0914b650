//! Starts a container that goes on when this program ends.
//!
//!     cargo run --example detach -- ROOT CONTAINER [--attach]
//!
//! A process of its own looks after it: this program once more, which is why `run_if_requested` stands first. With
//! `--attach` this one stays until the container ends, hands its standard input on and prints what it writes.

use std::io::{Read, Write, stderr, stdin, stdout};
use std::process::ExitCode;
use std::thread;

use coracle::container::{Attachment, Output};
use coracle::namespaces::TerminalSize;
use coracle::{Engine, Result, monitor};

fn main() -> Result<ExitCode> {
    monitor::run_if_requested();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        [root, name] => Engine::open(root)?.find(name)?.start_detached()?,
        [root, name, "--attach"] => {
            let container = Engine::open(root)?.find(name)?;
            relay(&container.start_detached_attached(TerminalSize::default())?)?;
        }
        _ => {
            eprintln!("usage: detach ROOT CONTAINER [--attach]");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn relay(attachment: &Attachment) -> Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| -> Result<()> {
            let mut buffer = [0; 4096];
            loop {
                match stdin().read(&mut buffer) {
                    Ok(0) | Err(_) => return attachment.close_input(),
                    Ok(length) => attachment.write(&buffer[..length])?,
                }
            }
        });
        loop {
            // Whoever read it may be gone.
            let _ = match attachment.read()? {
                Output::Stdout(bytes) => stdout().write_all(&bytes),
                Output::Stderr(bytes) => stderr().write_all(&bytes),
                Output::Ended => return Ok(()),
                _ => Ok(()),
            };
        }
    })
}
