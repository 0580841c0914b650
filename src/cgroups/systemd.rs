//! A delegated scope from systemd
//! ([Control Group APIs and Delegation](https://systemd.io/CONTROL_GROUP_DELEGATION/)).

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use zbus::blocking::Connection;
use zbus::zvariant::{OwnedObjectPath, Value};

use super::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};

/// Which systemd to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The system's; takes root, or a polkit rule.
    System,
    /// The user's own, for a login session or a lingering user.
    User,
}

/// How long systemd may take to move a process.
const PATIENCE: Duration = Duration::from_secs(10);

/// Moves the calling process into a scope unit `NAME.scope` of its own, which systemd delegates to it, and from the top
/// of that into a leaf, so that [`Cgroup::create`] makes its cgroups inside the scope: `systemctl status` shows them, limits set on the
/// scope bind them all, and stopping it ends them. The scope ends with its last process.
///
/// Call it once, early: all threads are moved. The same as starting the program with
/// `systemd-run --user --scope -p Delegate=yes` and calling [`Cgroup::make_room`]. Returns the new place of the process.
///
/// # Errors
/// `InvalidInput` for a name that is not plain, `Unsupported` without a reachable systemd or without cgroup v2,
/// `AlreadyExists` if there is such a unit, `PermissionDenied` if systemd refuses, `TimedOut` if it does not act.
pub fn delegate_by_systemd(bus: Bus, name: &str) -> Result<PathBuf> {
    let unit = unit_name(name)?;
    let attempt = || {
        let connection = match bus {
            Bus::System => Connection::system(),
            Bus::User => Connection::session(),
        };
        let connection = connection.map_err(|err| {
            foreign("connect to D-Bus", &err).with_kind(ErrorKind::Unsupported).with_hint(
                "is systemd running? a user's bus is found through XDG_RUNTIME_DIR; for a user without a \
                 session: loginctl enable-linger",
            )
        })?;
        start_scope(&connection, &unit, std::process::id())?;
        wait_for(&unit)?;
        Cgroup::make_room()
    };
    attempt().map_err(|err| err.context(format!("have systemd delegate {unit}")))
}

fn unit_name(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    // The kernel's limit for the name of a directory.
    if name.is_empty() || name.len() > 240 || !name.chars().all(plain) || name.starts_with('.') {
        return Err(Error::invalid(format!("use {name:?} as the name of a systemd unit"))
            .with_hint("letters, digits and - _ . : without the .scope at the end"));
    }
    Ok(format!("{name}.scope"))
}

/// `StartTransientUnit` of org.freedesktop.systemd1(5).
fn start_scope(connection: &Connection, unit: &str, pid: u32) -> Result<OwnedObjectPath> {
    // D-Bus arrays: a Rust array would be sent as a structure.
    let properties: Vec<(&str, Value<'_>)> = vec![
        ("Description", Value::from("coracle")),
        ("Delegate", Value::from(true)),
        ("PIDs", Value::from(vec![pid])),
    ];
    let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    let answer = connection
        .call_method(
            Some("org.freedesktop.systemd1"),
            "/org/freedesktop/systemd1",
            Some("org.freedesktop.systemd1.Manager"),
            "StartTransientUnit",
            &(unit, "fail", properties, auxiliary),
        )
        .map_err(|err| {
            let kind = match &err {
                zbus::Error::MethodError(name, _, _) => match name.as_str() {
                    "org.freedesktop.systemd1.UnitExists" => ErrorKind::AlreadyExists,
                    "org.freedesktop.DBus.Error.AccessDenied"
                    | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => {
                        ErrorKind::PermissionDenied
                    }
                    // Nobody answers to the name, and D-Bus cannot start anybody.
                    name if name == "org.freedesktop.DBus.Error.ServiceUnknown"
                        || name.starts_with("org.freedesktop.DBus.Error.Spawn.") =>
                    {
                        ErrorKind::Unsupported
                    }
                    _ => ErrorKind::Os,
                },
                _ => ErrorKind::Os,
            };
            foreign("call StartTransientUnit", &err).with_kind(kind)
        })?;
    answer.body().deserialize().map_err(|err| foreign("read the answer of systemd", &err))
}

/// systemd answers before it has acted.
fn wait_for(unit: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if is_in(&own, unit) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::new(ErrorKind::TimedOut, format!("wait to be moved into {unit}"))
                .with_hint(format!("see systemctl status {unit} and the journal")));
        }
        sleep(Duration::from_millis(2));
    }
}

fn is_in(membership: &str, unit: &str) -> bool {
    membership.lines().any(|line| {
        line.strip_prefix("0::").is_some_and(|path| path.split('/').any(|part| part == unit))
    })
}

/// No foreign type in a public error: the D-Bus error stays as text.
fn foreign(what: &str, err: &zbus::Error) -> Error {
    Error::new(ErrorKind::Os, format!("{what}: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use zbus::zvariant::OwnedValue;

    type Properties = Vec<(String, OwnedValue)>;

    /// What answers in the place of systemd.
    struct Manager(Sender<(String, String, Properties)>);

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl Manager {
        fn start_transient_unit(
            &self,
            name: String,
            mode: String,
            properties: Properties,
            auxiliary: Vec<(String, Properties)>,
        ) -> zbus::fdo::Result<OwnedObjectPath> {
            assert!(auxiliary.is_empty());
            if name == "taken.scope" {
                return Err(zbus::fdo::Error::AccessDenied("no".into()));
            }
            self.0.send((name, mode, properties)).unwrap();
            Ok(OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap())
        }
    }

    struct Daemon(std::process::Child);

    impl Drop for Daemon {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn systemd_is_asked_for_a_delegated_scope_with_this_process() {
        // A private bus: the daemon's address is what it prints.
        let daemon = std::process::Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--print-address"])
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut daemon = match daemon {
            Ok(daemon) => Daemon(daemon),
            Err(err) => return eprintln!("skipped: needs the program dbus-daemon: {err}"),
        };
        let mut address = String::new();
        let mut printed = std::io::BufReader::new(daemon.0.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut printed, &mut address).unwrap();
        let connect = || zbus::blocking::connection::Builder::address(address.trim()).unwrap();

        let (sender, asked) = channel();
        let server = connect()
            .name("org.freedesktop.systemd1")
            .unwrap()
            .serve_at("/org/freedesktop/systemd1", Manager(sender))
            .unwrap()
            .build()
            .unwrap();
        let client = connect().build().unwrap();
        start_scope(&client, "job.scope", 4711).unwrap();
        let (name, mode, properties) = asked.recv().unwrap();
        assert_eq!((name.as_str(), mode.as_str()), ("job.scope", "fail"));
        let of = |key: &str| properties.iter().find(|(name, _)| name == key).unwrap().1.clone();
        assert!(bool::try_from(of("Delegate")).unwrap());
        assert_eq!(Vec::<u32>::try_from(of("PIDs")).unwrap(), [4711]);

        let err = start_scope(&client, "taken.scope", 1).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
        assert!(server.release_name("org.freedesktop.systemd1").unwrap());
        let err = start_scope(&client, "late.scope", 1).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
    }

    #[test]
    fn names_are_plain_and_the_own_scope_is_recognised() {
        for name in ["", "a/b", ".hidden", "a b", "ü", &"x".repeat(241)] {
            assert_eq!(unit_name(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
        }
        assert_eq!(unit_name("build-7").unwrap(), "build-7.scope");
        let own = "1:name=systemd:/job.scope\n0::/user.slice/app.slice/job.scope/leaf\n";
        assert!(is_in(own, "job.scope"));
        assert!(!is_in(own, "b.scope") && !is_in("1:name=systemd:/job.scope\n", "job.scope"));
    }
}
