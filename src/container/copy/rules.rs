//! What `docker cp` makes of its two paths, which is what cp(1) makes of them but for `/.`.

use crate::error::{Error, ErrorKind, Result};

/// What is there to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct From {
    /// The last name of the path; empty for a root directory.
    pub(super) name: Vec<u8>,
    pub(super) directory: bool,
    /// The path ends in `/.`: not the directory, but what is in it.
    pub(super) contents: bool,
}

/// What is at the other path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Nothing,
    File,
    Directory,
    /// A device, a socket or the like.
    Special,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Into the directory at the other path, by this name; if that is empty, what is in it goes there.
    Into(Vec<u8>),
    /// To the other path itself.
    As,
}

/// Where `from` goes. `slash`: the other path ends in one.
pub(super) fn goal(from: &From, to: To, slash: bool) -> Result<Goal> {
    match to {
        To::Directory if from.directory && from.contents => Ok(Goal::Into(Vec::new())),
        To::Directory => Ok(Goal::Into(from.name.clone())),
        To::Nothing if slash && !from.directory => {
            Err(Error::new(ErrorKind::NotFound, "there is no such directory to copy a file into"))
        }
        To::File if from.directory => Err(Error::invalid("a directory cannot be copied to a file")),
        To::File if slash => Err(Error::invalid("it is a file, and the path says a directory")),
        To::Special => Err(Error::invalid("it is neither a file nor a directory")),
        To::Nothing | To::File => Ok(Goal::As),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is test code")]
mod tests {
    use super::*;

    #[test]
    fn the_cases_of_dockers_manual() {
        let file = From { name: b"f".to_vec(), directory: false, contents: false };
        let dir = From { name: b"d".to_vec(), directory: true, contents: false };
        let contents = From { contents: true, ..dir.clone() };
        let root = From { name: Vec::new(), ..dir.clone() };
        let into = |name: &[u8]| Some(Goal::Into(name.to_vec()));
        for (from, to, slash, expected) in [
            (&file, To::Nothing, false, Some(Goal::As)),
            (&file, To::Nothing, true, None),
            (&file, To::File, false, Some(Goal::As)),
            (&file, To::File, true, None),
            (&file, To::Directory, false, into(b"f")),
            (&file, To::Special, false, None),
            (&dir, To::Nothing, false, Some(Goal::As)),
            (&dir, To::Nothing, true, Some(Goal::As)),
            (&dir, To::File, false, None),
            (&dir, To::Directory, false, into(b"d")),
            (&contents, To::Nothing, false, Some(Goal::As)),
            (&contents, To::Directory, true, into(b"")),
            (&root, To::Directory, false, into(b"")),
        ] {
            assert_eq!(goal(from, to, slash).ok(), expected, "{from:?} {to:?} {slash}");
        }
    }
}
