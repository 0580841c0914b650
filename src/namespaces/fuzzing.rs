//! What [`crate::fuzzing`] needs of this module.

use super::users::Identity;
use crate::error::Result;

/// The user `user` of an image with these files.
pub(crate) fn user(user: &str, passwd: &[u8], group: &[u8]) -> Result<Identity> {
    Identity::in_files(user, passwd, group)
}

/// The maps of ids and the ranges of subordinate ids.
pub(crate) fn ids(text: &str) {
    if let Some(extents) = super::id_map::parse_extents(text) {
        let written = super::id_map::format_extents(&extents);
        assert_eq!(super::id_map::parse_extents(&written), Some(extents));
    }
    assert!(super::subordinate::parse(text).all(|granted| granted.count > 0));
}
