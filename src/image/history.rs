//! How an image came about.

use std::fmt;
use std::time::SystemTime;

use super::config;
use super::digest::DiffId;
use super::image::Image;
use super::json::malformed;
use crate::error::Result;

/// One step in the making of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// When, if the image says so.
    pub created: Option<SystemTime>,
    /// The command.
    pub created_by: String,
    /// The message.
    pub comment: String,
    /// By whom.
    pub author: String,
    /// The layer that it added, unless it only changed the configuration.
    pub layer: Option<DiffId>,
    /// The bytes of the layer as it is stored and transferred; 0 without.
    pub size: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let created = self.created.and_then(|time| jiff::Timestamp::try_from(time).ok());
        let created = created.map_or("-".to_owned(), |time| format!("{time:.0}"));
        write!(f, "{created}  {:>12}  {}", self.size, self.created_by.escape_debug())?;
        match self.comment.as_str() {
            "" => Ok(()),
            comment => write!(f, "  ({})", comment.escape_debug()),
        }
    }
}

impl Image {
    /// The steps in which the image was made, the last first.
    ///
    /// Layers that the configuration does not tell of come last in it, without text.
    ///
    /// # Errors
    ///
    /// `Malformed` if the configuration tells of more layers than there are.
    pub fn history(&self) -> Result<Vec<Step>> {
        let told = self.config().spec().history().as_deref().unwrap_or_default();
        let blobs = self.manifest().layers().iter();
        let mut layers = self.diff_ids().iter().zip(blobs).map(|(id, blob)| (*id, blob.size));
        let mut steps = Vec::new();
        for step in told {
            let layer = match step.empty_layer() {
                Some(true) => None,
                _ => Some(layers.next().ok_or_else(|| {
                    let id = self.id();
                    malformed(format!(
                        "the history in the configuration {id} has more layers than the image"
                    ))
                })?),
            };
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            steps.push(Step {
                created: step.created().as_deref().and_then(config::time),
                created_by: text(step.created_by()),
                comment: text(step.comment()),
                author: text(step.author()),
                layer: layer.map(|(id, _)| id),
                size: layer.map_or(0, |(_, size)| size),
            });
        }
        let untold = layers.map(|(id, size)| Step {
            created: None,
            created_by: String::new(),
            comment: String::new(),
            author: String::new(),
            layer: Some(id),
            size,
        });
        steps.extend(untold);
        steps.reverse();
        Ok(steps)
    }
}
