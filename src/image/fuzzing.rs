//! What [`crate::fuzzing`] needs of this module.

use oci_spec::image::MediaType;

use super::config::Config;
use super::manifest::{Index as Platforms, Manifest};
use super::platform::Platform;

/// Everything that these bytes could claim to be.
pub(crate) fn documents(data: &[u8]) {
    for media_type in [MediaType::ImageManifest, MediaType::ImageIndex] {
        if let Ok(manifest) = Manifest::parse(data, &media_type) {
            assert_eq!(manifest.layers().len(), manifest.spec().layers().len());
        }
        if let Ok(platforms) = Platforms::parse(data, &media_type) {
            let _ = platforms.choose(&Platform::host());
        }
    }
    if let Ok(config) = Config::parse(data) {
        assert_eq!(config.chain_ids().len(), config.diff_ids().len());
        let _ = (config.platform(), config.created());
    }
    super::index::reads_what_it_writes(data);
}
