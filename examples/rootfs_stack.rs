//! Runs a program on a stack of directories, the lowest first, and lists what it changed.
//!
//!     cargo run --example rootfs_stack -- debian/ app/ -- /usr/bin/python3 -c 'open("/new","w")'
//!
//! With `--scratch DIR` in front the changes are kept there; otherwise they are in memory only.

use std::ffi::OsString;
use std::process::ExitCode;

use coracle::layers::Rootfs;
use coracle::namespaces::Command;

fn main() -> coracle::Result<ExitCode> {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let scratch = (args.first().is_some_and(|arg| arg == "--scratch") && args.len() > 1)
        .then(|| args.drain(..2).nth(1))
        .flatten();
    let Some((layers, [program, arguments @ ..])) =
        args.iter().position(|arg| arg == "--").map(|i| (&args[..i], &args[i + 1..]))
    else {
        eprintln!("usage: rootfs_stack [--scratch DIR] LAYER... -- PROGRAM [ARG...]");
        return Ok(ExitCode::from(2));
    };

    let stack = Rootfs::stack(layers);
    let rootfs = match scratch {
        Some(directory) => stack.writable(directory)?,
        None => stack.ephemeral()?,
    };
    let status = Command::new(program).args(arguments).rootfs(&rootfs).status()?;
    for change in rootfs.changes()? {
        println!("{change}");
    }
    if !status.success() {
        eprintln!("{}: {status}", program.display());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
