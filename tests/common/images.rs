//! Images of the test's own as OCI layouts, brought into a registry and out of it by skopeo.

#![allow(clippy::unwrap_used, reason = "it is test code")]

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::registry::Registry;
use super::{Missing, debian_rootfs, program, root};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    /// At the level that costs the least time.
    Gzip,
    Zstd,
}

/// A layer in the layout.
#[derive(Clone, Debug)]
pub struct Layer {
    pub descriptor: Value,
    /// The digest of what it is when it is not compressed.
    pub diff_id: String,
}

/// An OCI layout in the making: a directory that every tool reads.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// An empty one, in a directory that it makes.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let layout = Self { dir: dir.into(), manifests: Vec::new() };
        fs::create_dir_all(layout.dir.join("blobs/sha256")).unwrap();
        fs::write(layout.dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        layout.write_index();
        layout
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The file of a blob (`sha256:...`).
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        blob_file(&self.dir, digest)
    }

    /// Stores a blob and returns its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.blob_file(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Stores a layer of a tar archive, however large.
    pub fn layer(&self, tar: impl Read, packing: Packing) -> Layer {
        let part = self.dir.join("blobs/part");
        let file = Digesting::new(BufWriter::new(File::create(&part).unwrap()));
        let (diff_id, file, suffix) = match packing {
            Packing::Plain => {
                let (diff_id, file) = copy(tar, file);
                (diff_id, file, "")
            }
            Packing::Gzip => {
                let (diff_id, gzip) = copy(tar, GzEncoder::new(file, flate2::Compression::fast()));
                (diff_id, gzip.finish().unwrap(), "+gzip")
            }
            Packing::Zstd => {
                let (diff_id, zstd) = copy(tar, zstd::Encoder::new(file, 1).unwrap());
                (diff_id, zstd.finish().unwrap(), "+zstd")
            }
        };
        let (digest, size) = file.finish();
        fs::rename(part, self.blob_file(&digest)).unwrap();
        let media_type = format!("{LAYER}{suffix}");
        let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": size });
        Layer { descriptor, diff_id }
    }

    /// Stores an image's configuration and manifest for an architecture. It gets no name by it.
    pub fn manifest(&self, architecture: &str, layers: &[Layer]) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
        let config = json!({
            "created": "2001-09-09T01:46:40Z",
            "architecture": architecture,
            "os": "linux",
            "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let layers: Vec<_> = layers.iter().map(|layer| &layer.descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(CONFIG, config.to_string().as_bytes()),
            "layers": layers,
        });
        let mut descriptor = self.blob(MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
        descriptor
    }

    /// Gives what a descriptor says a name, by which skopeo finds it.
    pub fn name(&mut self, name: &str, descriptor: &Value) {
        let mut named = descriptor.clone();
        named["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        self.manifests.push(named);
        self.write_index();
    }

    /// Makes an image for this machine's architecture, and returns its digest.
    pub fn image(&mut self, name: &str, layers: &[Layer]) -> String {
        let descriptor = self.manifest(architecture(), layers);
        self.name(name, &descriptor);
        text(&descriptor["digest"])
    }

    /// Makes an index of manifests, and returns its digest.
    pub fn index(&mut self, name: &str, manifests: &[Value]) -> String {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        let descriptor = self.blob(INDEX, index.to_string().as_bytes());
        self.name(name, &descriptor);
        text(&descriptor["digest"])
    }

    /// Makes an image of the Debian root filesystem, of one layer, and returns its digest.
    pub fn debian(&mut self, name: &str, packing: Packing) -> Result<String, Missing> {
        let rootfs = debian_rootfs()?;
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(rootfs).args(["--format=posix", "--xattrs", "--xattrs-include=*"]);
        if root().is_err() {
            tar.args(["--owner=0", "--group=0"]);
        }
        let mut tar = tar.args(["-cf", "-", "."]).stdout(Stdio::piped()).spawn().unwrap();
        let layer = self.layer(tar.stdout.take().unwrap(), packing);
        assert!(tar.wait().unwrap().success());
        Ok(self.image(name, &[layer]))
    }

    fn write_index(&self) {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests });
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }
}

/// The file of a blob in any layout.
pub fn blob_file(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// The architecture of this machine, as images call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A tar archive of files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that nothing compresses, always the same for a seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn copy<W: Write>(mut from: impl Read, to: W) -> (String, W) {
    let mut to = Digesting::new(to);
    io::copy(&mut from, &mut to).unwrap();
    (format!("sha256:{:x}", to.hash.finalize()), to.inner)
}

struct Digesting<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Digesting<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    fn finish(mut self) -> (String, u64) {
        self.inner.flush().unwrap();
        (format!("sha256:{:x}", self.hash.finalize()), self.size)
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// skopeo, set up to reach one registry, with no settings or credentials of the user's.
pub struct Skopeo {
    address: String,
    /// Those flags that differ between the source and the destination of a copy, without `src-` and `dest-`.
    flags: Vec<String>,
    credentials: Option<(String, String)>,
    home: tempfile::TempDir,
}

impl Skopeo {
    /// With the authority, and the first account of htpasswd, that the registry has.
    pub fn new(registry: &Registry) -> Result<Self, Missing> {
        let mut skopeo = Self::at(registry.address())?;
        if registry.is_tls() {
            skopeo.flags = vec![format!("cert-dir={}", registry.trust_dir().display())];
        }
        skopeo.credentials =
            registry.credentials().map(|(user, password)| (user.to_owned(), password.to_owned()));
        Ok(skopeo)
    }

    /// For whatever listens there in the clear, a relay perhaps.
    pub fn at(address: &str) -> Result<Self, Missing> {
        program("skopeo")?;
        let home = tempfile::Builder::new().prefix("coracle-skopeo-").tempdir().unwrap();
        let flags = vec!["tls-verify=false".to_owned()];
        Ok(Self { address: address.to_owned(), flags, credentials: None, home })
    }

    /// Trusts only what this directory holds, as [`Registry::trust_dir`] or [`Registry::client_dir`].
    #[must_use]
    pub fn certificates(self, dir: &Path) -> Self {
        Self { flags: vec![format!("cert-dir={}", dir.display())], ..self }
    }

    #[must_use]
    pub fn user(self, name: &str, password: &str) -> Self {
        Self { credentials: Some((name.to_owned(), password.to_owned())), ..self }
    }

    #[must_use]
    pub fn anonymous(self) -> Self {
        Self { credentials: None, ..self }
    }

    /// Brings what a layout calls `from` into the registry as `to` (`NAME:TAG`), byte by byte, with all of an index.
    /// What skopeo said, if it failed.
    pub fn try_push(&self, layout: &Path, from: &str, to: &str) -> Result<String, String> {
        let digest = self.home.path().join("digest");
        let mut command = self.command(&["copy", "--all", "--preserve-digests", "--digestfile"]);
        command.arg(&digest).args(self.flags("--dest-"));
        command.arg(format!("oci:{}:{from}", layout.display())).arg(self.reference(to));
        output(&mut command)?;
        Ok(fs::read_to_string(digest).unwrap())
    }

    /// [`try_push`](Self::try_push) that succeeds; the digest of what was pushed.
    pub fn push(&self, layout: &Path, from: &str, to: &str) -> String {
        self.try_push(layout, from, to).unwrap_or_else(|err| panic!("push {to}: {err}"))
    }

    /// Brings `from` (`NAME:TAG` or `NAME@DIGEST`) into a layout as `to`. What skopeo said, if it failed.
    pub fn try_pull(&self, from: &str, layout: &Path, to: &str) -> Result<(), String> {
        let mut command = self.command(&["copy", "--all", "--preserve-digests"]);
        command.args(self.flags("--src-")).arg(self.reference(from));
        output(command.arg(format!("oci:{}:{to}", layout.display()))).map(drop)
    }

    /// [`try_pull`](Self::try_pull) that succeeds.
    pub fn pull(&self, from: &str, layout: &Path, to: &str) {
        self.try_pull(from, layout, to).unwrap_or_else(|err| panic!("pull {from}: {err}"));
    }

    /// What `skopeo inspect` tells of an image.
    pub fn inspect(&self, name: &str) -> Result<Value, String> {
        let mut command = self.command(&["inspect"]);
        let output = output(command.args(self.flags("--")).arg(self.reference(name)))?;
        Ok(serde_json::from_slice(&output).unwrap())
    }

    /// A manifest or index as the registry has it.
    pub fn raw(&self, name: &str) -> Result<Vec<u8>, String> {
        let mut command = self.command(&["inspect", "--raw"]);
        output(command.args(self.flags("--")).arg(self.reference(name)))
    }

    fn reference(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.address)
    }

    fn flags(&self, side: &str) -> Vec<String> {
        let credentials =
            self.credentials.iter().map(|(user, password)| format!("creds={user}:{password}"));
        self.flags.iter().cloned().chain(credentials).map(|flag| format!("{side}{flag}")).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("skopeo");
        command.arg("--insecure-policy").args(args).stdin(Stdio::null());
        for name in ["HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "TMPDIR"] {
            command.env(name, self.home.path());
        }
        command.env_remove("REGISTRY_AUTH_FILE").env_remove("DOCKER_CONFIG");
        command
    }
}

fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.output().unwrap();
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
