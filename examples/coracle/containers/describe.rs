//! What `inspect` tells of a container.

use std::time::SystemTime;

use coracle::Engine;
use coracle::cgroups::IoLimit;
use coracle::container::{Config, Container, Health, MountSource, Phase, Resources, Restart};
use coracle::image::Image;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::ended;
use super::list::phase;

/// In docker's words, as far as it is the same thing.
pub fn container(engine: &Engine, container: &Container) -> coracle::Result<Value> {
    let (name, config, status) = (container.name()?, container.config()?, container.status()?);
    let image = container.image()?;
    let words = container.command_line()?;
    let code = status.exit.as_ref().map_or(0, |it| ended(it).into());
    let mut state = json!({
        "Status": phase(status.phase),
        "Running": status.phase.is_alive(),
        "Paused": status.phase == Phase::Paused,
        "Restarting": status.phase == Phase::Restarting,
        "OOMKilled": status.out_of_memory,
        "Dead": false,
        "Pid": status.pid.unwrap_or(0),
        "ExitCode": code,
        "Error": status.error.unwrap_or_default(),
        "StartedAt": time(status.started),
        "FinishedAt": time(status.finished),
    });
    if let Some(health) = &status.health {
        state["Health"] = self::health(health);
    }
    Ok(json!({
        "Id": container.id().as_str(),
        "Created": time(Some(status.created)),
        "Path": words.first(),
        "Args": words.get(1..).unwrap_or_default(),
        "State": state,
        "Image": image.id().to_string(),
        "Name": format!("/{name}"),
        "RestartCount": status.restarts,
        "Platform": "linux",
        "HostConfig": host_config(&config),
        "Mounts": mounts(engine, &config),
        "Config": settings(container, &config, &image),
        "NetworkSettings": {"Ports": {}, "IPAddress": "", "Networks": {}},
    }))
}

fn health(health: &Health) -> Value {
    let probes = health.probes.iter().map(|probe| {
        json!({
            "Start": time(Some(probe.started)),
            "End": time(Some(probe.ended)),
            "ExitCode": probe.exit_code,
            "Output": probe.output,
        })
    });
    json!({
        "Status": health.status.to_string(),
        "FailingStreak": health.failing_streak,
        "Log": probes.collect::<Value>(),
    })
}

/// Docker writes the beginning of its calendar for never.
fn time(time: Option<SystemTime>) -> String {
    let never = || "0001-01-01T00:00:00Z".to_owned();
    time.and_then(|it| Timestamp::try_from(it).ok()).map_or_else(never, |it| it.to_string())
}

fn host_config(config: &Config) -> Value {
    let resources = &config.resources;
    let (policy, times) = match config.restart {
        Restart::OnFailure(times) => ("on-failure", if times == u32::MAX { 0 } else { times }),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
        _ => ("no", 0),
    };
    let binds = config.mounts.iter().filter_map(|mount| {
        let source = match &mount.source {
            MountSource::Bind { path } => path.display().to_string(),
            MountSource::Volume { name, anonymous: false, .. } => name.clone(),
            _ => return None,
        };
        let read_only = if mount.read_only { ":ro" } else { "" };
        Some(format!("{source}:{}{read_only}", mount.target.display()))
    });
    let shared = |yes: bool, else_: &str| if yes { "host".to_owned() } else { else_.to_owned() };
    let share = &config.share;
    #[allow(clippy::cast_possible_truncation, reason = "it is a small number of cpus")]
    let nano = resources.cpus.map_or(0, |cpus| (cpus * 1e9).round() as i64);
    let links = config.links.iter().map(|link| format!("{}:{}", link.container, link.alias));
    let hosts = config.names.hosts.iter().map(|(name, address)| format!("{name}:{address}"));
    json!({
        "Binds": binds.collect::<Vec<_>>(),
        "NetworkMode": shared(share.network, "none"),
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": times},
        "AutoRemove": config.remove,
        "CapAdd": config.cap_add,
        "CapDrop": config.cap_drop,
        "Privileged": config.privileged,
        "ReadonlyRootfs": config.read_only,
        "Init": config.init,
        "Dns": config.names.dns,
        "DnsSearch": config.names.search,
        "DnsOptions": config.names.options,
        "ExtraHosts": hosts.collect::<Vec<_>>(),
        "GroupAdd": config.groups,
        "Links": links.collect::<Vec<_>>(),
        "PidMode": shared(share.pid, ""),
        "IpcMode": shared(share.ipc, "private"),
        "UTSMode": shared(share.uts, ""),
        "UsernsMode": shared(share.users, ""),
        "CgroupnsMode": shared(share.cgroup, "private"),
        "ShmSize": config.shm_size.unwrap_or(64 << 20),
        "Sysctls": config.sysctls,
        "Ulimits": config.ulimits,
        "Devices": config.devices,
        "OomScoreAdj": config.oom_score_adj.unwrap_or(0),
        "BlkioDeviceReadBps": disks(resources, "rbps"),
        "BlkioDeviceWriteBps": disks(resources, "wbps"),
        "BlkioDeviceReadIOps": disks(resources, "riops"),
        "BlkioDeviceWriteIOps": disks(resources, "wiops"),
        "Memory": resources.memory.unwrap_or(0),
        "MemoryReservation": resources.memory_low.unwrap_or(0),
        "NanoCpus": nano,
        "CpuWeight": resources.cpu_weight.unwrap_or(0),
        "CpusetCpus": resources.cpuset_cpus.clone().unwrap_or_default(),
        "CpusetMems": resources.cpuset_mems.clone().unwrap_or_default(),
        "PidsLimit": resources.pids.filter(|pids| *pids != u64::MAX),
        "LogConfig": {"Type": format!("{:?}", config.log.driver).to_lowercase()},
    })
}

fn mounts(engine: &Engine, config: &Config) -> Value {
    let directory = |name| engine.find_volume(name).map(|it| it.path().display().to_string());
    let described = config.mounts.iter().map(|mount| {
        let (kind, source, name) = match &mount.source {
            MountSource::Bind { path } => ("bind", path.display().to_string(), None),
            MountSource::Volume { name, .. } => {
                ("volume", directory(name).unwrap_or_default(), Some(name))
            }
            _ => ("tmpfs", String::new(), None),
        };
        let mut told = Map::new();
        told.insert("Type".into(), kind.into());
        if let Some(name) = name {
            told.insert("Name".into(), name.as_str().into());
        }
        told.insert("Source".into(), source.into());
        told.insert("Destination".into(), mount.target.display().to_string().into());
        told.insert("RW".into(), (!mount.read_only).into());
        Value::from(told)
    });
    described.collect()
}

/// What it has of its own, on top of what the image says.
fn settings(container: &Container, config: &Config, image: &Image) -> Value {
    let of_image = image.config().spec().config().as_ref();
    let mut env = of_image.and_then(|it| it.env().clone()).unwrap_or_default();
    for variable in &config.env {
        let name = variable.split('=').next().unwrap_or_default();
        env.retain(|other| other.split('=').next() != Some(name));
        if variable.contains('=') {
            env.push(variable.clone());
        }
    }
    let mut labels = of_image.and_then(|it| it.labels().clone()).unwrap_or_default();
    labels.extend(config.labels.clone());
    let or =
        |own: &Option<String>, image: Option<String>| own.clone().or(image).unwrap_or_default();
    let entrypoint = match &config.entrypoint {
        Some(own) => Some(own.clone()),
        None => of_image.and_then(|it| it.entrypoint().clone()),
    };
    let command = match (config.command.is_empty(), &config.entrypoint) {
        (true, None) => of_image.and_then(|it| it.cmd().clone()),
        _ => Some(config.command.clone()),
    };
    let mut settings = json!({
        "Hostname": config.hostname.clone().unwrap_or_else(|| container.id().short().to_owned()),
        "Domainname": config.domainname.clone().unwrap_or_default(),
        "User": or(&config.user, of_image.and_then(|it| it.user().clone())),
        "Tty": config.terminal,
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "Env": env,
        "Cmd": command,
        "Image": config.image,
        "WorkingDir": or(&config.working_dir, of_image.and_then(|it| it.working_dir().clone())),
        "Entrypoint": entrypoint,
        "Labels": labels,
        "StopSignal": or(&config.stop_signal, of_image.and_then(|it| it.stop_signal().clone())),
        "StopTimeout": config.stop_timeout,
    });
    if let Ok(Some(check)) = container.health_check() {
        settings["Healthcheck"] = serde_json::to_value(check).unwrap_or_default();
    }
    settings
}

/// The limits of this kind, by disk.
fn disks(resources: &Resources, kind: &str) -> Value {
    let disk = |limit: &IoLimit| {
        let rate = serde_json::to_value(limit).ok()?[kind].as_u64()?;
        let (major, minor) = limit.numbers();
        Some(json!({ "Path": format!("/dev/block/{major}:{minor}"), "Rate": rate }))
    };
    resources.io_limits.iter().filter_map(disk).collect()
}
