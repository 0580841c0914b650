//! How registries are reached: what docker's daemon is told once, as options.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use coracle::registry::{Builder, Registry};

use crate::failure::{Failure, Result};

#[derive(Args)]
pub struct Registries {
    /// Speak to this registry without TLS, so that all on the way can listen; those of this machine need not be named
    #[arg(long, value_name = "HOST[:PORT]", global = true, display_order = 901)]
    insecure_registry: Vec<String>,
    /// Pull images of Docker Hub from here if they are there
    #[arg(long, value_name = "URL", global = true, display_order = 902)]
    registry_mirror: Vec<String>,
    /// Where certificates are: HOST[:PORT]/ca.crt of who signs a registry's, client.cert and client.key of who we are;
    /// by default in /etc/docker/certs.d
    #[arg(long, value_name = "DIR", global = true, display_order = 903)]
    cert_dir: Option<PathBuf>,
}

const DOCKER_HUB: &str = "docker.io";
const CERT_DIR: &str = "/etc/docker/certs.d";

impl Registries {
    /// A client that can reach this registry, logged in wherever docker is.
    pub fn client(&self, registry: &str) -> Result<Registry> {
        let mut builder = Registry::builder().docker_config();
        for host in &self.insecure_registry {
            builder = builder.plain_http(host);
        }
        let mut hosts = vec![registry];
        for mirror in &self.registry_mirror {
            let plain = mirror.strip_prefix("http://");
            let host = plain.or_else(|| mirror.strip_prefix("https://")).unwrap_or(mirror);
            let host = host.trim_end_matches('/');
            builder = builder.mirror(DOCKER_HUB, host);
            if plain.is_some() {
                builder = builder.plain_http(host);
            }
            hosts.push(host);
        }
        for host in hosts {
            builder = self.certificates(host, builder)?;
        }
        Ok(builder.build()?)
    }

    fn certificates(&self, host: &str, mut builder: Builder) -> Result<Builder> {
        let dir = self.cert_dir.as_deref().unwrap_or(Path::new(CERT_DIR)).join(host);
        let attempt = |path: &Path, err: io::Error| {
            Failure::new(format!("read the certificates of {host} in {}: {err}", path.display()))
        };
        let entries = match fs::read_dir(&dir) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(builder),
            entries => entries.map_err(|err| attempt(&dir, err))?,
        };
        for entry in entries {
            let path = entry.map_err(|err| attempt(&dir, err))?.path();
            let read = |path: &Path| fs::read(path).map_err(|err| attempt(path, err));
            match path.extension().and_then(|it| it.to_str()) {
                Some("crt") => builder = builder.certificate_authority(read(&path)?),
                Some("cert") => {
                    let key = read(&path.with_extension("key"))?;
                    builder = builder.client_certificate(host, read(&path)?, key);
                }
                _ => {}
            }
        }
        Ok(builder)
    }
}
