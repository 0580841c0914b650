//! What a container may and may not do, and what it shares with the host: options of `run` and `create`.

use coracle::container::{Config, Share};

use crate::failure::{Failure, Result, USAGE};

#[derive(clap::Args)]
#[command(next_help_heading = "What it may do")]
pub struct Restrictions {
    /// Isolate it by namespaces only: all capabilities, devices and system calls
    #[arg(long)]
    privileged: bool,
    /// A capability more: NET_ADMIN; ALL for all
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// A capability less
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// seccomp=unconfined, apparmor=PROFILE, label=LABEL, no-new-privileges[:false], or systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// A limit of setrlimit(2): nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// A kernel setting of its own namespaces: net.ipv4.ip_forward=1
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// A device of the host
    #[arg(long, value_name = "DEVICE[:TARGET[:rwm]]")]
    device: Vec<String>,
    /// Let it write nowhere but to volumes and temporary files
    #[arg(long)]
    read_only: bool,
    /// How likely the kernel kills it first when memory runs out
    #[arg(long, value_name = "-1000..1000", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    oom_score_adj: Option<i32>,
    /// No network, or the host's. (Networks of its own are not made yet.)
    #[arg(long, visible_alias = "net", value_enum, default_value = "none", value_name = "WHICH")]
    network: Network,
    /// See the processes of the host
    #[arg(long, value_enum, value_name = "host")]
    pid: Option<Host>,
    /// Share memory with processes of the host
    #[arg(long, value_enum, value_name = "host")]
    ipc: Option<Host>,
    /// Have the host's name
    #[arg(long, value_enum, value_name = "host")]
    uts: Option<Host>,
    /// Let its root be the host's root
    #[arg(long, value_enum, value_name = "host")]
    userns: Option<Host>,
    /// See the cgroups of the host
    #[arg(long, value_enum, value_name = "host|private")]
    cgroupns: Option<Cgroups>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Network {
    None,
    Host,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Host {
    Host,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Cgroups {
    Host,
    Private,
}

impl Restrictions {
    pub fn apply(self, config: &mut Config) -> Result<()> {
        for option in &self.security_opt {
            security(option, config)?;
        }
        config.privileged = self.privileged;
        config.cap_add = self.cap_add;
        config.cap_drop = self.cap_drop;
        config.ulimits = self.ulimit;
        config.sysctls = self.sysctl;
        config.devices = self.device;
        config.read_only = self.read_only;
        config.oom_score_adj = self.oom_score_adj;
        let mut share = Share::default();
        share.network = self.network == Network::Host;
        share.pid = self.pid.is_some();
        share.ipc = self.ipc.is_some();
        share.uts = self.uts.is_some();
        share.users = self.userns.is_some();
        share.cgroup = self.cgroupns == Some(Cgroups::Host);
        config.share = share;
        Ok(())
    }
}

fn security(option: &str, config: &mut Config) -> Result<()> {
    let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
    match (name, value) {
        ("seccomp", "unconfined") => config.seccomp_unconfined = true,
        ("apparmor", profile) if !profile.is_empty() => config.apparmor = Some(profile.to_owned()),
        ("label", label) if !label.is_empty() => config.selinux = Some(label.to_owned()),
        ("no-new-privileges", "" | "true") => config.new_privileges = false,
        ("no-new-privileges", "false") => config.new_privileges = true,
        ("systempaths", "unconfined") | ("unmask", "ALL" | "all") => config.unmask_paths = true,
        _ => {
            return Err(Failure::with_status(USAGE, format!("invalid --security-opt {option:?}"))
                .with_hint("see `coracle run --help`; profiles of seccomp are not read yet"));
        }
    }
    Ok(())
}
