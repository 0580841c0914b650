//! What the parsers of foreign bytes promise, whatever they read: no panic, and what they accept they write and
//! read again unchanged. `fuzz/` looks for what breaks that; the tests below try mutations of good input.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use crate::namespaces::{Capability, Resource, Rlimit, Signal, Sysctl};

/// What an image's `/etc/passwd` and `/etc/group` say of a user: three parts, NUL between them.
pub fn users(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (user, passwd, group) = (String::from_utf8_lossy(part()), part(), part());
    if let Ok(identity) = crate::namespaces::fuzzing::user(&user, passwd, group) {
        assert_eq!(identity.groups.first(), Some(&identity.gid));
        assert!(identity.uid != u32::MAX && identity.groups.iter().all(|gid| *gid != u32::MAX));
        assert!(identity.home.is_none_or(|home| home.is_absolute()));
    }
}

/// What a caller passes on from its own callers: names, limits and settings.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    again::<Signal>(&text);
    again::<Capability>(&text);
    again::<Resource>(&text);
    again::<Rlimit>(&text);
    again::<Sysctl>(&text);
}

/// What the kernel tells of cgroups and ids.
pub fn kernel_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    crate::cgroups::fuzzing::files(&text);
    crate::namespaces::fuzzing::ids(&text);
}

/// The names of images, digests and platforms, and instructions of a Dockerfile.
#[cfg(feature = "image")]
pub fn image_names(data: &[u8]) {
    use crate::image::{ConfigChanges, Digest, Platform, Reference};
    let text = String::from_utf8_lossy(data);
    if let Some(reference) = again::<Reference>(&text) {
        assert_eq!(reference.familiar().parse::<Reference>().ok().as_ref(), Some(&reference));
    }
    again::<Digest>(&text);
    again::<Platform>(&text);
    let _ = ConfigChanges::new().instruction(&text);
}

/// Manifests, indexes and configurations.
#[cfg(feature = "image")]
pub fn documents(data: &[u8]) {
    crate::image::fuzzing::documents(data);
}

/// What registries say in headers, and what they are called.
#[cfg(feature = "registry")]
pub fn registry_headers(data: &[u8]) {
    crate::registry::fuzzing::headers(data);
}

/// A line of a container's log, in either format.
#[cfg(feature = "container")]
pub fn log_lines(data: &[u8]) {
    crate::container::logs::fuzzing::line(data);
}

/// A container's log, in a directory to write it to.
#[cfg(feature = "container")]
pub fn log_files(dir: &std::path::Path, data: &[u8]) {
    crate::container::logs::fuzzing::file(dir, data);
}

fn again<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(value) => {
            let written = value.to_string();
            match written.parse::<T>() {
                Ok(read) => assert_eq!(read, value, "{text:?} was written as {written:?}"),
                Err(err) => panic!("{text:?} was written as {written:?}: {err:#}"),
            }
            Some(value)
        }
        Err(err) => {
            let _ = format!("{err:#}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "image")]
    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// Marsaglia's xorshift: the same numbers in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            for (left, right) in [(true, 13), (false, 7), (true, 17)] {
                self.0 ^= if left { self.0 << right } else { self.0 >> right };
            }
            usize::try_from(self.0 >> 33).unwrap_or(0) % limit.max(1)
        }
    }

    /// Runs the body on every seed, and on what becomes of it when bytes are lost, doubled, swapped and changed.
    fn mutated(body: fn(&[u8]), seeds: &[&str]) {
        const SPECIAL: &[u8] = b"\0\n:/@.,-+\"\\{}[]=% 019aZ\x7f\x80\xc3\xff";
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for seed in seeds {
            body(seed.as_bytes());
            for _ in 0..crate::machine::rounds(400) {
                let mut data = seed.as_bytes().to_vec();
                for _ in 0..=random.below(4) {
                    let (at, to) = (random.below(data.len()), random.below(data.len()));
                    let special = SPECIAL[random.below(SPECIAL.len())];
                    let length = random.below(8).min(data.len() - at);
                    match random.below(5) {
                        0 => data.insert(at, special),
                        1 if !data.is_empty() => data[at] = special,
                        2 if !data.is_empty() => data.swap(at, to),
                        3 => drop(data.drain(at..at + length)),
                        _ => data.extend_from_within(at..at + length),
                    }
                }
                body(&data);
            }
        }
    }

    #[test]
    fn users_hold() {
        let files =
            "root:x:0:0::/root:\napp:x:7:8::/app:\n\0root:x:0:\napp:x:8:\nmore:x:9:app,root\n";
        for user in ["app", "7:9", "root:more", "4294967294", "app:"] {
            mutated(users, &[&format!("{user}\0{files}")]);
        }
    }

    #[test]
    fn settings_hold() {
        let seeds = [
            "SIGTERM",
            "RTMIN+3",
            "9",
            "CAP_NET_RAW",
            "nofile",
            "100:200",
            "unlimited",
            "net.ipv4.ip_forward=1",
            "kernel.msgmax = 8192",
            "net/ipv4/conf/eth0.100/rp_filter=0",
        ];
        mutated(settings, &seeds);
    }

    #[test]
    fn kernel_files_hold() {
        let seeds = [
            "8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=0 dios=0\n",
            "8:0 Read 1024\n8:0 Write 5\nTotal 1029\n",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=1.5 avg60=0.00 avg300=0.00 total=9\n",
            "populated 1\nfrozen 0\n",
            "9223372036854771712\n",
            "30 23 0:26 / /sys/fs/cgroup/a\\040b rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            "         0     100000      65536\n",
            "user:100000:65536\n1000:4294967295:1\n",
        ];
        mutated(kernel_files, &seeds);
    }

    #[cfg(feature = "image")]
    #[test]
    fn image_names_hold() {
        let pinned = format!("localhost:5000/a/b_c:1.0@{DIGEST}");
        let seeds = [
            "debian",
            "docker.io/library/debian:12",
            "[::1]:5000/x",
            &pinned,
            DIGEST,
            "linux/arm64/v8",
            "ENV A=1 B=\"two $A\" C='${B:-x}'",
            "EXPOSE 80/tcp 1000-1010",
            "CMD [\"a\", \"b\"]",
            "HEALTHCHECK --interval=5m --timeout=3s CMD curl -f /",
            "LABEL a.b=\"c\\\nd\"",
            "VOLUME [\"/a\"]",
        ];
        mutated(image_names, &seeds);
    }

    #[cfg(feature = "registry")]
    #[test]
    fn registry_headers_hold() {
        let seeds = [
            "Bearer realm=\"https://auth.example.com/token\",service=\"registry.example\",scope=\"repository:a:pull\"",
            "Basic realm=\"a\\\"b\", Negotiate abc=, Digest qop=\"auth\"",
            "</v2/_catalog?last=b&n=100>; rel=\"next\", <https://other.example/>; rel=prev",
            "</v2/a/tags/list?n=1&last=%2F>; title=\"x>y\"; rel=next",
            "registry.example:5000",
            "[::ffff:127.0.0.1]:5000",
            "127.0.0.1",
        ];
        mutated(registry_headers, &seeds);
    }

    #[cfg(feature = "container")]
    #[test]
    fn log_lines_hold() {
        let seeds = [
            "2026-01-01T00:00:00.000000001Z stdout F a b",
            "2026-01-01T02:00:00.5+02:00 stderr P:x y",
            r#"{"log":"a\u0009\"\n","stream":"stderr","attrs":{"x":"y"},"time":"2026-01-01T00:00:00.1Z"}"#,
            r#"{"log":"\ufffd\u2028","stream":"stdout","time":"2026-01-01T00:00:00Z"}"#,
        ];
        mutated(log_lines, &seeds);
    }

    #[cfg(feature = "container")]
    #[test]
    fn log_files_hold() {
        fn body(data: &[u8]) {
            let dir = tempfile::Builder::new().prefix("coracle-fuzz-").tempdir_in("/dev/shm");
            log_files(dir.expect("make a directory").path(), data);
        }
        let cri = "2026-01-01T00:00:00Z stdout P a\n2026-01-01T00:00:01Z stderr F b\n2026-01-01T00:00:02Z stdout F c\n";
        let json = "{\"log\":\"a\\n\",\"stream\":\"stderr\",\"time\":\"2026-01-01T00:00:00Z\"}\n"
            .repeat(4);
        mutated(body, &[cri, &json, &format!("{json}{cri}torn")]);
    }

    #[cfg(feature = "image")]
    #[test]
    fn documents_hold() {
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":
            "application/vnd.oci.image.config.v1+json","digest":"{DIGEST}","size":2}},"layers":[{{"mediaType":
            "application/vnd.oci.image.layer.v1.tar+gzip","digest":"{DIGEST}","size":3}}],"annotations":{{"a":"b"}}}}"#
        );
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":
            "{DIGEST}","size":9,"platform":{{"os":"linux","architecture":"arm","variant":"v7"}},"annotations":
            {{"org.opencontainers.image.ref.name":"a:b"}}}}]}}"#
        );
        let config = format!(
            r#"{{"created":"2026-01-02T03:04:05.678Z","architecture":"amd64","os":"linux","config":{{"Env":["A=b"],
            "Cmd":["sh"],"Labels":{{"a":"b"}},"Healthcheck":{{"Test":["NONE"]}}}},"rootfs":{{"type":"layers","diff_ids":
            ["{DIGEST}"]}},"history":[{{"created_by":"x","empty_layer":true}},{{"comment":"y"}}]}}"#
        );
        mutated(documents, &[&manifest, &index, &config]);
    }
}
