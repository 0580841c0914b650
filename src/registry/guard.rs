//! Addresses of hosts to which a registry leads.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::endpoint::is_local_address;

/// Finds the addresses of a host, as the system does. It may take its time.
type Lookup = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Keeps a host to which another led away from this machine's own addresses, and those of its link: whatever its name is,
/// its owner says which they are. The user himself may name what he likes.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    host: String,
    /// Who leads there.
    from: String,
    lookup: Lookup,
}

/// Why a host is not connected to.
#[derive(Debug)]
pub(super) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Guard {
    pub(super) fn new(host: &str, from: &str) -> Self {
        Self { host: host.to_owned(), from: from.to_owned(), lookup }
    }

    fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let found = (self.lookup)(name)?;
        let local = found.iter().find(|address| is_local_address(address.ip()));
        let Some(local) = local.map(SocketAddr::ip) else { return Ok(found) };
        // A proxy is the user's.
        if name != self.host || self.comes_from_here() {
            return Ok(found);
        }
        let others = found.into_iter().filter(|address| !is_local_address(address.ip()));
        let others: Vec<_> = others.collect();
        if others.is_empty() {
            let Self { host, from, .. } = self;
            return Err(io::Error::other(Refused(format!(
                "{from} leads to {host}, whose address {local} is of this machine or its link, which is not for a registry to point at"
            ))));
        }
        Ok(others)
    }

    /// Whether who leads there has no other addresses himself.
    fn comes_from_here(&self) -> bool {
        let from = self.from.trim_start_matches('[').trim_end_matches(']');
        let found = (self.lookup)(from).unwrap_or_default();
        !found.is_empty() && found.iter().all(|address| is_local_address(address.ip()))
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::task::spawn_blocking(move || guard.addresses(name.as_str()));
            let found = found.await??;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn lookup(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((host, 0).to_socket_addrs()?.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::ErrorKind;
    use crate::registry::failure::{Remedy, explain};
    use crate::registry::tls::Trust;

    fn known(host: &str) -> io::Result<Vec<SocketAddr>> {
        let addresses: &[&str] = match host {
            "registry.example" => &["192.0.2.1"],
            "inner.example" => &["127.0.0.1"],
            "metadata.example" => &["169.254.169.254", "fe80::1", "::ffff:127.0.0.1", "0.0.0.0"],
            "mixed.example" => &["127.0.0.1", "192.0.2.2", "::1"],
            "private.example" => &["10.0.0.1", "192.168.0.1", "fd00::1"],
            "10.0.0.9" => &["10.0.0.9"],
            "::1" => &["::1"],
            _ => return Err(io::Error::other("no such host")),
        };
        Ok(addresses.iter().map(|it| SocketAddr::new(it.parse().unwrap(), 0)).collect())
    }

    fn guard(host: &str, from: &str) -> Guard {
        Guard { lookup: known, ..Guard::new(host, from) }
    }

    #[test]
    fn who_is_led_to_has_no_addresses_of_this_machine() {
        for (host, from, asked, reached) in [
            ("registry.example", "mixed.example", "registry.example", Some(1)),
            ("private.example", "registry.example", "private.example", Some(3)),
            ("mixed.example", "registry.example", "mixed.example", Some(1)),
            ("inner.example", "registry.example", "inner.example", None),
            ("metadata.example", "registry.example", "metadata.example", None),
            ("inner.example", "10.0.0.9", "inner.example", None),
            ("inner.example", "mixed.example", "inner.example", None),
            ("inner.example", "unknown.example", "inner.example", None),
            // From this machine.
            ("metadata.example", "inner.example", "metadata.example", Some(4)),
            ("inner.example", "[::1]", "inner.example", Some(1)),
            // A proxy on the way.
            ("private.example", "registry.example", "inner.example", Some(1)),
        ] {
            let found = guard(host, from).addresses(asked);
            assert_eq!(found.as_ref().ok().map(Vec::len), reached, "{host} {from}: {found:?}");
        }
    }

    #[test]
    fn a_refusal_names_host_and_address_and_is_final() {
        let client = |guard| {
            let builder = reqwest::Client::builder().no_proxy().dns_resolver(Arc::new(guard));
            builder.tls_backend_preconfigured(Trust::nobody().unwrap()).build().unwrap()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ask = |host: &str, from: &str| {
            let asked = client(guard(host, from)).get(format!("http://{host}:1/")).send();
            explain(&runtime.block_on(asked).unwrap_err())
        };
        let failure = ask("inner.example", "registry.example");
        assert_eq!(
            (failure.error.kind(), failure.remedy),
            (ErrorKind::SafetyViolation, Remedy::None)
        );
        let told = failure.error.to_string();
        for part in ["registry.example", "inner.example", "127.0.0.1", "to point at"] {
            assert!(told.contains(part), "{told}");
        }
        let failure = ask("inner.example", "inner.example");
        assert_eq!(
            failure.error.kind(),
            ErrorKind::Unavailable,
            "it is asked, and nothing listens"
        );
    }
}
