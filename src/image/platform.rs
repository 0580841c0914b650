//! What machine an image is for.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Operating system, processor and its variant: `linux/arm64/v8`.
///
/// The words are those of Go's `GOOS` and `GOARCH`. See
/// <https://github.com/opencontainers/image-spec/blob/main/image-index.md>.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// A platform by its words. What goes without saying is left out: `v8` of `arm64`, `v1` of `amd64`.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "i386" | "i486" | "i586" | "i686" | "x86" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            "powerpc64le" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        let variant = match (architecture, variant.filter(|it| !it.is_empty()).or(implied)) {
            ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) => None,
            ("arm", None) => Some("v7"),
            ("arm", Some("5")) => Some("v5"),
            ("arm", Some("6")) => Some("v6"),
            ("arm", Some("7")) => Some("v7"),
            (_, variant) => variant,
        };
        let (os, architecture) = (os.to_owned(), architecture.to_owned());
        Self { os, architecture, variant: variant.map(str::to_owned) }
    }

    /// The machine that this program was built for.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// The operating system.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The processor's family.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The kind within the family, where it matters.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// How well what was made for `other` runs here: the more the better, `None` not at all.
    pub(super) fn suits(&self, other: &Self) -> Option<u32> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        // `v6` code runs on a `v7` processor, and what has no variant runs on all of its family.
        let rank = |platform: &Self| match &platform.variant {
            None => Some(0),
            Some(variant) => variant.strip_prefix('v')?.parse::<u32>().ok(),
        };
        match (rank(self), rank(other)) {
            _ if self.variant == other.variant => Some(u32::MAX),
            (Some(mine), Some(its)) if its <= mine => Some(its),
            _ => None,
        }
    }
}

impl From<&oci_spec::image::Platform> for Platform {
    fn from(platform: &oci_spec::image::Platform) -> Self {
        let (os, architecture) = (platform.os().to_string(), platform.architecture().to_string());
        Self::new(&os, &architecture, platform.variant().as_deref())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let word = |part: &&str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            !part.is_empty() && part.len() <= 64 && part.bytes().all(known)
        };
        let parts: Vec<_> = text.split('/').collect();
        match parts[..] {
            _ if !parts.iter().all(word) => {}
            [os, architecture] => return Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => return Ok(Self::new(os, architecture, Some(variant))),
            _ => {}
        }
        Err(Error::invalid(format!(
            "the platform {text:?} is not of the form OS/ARCHITECTURE[/VARIANT]"
        ))
        .with_hint("linux/amd64 or linux/arm/v7, for example"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn other_words_for_a_platform_mean_the_same() {
        for (text, canonical) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(platform(text).to_string(), canonical);
        }
        for wrong in ["", "linux", "linux/", "/amd64", "linux/a/b/c", "linux/a b", "li\0nux/a"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_nearest_variant_suits_best_and_a_later_one_not_at_all() {
        let suits = |mine: &str, its: &str| platform(mine).suits(&platform(its));
        assert!(suits("linux/arm/v7", "linux/arm/v7") > suits("linux/arm/v7", "linux/arm/v6"));
        assert!(suits("linux/arm/v7", "linux/arm/v6") > suits("linux/arm/v7", "linux/arm/v5"));
        assert_eq!(suits("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(suits("linux/amd64", "linux/amd64/v3"), None);
        assert!(suits("linux/amd64/v3", "linux/amd64").is_some());
        assert_eq!(suits("linux/amd64", "linux/arm64"), None);
        assert_eq!(suits("linux/amd64", "windows/amd64"), None);
    }
}
