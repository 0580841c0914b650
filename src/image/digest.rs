//! Digests: the names of blobs, of unpacked layers and of stacks of them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// The SHA-256 digest that names a blob: `sha256:` and 64 lower-case hexadecimal digits.
///
/// Other algorithms, lengths and spellings are refused: a digest becomes a file name. See
/// <https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests>.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

const PREFIX: &str = "sha256:";

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 bytes of it.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the name of the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
    }

    /// The first 12 hexadecimal digits, as lists of images show them.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// Reads a digest in a document, where a wrong one is the document's fault.
    pub(super) fn in_document(text: &str) -> Result<Self> {
        text.parse().map_err(|err: Error| match err.kind() {
            ErrorKind::InvalidInput => err.with_kind(ErrorKind::Malformed),
            _ => err,
        })
    }

    /// Takes the digits alone, as files are named.
    pub(super) fn from_hex(hex: &[u8]) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("the digest {text:?} {why}"));
        match text.strip_prefix(PREFIX) {
            Some(hex) => Self::from_hex(hex.as_bytes())
                .ok_or_else(|| wrong("must have 64 lower-case hexadecimal digits")),
            None if text.contains(':') => {
                Err(wrong("uses another algorithm than sha256").with_kind(ErrorKind::Unsupported))
            }
            None => Err(wrong("does not begin with sha256:")),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{PREFIX}{}", self.hex()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest taken while the bytes pass by.
#[derive(Clone, Debug, Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// The digest of a layer's uncompressed tar archive, which names the layer however it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiffId(pub Digest);

/// The digest of a stack of layers, from the lowest up to one of them: names the tree that they make.
///
/// See <https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The stack of `layer` upon `below`, or of `layer` alone.
    pub fn stack(below: Option<ChainId>, layer: DiffId) -> Self {
        match below {
            None => Self(layer.0),
            Some(below) => Self(Digest::of(format!("{} {}", below.0, layer.0))),
        }
    }

    /// The stack up to each of `layers`, the lowest first.
    pub fn each(layers: &[DiffId]) -> Vec<Self> {
        let grow = |below: &mut Option<ChainId>, layer: &DiffId| {
            *below = Some(Self::stack(*below, *layer));
            *below
        };
        layers.iter().scan(None, grow).collect()
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = Digest::of("");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.short(), "e3b0c44298fc");
        let mut hasher = Hasher::default();
        hasher.update(b"ab");
        hasher.update(b"c");
        assert_eq!(hasher.finish(), Digest::of("abc"));
    }

    #[test]
    fn what_could_be_another_file_name_is_no_digest() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for wrong in [
            String::new(),
            hex.to_owned(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:../{}", &hex[3..]),
            format!("SHA256:{hex}"),
            format!("sha256:{hex}\n"),
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong:?}");
        }
        let other = format!("sha512:{hex}{hex}").parse::<Digest>().unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_chain_of_one_layer_is_the_layer_and_longer_ones_hash_pairs() {
        let layers = ["a", "b", "c"].map(|layer| DiffId(Digest::of(layer)));
        let chain = ChainId::each(&layers);
        assert_eq!(chain[0].0, layers[0].0);
        let pair = format!("{} {}", layers[0], layers[1]);
        assert_eq!(chain[1].0, Digest::of(pair));
        assert_eq!(chain[2].0, Digest::of(format!("{} {}", chain[1], layers[2])));
        assert!(ChainId::each(&[]).is_empty());
    }
}
