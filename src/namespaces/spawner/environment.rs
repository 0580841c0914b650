//! The program, its arguments and its environment as C wants them.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::namespaces::Command;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest path that the kernel takes, with the NUL at its end.
pub(crate) const PATH_MAX: usize = libc::PATH_MAX.unsigned_abs() as usize;

/// A C string, or an error that says what had a NUL byte in it.
pub(super) fn c_string(what: &str, value: impl AsRef<OsStr>) -> Result<CString> {
    let bytes = value.as_ref().as_bytes();
    CString::new(bytes).map_err(|err| {
        let shown = String::from_utf8_lossy(bytes);
        Error::invalid(format!(
            "{what} {:?} has a NUL byte at offset {}",
            shown.chars().take(80).collect::<String>(),
            err.nul_position()
        ))
    })
}

pub(super) fn c_path(what: &str, path: &Path) -> Result<CString> {
    c_string(what, path.as_os_str())
}

/// The environment of the process; a container starts from its own.
pub(super) fn environment(
    command: &Command,
    contained: bool,
    home: &Path,
) -> BTreeMap<OsString, OsString> {
    let mut env = BTreeMap::new();
    if contained {
        if !command.env_clear {
            env.insert("PATH".into(), DEFAULT_PATH.into());
            env.insert("HOME".into(), home.into());
            if command.terminal.is_some() {
                env.insert("TERM".into(), "xterm".into());
            }
        }
    } else if !command.env_clear {
        env.extend(std::env::vars_os());
    }
    for (key, value) in &command.env {
        match value {
            Some(value) => env.insert(key.clone(), value.clone()),
            None => env.remove(key),
        };
    }
    env
}

pub(super) fn c_environment(env: &BTreeMap<OsString, OsString>) -> Result<Vec<CString>> {
    env.iter()
        .map(|(key, value)| {
            if key.is_empty() || key.as_bytes().contains(&b'=') {
                return Err(Error::invalid(format!(
                    "the name of environment variable {} is empty or has a = in it",
                    key.display()
                )));
            }
            let mut pair = key.clone();
            pair.push("=");
            pair.push(value);
            c_string("environment variable", pair)
        })
        .collect()
}

/// Where the program may be, in the order in which it is looked for.
pub(super) fn candidates(
    program: &OsStr,
    env: &BTreeMap<OsString, OsString>,
) -> Result<Vec<CString>> {
    let name = c_string("program", program)?;
    if program.is_empty() {
        return Err(Error::invalid("the name of the program is empty"));
    }
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![name]);
    }
    let path = env.get(OsStr::new("PATH")).map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    std::env::split_paths(path)
        .map(|dir| {
            // An empty entry of PATH is the working directory.
            let dir = if dir.as_os_str().is_empty() { ".".into() } else { dir };
            c_path("program", &dir.join(program))
        })
        .collect()
}

/// `/a/b` for `a/./b/`; a path that climbs with `..` is refused.
pub(super) fn absolute(what: &str, path: &Path) -> Result<Vec<u8>> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(format!("the path of the {what} is empty")));
    }
    if path.as_os_str().len() >= PATH_MAX {
        // The way to it is made part by part, which takes memory by the square of the length.
        return Err(Error::invalid(format!(
            "{what} {}: {} bytes, and a path has less than {PATH_MAX}",
            path.display(),
            path.as_os_str().len()
        )));
    }
    let mut clean = Vec::new();
    for part in path.as_os_str().as_bytes().split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                return Err(Error::invalid(format!("{what} {} climbs with ..", path.display())));
            }
            part => {
                clean.push(b'/');
                clean.extend_from_slice(part);
            }
        }
    }
    if !path.is_absolute() {
        return Err(Error::invalid(format!("{what} {} is not absolute", path.display())));
    }
    if clean.is_empty() {
        clean.push(b'/');
    }
    Ok(clean)
}

pub(super) fn os(bytes: Vec<u8>) -> OsString {
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_climbing_ones_refused() {
        let clean =
            |p: &str| absolute("mount point", Path::new(p)).map(|b| os(b).into_string().unwrap());
        assert_eq!(clean("/a//b/./c/").unwrap(), "/a/b/c");
        assert_eq!(clean("/").unwrap(), "/");
        assert!(clean("/a/../b").is_err());
        assert!(clean("a").is_err());
        let longest = "/long".repeat(819);
        assert_eq!(clean(&longest).unwrap(), longest);
        let err = clean(&(longest + "x")).unwrap_err();
        assert_eq!(err.kind(), crate::ErrorKind::InvalidInput);
        assert!(err.to_string().contains("4096 bytes"), "{err}");
    }

    #[test]
    fn a_program_is_looked_for_in_the_path_it_will_have() {
        let env = BTreeMap::from([("PATH".into(), "/a::/b".into())]);
        let found = candidates(OsStr::new("x"), &env).unwrap();
        assert_eq!(found, [c"/a/x".to_owned(), c"./x".to_owned(), c"/b/x".to_owned()]);
        assert_eq!(candidates(OsStr::new("./x"), &env).unwrap(), [c"./x".to_owned()]);
        assert!(candidates(OsStr::new(""), &env).is_err());
        assert!(candidates(OsStr::new("a\0b"), &env).unwrap_err().to_string().contains("NUL"));
    }
}
