//! The names of containers.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Context, Error, Result};

/// What tells a container from all others for good: 256 random bits, written as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// How many digits `short` has.
    const SHORT: usize = 12;
    const LENGTH: usize = 64;

    pub(super) fn random() -> Result<Self> {
        random().map(Self::of_bytes)
    }

    /// What a symbolic link is to lead to that stands for it: 43 letters, which fit into the link itself. The digits would
    /// take a block of the disk, and time when that is freed.
    pub(super) fn link_target(&self) -> String {
        let bytes: Vec<u8> = (0..Self::LENGTH)
            .step_by(2)
            .filter_map(|at| u8::from_str_radix(&self.0[at..at + 2], 16).ok())
            .collect();
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// From a [`link_target`](Self::link_target).
    pub(super) fn of_link_target(target: &[u8]) -> Option<Self> {
        Some(Self::of_bytes(URL_SAFE_NO_PAD.decode(target).ok()?.try_into().ok()?))
    }

    fn of_bytes(bytes: [u8; Self::LENGTH / 2]) -> Self {
        use fmt::Write;
        let mut digits = String::with_capacity(Self::LENGTH);
        for byte in bytes {
            let _ = write!(digits, "{byte:02x}");
        }
        Self(digits)
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits: what people see.
    pub fn short(&self) -> &str {
        &self.0[..Self::SHORT]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContainerId {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for anything but 64 hexadecimal digits in lower case.
    fn from_str(text: &str) -> Result<Self> {
        match text.len() == Self::LENGTH && is_hex(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(Error::invalid(format!("{text:?} is no id of a container"))),
        }
    }
}

/// Whether it may be the beginning of an id.
pub(super) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks a name that is to be given to a container or a volume.
pub(super) fn check_name(name: &str) -> Result<()> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= 200 && name.bytes().all(known) {
        return Ok(());
    }
    Err(Error::invalid(format!("the name {name:?} is not allowed")).with_hint(
        "a name begins with a letter or digit; up to 199 letters, digits, `_`, `.` and `-` may follow",
    ))
}

/// A name for a container that got none: easy to tell apart and to type.
pub(super) fn random_name() -> Result<String> {
    const MOODS: [&str; 32] = [
        "brave", "bright", "brisk", "calm", "cheery", "clever", "cosy", "daring", "eager", "fair",
        "fleet", "fond", "gentle", "glad", "grand", "hardy", "jolly", "keen", "kind", "lively",
        "lucky", "merry", "neat", "noble", "plucky", "proud", "quick", "quiet", "spry", "sunny",
        "swift", "wise",
    ];
    const BOATS: [&str; 32] = [
        "barge",
        "brig",
        "canoe",
        "caravel",
        "catamaran",
        "clipper",
        "cog",
        "coracle",
        "cutter",
        "dhow",
        "dinghy",
        "dory",
        "ferry",
        "felucca",
        "frigate",
        "galleon",
        "gig",
        "gondola",
        "hulk",
        "junk",
        "kayak",
        "ketch",
        "lugger",
        "pinnace",
        "punt",
        "raft",
        "sampan",
        "schooner",
        "skiff",
        "sloop",
        "trawler",
        "yawl",
    ];
    let [mood, boat, high, low] = random()?;
    let number = u16::from_be_bytes([high, low]) % 1000;
    Ok(format!("{}-{}-{number}", MOODS[usize::from(mood % 32)], BOATS[usize::from(boat % 32)]))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context(|| "read random bytes from /dev/urandom")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_checked() {
        let id = ContainerId::random().unwrap();
        assert_eq!(id.to_string().parse::<ContainerId>().unwrap(), id);
        assert!(id.as_str().starts_with(id.short()) && id.short().len() == 12);
        for wrong in ["", "abc", "../../../../etc", &id.as_str().to_uppercase(), &format!("{id}0")]
        {
            assert!(wrong.parse::<ContainerId>().is_err(), "{wrong}");
        }
        let target = id.link_target();
        // What ext4 keeps in the link itself.
        assert!(target.len() < 60 && !target.contains('/'));
        assert_eq!(ContainerId::of_link_target(target.as_bytes()), Some(id.clone()));
        for wrong in [&target[1..], &format!("{target}A"), id.as_str(), ""] {
            assert_eq!(ContainerId::of_link_target(wrong.as_bytes()), None);
        }
        for right in ["a", "0", "web-1_x.y", &"x".repeat(200)] {
            check_name(right).unwrap();
        }
        for wrong in ["", ".", "..", "-a", "a/b", "a b", "ä", "a\0", &"x".repeat(201)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
        for _ in 0..100 {
            check_name(&random_name().unwrap()).unwrap();
        }
    }
}
