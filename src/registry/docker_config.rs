//! Docker's `config.json`, in which its tools keep who is logged in where.

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::ser::PrettyFormatter;
use serde_json::value::RawValue;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::temporary;

/// Longer files are none.
const MAX_LENGTH: u64 = 4 << 20;

/// Of this process one at a time reads, changes and replaces the file. Another process's change at the same moment can
/// be lost, as with Docker's own tools, but never leaves half a file.
static CHANGING: Mutex<()> = Mutex::new(());

/// Where the file is: in `$DOCKER_CONFIG`, or in `~/.docker`.
pub(super) fn path() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")));
    Some(directory?.join("config.json"))
}

/// What is in the file, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let attempt = || format!("read {}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err).context(attempt),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes).context(attempt)?;
    if bytes.len() as u64 > MAX_LENGTH {
        let message = format!("it has more than {MAX_LENGTH} bytes");
        return Err(Error::new(ErrorKind::Malformed, message)).context(attempt);
    }
    Ok(Some(bytes))
}

/// Changes the file, which is made if there is none; all but what `change` changes stays as it is written. The file is
/// replaced at once, and nobody else may read it. If `change` says that nothing has changed, it is left alone.
pub(super) fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut Object) -> Result<(T, bool)>,
) -> Result<T> {
    let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    // What a link leads to is changed, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut object = match read(&path)? {
        Some(bytes) if !bytes.trim_ascii().is_empty() => {
            Object::parse(&bytes).context(|| format!("read {}", path.display()))?
        }
        _ => Object::default(),
    };
    let (result, changed) = change(&mut object)?;
    if changed {
        write(&path, &object).context(|| format!("write {}", path.display()))?;
    }
    Ok(result)
}

fn write(path: &Path, object: &Object) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.context(|| format!("make the directory {}", directory.display()))?;
    // Of mode 0600, and gone if it does not get there.
    let made = temporary(directory, ".config.json");
    let mut file = made.context(|| format!("make a file in {}", directory.display()))?;
    // A superuser's program may change an ordinary user's file, whose it stays if that can be had.
    if let Ok(old) = fs::metadata(path) {
        let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    let written = file.write_all(&object.to_bytes()?).and_then(|()| file.as_file().sync_all());
    written.context(|| format!("write {}", file.path().display()))?;
    file.persist(path).map_err(|err| err.error).context(|| "rename it")?;
    Ok(())
}

/// An object of JSON whose fields stay in order, and those that are not looked into as they are written.
#[derive(Default)]
pub(super) struct Object(Vec<(String, Value)>);

enum Value {
    Raw(Box<RawValue>),
    Object(Object),
}

impl Object {
    fn parse(json: &[u8]) -> Result<Self> {
        // What it says of a value may be the value.
        serde_json::from_slice(json).map_err(|err| {
            let (line, column) = (err.line(), err.column());
            let message = format!("it is no JSON object: line {line}, column {column}");
            Error::new(ErrorKind::Malformed, message)
        })
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let formatter = PrettyFormatter::with_indent(b"\t");
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
            .map_err(unwritable)?;
        Ok(bytes)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// The text in a field, if there is one.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::Raw(raw) => serde_json::from_str(raw.get()).ok(),
            Value::Object(_) => None,
        }
    }

    /// The object in a field, empty if there is none.
    pub(super) fn object(&mut self, name: &str) -> Result<&mut Self> {
        let place = match self.0.iter().position(|(own, _)| own == name) {
            Some(place) => place,
            None => {
                self.0.push((name.to_owned(), Value::Object(Self::default())));
                self.0.len() - 1
            }
        };
        let value = &mut self.0[place].1;
        if let Value::Raw(raw) = value {
            let object = match raw.get() {
                "null" => Self::default(),
                json => Self::parse(json.as_bytes())
                    .context(|| format!("read {name} in config.json"))?,
            };
            *value = Value::Object(object);
        }
        match value {
            Value::Object(object) => Ok(object),
            Value::Raw(_) => Err(Error::new(ErrorKind::InvalidState, "it has been read")),
        }
    }

    /// Sets a field to an object with these texts in it.
    pub(super) fn set(&mut self, name: &str, texts: &[(&str, String)]) -> Result<()> {
        let field = |(name, text): &(&str, String)| {
            let raw = serde_json::value::to_raw_value(text).map_err(unwritable)?;
            Ok(((*name).to_owned(), Value::Raw(raw)))
        };
        let value = Value::Object(Self(texts.iter().map(field).collect::<Result<_>>()?));
        match self.0.iter_mut().find(|(own, _)| own == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// Removes the fields whose names are such, and says whether there were any.
    pub(super) fn remove(&mut self, is_such: impl Fn(&str) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|(name, _)| !is_such(name));
        self.0.len() < before
    }
}

fn unwritable(err: serde_json::Error) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("it cannot be written as JSON: {err}"))
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, raw)) = map.next_entry()? {
                    fields.push((name, Value::Raw(raw)));
                }
                Ok(Object(fields))
            }
        }
        from.deserialize_map(Fields)
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            match value {
                Value::Raw(raw) => map.serialize_entry(name, raw)?,
                Value::Object(object) => map.serialize_entry(name, object)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "{\n\t\"zebra\": {\"b\": 1.50, \"a\": [ ]},\n\t\"auths\": {\n\t\t\"z.example\": {\n\t\t\t\"auth\": \"eDp5\"\n\t\t}\n\t},\n\t\"HttpHeaders\": null\n}";

    fn text(object: &Object) -> String {
        String::from_utf8(object.to_bytes().unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_changed_stays_as_it_is_written() {
        let mut object = Object::parse(WRITTEN.as_bytes()).unwrap();
        assert_eq!(text(&object), WRITTEN);
        assert!(!object.object("auths").unwrap().remove(|name| name == "nobody"));
        assert_eq!(text(&object), WRITTEN);
        object.object("auths").unwrap().set("a.example", &[("auth", "\"".to_owned())]).unwrap();
        let more = ",\n\t\t\"a.example\": {\n\t\t\t\"auth\": \"\\\"\"\n\t\t}\n\t},\n\t\"Http";
        assert_eq!(text(&object), WRITTEN.replace("\n\t},\n\t\"Http", more));
        assert!(object.object("auths").unwrap().remove(|name| name == "a.example"));
        assert_eq!(text(&object), WRITTEN);
    }

    #[test]
    fn what_is_no_object_is_refused_and_not_quoted() {
        for wrong in
            ["hunter2", "\"hunter2\"", "[\"hunter2\"]", "{\"a\":hunter2}", "{} hunter2", "{"]
        {
            let err = Object::parse(wrong.as_bytes()).map(drop).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Malformed);
            assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
        }
        let mut object = Object::parse(b"{\"auths\":\"hunter2\",\"credsStore\":5}").unwrap();
        let err = object.object("auths").map(drop).unwrap_err();
        assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
        assert_eq!(object.text("credsStore"), None);
    }
}
