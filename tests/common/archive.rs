//! Archives put together by hand, and what lies in a directory in every detail.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

/// The extended attributes of a file.
pub type Attributes = BTreeMap<String, Vec<u8>>;

/// A tar archive in the making.
pub struct Tar {
    bytes: Vec<u8>,
    records: Vec<u8>,
}

impl Tar {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), records: Vec::new() }
    }

    /// An extended header for the next entry.
    pub fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            self.records.extend(format!("{len} {key}=").into_bytes());
            self.records.extend(*value);
            self.records.push(b'\n');
        }
        self
    }

    pub fn take_records(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.records)
    }

    pub fn records(&mut self, records: &[u8]) -> &mut Self {
        self.records.extend(records);
        self
    }

    /// An entry whose header `change` has the last word on, but for the checksum.
    pub fn entry(
        &mut self,
        path: &str,
        kind: EntryType,
        change: impl Fn(&mut Header),
        content: &[u8],
    ) -> &mut Self {
        self.any(path.as_bytes(), kind, &change, content)
    }

    fn any(
        &mut self,
        path: &[u8],
        kind: EntryType,
        change: &dyn Fn(&mut Header),
        content: &[u8],
    ) -> &mut Self {
        let records = self.take_records();
        if !records.is_empty() {
            self.any(b"pax", EntryType::XHeader, &|_| {}, &records);
        }
        if path.len() > 100 {
            self.any(b"././@LongLink", EntryType::GNULongName, &|_| {}, &[path, &[0]].concat());
        }
        let mut header = Header::new_gnu();
        header.as_gnu_mut().expect("it is GNU's").name[..path.len().min(100)]
            .copy_from_slice(&path[..path.len().min(100)]);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub fn raw(&mut self, path: &str, kind: EntryType, content: &[u8]) -> &mut Self {
        self.any(path.as_bytes(), kind, &|_| {}, content)
    }

    pub fn raw_bytes(&mut self, path: &[u8], kind: EntryType, content: &[u8]) -> &mut Self {
        self.any(path, kind, &|_| {}, content)
    }

    pub fn raw_link(&mut self, path: &str, target: &str, kind: EntryType) -> &mut Self {
        if target.len() > 100 {
            let name = [target.as_bytes(), &[0]].concat();
            self.any(b"././@LongLink", EntryType::GNULongLink, &|_| {}, &name);
        }
        let short = &target.as_bytes()[..target.len().min(100)];
        self.any(
            path.as_bytes(),
            kind,
            &|header| {
                header.as_gnu_mut().expect("it is GNU's").linkname[..short.len()]
                    .copy_from_slice(short);
            },
            b"",
        )
    }

    pub fn gnu_long(&mut self, path: &str, target: &str, kind: EntryType) -> &mut Self {
        self.raw_link(path, target, kind)
    }

    pub fn file(&mut self, path: &str, content: &str) -> &mut Self {
        self.raw(path, EntryType::Regular, content.as_bytes())
    }

    pub fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.entry(path, EntryType::Directory, |header| header.set_mode(mode), b"")
    }

    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.raw_link(path, target, EntryType::Symlink)
    }

    pub fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.raw_link(path, target, EntryType::Link)
    }

    pub fn fifo(&mut self, path: &str) -> &mut Self {
        self.raw(path, EntryType::Fifo, b"")
    }

    pub fn device(&mut self, path: &str, kind: EntryType, major: u32, minor: u32) -> &mut Self {
        let number = |header: &mut Header| {
            header.set_device_major(major).expect("it has room");
            header.set_device_minor(minor).expect("it has room");
        };
        self.entry(path, kind, number, b"")
    }

    pub fn owned(&mut self, path: &str, uid: u64, gid: u64) -> &mut Self {
        let ids = |header: &mut Header| {
            header.set_uid(uid);
            header.set_gid(gid);
        };
        self.entry(path, EntryType::Regular, ids, b"")
    }

    /// Without the end mark.
    pub fn entries(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    pub fn end(&self) -> Vec<u8> {
        [&self.bytes[..], &[0; 1024]].concat()
    }
}

/// Everything below a directory, a line for each file that holds all that an archive does: path, type and
/// permissions, owner, time, content or target, attributes, and the first name of a file that has several.
pub fn tree(top: &Path) -> Vec<String> {
    let mut first = BTreeMap::new();
    let mut lines = Vec::new();
    visit(top, Path::new("."), &mut first, &mut lines);
    lines
}

fn visit(
    top: &Path,
    path: &Path,
    first: &mut BTreeMap<(u64, u64), PathBuf>,
    lines: &mut Vec<String>,
) {
    let full = top.join(path);
    let meta = full.symlink_metadata().expect("stat a file");
    let shown = path.strip_prefix(".").expect("it begins so");
    let shown = if shown.as_os_str().is_empty() { path } else { shown };
    let content = if meta.is_file() {
        let mut content = Vec::new();
        fs::File::open(&full)
            .and_then(|mut file| file.read_to_end(&mut content))
            .expect("read a file");
        format!("{} bytes, {:x}", content.len(), hash(&content))
    } else if meta.is_symlink() {
        format!("-> {}", fs::read_link(&full).expect("read a link").display())
    } else {
        format!("{:x}", meta.rdev())
    };
    let mut line = format!(
        "{} {:o} {}:{} {}.{:09} {content}",
        shown.as_os_str().as_bytes().escape_ascii(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
    );
    if !meta.is_dir() && meta.nlink() > 1 {
        let same = first.entry((meta.dev(), meta.ino())).or_insert_with(|| shown.to_owned());
        line += &format!(" = {}", same.display());
    }
    for (name, value) in attributes(&full) {
        if !name.contains("overlay.") {
            line += &format!(" {name}={}", value.escape_ascii());
        }
    }
    lines.push(line);
    if meta.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&full)
            .expect("read a directory")
            .map(|entry| entry.expect("read a directory").file_name())
            .collect();
        names.sort();
        for name in names {
            visit(top, &path.join(name), first, lines);
        }
    }
}

/// The extended attributes of a file, as the caller sees them.
#[allow(unsafe_code, reason = "neither std nor nix has them")]
pub fn attributes(path: &Path) -> Attributes {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let mut names = vec![0u8; 64 << 10];
    // SAFETY: a NUL-terminated path, and room for as many bytes as said.
    let len = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let mut found = Attributes::new();
    names.truncate(usize::try_from(len).unwrap_or(0));
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let c_name = CString::new(name).expect("no NUL");
        let mut value = vec![0u8; 64 << 10];
        let room = value.len();
        // SAFETY: two NUL-terminated strings, and room for as many bytes as said.
        let len = unsafe {
            libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), room)
        };
        value.truncate(usize::try_from(len).unwrap_or(0));
        found.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    found
}

/// FNV-1a: it tells apart what is not made to deceive.
fn hash(content: &[u8]) -> u64 {
    content.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
