//! The names of images.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;
use crate::error::{Error, Result};

/// The registry that a name without one means.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where that registry keeps what has a name of one word.
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// What the distribution specification's grammar allows.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// The name of an image: registry, repository, and a tag or digest or both.
///
/// Read as docker reads it: `debian` is `docker.io/library/debian:latest`, and the first part is a
/// registry if it has a dot or a port, is `localhost`, or has upper-case letters. See
/// <https://github.com/distribution/reference>.
///
/// ```
/// use coracle::image::Reference;
///
/// let name: Reference = "debian".parse()?;
/// assert_eq!(name.to_string(), "docker.io/library/debian:latest");
/// assert_eq!(name.familiar(), "debian:latest");
/// let name: Reference = "localhost:5000/team/app:1.2".parse()?;
/// assert_eq!((name.registry(), name.repository(), name.tag()), ("localhost:5000", "team/app", Some("1.2")));
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The host of the registry, with its port if one is given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path of the repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag; `latest` if neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index that is meant.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository with another tag, and no digest.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if that is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        check_tag(tag).map_err(|why| Error::invalid(format!("the tag {tag:?} {why}")))?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The name as people write it: without the parts that go without saying.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    /// [`name`](Self::name) as people write it.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match (self.repository.strip_prefix(DEFAULT_NAMESPACE), self.repository.split_once('/')) {
            (Some(word), _) if !word.contains('/') => word.to_owned(),
            // Would be read as a registry.
            (_, Some((first, _))) if is_registry(first) => self.name(),
            _ => self.repository.clone(),
        }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.iter().map(|tag| format!(":{tag}"));
        tag.chain(self.digest.iter().map(|digest| format!("@{digest}"))).collect()
    }
}

/// Canonical, every part spelt out: `docker.io/library/debian:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}{}", self.registry, self.repository, self.suffix()))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: String| Error::invalid(format!("the image name {text:?} {why}"));
        // Longer ones are not worth quoting in full either.
        if text.len() > MAX_NAME + MAX_TAG + 80 {
            return Err(wrong("is too long".to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let parsed = digest.parse::<Digest>();
                let parsed =
                    parsed.map_err(|err| err.context(format!("read the image name {text:?}")))?;
                (rest, Some(parsed))
            }
            None => (text, None),
        };
        // A colon before a slash is a port's.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(|why| wrong(format!("has a tag that {why}")))?;
        }
        if Digest::from_hex(text.as_bytes()).is_some() {
            return Err(wrong("looks like an id".to_owned()));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, name),
        };
        check_registry(registry).map_err(|why| wrong(format!("has a registry that {why}")))?;
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let namespace = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            DEFAULT_NAMESPACE
        } else {
            ""
        };
        let repository = format!("{namespace}{path}");
        for part in repository.split('/') {
            check_component(part).map_err(|why| wrong(why.to_owned()))?;
        }
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(wrong(format!("is longer than {MAX_NAME} characters")));
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

fn is_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match tag.as_bytes() {
        [] => Err("is empty"),
        tag if tag.len() > MAX_TAG => Err("is longer than 128 characters"),
        [first, rest @ ..]
            if word(*first) && rest.iter().all(|byte| word(*byte) || b".-".contains(byte)) =>
        {
            Ok(())
        }
        _ => Err(
            "must consist of letters, digits, `_`, `.` and `-`, and not begin with the last two",
        ),
    }
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("has a port that is no number");
    }
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').unwrap_or_default();
        return match address.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err("has no IPv6 address in its brackets"),
        };
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if host.split('.').all(label) { Ok(()) } else { Err("is no host name") }
}

/// Runs of lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn check_component(part: &str) -> Result<(), &'static str> {
    if part.is_empty() {
        return Err("has an empty part");
    }
    if part.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("must be in lower case");
    }
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = part.split(alphanumeric).filter(|between| !between.is_empty());
    let ends = part.starts_with(alphanumeric) && part.ends_with(alphanumeric);
    let known = |between: &str| {
        [".", "_", "__"].contains(&between) || between.bytes().all(|byte| byte == b'-')
    };
    if ends && separators.into_iter().all(known) {
        Ok(())
    } else {
        Err("must consist of letters and digits, with single `.`, `_`, `__` or `-` between them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = format!("@sha256:{HEX}");
        for (text, canonical, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("team/app", "docker.io/team/app:latest", "team/app:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
            ("host.example/a/b/c:v", "host.example/a/b/c:v", "host.example/a/b/c:v"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("a__b/c-----d.e_f", "docker.io/a__b/c-----d.e_f:latest", "a__b/c-----d.e_f:latest"),
            (
                &format!("debian{digest}"),
                &format!("docker.io/library/debian{digest}"),
                &format!("debian{digest}"),
            ),
            (
                &format!("debian:12{digest}"),
                &format!("docker.io/library/debian:12{digest}"),
                &format!("debian:12{digest}"),
            ),
        ] {
            let name: Reference = text.parse().unwrap();
            assert_eq!(name.to_string(), canonical, "{text}");
            assert_eq!(name.familiar(), familiar, "{text}");
            assert_eq!(canonical.parse::<Reference>().unwrap(), name);
            assert_eq!(familiar.parse::<Reference>().unwrap(), name);
        }
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "1".repeat(129));
        let short_digest = format!("a@sha256:{}", &HEX[1..]);
        for text in [
            "",
            ":",
            "a:",
            ":1",
            "a:.1",
            "a:-1",
            "a:1 ",
            " a",
            "a b",
            "A",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "a@",
            "a@x",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "a/../b",
            "a.b./c",
            "a_b.c/d",
            "x.y:port/a",
            "x.y:/a",
            "[::g]/a",
            "[::1/a",
            "é",
            "a\n",
            "a\0b",
            "http://a/b",
            HEX,
            long.as_str(),
            long_tag.as_str(),
            short_digest.as_str(),
            "a@sha256:x@sha256:y",
        ] {
            let parsed = text.parse::<Reference>();
            assert!(parsed.is_err(), "{text:?} was taken as {}", parsed.unwrap());
        }
        // At the limits.
        let most = "a".repeat(255 - "docker.io/library/".len());
        assert!(most.parse::<Reference>().is_ok());
        assert!(format!("a:{}", "1".repeat(128)).parse::<Reference>().is_ok());
        assert!(format!("{most}a").parse::<Reference>().is_err());
    }

    #[test]
    fn a_new_tag_drops_the_digest() {
        let name: Reference = format!("app:1@sha256:{HEX}").parse().unwrap();
        assert_eq!(name.with_tag("2").unwrap().familiar(), "app:2");
        assert!(name.with_tag("a/b").is_err());
    }
}
