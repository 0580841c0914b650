//! What `--volume`, `--mount` and `--tmpfs` ask for.

use std::path::{Path, PathBuf};

use super::sizes;

/// What is mounted, before it is known what an unnamed volume is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    pub source: Source,
    pub target: PathBuf,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Bind(PathBuf),
    /// Without a name, a new one.
    Volume {
        name: Option<String>,
        no_copy: bool,
    },
    Tmpfs {
        size: Option<u64>,
        mode: Option<u32>,
    },
}

/// `[SOURCE:]TARGET[:OPTIONS]`. A source with a slash is a path, else the name of a volume.
pub fn volume(text: &str) -> Result<Mount, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err("it is not of the form [SOURCE:]TARGET[:OPTIONS]".into()),
    };
    let mut source = match source {
        None => Source::Volume { name: None, no_copy: false },
        Some("") => return Err("it has an empty source".into()),
        Some(path) if path.contains('/') || path == "." || path == ".." => {
            Source::Bind(std::path::absolute(path).map_err(|err| err.to_string())?)
        }
        Some(name) => Source::Volume { name: Some(name.to_owned()), no_copy: false },
    };
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match (option, &mut source) {
            ("ro", _) => read_only = true,
            ("rw", _) => read_only = false,
            ("nocopy", Source::Volume { no_copy, .. }) => *no_copy = true,
            // Private is what all are, and docker ignores the others on Linux.
            ("rprivate" | "private" | "consistent" | "cached" | "delegated", _) => {}
            _ => {
                return Err(format!(
                    "the option {option:?} is not known: ro, rw and, of volumes, nocopy are"
                ));
            }
        }
    }
    Ok(Mount { source, target: target_of(target)?, read_only })
}

/// `TARGET[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<Mount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut mode, mut read_only) = (None, None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(sizes::bytes(value)?),
            Some(("mode", value)) => mode = Some(octal(value)?),
            None if option == "ro" => read_only = true,
            // As all are.
            None if matches!(option, "rw" | "exec" | "nosuid" | "nodev") => {}
            _ => {
                return Err(format!("the option {option:?} is not known: size=, mode= and ro are"));
            }
        }
    }
    Ok(Mount { source: Source::Tmpfs { size, mode }, target: target_of(target)?, read_only })
}

/// `type=bind,source=PATH,target=PATH[,readonly]`, and the same for volumes and tmpfs.
pub fn mount(text: &str) -> Result<Mount, String> {
    let (mut kind, mut source, mut target) = ("volume".to_owned(), None, None);
    let (mut size, mut mode, mut read_only, mut no_copy) = (None, None, false, false);
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("type", Some(value)) => kind = value.to_ascii_lowercase(),
            ("source" | "src", Some(value)) => source = Some(value.to_owned()),
            ("target" | "destination" | "dst", Some(value)) => target = Some(target_of(value)?),
            ("readonly" | "ro", None | Some("true" | "1")) => read_only = true,
            ("readonly" | "ro", Some("false" | "0")) => read_only = false,
            ("volume-nocopy", None | Some("true" | "1")) => no_copy = true,
            ("volume-nocopy", Some("false" | "0")) => no_copy = false,
            ("tmpfs-size", Some(value)) => size = Some(sizes::bytes(value)?),
            ("tmpfs-mode", Some(value)) => mode = Some(octal(value)?),
            ("bind-propagation", Some("rprivate" | "private")) => {}
            ("consistency", Some("default" | "consistent" | "cached" | "delegated")) => {}
            _ => return Err(format!("{field:?} is not known, or not supported")),
        }
    }
    let target = target.ok_or("it has no target")?;
    let source = match (kind.as_str(), source) {
        ("bind", Some(path)) if Path::new(&path).is_absolute() => Source::Bind(path.into()),
        ("bind", Some(path)) => return Err(format!("the source {path:?} is not absolute")),
        ("bind", None) => return Err("it has no source".into()),
        ("volume", name) => Source::Volume { name: name.filter(|name| !name.is_empty()), no_copy },
        ("tmpfs", None) => Source::Tmpfs { size, mode },
        ("tmpfs", Some(_)) => return Err("a tmpfs has no source".into()),
        _ => return Err(format!("the type {kind:?} is none of bind, volume and tmpfs")),
    };
    if kind != "volume" && no_copy {
        return Err("only a volume has volume-nocopy".into());
    }
    if kind != "tmpfs" && (size.is_some() || mode.is_some()) {
        return Err("only a tmpfs has tmpfs-size and tmpfs-mode".into());
    }
    Ok(Mount { source, target, read_only })
}

/// The fields of a line of CSV.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let (mut quoted, mut chars) = (false, text.chars().peekable());
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                fields[last].push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields[last].push(c),
        }
    }
    if quoted { Err("a quote is not closed".into()) } else { Ok(fields) }
}

fn target_of(text: &str) -> Result<PathBuf, String> {
    match Path::new(text) {
        path if path == Path::new("/") => Err("the target must not be /".into()),
        path if path.is_absolute() => Ok(path.to_owned()),
        _ => Err(format!("the target {text:?} is not absolute")),
    }
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("{text:?} is no mode: 1777 is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: Source, target: &str, read_only: bool) -> Result<Mount, String> {
        Ok(Mount { source, target: target.into(), read_only })
    }

    #[test]
    fn volumes_are_paths_names_or_neither() {
        let bind = |path: &str| Source::Bind(path.into());
        let named = |name: &str| Source::Volume { name: Some(name.into()), no_copy: false };
        assert_eq!(volume("/a:/b"), of(bind("/a"), "/b", false));
        assert_eq!(volume("/a:/b:ro"), of(bind("/a"), "/b", true));
        let here = std::env::current_dir().unwrap().join("a");
        assert_eq!(volume("./a:/b:rw,rprivate"), of(Source::Bind(here), "/b", false));
        assert_eq!(volume("data:/b:ro"), of(named("data"), "/b", true));
        assert_eq!(volume("/b"), of(Source::Volume { name: None, no_copy: false }, "/b", false));
        let empty = Source::Volume { name: Some("data".into()), no_copy: true };
        assert_eq!(volume("data:/b:ro,nocopy"), of(empty, "/b", true));
        for wrong in ["", "a", "a:b", ":/b", "a:/", "/a:/b:shiny", "/a:/b:nocopy", "/a:/b:ro:x"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mounts_are_fields_in_any_order() {
        let memory = |size, mode| Source::Tmpfs { size, mode };
        assert_eq!(
            mount("type=bind,source=/a,target=/b,readonly"),
            of(Source::Bind("/a".into()), "/b", true)
        );
        let named = |no_copy| Source::Volume { name: Some("v".into()), no_copy };
        assert_eq!(mount("dst=/b,src=v"), of(named(false), "/b", false));
        assert_eq!(mount("dst=/b,volume-nocopy,src=v"), of(named(true), "/b", false));
        assert_eq!(
            mount("type=bind,\"src=/a,\"\"x\",dst=/b,ro=false"),
            of(Source::Bind("/a,\"x".into()), "/b", false)
        );
        assert_eq!(
            mount("type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=700"),
            of(memory(Some(1 << 20), Some(0o700)), "/t", false)
        );
        assert_eq!(tmpfs("/t"), of(memory(None, None), "/t", false));
        assert_eq!(
            tmpfs("/t:rw,size=64k,mode=1777,ro"),
            of(memory(Some(65536), Some(0o1777)), "/t", true)
        );
        for wrong in [
            "type=bind,source=/a",
            "type=bind,target=/b",
            "type=bind,source=a,target=/b",
            "type=npipe,source=/a,target=/b",
            "type=tmpfs,source=/a,target=/b",
            "type=volume,source=v,target=/b,tmpfs-size=1m",
            "type=bind,source=/v,target=/b,volume-nocopy",
            "target=/b,colour=red",
            "target=/b,\"src=v",
        ] {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
        for wrong in ["t", "/t:mode=9", "/t:noexec=1", "/t:size=x"] {
            assert!(tmpfs(wrong).is_err(), "{wrong}");
        }
    }
}
