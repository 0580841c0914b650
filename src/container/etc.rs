//! The files that tell a container who and where it is: /etc/hosts, /etc/hostname and /etc/resolv.conf.

use std::fmt::Write;
use std::fs::{self, File, Permissions};
use std::io;
use std::iter;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::config::Config;
use super::files::{self, Durable, gone};
use super::home::Home;
use crate::error::{Context, Error, Result};

/// Where they and the file systems of every container are mounted, and what lies above that.
pub(super) const MOUNT_POINTS: &[&str] =
    &["/dev", "/etc", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc", "/sys"];

/// The directory that has them, for all containers; made when it is first needed.
pub(super) fn mount_points(home: &Home) -> Result<PathBuf> {
    let place = home.path("mount-points");
    if place.exists() {
        return Ok(place);
    }
    let attempt = || format!("make {}", place.display());
    let _names = home.lock_names()?;
    if place.exists() {
        return Ok(place);
    }
    let new = home.path("mount-points.new");
    gone(fs::remove_dir_all(&new)).context(attempt)?;
    let make = || -> io::Result<()> {
        for point in iter::once("/").chain(MOUNT_POINTS.iter().copied()) {
            let path = new.join(&point[1..]);
            let mode = if point.starts_with("/etc/") {
                File::create_new(&path)?;
                0o644
            } else {
                fs::create_dir(&path)?;
                0o755
            };
            // Whatever the umask.
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        fs::rename(&new, &place)
    };
    make().context(attempt)?;
    Ok(place)
}

/// Writes them into the directory of the container, and returns where they are to be mounted, read-only.
pub(super) fn files(
    dir: &Path,
    config: &Config,
    hostname: &str,
) -> Result<[(PathBuf, &'static str); 3]> {
    let write = |name, content: String| {
        let path = dir.join(name);
        files::write(&path, content.as_bytes(), Durable::No).map(|()| path)
    };
    Ok([
        (write("hostname", format!("{hostname}\n"))?, "/etc/hostname"),
        (write("hosts", hosts(config, hostname)?)?, "/etc/hosts"),
        (write("resolv.conf", resolv_conf(config)?)?, "/etc/resolv.conf"),
    ])
}

/// Whether they can be written.
pub(super) fn check(config: &Config) -> Result<()> {
    hosts(config, "")?;
    resolv_conf(config).map(drop)
}

fn hosts(config: &Config, hostname: &str) -> Result<String> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let names = match &config.domainname {
        Some(domain) => format!("{hostname}.{domain} {hostname}"),
        None => hostname.to_owned(),
    };
    let _ = writeln!(text, "127.0.1.1\t{names}");
    for (name, address) in &config.names.hosts {
        let address: IpAddr = address.parse().map_err(|_| {
            Error::invalid(format!("{address:?}, for the host {name}, is no IP address"))
        })?;
        if name.is_empty()
            || name.contains(|c: char| c.is_whitespace() || c == '#' || c.is_control())
        {
            return Err(Error::invalid(format!("{name:?} is no name of a host")));
        }
        let _ = writeln!(text, "{address}\t{name}");
    }
    Ok(text)
}

/// The host's, or what was asked for instead.
fn resolv_conf(config: &Config) -> Result<String> {
    const HOST: &str = "/etc/resolv.conf";
    let names = &config.names;
    let host = match fs::read_to_string(HOST) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => String::new(),
        Err(err) => return Err(err).context(|| format!("read {HOST}")),
    };
    let mut text = String::new();
    for server in &names.dns {
        let server: IpAddr = server
            .parse()
            .map_err(|_| Error::invalid(format!("the name server {server:?} is no IP address")))?;
        let _ = writeln!(text, "nameserver {server}");
    }
    for (word, values) in [("search", &names.search), ("options", &names.options)] {
        if values
            .iter()
            .any(|value| value.contains(char::is_whitespace) || value.contains(char::is_control))
        {
            return Err(Error::invalid(format!(
                "{values:?} is nothing to {word} in resolv.conf(5)"
            )));
        }
        // A dot alone is docker's way to ask for none.
        let values: Vec<_> = values.iter().filter(|value| *value != ".").cloned().collect();
        if !values.is_empty() {
            let _ = writeln!(text, "{word} {}", values.join(" "));
        }
    }
    for line in host.lines() {
        let overridden = match line.split_whitespace().next() {
            Some("nameserver") => !names.dns.is_empty(),
            Some("search" | "domain") => !names.search.is_empty(),
            Some("options") => !names.options.is_empty(),
            _ => false,
        };
        if !overridden {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is test code")]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_replaces_the_hosts() {
        let mut config = Config::default();
        assert_eq!(
            resolv_conf(&config).unwrap(),
            fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
        );
        config.names.dns = vec!["192.0.2.1".into(), "2001:db8::1".into()];
        config.names.search = vec!["a.example".into(), "b.example".into()];
        let text = resolv_conf(&config).unwrap();
        assert!(text.starts_with(
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example b.example\n"
        ));
        assert_eq!(text.matches("nameserver").count(), 2);
        config.names.dns = vec!["nameserver\n".into()];
        assert!(resolv_conf(&config).unwrap_err().to_string().contains("no IP address"));
        config.names.hosts = vec![("db".into(), "192.0.2.7".into())];
        config.domainname = Some("example".into());
        let text = hosts(&config, "web").unwrap();
        assert!(
            text.contains("127.0.1.1\tweb.example web\n") && text.ends_with("192.0.2.7\tdb\n"),
            "{text}"
        );
        config.names.hosts = vec![("d b".into(), "192.0.2.7".into())];
        assert!(hosts(&config, "web").is_err());
    }
}
