//! `info` and `version`.

use std::env::consts::ARCH;
use std::thread;

use coracle::container::Phase;
use serde_json::{Value, json};

use super::list::all;
use super::stats::memory_of_machine;
use crate::failure::{Failure, Result};
use crate::human;
use crate::output::Output;
use crate::root::Root;
use crate::template::Template;

/// Show what there is on this machine, and what it can
#[derive(clap::Args)]
pub struct InfoArgs {
    /// Print what a template picks, or `json`
    #[arg(short, long)]
    format: Option<String>,
}

/// Show the version
#[derive(clap::Args)]
pub struct VersionArgs {
    /// Print what a template picks, or `json`
    #[arg(short, long)]
    format: Option<String>,
}

impl InfoArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let engine = root.engine()?;
        let (seen, _) = all(&engine)?;
        let count =
            |wanted: &[Phase]| seen.iter().filter(|it| wanted.contains(&it.status.phase)).count();
        let (running, paused) =
            (count(&[Phase::Running, Phase::Restarting]), count(&[Phase::Paused]));
        let host = nix::sys::utsname::uname()
            .map_err(|err| Failure::new(format!("ask for the kernel's name: {err}")))?;
        let memory = memory_of_machine()?;
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let store = engine.store();
        let info = json!({
            "Containers": seen.len(),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": seen.len() - running - paused,
            "Images": store.images()?.len(),
            "ServerVersion": env!("CARGO_PKG_VERSION"),
            "KernelVersion": host.release().to_string_lossy(),
            "OSType": "linux",
            "Architecture": ARCH,
            "NCPU": cpus,
            "MemTotal": memory,
            "Name": host.nodename().to_string_lossy(),
            "Rootless": !nix::unistd::geteuid().is_root(),
            "DockerRootDir": store.path().display().to_string(),
        });
        if let Some(format) = self.format.as_deref().filter(|format| !format.is_empty()) {
            return picked(format, &info, out);
        }
        for (name, value) in [
            ("Containers", &info["Containers"]),
            (" Running", &info["ContainersRunning"]),
            (" Paused", &info["ContainersPaused"]),
            (" Stopped", &info["ContainersStopped"]),
            ("Images", &info["Images"]),
            ("Server Version", &info["ServerVersion"]),
            ("Kernel Version", &info["KernelVersion"]),
            ("OSType", &info["OSType"]),
            ("Architecture", &info["Architecture"]),
            ("CPUs", &info["NCPU"]),
            ("Total Memory", &human::memory(memory).into()),
            ("Name", &info["Name"]),
            ("Rootless", &info["Rootless"]),
            ("Root Dir", &info["DockerRootDir"]),
        ] {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            out.line(&format!("{name}: {value}"))?;
        }
        Ok(())
    }
}

impl VersionArgs {
    pub fn run(self, out: &mut Output) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        let both = json!({"Version": version, "Os": "linux", "Arch": ARCH});
        let whole = json!({"Client": both, "Server": both});
        match self.format.as_deref().filter(|format| !format.is_empty()) {
            Some(format) => picked(format, &whole, out),
            // There is no daemon that could have another one.
            None => {
                out.text(&format!("Coracle\n Version:   {version}\n OS/Arch:   linux/{ARCH}\n"))
            }
        }
    }
}

fn picked(format: &str, value: &Value, out: &mut Output) -> Result<()> {
    let format = if format == "json" { "{{json .}}" } else { format };
    let template = Template::parse(format).map_err(Failure::new)?;
    out.line(&template.render(value).map_err(|why| Failure::new(format!("template: {why}")))?)
}
