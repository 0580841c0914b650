//! Where the API of a registry is.

use std::net::IpAddr;

use reqwest::Url;

use crate::error::{Error, Result};

/// The registry that names without one mean.
pub(super) const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// The registry that is meant where its host may be written as an address, or as one of Docker Hub's.
pub(super) fn registry_host(text: &str) -> Result<String> {
    let host = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let host = host.unwrap_or(text).split('/').next().unwrap_or_default();
    if matches!(host, "index.docker.io" | DOCKER_HUB_API) {
        return Ok(DOCKER_HUB.to_owned());
    }
    let known = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let endpoint = Endpoint::registry(host);
    if host.is_empty() || !host.chars().all(known) || endpoint.url(Scheme::Https, "/").is_err() {
        return Err(Error::invalid(format!("{text:?} names no registry"))
            .with_hint("a registry is named by its host, and its port if it has one"));
    }
    Ok(endpoint.name)
}

/// A host that serves a registry's API: the registry itself or a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    /// Host and port as users write them; credentials go by it.
    pub(super) name: String,
    pub(super) mirror: bool,
}

impl Endpoint {
    pub(super) fn registry(name: &str) -> Self {
        Self { name: name.to_owned(), mirror: false }
    }

    pub(super) fn mirror(name: &str) -> Self {
        Self { name: name.to_owned(), mirror: true }
    }

    /// Host and port to connect to.
    fn authority(&self) -> &str {
        if self.name == DOCKER_HUB { DOCKER_HUB_API } else { &self.name }
    }

    /// The host alone.
    pub(super) fn host(&self) -> String {
        let url = self.url(Scheme::Https, "/").ok();
        url.as_ref().and_then(Url::host_str).unwrap_or_default().to_owned()
    }

    /// The address of something in the API.
    pub(super) fn url(&self, scheme: Scheme, path: &str) -> Result<Url> {
        let text = format!("{}://{}{path}", scheme.name(), self.authority());
        text.parse()
            .map_err(|err| Error::invalid(format!("{} is no registry's address: {err}", self.name)))
    }

    /// Whether it is this machine, where nobody listens in.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.host())
    }
}

/// Whether a host's name or address means this machine, whatever a resolver says.
pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Whether a host's name or address leads to this machine or its link, whatever a resolver says.
pub(super) fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.parse().is_ok_and(is_local_address) || is_loopback(host)
}

/// Whether an address leads to this machine or its link, where services trust whoever can ask: those of a cloud tell
/// secrets at 169.254.169.254.
pub(super) fn is_local_address(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => it.is_loopback() || it.is_link_local() || it.is_unspecified(),
        IpAddr::V6(it) => it.is_loopback() || it.is_unicast_link_local() || it.is_unspecified(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    Http,
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

/// Whether both hosts are under one owner's name: the same host, or of one registrable domain.
pub(super) fn same_site(one: &str, other: &str) -> bool {
    if one.eq_ignore_ascii_case(other) {
        return true;
    }
    let is_name = |host: &str| !host.starts_with('[') && host.parse::<IpAddr>().is_err();
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    match (psl::domain_str(&one), psl::domain_str(&other)) {
        (Some(a), Some(b)) => is_name(&one) && is_name(&other) && a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_has_its_api_elsewhere() {
        let url = |name: &str| {
            Endpoint::registry(name).url(Scheme::Https, "/v2/").map(|url| url.to_string())
        };
        assert_eq!(url("docker.io").unwrap(), "https://registry-1.docker.io/v2/");
        assert_eq!(url("localhost:5000").unwrap(), "https://localhost:5000/v2/");
        assert_eq!(url("[::1]:5000").unwrap(), "https://[::1]:5000/v2/");
        assert!(url("a b").is_err());
    }

    #[test]
    fn registries_are_known_in_every_form() {
        for (text, host) in [
            ("docker.io", Some("docker.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("registry-1.docker.io", Some("docker.io")),
            ("http://registry.example.com:5000/v2/", Some("registry.example.com:5000")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("localhost", Some("localhost")),
            ("", None),
            ("/v2/", None),
            ("https://", None),
            ("anna:secret@example.com", None),
            ("a b", None),
            ("host:port", None),
        ] {
            assert_eq!(registry_host(text).ok().as_deref(), host, "{text}");
        }
    }

    #[test]
    fn this_machine_is_known_by_name_and_address() {
        for (name, loopback) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:5000", true),
            ("registry.localhost", true),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1:5000", false),
            ("docker.io", false),
        ] {
            assert_eq!(Endpoint::registry(name).is_loopback(), loopback, "{name}");
        }
    }

    #[test]
    fn what_only_this_machine_reaches_is_local() {
        for host in [
            "localhost",
            "127.0.0.1",
            "[::1]",
            "169.254.169.254",
            "[fe80::1]",
            "0.0.0.0",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in ["10.0.0.1", "example.com", "[2001:db8::1]", "192.168.1.1"] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn a_site_is_what_one_owner_registered() {
        for (one, other, same) in [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("registry.example.com", "REGISTRY.example.com", true),
            ("registry.gitlab.com", "gitlab.com", true),
            ("registry.co.uk", "evil.co.uk", false),
            ("anna.github.io", "evil.github.io", false),
            ("registry.example.com", "example.org", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "10.0.0.1", false),
            ("localhost", "127.0.0.1", false),
            ("localhost", "localhost", true),
        ] {
            assert_eq!(same_site(one, other), same, "{one} {other}");
        }
    }
}
