//! Names of cgroups: what leads anywhere but straight down is refused.

use std::path::{Component, Path};

use super::controller::Controllers;
use crate::error::{Error, Result};

/// A name below the own cgroup, without any trick in it.
pub(super) fn relative(name: &Path) -> Result<String> {
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    let refuse = |why| Err(Error::invalid(format!("use {name:?} as the name of a cgroup: {why}")));
    let Some(text) = name.to_str() else { return refuse("it is not UTF-8") };
    if text.is_empty() {
        return refuse("it is empty");
    }
    // `components` passes over `.` and doubled slashes inside.
    if !plain || text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("it must be a plain relative path");
    }
    if text.contains(['\0', '\n']) {
        return refuse("it holds a NUL or a line break");
    }
    if text.split('/').any(|part| part.len() > 255) || text.len() > 3000 {
        return refuse("it is too long");
    }
    // The kernel's own files live in the same directory.
    if text.split('/').any(is_interface_file) {
        return refuse("it looks like one of the kernel's own files");
    }
    Ok(text.to_owned())
}

/// The same for a path counted from the top of each hierarchy.
pub(super) fn absolute(path: &Path) -> Result<String> {
    let Ok(below) = path.strip_prefix("/") else {
        return Err(Error::invalid(format!(
            "use {path:?} as the path of a cgroup: it must begin with /"
        )));
    };
    relative(below)
}

fn is_interface_file(name: &str) -> bool {
    name.starts_with("cgroup.")
        || matches!(name, "tasks" | "notify_on_release" | "release_agent")
        || !Controllers::of_key(name).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "/",
            "a/..",
            "../a",
            "a/../b",
            "a//b",
            "a/./b",
            "./a",
            "/a",
            "a\0b",
            "a\nb",
            "cgroup.procs",
            "a/tasks",
            "memory.max",
            &long,
        ] {
            let err = relative(Path::new(name)).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{name:?}");
        }
        for path in ["a", "/", "/../a", "/a/../b", ""] {
            assert!(absolute(Path::new(path)).is_err(), "{path:?}");
        }
        assert_eq!(relative(Path::new("jobs/7.old")).unwrap(), "jobs/7.old");
        assert_eq!(absolute(Path::new("/coracle/web")).unwrap(), "coracle/web");
    }
}
