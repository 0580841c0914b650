//! Debian's `docker-registry` on loopback.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::certificates::{Authority, LOOPBACK};
use super::daemon::Daemon;
use super::tokens::TokenServer;
use super::{Missing, Sandbox, program, setup, setup_in_memory};

/// A real registry: distribution 2.8, with its own port and storage, ended on drop.
///
/// ```ignore
/// let registry = require!(Registry::start());
/// let locked = require!(Registry::builder().tls().htpasswd("alice", "sesame").start());
/// let mirror = require!(Registry::builder().mirror(&locked).start());
/// ```
pub struct Registry {
    daemon: Option<Daemon>,
    executable: PathBuf,
    address: String,
    settings: Builder,
    dir: Sandbox,
}

/// How a registry is to be. See [`Registry::builder`].
#[derive(Clone, Default)]
pub struct Builder {
    /// The names in the certificate, if it is to have one.
    tls: Option<String>,
    expired: bool,
    client_certificates: bool,
    htpasswd: Vec<(String, String)>,
    tokens: Option<Value>,
    delete: bool,
    upstream: Option<Value>,
    upstream_ca: Option<PathBuf>,
    ipv6: bool,
    in_memory: bool,
}

impl Builder {
    /// Speaks TLS, with a certificate for loopback by a private authority: [`Registry::ca_pem`].
    #[must_use]
    pub fn tls(self) -> Self {
        self.tls_for(LOOPBACK)
    }

    /// TLS with a certificate for these names, as openssl writes them: `DNS:elsewhere.example`.
    #[must_use]
    pub fn tls_for(self, names: &str) -> Self {
        Self { tls: Some(names.to_owned()), ..self }
    }

    /// TLS with a certificate whose time is over.
    #[must_use]
    pub fn expired(self) -> Self {
        Self { expired: true, ..self.tls() }
    }

    /// TLS, and only for clients with a certificate: [`Registry::client_certificate`].
    #[must_use]
    pub fn client_certificates(self) -> Self {
        Self { client_certificates: true, ..self.tls() }
    }

    /// Wants Basic credentials, of which these are some.
    #[must_use]
    pub fn htpasswd(mut self, user: &str, password: &str) -> Self {
        self.htpasswd.push((user.to_owned(), password.to_owned()));
        self
    }

    /// Wants tokens of this server, which must live as long.
    #[must_use]
    pub fn tokens(self, server: &TokenServer) -> Self {
        let tokens = json!({
            "realm": server.realm(),
            "service": server.service(),
            "issuer": server.issuer(),
            "rootcertbundle": server.certificate(),
        });
        Self { tokens: Some(tokens), ..self }
    }

    /// Lets manifests and blobs be deleted.
    #[must_use]
    pub fn delete(self) -> Self {
        Self { delete: true, ..self }
    }

    /// Passes on what the other has. Takes no push. It cannot reach one that wants Basic credentials or clients'
    /// certificates.
    #[must_use]
    pub fn mirror(self, upstream: &Registry) -> Self {
        let proxy = json!({ "remoteurl": upstream.url() });
        let upstream_ca = upstream.is_tls().then(|| upstream.ca_pem());
        Self { upstream: Some(proxy), upstream_ca, ..self }
    }

    /// [`mirror`](Self::mirror) of one that wants tokens, which it gets with this account.
    #[must_use]
    pub fn mirror_as(self, upstream: &Registry, user: &str, password: &str) -> Self {
        let mut mirror = self.mirror(upstream);
        if let Some(proxy) = &mut mirror.upstream {
            (proxy["username"], proxy["password"]) = (json!(user), json!(password));
        }
        mirror
    }

    /// Passes on what the registry at the address has, in the clear.
    #[must_use]
    pub fn mirror_of(self, address: &str) -> Self {
        Self { upstream: Some(json!({ "remoteurl": format!("http://{address}") })), ..self }
    }

    /// Listens on `[::1]`.
    #[must_use]
    pub fn ipv6(self) -> Self {
        Self { ipv6: true, ..self }
    }

    /// Keeps its storage in memory, where a disk would take too long.
    #[must_use]
    pub fn in_memory(self) -> Self {
        Self { in_memory: true, ..self }
    }

    /// Starts it, and returns when it listens.
    pub fn start(self) -> Result<Registry, Missing> {
        let executable = program("docker-registry")?;
        let host = if self.ipv6 { "[::1]" } else { "127.0.0.1" };
        if self.ipv6 && std::net::TcpListener::bind("[::1]:0").is_err() {
            return Err(Missing::new("IPv6", "nothing can listen on ::1"));
        }
        let dir = if self.in_memory { setup_in_memory("registry") } else { setup("registry") };
        if let Some(names) = &self.tls {
            let authority = Authority::new(&dir.dir("authority"))?;
            match self.expired {
                true => authority.expired(names),
                false => authority.server(names),
            };
            let client = authority.client("coracle-test");
            let copy = |from: &Path, to: &str| {
                fs::copy(from, dir.join("client").join(to)).expect("copy a certificate");
            };
            dir.file("trust/ca.crt", fs::read(authority.pem()).expect("read the certificate"));
            dir.dir("client");
            copy(&authority.pem(), "ca.crt");
            copy(&client.certificate, "client.cert");
            copy(&client.key, "client.key");
        }
        let htpasswd = dir.join("htpasswd");
        for (user, password) in &self.htpasswd {
            add_account(&program("htpasswd")?, &htpasswd, user, password);
        }
        let address = format!("{host}:0");
        let mut registry = Registry { daemon: None, executable, address, settings: self, dir };
        registry.launch().map_err(|why| Missing::new("a registry", why))?;
        Ok(registry)
    }
}

/// With the least work factor, since hashing is slow by design.
fn add_account(htpasswd: &Path, file: &Path, user: &str, password: &str) {
    let create = if file.exists() { "-iB" } else { "-ciB" };
    let mut command = Command::new(htpasswd);
    command.args([create, "-C", "4"]).arg(file).arg(user).stdin(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().expect("start htpasswd");
    let mut input = child.stdin.take().expect("it is piped");
    writeln!(input, "{password}").expect("write the password");
    drop(input);
    assert!(child.wait().expect("wait for htpasswd").success(), "htpasswd takes no {user}");
}

impl Registry {
    /// Starts a plain one: no TLS, no accounts.
    pub fn start() -> Result<Self, Missing> {
        Self::builder().start()
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    fn config(&self) -> Value {
        let settings = &self.settings;
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info", "formatter": "text" },
            "storage": {
                "filesystem": { "rootdirectory": self.data_dir() },
                "cache": { "blobdescriptor": "inmemory" },
                "delete": { "enabled": settings.delete },
            },
            // So that an upload goes on after a restart.
            "http": { "addr": self.address, "secret": "of no worth" },
        });
        if settings.tls.is_some() {
            let authority = self.dir.join("authority");
            let mut tls = json!({
                "certificate": authority.join("server.pem"),
                "key": authority.join("server.key"),
            });
            if settings.client_certificates {
                tls["clientcas"] = json!([authority.join("ca.pem")]);
            }
            config["http"]["tls"] = tls;
        }
        if let Some(tokens) = &settings.tokens {
            config["auth"] = json!({ "token": tokens });
        } else if !settings.htpasswd.is_empty() {
            let path = self.dir.join("htpasswd");
            config["auth"] =
                json!({ "htpasswd": { "realm": "coracle-test-accounts", "path": path } });
        }
        if let Some(upstream) = &settings.upstream {
            config["proxy"] = upstream.clone();
        }
        config
    }

    /// Starts the process and waits for the address that it says it listens on.
    fn launch(&mut self) -> Result<(), String> {
        // JSON is YAML too.
        let config = self.dir.file("config.yml", self.config().to_string());
        let log = self.dir.join("log");
        let before = fs::metadata(&log).map_or(0, |log| log.len());
        let args = [OsString::from("serve"), config.into()];
        let mut env = Vec::new();
        if let Some(ca) = &self.settings.upstream_ca {
            env.push(("SSL_CERT_FILE".to_owned(), ca.clone().into()));
        }
        let mut daemon = Daemon::start(&self.executable, &args, &env, &log);
        self.address = daemon.wait_for(|log| {
            let log = log.get(usize::try_from(before).ok()?..)?;
            let (_, rest) = log.split_once("msg=\"listening on ")?;
            Some(rest.split(['"', ',']).next()?.to_owned())
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Ends the process. What it has stored stays.
    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// Starts it again, at the same address.
    pub fn restart(&mut self) {
        self.stop();
        // Meanwhile the kernel may have given the port to another's connection for a moment.
        for _ in 0..50 {
            match self.launch() {
                Ok(()) => return,
                Err(why) if why.contains("address already in use") => {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                Err(why) => panic!("the registry did not start again: {why}"),
            }
        }
        panic!("the port of the registry stays taken:\n{}", self.log());
    }

    /// Where it listens: `127.0.0.1:PORT` or `[::1]:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A name in it: `127.0.0.1:PORT/NAME`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub fn url(&self) -> String {
        let scheme = if self.is_tls() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn is_tls(&self) -> bool {
        self.settings.tls.is_some()
    }

    /// The first account of htpasswd.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        let first = self.settings.htpasswd.first();
        first.map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// The certificate of its authority, with TLS.
    pub fn ca_pem(&self) -> PathBuf {
        self.trust_dir().join("ca.crt")
    }

    /// A certificate that it takes from clients, with TLS.
    pub fn client_certificate(&self) -> PathBuf {
        self.client_dir().join("client.cert")
    }

    /// The private key of [`client_certificate`](Self::client_certificate).
    pub fn client_key(&self) -> PathBuf {
        self.client_dir().join("client.key")
    }

    /// A directory with the authority's certificate, as docker and skopeo want one: `ca.crt`.
    pub fn trust_dir(&self) -> PathBuf {
        self.dir.join("trust")
    }

    /// A directory with the certificates of the authority and a client: `ca.crt`, `client.cert`, `client.key`.
    pub fn client_dir(&self) -> PathBuf {
        self.dir.join("client")
    }

    /// Everything it has said, one line for each request among it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).expect("read the log")
    }

    /// Where it keeps what it has.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The file that holds a blob (`sha256:...`), to be damaged.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.data_dir().join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }
}
