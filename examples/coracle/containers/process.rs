//! Which process a container runs, and what it finds there: options of `run` and `create`.

use std::collections::BTreeMap;
use std::fs::{File, create_dir_all};
use std::io::Read;
use std::path::PathBuf;

use coracle::Engine;
use coracle::container::{
    Config, Link, LogConfig, LogDriver, MountConfig, MountSource, Names, Restart,
};

use super::mounts::{self, Mount, Source};
use super::{files, sizes};
use crate::failure::{Failure, Result, USAGE};
use crate::retired;

#[derive(clap::Args)]
pub struct Process {
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Keep its standard input open; without this it is empty
    #[arg(short, long)]
    pub interactive: bool,
    /// Remove it when it ends, with all that it has written
    #[arg(long)]
    pub rm: bool,
    /// Set a variable of its environment, or hand on the one of here
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = retired::variable)]
    env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// A label, to find it by
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Its user, as name or number, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// A further group, by number, or by name as its /etc/group has it
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Its working directory, which is made if it is missing
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The program, instead of the image's, whose default arguments do not count then
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Run a small init that reaps orphans and passes signals on
    #[arg(long)]
    init: bool,
    /// Start it anew when it ends: no, on-failure[:TIMES], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no", value_parser = restart)]
    restart: Restart,
    /// The signal that asks it to end; by default the image's, or SIGTERM
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds that it gets to end then; by default 10
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<u64>,
    /// How its output is kept: cri, json-file or none
    #[arg(long, value_name = "DRIVER", default_value = "cri", value_parser = log_driver)]
    log_driver: LogDriver,
    /// max-size=SIZE at which another file is begun, max-file=NUMBER of those that are kept
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    #[command(flatten)]
    storage: Storage,
    #[command(flatten)]
    names: Hosts,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Files")]
struct Storage {
    /// Mount a directory or file of the host, a volume by its name, or a new volume
    ///
    /// A volume that is empty is given what the image has at its place, unless nocopy is said. A directory of the host that
    /// is missing is made.
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:ro,nocopy]", value_parser = mounts::volume)]
    volume: Vec<Mount>,
    /// The same in words: type=bind|volume|tmpfs,source=...,target=...[,readonly][,volume-nocopy][,tmpfs-size=...][,tmpfs-mode=...]
    #[arg(long, value_name = "FIELDS", value_parser = mounts::mount)]
    mount: Vec<Mount>,
    /// Mount memory, empty at each start
    #[arg(long, value_name = "TARGET[:size=SIZE,mode=MODE]", value_parser = mounts::tmpfs)]
    tmpfs: Vec<Mount>,
    /// Mount what another container mounts
    #[arg(long, value_name = "CONTAINER[:ro]")]
    volumes_from: Vec<String>,
    /// The size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = sizes::bytes)]
    shm_size: Option<u64>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Names")]
struct Hosts {
    /// Its host name
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Its NIS domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// A line of its /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// A name server, instead of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// A domain to look names up in
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// An option of resolv.conf(5)
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Tell it of another container, which must be there, by variables: ALIAS_NAME, and ALIAS_ENV_X for each X there
    ///
    /// As containers have no addresses of their own yet, there is none of it in /etc/hosts.
    #[arg(long, value_name = "CONTAINER[:ALIAS]", value_parser = link)]
    link: Vec<Link>,
}

impl Process {
    pub fn apply(self, engine: &Engine, config: &mut Config) -> Result<()> {
        config.terminal = self.tty;
        config.stdin = self.interactive;
        config.remove = self.rm;
        config.env = files::with_values([lines(&self.env_file)?, self.env].concat());
        config.labels = labels([lines(&self.label_file)?, self.label].concat());
        config.user = self.user;
        config.groups = self.group_add;
        config.working_dir = self.workdir;
        config.entrypoint = self.entrypoint.map(|program| match program.is_empty() {
            true => Vec::new(),
            false => vec![program],
        });
        config.init = self.init;
        config.restart = self.restart;
        config.stop_signal = self.stop_signal;
        config.stop_timeout = self.stop_timeout;
        config.log = log(self.log_driver, &self.log_opt)?;
        config.hostname = self.names.hostname.filter(|name| !name.is_empty());
        config.domainname = self.names.domainname;
        let mut names = Names::default();
        names.dns = self.names.dns;
        names.search = self.names.dns_search;
        names.options = self.names.dns_option;
        names.hosts = hosts(&self.names.add_host)?;
        config.names = names;
        config.links = self.names.link;
        self.storage.apply(engine, config)
    }
}

impl Storage {
    fn apply(self, engine: &Engine, config: &mut Config) -> Result<()> {
        config.shm_size = self.shm_size;
        for name in &self.volumes_from {
            let (name, read_only) = match name.rsplit_once(':') {
                Some((name, "ro")) => (name, true),
                Some((name, "rw")) => (name, false),
                _ => (name.as_str(), false),
            };
            for mut mount in engine.find(name)?.config()?.mounts {
                mount.read_only |= read_only;
                if !matches!(mount.source, MountSource::Tmpfs { .. }) {
                    config.mounts.push(mount);
                }
            }
        }
        for mount in &self.volume {
            match &mount.source {
                // As docker does; what --mount names must be there.
                Source::Bind(path) if !path.exists() => create_dir_all(path).map_err(|err| {
                    Failure::new(format!("make the directory {}: {err}", path.display()))
                })?,
                _ => {}
            }
        }
        for mount in self.volume.into_iter().chain(self.mount).chain(self.tmpfs) {
            let source = match mount.source {
                Source::Bind(path) => MountSource::Bind { path },
                Source::Volume { name, no_copy } => {
                    let anonymous = name.is_none();
                    let name = name.map_or_else(digits, Ok)?;
                    MountSource::Volume { name, anonymous, no_copy }
                }
                Source::Tmpfs { size, mode } => MountSource::Tmpfs { size, mode },
            };
            let Mount { target, read_only, .. } = mount;
            // What is named here counts more than what another container has there.
            config.mounts.retain(|other| other.target != target);
            config.mounts.push(MountConfig { source, target, read_only });
        }
        Ok(())
    }
}

/// The name of a volume that got none: 64 digits.
pub fn digits() -> Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|err| Failure::new(format!("read /dev/urandom: {err}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn link(text: &str) -> Result<Link, String> {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    if container.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err("it is not of the form CONTAINER[:ALIAS]".into());
    }
    Ok(Link { container: container.to_owned(), alias: alias.to_owned() })
}

fn lines(paths: &[PathBuf]) -> Result<Vec<String>> {
    let usage = |why| Failure::with_status(USAGE, why);
    let all = paths.iter().map(|path| files::read(path).map_err(usage));
    Ok(all.collect::<Result<Vec<_>>>()?.concat())
}

pub fn labels(lines: Vec<String>) -> BTreeMap<String, String> {
    let pair = |line: String| match line.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (line, String::new()),
    };
    lines.into_iter().map(pair).collect()
}

fn hosts(lines: &[String]) -> Result<Vec<(String, String)>> {
    let pair = |line: &String| match line.split_once([':', '=']) {
        // An address of version 6 may stand in brackets.
        Some((name, address)) => Ok((name.to_owned(), address.trim_matches(['[', ']']).to_owned())),
        None => Err(Failure::with_status(USAGE, format!("bad format for add-host: {line:?}"))),
    };
    lines.iter().map(pair).collect()
}

/// `on-failure:3` and its like.
pub fn restart(text: &str) -> Result<Restart, String> {
    Ok(match text.split_once(':').unwrap_or((text, "")) {
        ("no" | "", "") => Restart::No,
        ("always", "") => Restart::Always,
        ("unless-stopped", "") => Restart::UnlessStopped,
        ("on-failure", "" | "0") => Restart::OnFailure(u32::MAX),
        ("on-failure", times) => Restart::OnFailure(
            times.parse().map_err(|_| format!("{times:?} is no number of times"))?,
        ),
        _ => return Err("no, on-failure[:TIMES], always and unless-stopped are policies".into()),
    })
}

fn log_driver(text: &str) -> Result<LogDriver, String> {
    match text {
        "cri" | "k8s-file" => Ok(LogDriver::Cri),
        "json-file" => Ok(LogDriver::JsonFile),
        "none" => Ok(LogDriver::None),
        _ => Err("cri, json-file and none are there".into()),
    }
}

fn log(driver: LogDriver, options: &[String]) -> Result<LogConfig> {
    let mut log = LogConfig::default();
    log.driver = driver;
    for option in options {
        let invalid = |why: String| {
            Failure::with_status(USAGE, format!("invalid --log-opt {option:?}: {why}"))
        };
        match option.split_once('=') {
            Some(("max-size", size)) => log.max_size = Some(sizes::bytes(size).map_err(invalid)?),
            Some(("max-file", count)) => {
                let count = count.parse().ok().filter(|count| *count > 0);
                log.max_files = count.ok_or_else(|| invalid("it is no number of files".into()))?;
            }
            _ => return Err(invalid("max-size and max-file are there".into())),
        }
    }
    Ok(log)
}
