//! The configuration of an image: what to run, for what machine, of which layers.

use std::time::SystemTime;

use oci_spec::image::ImageConfiguration;

use super::digest::{ChainId, DiffId, Digest};
use super::json::{self, Object, malformed};
use super::platform::Platform;
use crate::error::{Context, Result};

/// The kernel stacks 500 layers, and merging makes deeper images run; Docker stops at 127.
const MAX_LAYERS: usize = 4096;

/// The configuration of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    spec: ImageConfiguration,
    raw: Object,
    diff_ids: Vec<DiffId>,
}

impl Config {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let raw = json::object(bytes)?;
        let spec: ImageConfiguration = json::typed(&raw, &["rootfs.diff_ids"])?;
        if spec.rootfs().typ() != "layers" {
            return Err(malformed(format!(
                "its rootfs.type is {:?}, not layers",
                spec.rootfs().typ()
            )));
        }
        let diff_ids = spec.rootfs().diff_ids();
        if diff_ids.len() > MAX_LAYERS {
            return Err(malformed(format!("it has {} layers, over {MAX_LAYERS}", diff_ids.len())));
        }
        let diff_ids =
            diff_ids.iter().map(|id| Ok(DiffId(Digest::in_document(id)?))).collect::<Result<_>>();
        let diff_ids = diff_ids.context(|| "read its rootfs.diff_ids")?;
        Ok(Self { spec, raw, diff_ids })
    }

    /// The configuration in the specification's words.
    pub fn spec(&self) -> &ImageConfiguration {
        &self.spec
    }

    /// The whole document, with the fields that the specification does not know, as Docker's `Healthcheck`.
    pub fn raw(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.raw
    }

    /// The layers, the lowest first.
    pub fn diff_ids(&self) -> &[DiffId] {
        &self.diff_ids
    }

    /// The stack up to each layer, the lowest first.
    pub fn chain_ids(&self) -> Vec<ChainId> {
        ChainId::each(&self.diff_ids)
    }

    /// The machine that it is for.
    pub fn platform(&self) -> Platform {
        let spec = &self.spec;
        let (os, architecture) = (spec.os().to_string(), spec.architecture().to_string());
        Platform::new(&os, &architecture, spec.variant().as_deref())
    }

    /// When it was made, if it says so in the form of RFC 3339.
    pub fn created(&self) -> Option<SystemTime> {
        time(self.spec.created().as_deref()?)
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.spec.labels_of_config()?.get(name).map(String::as_str)
    }
}

/// A time in the form of RFC 3339.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text.as_bytes())
    }

    #[test]
    fn fields_of_docker_are_kept_and_go_s_null_is_nothing() {
        let config = parse(
            r#"{"architecture":"amd64","os":"linux","created":"1970-01-01T02:00:01.5+02:00",
                "config":{"Env":null,"Volumes":null,"Labels":{"a":"b"},"ExposedPorts":null,
                    "Healthcheck":{"Test":["NONE"]}},
                "history":null,"rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .unwrap();
        assert!(config.diff_ids().is_empty());
        assert_eq!(config.platform().to_string(), "linux/amd64");
        assert_eq!(config.created(), Some(UNIX_EPOCH + Duration::from_millis(1500)));
        assert_eq!((config.label("a"), config.label("c")), (Some("b"), None));
        assert!(config.raw()["config"]["Healthcheck"].is_object());
    }

    #[test]
    fn a_configuration_without_sense_is_refused() {
        let good =
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        assert!(parse(good).is_ok());
        let ids = format!("[{}]", vec![r#""sha256:x""#; 5000].join(","));
        for (text, why) in [
            (good.replace("layers", "tree"), "rootfs.type"),
            (good.replace("[]", r#"["sha256:x"]"#), "diff_ids"),
            (good.replace("[]", &ids), "5000 layers"),
            (good.replace("\"os\"", "\"system\""), "missing field `os`"),
            ("{}".to_owned(), "missing field"),
        ] {
            let err = parse(&text).unwrap_err();
            assert!(format!("{err:#}").contains(why), "{err:#}");
        }
        let odd = good.replacen('{', r#"{"created":"yesterday","#, 1);
        assert_eq!(parse(&odd).unwrap().created(), None);
    }
}
