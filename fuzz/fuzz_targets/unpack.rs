#![no_main]
//! Whatever an archive says, nothing outside of the directory changes, and what was unpacked can be packed again.
//!
//! Run it as root, or it starts processes that give the files away, a thousand times slower.

use std::fs::{self, File};
use std::io::Cursor;

use arbitrary::Arbitrary;
use coracle::layers::{ArchiveLimits, Compression, Pack, Unpack};
use libfuzzer_sys::fuzz_target;
use tar::{Builder, EntryType, Header};

#[derive(Arbitrary, Debug)]
enum Archive {
    /// Bytes as they come.
    Raw(Vec<u8>),
    /// A sound frame around hostile entries.
    Framed(Vec<Entry>),
}

#[derive(Arbitrary, Debug)]
struct Entry {
    kind: u8,
    path: Vec<Part>,
    link: Vec<Part>,
    mode: u16,
    owner: u32,
    time: u32,
    size: Option<u16>,
    content: Vec<u8>,
}

/// Few names, so that they meet.
#[derive(Arbitrary, Debug)]
enum Part {
    A,
    B,
    Up,
    Here,
    Nothing,
    Outside,
    Whiteout,
    Opaque,
    Other(Vec<u8>),
}

fn path(parts: &[Part]) -> Vec<u8> {
    let name = |part: &Part| match part {
        Part::A => b"a".to_vec(),
        Part::B => b"b".to_vec(),
        Part::Up => b"..".to_vec(),
        Part::Here => b".".to_vec(),
        Part::Nothing => Vec::new(),
        Part::Outside => b"outside".to_vec(),
        Part::Whiteout => b".wh.a".to_vec(),
        Part::Opaque => b".wh..wh..opq".to_vec(),
        Part::Other(name) => name.clone(),
    };
    parts.iter().map(name).collect::<Vec<_>>().join(&b'/')
}

fn bytes(archive: Archive) -> Vec<u8> {
    const KINDS: &[u8] = b"0123456LKxgSDV\0";
    let entries = match archive {
        Archive::Raw(bytes) => return bytes,
        Archive::Framed(entries) => entries,
    };
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        for (field, value) in [(&mut old.name, path(&entry.path)), (&mut old.linkname, path(&entry.link))] {
            let length = value.len().min(field.len());
            field[..length].copy_from_slice(&value[..length]);
        }
        header.set_entry_type(EntryType::new(KINDS[usize::from(entry.kind) % KINDS.len()]));
        header.set_mode(entry.mode.into());
        header.set_uid(entry.owner.into());
        header.set_gid(entry.owner.into());
        header.set_mtime(entry.time.into());
        header.set_size(entry.size.map_or(entry.content.len() as u64, u64::from));
        header.set_cksum();
        builder.append(&header, Cursor::new(entry.content)).expect("write to memory");
    }
    builder.into_inner().expect("write to memory")
}

fuzz_target!(|archive: Archive| {
    let bytes = bytes(archive);
    let dir = tempfile::tempdir_in("/dev/shm").expect("make a directory");
    let (outside, inside) = (dir.path().join("outside"), dir.path().join("inside"));
    fs::write(&outside, "untouched").expect("write a file");
    fs::create_dir(&inside).expect("make a directory");
    let target = File::open(&inside).expect("open it");
    let limits = ArchiveLimits::new().entries(1_000).bytes(1 << 20);
    let (unpacking, packing) = (Unpack::new().limits(limits), Pack::new());
    let unpack = |decoded| unpacking.run(decoded, &target);
    let unpacked = Compression::detect(bytes.as_slice()).map(unpack);
    if let Ok(Ok(_)) = unpacked {
        let mut packed = Vec::new();
        packing.layer(&target, &mut packed).expect("pack what was unpacked");
        let again = dir.path().join("again");
        fs::create_dir(&again).expect("make a directory");
        let again = File::open(&again).expect("open it");
        unpacking.run(packed.as_slice(), &again).expect("unpack what was packed");
        let mut twice = Vec::new();
        packing.layer(&again, &mut twice).expect("pack it again");
        assert!(packed == twice, "another archive of the same files");
    }
    assert_eq!(fs::read(&outside).expect("read it"), b"untouched");
    assert!(fs::read_dir(dir.path()).expect("list it").count() <= 3);
});
