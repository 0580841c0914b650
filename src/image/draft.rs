//! An image in the making.

use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};
use serde_json::{Map, Value, json};

use super::changes::ConfigChanges;
use super::config::Config;
use super::image::Image;
use super::json::{Object, malformed};
use super::layer::{Layer, layer_type};
use super::lease::Work;
use super::manifest::may_be_missing;
use super::platform::Platform;
use super::reference::Reference;
use crate::error::{Context, Error, Result};
use crate::layers::Compression;

/// A configuration and layers, to which are added.
#[derive(Debug)]
pub(super) struct Draft {
    config: Object,
    layers: Vec<Descriptor>,
}

impl Draft {
    /// An image of nothing.
    pub(super) fn new(platform: &Platform) -> Self {
        let mut config = Map::new();
        config.insert("architecture".into(), platform.architecture().into());
        config.insert("os".into(), platform.os().into());
        if let Some(variant) = platform.variant() {
            config.insert("variant".into(), variant.into());
        }
        config.insert("config".into(), json!({}));
        config.insert("rootfs".into(), json!({"type": "layers", "diff_ids": []}));
        config.insert("history".into(), json!([]));
        Self { config, layers: Vec::new() }
    }

    /// All that `parent` is.
    pub(super) fn on(parent: &Image) -> Self {
        let mut config = parent.config().raw().clone();
        // What Docker notes of the container that an image was made in.
        for stale in ["container", "container_config", "docker_version", "id", "parent"] {
            config.remove(stale);
        }
        let layers = parent.manifest().spec().layers().iter().map(in_oci).collect();
        let mut draft = Self { config, layers };
        // Else the next step would be told of a layer that this leaves out.
        let count = draft.layers.len();
        let history = draft.list("history");
        let told = history.iter().filter(|step| !is_empty_layer(step)).count();
        history.extend((told..count).map(|_| json!({})));
        draft
    }

    /// Forgets all but so many of the layers, and the steps of the history from the first of the others on.
    pub(super) fn truncate(&mut self, layers: usize) {
        self.layers.truncate(layers);
        self.list("diff_ids").truncate(layers);
        let history = self.list("history");
        let mut told = (0..history.len()).filter(|&at| !is_empty_layer(&history[at]));
        if let Some(first) = told.nth(layers) {
            history.truncate(first);
        }
    }

    /// Adds a layer, or none, with changes of the configuration and what the history tells of both.
    pub(super) fn step(
        &mut self,
        layer: Option<Layer>,
        changes: &ConfigChanges,
        default_message: &str,
    ) -> Result<()> {
        let changes = changes.at_a_time();
        changes.apply(&mut self.config)?;
        let step = changes.step(layer.is_none(), default_message)?;
        self.list("history").push(step);
        if let Some(layer) = layer {
            self.layers.push(layer.descriptor());
            self.list("diff_ids").push(layer.diff_id.0.to_string().into());
        }
        Ok(())
    }

    /// `rootfs.diff_ids` or `history`.
    fn list(&mut self, name: &str) -> &mut Vec<Value> {
        let parent = match name {
            "diff_ids" => self.config.entry("rootfs").or_insert_with(|| json!({"type": "layers"})),
            _ => return as_list(self.config.entry(name).or_insert(Value::Null)),
        };
        if !parent.is_object() {
            *parent = json!({"type": "layers"});
        }
        let fields = parent.as_object_mut().expect("it has just been made one");
        as_list(fields.entry(name).or_insert(Value::Null))
    }

    /// Makes it an image of the store.
    pub(super) fn store(self, work: &Work, name: Option<&Reference>) -> Result<Image> {
        let bytes = serde_json::to_vec(&self.config).map_err(|err| malformed(err.to_string()))?;
        Config::parse(&bytes).context(|| "check the new configuration")?;
        let config = work.ingest(&bytes[..], None)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(config.descriptor(MediaType::ImageConfig))
            .layers(self.layers)
            .build()
            .map_err(|err| Error::invalid(err.to_string()))?;
        let manifest = work.add_manifest(&manifest)?;
        let image = work.set_image(name, &manifest)?;
        if let Some(name) = name {
            work.store().tell_tag(&image, name);
        }
        Ok(image)
    }
}

/// Whether a step of the history added no layer.
fn is_empty_layer(step: &Value) -> bool {
    step.get("empty_layer").and_then(Value::as_bool).unwrap_or(false)
}

fn as_list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("it has just been made one")
}

/// The descriptor of a layer in the words of OCI, for a manifest of OCI; Docker's words name the same bytes.
fn in_oci(layer: &Descriptor) -> Descriptor {
    let mut layer = layer.clone();
    match Compression::of_media_type(layer.media_type().as_ref()) {
        Some(compression) if !may_be_missing(layer.media_type()) => {
            layer.set_media_type(layer_type(compression));
        }
        _ => {}
    }
    layer
}
