//! How registries are spoken to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, Proxy, Settings};
use super::credentials::{CredentialSource, Credentials};
use super::registry::Registry;
use super::tls::{Identity, Trust};
use crate::error::{Context, Result};

/// Settings of a [`Registry`], which [`build`](Self::build) makes.
///
/// Hosts are named as in images' names, with the port if there is one: `registry.example.com`, `localhost:5000`.
///
/// ```
/// use std::time::Duration;
/// use coracle::registry::{Credentials, Registry};
///
/// let registry = Registry::builder()
///     .credentials("registry.example.com", Credentials::password("anna", "secret"))
///     .mirror("docker.io", "mirror.example.com:5000")
///     .plain_http("mirror.example.com:5000")
///     .read_timeout(Duration::from_secs(10))
///     .build()?;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct Builder {
    credentials: HashMap<String, Credentials>,
    docker_config: bool,
    helper_timeout: Option<Duration>,
    authorities: Vec<Vec<u8>>,
    identities: Vec<(String, Vec<u8>, Secret)>,
    proxy: Option<Proxy>,
    mirrors: HashMap<String, Vec<String>>,
    plain: HashSet<String>,
    token_servers: HashSet<String>,
    connect_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
    retries: Option<u32>,
    patience: Option<Duration>,
}

/// A private key, which `Debug` does not show.
struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Builder {
    /// Logs in to a registry with these, before what Docker's configuration says.
    pub fn credentials(mut self, host: impl Into<String>, credentials: Credentials) -> Self {
        self.credentials.insert(host.into(), credentials);
        self
    }

    /// Takes credentials from Docker's `config.json` (in `$DOCKER_CONFIG` or `~/.docker`), and from the helper programs
    /// that it names. It is read anew for each registry that asks for a login. [`Registry::login`] keeps credentials there.
    pub fn docker_config(mut self) -> Self {
        self.docker_config = true;
        self
    }

    /// How long a credential helper may take, which may have to ask somebody; 2 minutes if it is not said.
    pub fn helper_timeout(mut self, timeout: Duration) -> Self {
        self.helper_timeout = Some(timeout);
        self
    }

    /// Believes registries whose certificates this authority signed, beside those that the system trusts. In the PEM
    /// format; several certificates may follow each other.
    pub fn certificate_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(pem.into());
        self
    }

    /// Shows a host this certificate when it asks for one, and no other host. Chain and key in the PEM format.
    pub fn client_certificate(
        mut self,
        host: impl Into<String>,
        chain: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identities.push((host.into(), chain.into(), Secret(key.into())));
        self
    }

    /// Goes through a proxy: `http://`, `https://`, `socks5://` or `socks5h://` with host, port, and name and password if it
    /// wants them. Without this the environment decides (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`), but never for
    /// hosts on this machine.
    pub fn proxy(self, address: impl Into<String>) -> Self {
        self.proxy_except(address, "")
    }

    /// [`proxy`](Self::proxy), but not to these: hosts, domains and address ranges, separated by commas, as in `NO_PROXY`.
    pub fn proxy_except(mut self, address: impl Into<String>, except: impl Into<String>) -> Self {
        self.proxy = Some(Proxy::Given { address: address.into(), except: except.into() });
        self
    }

    /// Goes through no proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.proxy = Some(Proxy::None);
        self
    }

    /// Pulls images of `registry` from the host `mirror` if it has them. Several are tried in this order, and the registry
    /// itself last. Each gets its own credentials only.
    pub fn mirror(mut self, registry: impl Into<String>, mirror: impl Into<String>) -> Self {
        self.mirrors.entry(registry.into()).or_default().push(mirror.into());
        self
    }

    /// Speaks to a host without TLS: whoever is on the way can read and change what passes, passwords too. On this machine
    /// (`localhost`, 127.0.0.0/8, ::1) registries without TLS are found out and need not be named.
    pub fn plain_http(mut self, host: impl Into<String>) -> Self {
        self.plain.insert(host.into());
        self
    }

    /// Sends credentials to this host when a registry of another site says that it gives out its tokens.
    pub fn trust_token_server(mut self, host: impl Into<String>) -> Self {
        self.token_servers.insert(host.into());
        self
    }

    /// How long a connection may take to be made; 15 s if it is not said.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// How long nothing may come before a connection is given up; 30 s if it is not said.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = Some(timeout);
        self
    }

    /// How often something is tried again that may work later: connections that break, answers that say `429` or are the
    /// server's fault. A download that has come on in between counts anew. 5 if it is not said.
    pub fn retries(mut self, times: u32) -> Self {
        self.retries = Some(times);
        self
    }

    /// How long is waited at most when a registry says that it wants to be left alone (`Retry-After`); 1 minute if it is
    /// not said.
    pub fn patience(mut self, longest: Duration) -> Self {
        self.patience = Some(longest);
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for certificates and keys that are none.
    pub fn build(self) -> Result<Registry> {
        let mut trust = Trust::default();
        for pem in &self.authorities {
            trust.add_pem(pem).context(|| "trust a certificate authority")?;
        }
        let mut identities = HashMap::new();
        for (host, chain, key) in self.identities {
            let identity = Identity::from_pem(&chain, &key.0);
            let identity = identity.context(|| format!("use a certificate for {host}"))?;
            identities.insert(host, identity);
        }
        let helper_timeout = self.helper_timeout.unwrap_or(Duration::from_secs(120));
        let credentials =
            CredentialSource::new(self.credentials, self.docker_config, helper_timeout);
        let settings = Settings {
            credentials: Arc::new(credentials),
            trust,
            identities,
            proxy: self.proxy.unwrap_or(Proxy::Environment),
            mirrors: self.mirrors,
            plain: self.plain,
            token_servers: self.token_servers,
            connect_timeout: self.connect_timeout.unwrap_or(Duration::from_secs(15)),
            read_timeout: self.read_timeout.unwrap_or(Duration::from_secs(30)),
            retries: self.retries.unwrap_or(5),
            patience: self.patience.unwrap_or(Duration::from_secs(60)),
        };
        Ok(Registry::new_with(Client::new(settings)))
    }
}
