//! POSIX access control lists: as text in archives, as bytes in the kernel's attributes; see acl(5).

use super::pax::malformed;
use crate::error::{Error, Result};

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: [u8; 4] = 2u32.to_le_bytes();
/// The id of an entry that has none.
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Whose permissions an entry with an id is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    User(u32),
    Group(u32),
}

/// The kernel's form of what GNU tar and star write: `user::rw-,user:33:r--,group::r--,mask::r--,other::r--`,
/// possibly with line feeds for commas, and with an id as fourth field where the second is a name.
pub(super) fn parse(text: &[u8]) -> Result<Vec<u8>> {
    let text = std::str::from_utf8(text).map_err(|_| bad("it is not text"))?;
    let mut entries = Vec::new();
    for entry in text.split([',', '\n']) {
        let entry = entry.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            entries.push(parse_entry(entry)?);
        }
    }
    entries.sort_unstable();
    let mut value = VERSION.to_vec();
    for (tag, id, permissions) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Ok(value)
}

fn parse_entry(entry: &str) -> Result<(u16, u32, u16)> {
    let fields: Vec<&str> = entry.split(':').map(str::trim).collect();
    let [kind, who, permissions, rest @ ..] = fields.as_slice() else {
        return Err(bad(entry));
    };
    let tag = match (*kind, who.is_empty()) {
        ("user" | "u", true) => USER_OBJ,
        ("user" | "u", false) => USER,
        ("group" | "g", true) => GROUP_OBJ,
        ("group" | "g", false) => GROUP,
        ("mask" | "m", true) => MASK,
        ("other" | "o", true) => OTHER,
        _ => return Err(bad(entry)),
    };
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return Err(bad(entry)),
        };
    }
    let id = match (who.is_empty(), rest.first().unwrap_or(who).parse()) {
        (true, _) => NO_ID,
        (false, Ok(id)) if id != NO_ID => id,
        (false, _) if *who == "root" => 0,
        (false, _) => {
            return Err(Error::unsupported(format!(
                "its access control list names {who}, without an id"
            ))
            .with_hint("GNU tar writes names where its own machine has them: `tar --no-acls` leaves the lists out"));
        }
    };
    Ok((tag, id, bits))
}

fn bad(entry: &str) -> Error {
    malformed(format!("its access control list is damaged: {entry}"))
}

/// The same list with other ids. Entries for which `map` has none are left out.
pub(super) fn map_ids(
    value: &[u8],
    mut map: impl FnMut(Who) -> Result<Option<u32>>,
) -> Result<Vec<u8>> {
    let entries = value.strip_prefix(&VERSION).filter(|entries| entries.len() % 8 == 0);
    let entries = entries.ok_or_else(|| bad("it is not the kernel's"))?;
    let mut mapped = VERSION.to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let id = match tag {
            USER => map(Who::User(id))?,
            GROUP => map(Who::Group(id))?,
            _ => Some(id),
        };
        if let Some(id) = id {
            mapped.extend(&entry[..4]);
            mapped.extend(id.to_le_bytes());
        }
    }
    Ok(mapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_archives_becomes_the_kernels_form() {
        let expected = [
            &VERSION[..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 0, 0, 0, 0],
            &[2, 0, 7, 0, 33, 0, 0, 0],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[8, 0, 0, 0, 0x40, 0x42, 0x0f, 0],
            &[0x10, 0, 7, 0, 255, 255, 255, 255],
            &[0x20, 0, 4, 0, 255, 255, 255, 255],
        ]
        .concat();
        for text in [
            "user::rw-,user:root:r--,user:33:rwx,group::r--,group:1000000:---,mask::rwx,other::r--",
            "u::rw\no::r\nm::rwx\ng::r\tg:1000000:-\nu:www:rwx:33#effective:rwx\nu:0:r",
        ] {
            let text = text.replace('\t', "\n");
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for text in ["x", "user:33", "user::q", "mask:3:r", "user:www:r", "u:4294967295:r"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_mapped_and_entries_without_one_left_out() {
        let list = parse(b"u::r,u:5:r,u:6:w,g::r,g:5:x,m::rwx,o::r").unwrap();
        let mapped = map_ids(&list, |who| {
            Ok(match who {
                Who::User(5) => Some(50),
                Who::Group(5) => Some(55),
                _ => None,
            })
        });
        assert_eq!(mapped.unwrap(), parse(b"u::r,u:50:r,g::r,g:55:x,m::rwx,o::r").unwrap());
        assert!(map_ids(b"\x02\0\0\0\x01", |_| Ok(None)).is_err());
    }
}
