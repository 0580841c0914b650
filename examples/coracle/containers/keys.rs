//! The keys that leave a container running and go away: ctrl-p ctrl-q, or others.

use std::mem;

/// Keys in a row, of which none is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

impl Keys {
    /// `ctrl-p,ctrl-q`: letters, and control with a letter or one of @ [ \ ] ^ _, with commas between.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = |key: &str| match (key.strip_prefix("ctrl-").map(str::as_bytes), key.as_bytes()) {
            (Some(&[letter @ b'a'..=b'z']), _) => Ok(letter - b'a' + 1),
            (Some(&[sign @ (b'@' | b'['..=b'_')]), _) => Ok(sign - b'@'),
            (_, &[letter]) if letter.is_ascii_graphic() => Ok(letter),
            _ => Err(format!("{key:?} is no key: a and ctrl-a are")),
        };
        text.split(',').map(key).collect::<Result<_, _>>().map(Self)
    }

    pub fn watch(&self) -> Watch {
        Watch { keys: self.0.clone(), held: Vec::new() }
    }
}

/// Looks for the keys in what is typed.
pub struct Watch {
    keys: Vec<u8>,
    /// What may be their beginning.
    held: Vec<u8>,
}

impl Watch {
    /// What of this is to be handed on now, and whether the keys have been typed in full.
    pub fn typed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.held.push(*byte);
            while !self.keys.starts_with(&self.held) {
                through.push(self.held.remove(0));
            }
            if self.held.len() == self.keys.len() {
                self.held.clear();
                return (through, true);
            }
        }
        (through, false)
    }

    /// What was held back, when nothing more is typed.
    pub fn rest(&mut self) -> Vec<u8> {
        mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_docker_does() {
        assert_eq!(Keys::parse("ctrl-p,ctrl-q"), Ok(Keys::default()));
        assert_eq!(Keys::parse("a,ctrl-[,ctrl-@,ctrl-_"), Ok(Keys(vec![b'a', 27, 0, 31])));
        for wrong in ["", "ctrl-", "ctrl-1", "ctrl-pq", "a,", "ä", "aa"] {
            assert!(Keys::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_beginning_is_held_back_until_it_is_none() {
        let mut watch = Keys::default().watch();
        assert_eq!(watch.typed(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(watch.typed(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(watch.typed(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(watch.rest(), b"\x10");
        assert_eq!(watch.typed(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(watch.typed(b"\x11b"), (vec![], true));
        let mut watch = Keys::parse("a,a,b").unwrap().watch();
        assert_eq!(watch.typed(b"aaab"), (b"a".to_vec(), true));
    }
}
