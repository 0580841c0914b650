//! A controller that keeps services running: `cargo run --release --example paas -- ROOT IMAGE [COUNT]`.
//!
//! Under tokio it starts so many services of an image, each with quotas of its own and a policy that starts it anew, kills
//! one of them now and then, prints what they use once a second, and takes all away after ten. One thread of the engine
//! looks after all of them.

use std::time::Duration;

use coracle::container::{Container, Restart};
use coracle::{Engine, MIB};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::interval;

const SERVICE: &str = "while :; do echo alive; sleep 1; done";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, image, count @ ..] = args.as_slice() else {
        return Err("usage: paas ROOT IMAGE [COUNT]".into());
    };
    let count: usize = count.first().map_or(Ok(200), |text| text.parse())?;
    // A service has about ten descriptors of this process, which may have 1024 on most systems.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let engine = Engine::open(root)?;

    let mut starting = JoinSet::new();
    for number in 0..count {
        let service = engine.container(image).name(format!("service-{number}"));
        let service = service.command(["sh", "-c", SERVICE]).restart(Restart::Always);
        let service = service.memory(32 * MIB).cpus(0.1).pids(16);
        starting.spawn_blocking(|| service.start());
    }
    let services = starting.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;

    let mut seconds = interval(Duration::from_secs(1));
    for second in 0..10 {
        seconds.tick().await;
        // As a service does that fails.
        if let Some(pid) = services[second % services.len()].status()?.pid {
            crash(pid);
        }
        report(&services)?;
    }

    let mut stopping = JoinSet::new();
    for service in services {
        stopping.spawn_blocking(|| service.remove_forced());
    }
    stopping.join_all().await.into_iter().collect::<Result<(), _>>()?;
    Ok(())
}

fn crash(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    // It may be gone by itself.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
}

fn report(services: &[Container]) -> coracle::Result<()> {
    let (mut alive, mut restarts, mut memory) = (0, 0, 0);
    for service in services {
        let status = service.status()?;
        alive += usize::from(status.phase.is_alive());
        restarts += status.restarts;
        // One that is being started anew uses nothing.
        memory += service.stats().map_or(0, |stats| stats.memory.current.unwrap_or(0));
    }
    println!("{alive} alive, {} MiB, started anew {restarts} times", memory / MIB);
    Ok(())
}
