//! JSON from elsewhere: bounded in length and depth, and in what it may mean.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// The longest manifest, index or configuration that is read; registries refuse longer manifests too.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;

/// An object, as it stands in a document.
pub(super) type Object = Map<String, Value>;

/// Reads a document that is one object. serde_json bounds the depth.
pub(super) fn object(bytes: &[u8]) -> Result<Object> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(malformed(format!("it is longer than {MAX_DOCUMENT} bytes")));
    }
    own_object(bytes)
}

/// [`object`], without a limit: a file that this crate writes.
pub(super) fn own_object(bytes: &[u8]) -> Result<Object> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(malformed("it is no JSON object")),
        Err(err) => Err(malformed(format!("it is no JSON: {err}"))),
    }
}

/// Reads the fields that a type of the specification knows.
///
/// `null` counts as absent, as Go writes it for what is empty. `lists` are taken as empty where they are absent.
pub(super) fn typed<T: DeserializeOwned>(object: &Object, lists: &[&str]) -> Result<T> {
    let wrong = |err: serde_json::Error| malformed(err.to_string());
    // Most documents, and all that are made here, can be read as they stand.
    if lists.iter().all(|list| has(object, list)) && !object.values().any(has_null) {
        return T::deserialize(object).map_err(wrong);
    }
    let mut value = Value::Object(object.clone());
    drop_nulls(&mut value);
    for list in lists {
        let mut at = &mut value;
        let mut names = list.split('.').peekable();
        while let (Value::Object(fields), Some(name)) = (at, names.next()) {
            let missing = match names.peek() {
                Some(_) => Value::Object(Map::new()),
                None => Value::Array(Vec::new()),
            };
            at = fields.entry(name).or_insert(missing);
        }
    }
    serde_json::from_value(value).map_err(wrong)
}

fn has(object: &Object, list: &str) -> bool {
    match list.split_once('.') {
        None => object.contains_key(list),
        Some((first, rest)) => {
            object.get(first).is_some_and(|it| it.as_object().is_some_and(|it| has(it, rest)))
        }
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(has_null),
        Value::Array(items) => items.iter().any(has_null),
        _ => false,
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

pub(super) fn malformed(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_long_and_broken_documents_are_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(4 << 20));
        for (text, why) in [
            (deep.as_str(), "recursion limit"),
            (long.as_str(), "longer than 4194304 bytes"),
            ("", "no JSON: EOF"),
            ("{", "no JSON: EOF"),
            ("[]", "no JSON object"),
            ("{}{}", "no JSON: trailing"),
            ("{\"a\":1e999999}", "no JSON"),
            ("\u{feff}{}", "no JSON"),
        ] {
            let err = object(text.as_bytes()).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Malformed);
            assert!(err.to_string().contains(why), "{err}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn null_is_absent_and_absent_lists_are_empty() {
        #[derive(serde::Deserialize)]
        struct Inner {
            list: Vec<u8>,
        }
        #[derive(serde::Deserialize)]
        struct Outer {
            inner: Inner,
            list: Vec<u8>,
            word: Option<String>,
        }
        let read =
            |text: &str| typed::<Outer>(&object(text.as_bytes()).unwrap(), &["list", "inner.list"]);
        let outer = read(r#"{"inner": {"list": null}, "word": null}"#).unwrap();
        assert!(outer.list.is_empty() && outer.inner.list.is_empty() && outer.word.is_none());
        assert_eq!(read(r#"{"inner": {"list": [1]}, "list": [2]}"#).unwrap().inner.list, [1]);
        assert!(read(r#"{"inner": 1}"#).is_err());
    }
}
