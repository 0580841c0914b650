//! Certificates of the test's own, made by `openssl`.

#![allow(clippy::unwrap_used, reason = "it is test code")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::engines::run;
use super::{Missing, program};

/// What a server on loopback is called.
pub const LOOPBACK: &str = "IP:127.0.0.1,IP:::1,DNS:localhost";

/// The arguments of `openssl req` for a small key that is soon made.
const CURVE: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// A private certificate authority.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its private key, both PEM files.
#[derive(Debug)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Makes one in an empty directory.
    pub fn new(dir: &Path) -> Result<Self, Missing> {
        Self::with_key(dir, CURVE)
    }

    /// One whose key is RSA's: `openssl` writes signatures of such a key as a JWT holds them.
    pub fn rsa(dir: &Path) -> Result<Self, Missing> {
        Self::with_key(dir, &["rsa:2048"])
    }

    fn with_key(dir: &Path, kind: &[&str]) -> Result<Self, Missing> {
        program("openssl")?;
        let authority = Self { dir: dir.to_owned() };
        let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign";
        authority.make("ca", "Coracle test authority", extensions, kind, None);
        Ok(authority)
    }

    /// Its own certificate, for whoever is to trust it.
    pub fn pem(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Signs with its own key: RS256, where the key is RSA's.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-sign"]).arg(self.dir.join("ca.key"));
        let mut openssl = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        openssl.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = openssl.wait_with_output().unwrap();
        assert!(output.status.success(), "openssl dgst: {}", output.status);
        output.stdout
    }

    /// A certificate for a server, with the names as openssl writes them, such as [`LOOPBACK`].
    pub fn server(&self, names: &str) -> Certificate {
        let usage = "extendedKeyUsage=serverAuth\nsubjectAltName=";
        self.leaf("server", "a server", &format!("{usage}{names}"))
    }

    /// A server's certificate whose time is over.
    pub fn expired(&self, names: &str) -> Certificate {
        let made = self.server(names);
        let path = |name: &str| self.dir.join(name);
        std::fs::write(path("issued"), "").unwrap();
        let config = format!(
            "[ca]\ndefault_ca=here\n[here]\ndatabase={}\nnew_certs_dir={}\nrand_serial=yes\n\
             default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n",
            path("issued").display(),
            self.dir.display()
        );
        std::fs::write(path("issue.conf"), config).unwrap();
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-config"]).arg(path("server.conf"));
        command.arg("-key").arg(&made.key).arg("-out").arg(path("server.csr"));
        run(&mut command);
        // Only this tool takes dates.
        let mut command = Command::new("openssl");
        command.args(["ca", "-batch", "-notext", "-config"]).arg(path("issue.conf"));
        command.arg("-cert").arg(self.pem()).arg("-keyfile").arg(path("ca.key"));
        command.args(["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]);
        command.arg("-extfile").arg(path("server.conf")).args(["-extensions", "extensions"]);
        command.arg("-in").arg(path("server.csr")).arg("-out").arg(&made.certificate);
        run(&mut command);
        made
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str) -> Certificate {
        self.leaf("client", name, "extendedKeyUsage=clientAuth")
    }

    fn leaf(&self, file: &str, name: &str, extensions: &str) -> Certificate {
        let plain = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n";
        self.make(file, name, &format!("{plain}{extensions}"), CURVE, Some("ca"))
    }

    fn make(
        &self,
        file: &str,
        name: &str,
        extensions: &str,
        key: &[&str],
        by: Option<&str>,
    ) -> Certificate {
        let path = |name: &str, ending: &str| self.dir.join(format!("{name}.{ending}"));
        let made = Certificate { certificate: path(file, "pem"), key: path(file, "key") };
        let config = path(file, "conf");
        let text = format!(
            "[req]\nprompt=no\ndistinguished_name=who\nx509_extensions=extensions\n\
             [who]\nCN={name}\n[extensions]\n{extensions}\n"
        );
        std::fs::write(&config, text).expect("write openssl's configuration");
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-days", "2", "-newkey"]).args(key);
        command.arg("-config").arg(config);
        command.arg("-keyout").arg(&made.key).arg("-out").arg(&made.certificate);
        if let Some(by) = by {
            command.arg("-CA").arg(path(by, "pem")).arg("-CAkey").arg(path(by, "key"));
        }
        run(&mut command);
        made
    }
}
