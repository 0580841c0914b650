//! A delegated scope from systemd
//! ([Control Group APIs and Delegation](https://systemd.io/CONTROL_GROUP_DELEGATION/),
//! [org.freedesktop.systemd1(5)](https://man7.org/linux/man-pages/man5/org.freedesktop.systemd1.5.html)).

use std::path::PathBuf;
use std::time::Duration;

use zbus::zvariant::{OwnedObjectPath, Value};
use zbus::{Address, Message};

use super::bus::{Connection, socket_address};
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

/// How long systemd may take in all.
const PATIENCE: Duration = Duration::from_secs(30);

const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Moves the calling process into a scope unit `NAME.scope` of its own, which systemd delegates to it, and from the top
/// of that into a leaf, so that [`Cgroup::create`] makes its cgroups inside the scope: `systemctl status` shows them, limits set on the
/// scope bind them all, and stopping it ends them. The scope ends with its last process.
///
/// Call it once, early: all threads are moved. The same as starting the program with
/// `systemd-run --user --scope -p Delegate=yes` and calling [`Cgroup::make_room`]. Returns the new place of the process.
/// No thread, descriptor or connection stays.
///
/// Stopping the scope sends SIGTERM to all of its processes, the caller too, and SIGKILL to those that are left after 90 seconds
/// (`DefaultTimeoutStopSec=`). A container's first process that does not handle SIGTERM never sees it, as in every
/// pid namespace: give it [`Command::init`](crate::namespaces::Command::init) to end at once.
///
/// # Errors
/// `InvalidInput` for a name that is not plain, `Unsupported` without a reachable systemd or without cgroup v2,
/// `AlreadyExists` if there is such a unit, `PermissionDenied` if systemd refuses, `TimedOut` if it does not act.
pub fn delegate_by_systemd(bus: Bus, name: &str) -> Result<PathBuf> {
    let unit = unit_name(name)?;
    let attempt = || {
        let address = match bus {
            Bus::System => Address::system(),
            Bus::User => Address::session(),
        };
        let address = address.map_err(|err| foreign("find the address of D-Bus", &err))?;
        let mut connection = connect(&address, PATIENCE)?;
        let job = start_scope(&mut connection, &unit, std::process::id())?;
        wait_for(&mut connection, &job)?;
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if !is_in(&own, &unit) {
            // Where systemd keeps to v1, there is nothing in v2 to delegate.
            return Err(Error::unsupported(format!("find this process in {unit} of cgroup v2"))
                .with_hint("systemd runs with cgroup v1 here: boot with systemd.unified_cgroup_hierarchy=1"));
        }
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

fn connect(address: &Address, patience: Duration) -> Result<Connection> {
    let what = || format!("connect to D-Bus at {address}");
    let connected = socket_address(address)
        .map_err(zbus::Error::from)
        .and_then(|socket| Connection::open(&socket, patience));
    connected.map_err(|err| match &err {
        zbus::Error::Handshake(_) => foreign(&what(), &err).with_kind(ErrorKind::PermissionDenied),
        zbus::Error::InputOutput(io) => match io.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::TimedOut => {
                foreign(&what(), &err)
            }
            _ => foreign(&what(), &err).with_kind(ErrorKind::Unsupported).with_hint(
                "is systemd running? a user's bus is found through XDG_RUNTIME_DIR; for a user without a \
                 session: loginctl enable-linger",
            ),
        },
        _ => foreign(&what(), &err),
    })
}

/// `StartTransientUnit`; returns the job, of whose end there will be a signal.
fn start_scope(connection: &mut Connection, unit: &str, pid: u32) -> Result<OwnedObjectPath> {
    // D-Bus arrays: a Rust array would be sent as a structure.
    let properties: Vec<(&str, Value<'_>)> = vec![
        ("Description", Value::from("coracle")),
        ("Delegate", Value::from(true)),
        ("PIDs", Value::from(vec![pid])),
    ];
    let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    let mut call = || {
        connection.add_match(&format!(
            "type='signal',sender='org.freedesktop.systemd1',interface='{MANAGER}',member='JobRemoved'"
        ))?;
        let call = Message::method_call("/org/freedesktop/systemd1", "StartTransientUnit")?
            .destination("org.freedesktop.systemd1")?
            .interface(MANAGER)?
            .build(&(unit, "fail", properties.as_slice(), auxiliary.as_slice()))?;
        connection.call(&call)?.body().deserialize()
    };
    call().map_err(|err| {
        let asked = foreign("call StartTransientUnit", &err);
        let zbus::Error::MethodError(name, _, _) = &err else { return asked };
        match name.as_str() {
            "org.freedesktop.systemd1.UnitExists" => asked.with_kind(ErrorKind::AlreadyExists),
            "org.freedesktop.DBus.Error.AccessDenied"
            | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => asked
                .with_kind(ErrorKind::PermissionDenied)
                .with_hint("the system's manager takes root or a polkit rule; ask the user's own"),
            // Nobody answers to the name, and D-Bus cannot start anybody.
            name if name == "org.freedesktop.DBus.Error.ServiceUnknown"
                || name == "org.freedesktop.DBus.Error.NameHasNoOwner"
                || name.starts_with("org.freedesktop.DBus.Error.Spawn.") =>
            {
                asked.with_kind(ErrorKind::Unsupported).with_hint("is systemd process 1 here?")
            }
            _ => asked,
        }
    })
}

/// systemd answers before it has acted: waits for its signal that it has, or could not.
fn wait_for(connection: &mut Connection, job: &OwnedObjectPath) -> Result<()> {
    loop {
        let end = connection.signal().and_then(|signal| {
            let removed = signal.header().member().is_some_and(|name| *name == "JobRemoved");
            if !removed {
                return Ok(None);
            }
            signal.body().deserialize::<(u32, OwnedObjectPath, String, String)>().map(Some)
        });
        let Some((_, path, unit, result)) = end.map_err(|err| foreign("wait for systemd", &err))?
        else {
            continue;
        };
        if path != *job {
            continue;
        }
        if result == "done" {
            return Ok(());
        }
        return Err(Error::new(ErrorKind::Os, format!("start {unit}: {result}"))
            .with_hint(format!("see systemctl status {unit} and the journal")));
    }
}

fn is_in(membership: &str, unit: &str) -> bool {
    membership.lines().any(|line| {
        line.strip_prefix("0::").is_some_and(|path| path.split('/').any(|part| part == unit))
    })
}

/// No foreign type in a public error: the D-Bus error stays as text.
fn foreign(what: &str, err: &zbus::Error) -> Error {
    let kind = match err {
        zbus::Error::InputOutput(err) => match (err.raw_os_error(), err.kind()) {
            (Some(errno), _) => ErrorKind::from_errno(errno),
            (None, std::io::ErrorKind::TimedOut) => ErrorKind::TimedOut,
            _ => ErrorKind::Os,
        },
        zbus::Error::Address(_) => ErrorKind::InvalidInput,
        _ => ErrorKind::Os,
    };
    Error::new(kind, format!("{what}: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{alone, program, require};
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command, Stdio};

    /// A bus of its own, without systemd on it, and the directory of its socket.
    struct Daemon {
        process: Child,
        address: Address,
        _dir: tempfile::TempDir,
    }

    impl Daemon {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut process = Command::new("dbus-daemon")
                .args(["--session", "--nofork", "--nopidfile", "--print-address"])
                .arg(format!("--address=unix:path={}", dir.path().join("bus").display()))
                .env("XDG_RUNTIME_DIR", dir.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut address = String::new();
            BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
            Self { process, address: address.trim().try_into().unwrap(), _dir: dir }
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }

    fn listing(dir: &str) -> BTreeSet<std::ffi::OsString> {
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_bus_without_systemd_is_unsupported_and_nothing_of_the_call_stays() {
        require!(program("dbus-daemon"));
        alone(|| {
            let daemon = Daemon::start();
            let held = || (listing("/proc/self/task"), listing("/proc/self/fd"));
            let before = held();
            let mut connection = connect(&daemon.address, PATIENCE).unwrap();
            let err = start_scope(&mut connection, "job.scope", std::process::id()).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
            assert!(err.hint().is_some(), "{err:?}");
            drop(connection);
            assert_eq!(held(), before);
        });
    }

    /// Serves one connection in the place of the bus: what it answers to the line of the handshake.
    fn bus_that_says(answer: &'static [u8]) -> (tempfile::TempDir, Address) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = Vec::new();
            BufReader::new(&stream).read_until(b'\n', &mut line).unwrap();
            stream.write_all(answer).unwrap();
            // Holds the connection until the caller gives up; the rest of what it says does not matter.
            _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        (dir, format!("unix:path={}", path.display()).as_str().try_into().unwrap())
    }

    #[test]
    fn a_bus_that_refuses_or_stays_silent_is_told() {
        let (_dir, address) = bus_that_says(b"REJECTED EXTERNAL\r\n");
        let err = connect(&address, PATIENCE).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
        for answer in [b"".as_slice(), b"OK 1234\r\n", b"OK 1234\r\nl\x02\x00\x01"] {
            let (_dir, address) = bus_that_says(answer);
            let err = connect(&address, Duration::from_millis(200)).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::TimedOut, "{err:?}");
        }
        let nowhere = Address::try_from("unix:path=/nonexistent/bus").unwrap();
        let err = connect(&nowhere, PATIENCE).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
        assert!(err.hint().is_some() && err.to_string().contains("/nonexistent/bus"), "{err:?}");
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
