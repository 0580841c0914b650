//! Three programs that want everything, each held by its limits: a fork bomb, a memory hog, a cpu hog.
//!
//!     cargo run --example quota
//!
//! Where cgroups belong to root (v1), as root; on v2 under `systemd-run --user --scope -p Delegate=yes`.

use std::thread::sleep;
use std::time::Duration;

use coracle::MIB;
use coracle::cgroups::{Cgroup, Limits};
use coracle::namespaces::{Command, Stdio};

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).isolated().stderr(Stdio::null());
    command
}

fn main() -> coracle::Result<()> {
    // A cgroup of its own, which goes when the child does.
    let mut bomb = shell("bomb() { bomb | bomb & }; bomb; while :; do :; done")
        .limits(Limits::new().pids(32).cpus(0.5))
        .spawn()?;
    let refused = |child: &coracle::namespaces::Child| match child.cgroup() {
        Some(cgroup) => Ok::<_, coracle::Error>(cgroup.stats()?.pids.refused.unwrap_or(0)),
        None => Ok(0),
    };
    while refused(&bomb)? == 0 {
        sleep(Duration::from_millis(10));
    }
    println!("fork bomb: at most 32 processes, {} forks refused so far", refused(&bomb)?);
    bomb.kill()?;
    println!("           {}", bomb.wait()?);

    // A cgroup that is there before the program, so that no event is missed.
    let cgroup = Cgroup::create("quota-memory", &Limits::new().memory(32 * MIB))?;
    let mut events = cgroup.events()?;
    let status = shell("exec tail /dev/zero").cgroup(&cgroup).status()?;
    println!("memory hog: {status}");
    println!("            event: {:?}", events.try_next()?);
    println!("            peak: {:?} bytes", cgroup.stats()?.memory.peak);

    let cgroup = Cgroup::create("quota-cpu", &Limits::new().cpus(0.2))?;
    let second = Duration::from_secs(1);
    let status = shell("while :; do :; done").cgroup(&cgroup).timeout(second).status()?;
    let cpu = cgroup.stats()?.cpu;
    println!("cpu hog: {status}");
    println!("         used {:?} of {second:?}", cpu.usage.unwrap_or_default());
    println!("         held back in {:?} periods", cpu.throttled_periods.unwrap_or_default());
    Ok(())
}
