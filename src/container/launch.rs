//! From what was asked of a container, and what its image says, to a command that can be spawned.

use std::path::{Path, PathBuf};

use super::aside::CgroupAside;
use super::config::{Config, LogConfig, LogDriver, MountSource};
use super::etc;
use super::health::HealthCheck;
use super::home::Home;
use super::id::{ContainerId, check_name};
use super::locked::Locked;
use super::logs::{Format, LogWriter, Rotation};
use super::mounts;
use super::seccomp::SeccompProfile;
use super::supervisor::Supervisor;
use crate::cgroups::{Cgroup, DeviceAccess, DeviceKind, DeviceRules, Limits, OomWatch};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Image;
use crate::layers::{Rootfs, Stack};
use crate::namespaces::{
    Capabilities, Capability, Child, Command, Device, Namespaces, Resource, Rlimit, Seccomp,
    Signal, Stdio, Sysctl, TerminalSize, own_map,
};

/// Everything that is needed to start a container.
#[derive(Debug)]
pub(super) struct Launch {
    command: Command,
    cgroup: Option<Cgroup>,
    /// Of one whose memory is limited.
    oom: Option<OomWatch>,
    config: Config,
    rootfs: Rootfs,
    log: Option<LogWriter>,
    /// How it is asked whether it is well.
    health: Option<(HealthCheck, Command)>,
}

/// The first process of a container, and what it takes to look after it.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) oom: Option<OomWatch>,
    pub(super) config: Config,
    pub(super) rootfs: Rootfs,
    pub(super) log: Option<LogWriter>,
    pub(super) health: Option<(HealthCheck, Command)>,
}

impl Launch {
    /// Prepares the root filesystem, the cgroup and the command, with the help of another thread if there is one.
    pub(super) fn prepare(
        locked: &Locked<'_>,
        terminal: TerminalSize,
        helper: Option<&Supervisor>,
    ) -> Result<Self> {
        let config = &locked.identity.config;
        let aside = helper.and_then(|helper| CgroupAside::begin(helper, config, locked.id));
        let image = image_of(locked)?;
        let rootfs = rootfs(locked, &image)?;
        let words = words(config, &image)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).rootfs(&rootfs).parent_death_signal(Signal::KILL);
        if config.share.users {
            command.host_users();
        }
        restrict(&mut command, config, &image)?;
        streams(&mut command, config, terminal);
        namespaces(&mut command, config);
        let hostname = config.hostname.clone().unwrap_or_else(|| locked.id.short().to_owned());
        if !config.share.uts {
            command.hostname(&hostname);
            if let Some(domain) = &config.domainname {
                command.domainname(domain);
            }
        }
        command.env("HOSTNAME", &hostname);
        enter_working_dir(&mut command, config, &image);
        command.make_current_dir();
        if config.init {
            command.init();
        }
        if config.read_only {
            command.read_only_root();
        }
        if let Some(value) = config.oom_score_adj {
            command.oom_score_adj(value);
        }
        sysctls(&mut command, config, &rootfs)?;
        mounts::add(&mut command, locked, &rootfs, &hostname)?;
        for device in &config.devices {
            command.device(parse_device(device)?.0);
        }
        let made = aside.and_then(CgroupAside::take);
        let cgroup = made.unwrap_or_else(|| cgroup(config, locked.id))?;
        if let Some(cgroup) = &cgroup {
            command.cgroup(cgroup);
        }
        let oom = match &cgroup {
            // Where the kernel cannot tell, as v1 with PREEMPT_RT, the end does.
            Some(cgroup) if config.resources.limits_memory() => cgroup.watch_oom().ok().flatten(),
            _ => None,
        };
        let (health, log) = (health(locked, &image)?, log(locked)?);
        Ok(Self { command, cgroup, oom, config: config.clone(), rootfs, log, health })
    }

    /// The process dies with the calling thread.
    pub(super) fn spawn(mut self) -> Result<Launched> {
        match self.command.spawn() {
            Ok(child) => {
                // What `command` holds of the root filesystem must go with the process.
                let Self { command: _, cgroup, oom, config, rootfs, log, health } = self;
                Ok(Launched { child, cgroup, oom, config, rootfs, log, health })
            }
            Err(err) => {
                // It was made for this.
                if let Some(cgroup) = self.cgroup {
                    let paths = cgroup.paths();
                    cgroup.delete()?;
                    remove_cgroups_above(&paths);
                }
                Err(err)
            }
        }
    }

    pub(super) fn cgroup_paths(&self) -> Vec<PathBuf> {
        self.cgroup.as_ref().map(Cgroup::paths).unwrap_or_default()
    }
}

fn health(locked: &Locked<'_>, image: &Image) -> Result<Option<(HealthCheck, Command)>> {
    let Some(check) = &locked.identity.health else { return Ok(None) };
    let words = check.words(image);
    let (program, arguments) =
        words.split_first().ok_or_else(|| Error::invalid("the health check has no program"))?;
    let config = &locked.identity.config;
    let mut command = Command::new(program);
    command.args(arguments);
    restrict(&mut command, config, image)?;
    enter_working_dir(&mut command, config, image);
    Ok(Some((check.clone(), command)))
}

/// Where its output is written.
pub(super) fn log_directory(home: &Home, id: &ContainerId) -> PathBuf {
    home.directory(id).join("log")
}

fn log(locked: &Locked<'_>) -> Result<Option<LogWriter>> {
    let LogConfig { driver, max_size, max_files } = &locked.identity.config.log;
    let format = match driver {
        LogDriver::Cri => Format::Cri,
        LogDriver::JsonFile => Format::JsonFile,
        LogDriver::None => return Ok(None),
    };
    let dir = log_directory(locked.home(), locked.id);
    let rotation = match max_size {
        Some(bytes) => Rotation::new().max_size(*bytes).max_files(*max_files),
        None => Rotation::new(),
    };
    LogWriter::open(dir, format, rotation).map(Some)
}

fn stack(locked: &Locked<'_>, layers: Stack) -> Result<Stack> {
    Ok(layers.mount_points(etc::MOUNT_POINTS, etc::mount_points(locked.home())?))
}

/// Its layers, and on top what it writes. For as long as it is there: it keeps the layers.
pub(super) fn rootfs(locked: &Locked<'_>, image: &Image) -> Result<Rootfs> {
    let config = &locked.identity.config;
    let mut stack = stack(locked, image.pinned_rootfs()?)?;
    if config.share.users || (config.privileged && nix::unistd::geteuid().is_root()) {
        stack = stack.host_ids();
    }
    if config.remove {
        // It goes when it has ended, and when the machine has failed.
        stack = stack.volatile();
    }
    stack.writable(locked.directory().join("files"))
}

/// The same to be read, whoever runs on it.
pub(super) fn rootfs_as_it_is(locked: &Locked<'_>, image: &Image) -> Result<Rootfs> {
    let stack = stack(locked, image.rootfs()?)?;
    let written = locked.directory().join("files");
    // One that has never been started has written nothing.
    if written.exists() { stack.peek(&written) } else { stack.read_only() }
}

/// The image that a container was made of, whatever its name leads to now; without its names.
pub(super) fn image_of(locked: &Locked<'_>) -> Result<Image> {
    if let Some(image) = &locked.image {
        return Ok(image.clone());
    }
    locked
        .home()
        .store()
        .pinned_content(locked.id.as_str())
        .context(|| format!("find the image {}", locked.identity.config.image))
}

/// Program and arguments.
pub(super) fn words(config: &Config, image: &Image) -> Result<Vec<String>> {
    let of_image = image.config().spec().config().as_ref();
    let list = |list: Option<&Option<Vec<String>>>| list.cloned().flatten().unwrap_or_default();
    let arguments = match (config.command.is_empty(), &config.entrypoint) {
        (true, None) => list(of_image.map(|it| it.cmd())),
        _ => config.command.clone(),
    };
    let entrypoint = match &config.entrypoint {
        Some(entrypoint) => entrypoint.clone(),
        None => list(of_image.map(|it| it.entrypoint())),
    };
    let words = [entrypoint, arguments].concat();
    match words.is_empty() {
        true => Err(Error::invalid("no command is given, and the image has none")
            .with_hint("name the program to run behind the image")),
        false => Ok(words),
    }
}

/// Finds settings that cannot be meant, which would else only fail at the start.
pub(super) fn check(config: &Config) -> Result<()> {
    capabilities(config)?;
    seccomp(config)?;
    if let Some(signal) = &config.stop_signal {
        signal.parse::<Signal>()?;
    }
    for sysctl in &config.sysctls {
        sysctl.parse::<Sysctl>()?;
    }
    for limit in &config.ulimits {
        ulimit(limit)?;
    }
    for device in &config.devices {
        parse_device(device)?;
    }
    for mount in &config.mounts {
        if !mount.target.is_absolute() {
            return Err(Error::invalid(format!(
                "the mount point {} is not absolute",
                mount.target.display()
            )));
        }
        match &mount.source {
            MountSource::Volume { name, .. } => check_name(name)?,
            MountSource::Bind { path } if !path.exists() => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("there is no {} to mount", path.display()),
                ));
            }
            _ => {}
        }
    }
    etc::check(config)
}

fn ulimit(text: &str) -> Result<(Resource, Rlimit)> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        Error::invalid(format!("the ulimit {text:?} is not of the form NAME=SOFT[:HARD]"))
    })?;
    Ok((name.parse()?, value.parse()?))
}

/// What holds for every process of a container, the first and those executed later: environment, user, and what it may
/// not do.
pub(super) fn restrict(command: &mut Command, config: &Config, image: &Image) -> Result<()> {
    let of_image = image.config().spec().config().as_ref();
    if config.terminal {
        command.env("TERM", "xterm");
    }
    let env = of_image.and_then(|it| it.env().clone()).unwrap_or_default();
    for variable in env.iter().chain(&config.env) {
        match variable.split_once('=') {
            Some((name, value)) => command.env(name, value),
            None => command.env_remove(variable),
        };
    }
    let user = config.user.clone().or_else(|| of_image?.user().clone());
    if let Some(user) = user.filter(|user| !user.is_empty()) {
        command.user(user);
    }
    if !config.groups.is_empty() {
        command.add_groups(&config.groups);
    }
    if config.privileged {
        command.privileged();
    } else {
        command.capabilities(capabilities(config)?);
        command.no_new_privileges(!config.new_privileges);
        if config.seccomp_unconfined {
            command.seccomp(Seccomp::unconfined());
        }
    }
    if let Some(filter) = seccomp(config)? {
        command.seccomp(filter);
    }
    if config.unmask_paths {
        command.masked_paths::<PathBuf>([]).read_only_paths::<PathBuf>([]);
    }
    if let Some(profile) = &config.apparmor {
        command.apparmor(profile);
    }
    if let Some(label) = &config.selinux {
        command.selinux(label);
    }
    for limit in &config.ulimits {
        let (resource, limit) = ulimit(limit)?;
        command.rlimit(resource, limit);
    }
    Ok(())
}

/// The filter of its own profile, if it has one.
fn seccomp(config: &Config) -> Result<Option<Seccomp>> {
    let Some(profile) = &config.seccomp else { return Ok(None) };
    let capabilities = match config.privileged {
        true => Capabilities::all(),
        false => capabilities(config)?,
    };
    SeccompProfile::from_json(profile)?.filter(capabilities.bounding()).map(Some)
}

fn capabilities(config: &Config) -> Result<Capabilities> {
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("all"));
    let each = |names: &[String]| -> Result<Vec<Capability>> {
        names
            .iter()
            .filter(|name| !name.eq_ignore_ascii_case("all"))
            .map(|name| name.parse())
            .collect()
    };
    let mut set = match (all(&config.cap_add), all(&config.cap_drop)) {
        (true, _) => Capabilities::all(),
        (false, true) => Capabilities::none(),
        (false, false) => Capabilities::default(),
    };
    for capability in each(&config.cap_drop)? {
        set = set.drop(capability);
    }
    Ok(each(&config.cap_add)?.into_iter().fold(set, Capabilities::add))
}

fn streams(command: &mut Command, config: &Config, size: TerminalSize) {
    if config.terminal {
        command.terminal(size);
        return;
    }
    command.stdin(if config.stdin { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
}

fn namespaces(command: &mut Command, config: &Config) {
    let share = &config.share;
    for (yes, kind) in [
        (share.network, Namespaces::NETWORK),
        (share.pid, Namespaces::PID),
        (share.ipc, Namespaces::IPC),
        (share.uts, Namespaces::UTS),
        (share.cgroup, Namespaces::CGROUP),
    ] {
        if yes {
            command.share(kind);
        }
    }
}

/// A network of its own is nobody else's, so that there is nothing to keep from its users: they may serve on all ports, and ping.
fn sysctls(command: &mut Command, config: &Config, rootfs: &Rootfs) -> Result<()> {
    // Where it has the host's processes, its /proc is the host's too, and cannot be written.
    if !config.share.network && !config.share.pid {
        command.sysctl(Sysctl::new("net.ipv4.ip_unprivileged_port_start", "0")?);
        if let Some(last) = last_group(rootfs) {
            command.sysctl(Sysctl::new("net.ipv4.ping_group_range", format!("0 {last}"))?);
        }
    }
    for sysctl in &config.sysctls {
        command.sysctl(sysctl.parse()?);
    }
    Ok(())
}

/// The largest group id that it can have, as far as that is known.
fn last_group(rootfs: &Rootfs) -> Option<u32> {
    // The kernel takes no larger one for who may ping.
    const LARGEST: u32 = i32::MAX.unsigned_abs();
    let map = match rootfs.user_namespace() {
        Some(namespace) => namespace.map()?.clone(),
        None => own_map().ok()?,
    };
    let ends = map.gids().iter().map(|extent| extent.inside.saturating_add(extent.count));
    Some(ends.max()?.saturating_sub(1).min(LARGEST))
}

pub(super) fn enter_working_dir(command: &mut Command, config: &Config, image: &Image) {
    let of_image = || image.config().spec().config().as_ref()?.working_dir().clone();
    let dir = config.working_dir.clone().or_else(of_image).filter(|dir| !dir.is_empty());
    if let Some(dir) = dir {
        // A relative one counts from the root.
        command.current_dir(Path::new("/").join(dir));
    }
}

/// `/dev/x[:/dev/y[:rwm]]`.
fn parse_device(text: &str) -> Result<(Device, DeviceAccess)> {
    let mut parts = text.split(':');
    let (source, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    // `/dev/x:rwm` has no second path.
    let (target, access) = match (second, third) {
        (Some(access), None) if !access.starts_with('/') => (None, Some(access)),
        (target, access) => (target, access),
    };
    let mut allowed = DeviceAccess::empty();
    for letter in access.unwrap_or("rwm").chars() {
        allowed |= match letter {
            'r' => DeviceAccess::READ,
            'w' => DeviceAccess::WRITE,
            'm' => DeviceAccess::MKNOD,
            _ => {
                return Err(Error::invalid(format!(
                    "the device {text:?}: {letter:?} is no access, r, w and m are"
                )));
            }
        };
    }
    if !source.starts_with('/') || parts.next().is_some() {
        return Err(Error::invalid(format!(
            "{text:?} is not of the form /dev/NAME[:/dev/NAME[:rwm]]"
        )));
    }
    let device = Device::new(source);
    Ok((target.map_or(device.clone(), |target| device.at(target)), allowed))
}

/// What may be done with devices: what every container may, and what was asked for.
fn device_rules(config: &Config) -> Result<Option<DeviceRules>> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    if config.privileged {
        return Ok(None);
    }
    let mut rules = DeviceRules::default();
    for text in &config.devices {
        let (device, access) = parse_device(text)?;
        let path = device.source();
        let found = path.metadata().context(|| format!("look at the device {}", path.display()))?;
        let kind = match found.file_type() {
            it if it.is_char_device() => DeviceKind::Char,
            it if it.is_block_device() => DeviceKind::Block,
            _ => return Err(Error::invalid(format!("{} is no device", path.display()))),
        };
        let (major, minor) =
            (nix::sys::stat::major(found.rdev()), nix::sys::stat::minor(found.rdev()));
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        rules = rules.allow(kind, number(major), number(minor), access);
    }
    Ok(Some(rules))
}

/// What all cgroups of containers of root are in.
const CGROUPS: &str = "/coracle";

fn cgroup_name(id: &ContainerId) -> PathBuf {
    match nix::unistd::geteuid().is_root() {
        true => Path::new(CGROUPS).join(id.as_str()),
        false => PathBuf::from(format!("coracle-{id}")),
    }
}

/// The directories that its cgroup would have, as far as that is known.
pub(super) fn cgroup_places(id: &ContainerId) -> Vec<PathBuf> {
    let name = cgroup_name(id);
    Cgroup::places(&name, name.is_absolute()).unwrap_or_default()
}

/// Removes what was made on the way to a cgroup, by this process or another, if nothing else is in there.
pub(super) fn remove_cgroups_above(paths: &[PathBuf]) {
    let above = paths.iter().filter_map(|path| path.parent());
    for path in above.filter(|path| path.file_name() == Path::new(CGROUPS).file_name()) {
        let _ = std::fs::remove_dir(path);
    }
}

/// Where its limits hold and its use is counted. Who may make none, and asks for no limits, does without.
pub(super) fn cgroup(config: &Config, id: &ContainerId) -> Result<Option<Cgroup>> {
    let mut limits = config.resources.limits();
    let needed = limits != Limits::new();
    let root = nix::unistd::geteuid().is_root();
    if let Some(rules) = device_rules(config)?.filter(|_| root) {
        limits = limits.devices(rules);
    }
    let name = cgroup_name(id);
    let made = match root {
        true => Cgroup::create_at(name, &limits.accounting()),
        false => Cgroup::create(name, &limits),
    };
    match made {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(err)
            if !needed
                && matches!(
                    err.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::Unsupported | ErrorKind::Busy
                ) =>
        {
            Ok(None)
        }
        Err(err) => Err(err),
    }
}
