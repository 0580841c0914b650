//! What a container may and may not do, and what it shares with the host: options of `run` and `create`.

use std::fs;

use coracle::container::{Config, Share};

use crate::failure::{Failure, Result, USAGE};
use crate::retired::{Retired, retired, unpublished};

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
    /// seccomp=FILE or unconfined, apparmor=PROFILE, label=LABEL, no-new-privileges[:false], or systempaths=unconfined
    ///
    /// A profile of seccomp is a file of JSON as docker's. A label of SELinux may also be given in parts, as docker has it:
    /// label=user:USER, role:ROLE, type:TYPE and level:LEVEL, or label=disable.
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
    #[arg(short = 'n', long, hide = true, value_parser = retired("say --network none"))]
    networking: Option<Retired>,
    #[arg(long, hide = true, value_parser = retired("there is no lxc behind it; other options say what is wanted"))]
    lxc_conf: Option<Retired>,
    #[arg(short, long, hide = true, value_parser = unpublished)]
    publish: Option<Retired>,
    #[arg(short = 'P', long, hide = true, num_args = 0, default_missing_value = "", value_parser = unpublished)]
    publish_all: Option<Retired>,
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

/// `user:USER` and its like: another part of the label that containers have.
fn label(text: &str, config: &mut Config) -> bool {
    let Some((part, value)) = text.split_once(':') else { return false };
    let Some(place) = ["user", "role", "type", "level"].iter().position(|it| *it == part) else {
        return false;
    };
    let whole = config.selinux.take().unwrap_or_else(|| "system_u:system_r:container_t:s0".into());
    // A level may have colons, too.
    let mut parts: Vec<_> = whole.splitn(4, ':').map(str::to_owned).collect();
    parts.resize(4, String::new());
    parts[place] = value.to_owned();
    config.selinux = Some(parts.join(":"));
    true
}

fn security(option: &str, config: &mut Config) -> Result<()> {
    let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
    match (name, value) {
        ("seccomp", "unconfined") => config.seccomp_unconfined = true,
        ("seccomp", "builtin") => config.seccomp = None,
        ("seccomp", file) if !file.is_empty() => {
            config.seccomp = Some(fs::read_to_string(file).map_err(|err| {
                Failure::with_status(USAGE, format!("read the seccomp profile {file}: {err}"))
            })?);
        }
        ("apparmor", "unconfined") => config.apparmor = None,
        ("apparmor", profile) if !profile.is_empty() => config.apparmor = Some(profile.to_owned()),
        ("label", "disable") => config.selinux = None,
        ("label", part) if label(part, config) => {}
        ("label", label) if !label.is_empty() => config.selinux = Some(label.to_owned()),
        ("no-new-privileges", "" | "true") => config.new_privileges = false,
        ("no-new-privileges", "false") => config.new_privileges = true,
        ("systempaths", "unconfined") | ("unmask", "ALL" | "all") => config.unmask_paths = true,
        _ => {
            return Err(Failure::with_status(USAGE, format!("invalid --security-opt {option:?}"))
                .with_hint("see `coracle run --help`"));
        }
    }
    Ok(())
}
