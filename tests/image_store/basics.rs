//! Images come, get names, lose them and go.

use std::fs;
use std::io::Read;

use coracle::ErrorKind;
use coracle::image::{Blob, DiffId, Digest, Filter, Store};

use crate::common::setup;
use crate::fixture::{add, name, names, sound, store};

#[test]
fn an_image_is_found_by_name_id_and_digest_in_this_and_another_handle() {
    let dir = setup("image-found");
    let store = store(&dir);
    let image = add(&store, "app:1", &["one", "two"]);
    assert_eq!(image.references(), [name("app:1")]);
    assert_eq!(image.diff_ids()[1], DiffId(Digest::of("two")));
    assert_eq!(image.chain_ids().len(), 2);
    let other = Store::open_existing(dir.join("images")).unwrap();
    let id = image.id();
    for by in [
        "app:1".to_owned(),
        "docker.io/library/app:1".to_owned(),
        format!("app@{}", image.digest()),
        id.to_string(),
        id.hex(),
        id.short(),
        id.hex()[..4].to_owned(),
        image.digest().to_string(),
    ] {
        assert_eq!(other.image(&by).unwrap(), image, "{by}");
    }
    let mut layer = String::new();
    store.blob(&Digest::of("two")).unwrap().read_to_string(&mut layer).unwrap();
    assert_eq!(layer, "two");
    for (missing, kind) in [
        ("app", ErrorKind::NotFound),
        ("0000", ErrorKind::NotFound),
        ("App", ErrorKind::InvalidInput),
    ] {
        let err = other.image(missing).unwrap_err();
        assert_eq!(err.kind(), kind, "{err:#}");
        assert!(format!("{err:#}").contains(missing));
    }
    sound(&store);
    assert!(names(&store, "leases").is_empty() && names(&store, "ingest").is_empty());
}

#[test]
fn a_tag_moves_and_the_image_that_had_it_stays_without_a_name() {
    let dir = setup("image-tag");
    let store = store(&dir);
    let one = add(&store, "app:1", &["one"]);
    let tagged = store.tag("app:1", "app").unwrap();
    assert_eq!(tagged.references(), [name("app:1"), name("app:latest")]);
    let two = add(&store, "app", &["two"]);
    assert_eq!(store.image("app").unwrap(), two);
    assert_eq!(store.image("app:1").unwrap().references(), [name("app:1")]);
    store.tag("app", "app:1").unwrap();
    let dangling = store.list(&Filter::new().dangling(true)).unwrap().images;
    assert_eq!(dangling, std::slice::from_ref(&one));
    assert!(dangling[0].references().is_empty());
    assert_eq!(store.image(&one.id().short()).unwrap(), one);
    // It gets a name again, and is there once.
    store.tag(&one.id().hex(), "old").unwrap();
    assert_eq!(store.images().unwrap().len(), 2);
    for (from, to) in [("no:such", "b"), ("app", "B"), ("app", &format!("b@{}", one.digest()))] {
        let err = store.tag(from, to).unwrap_err();
        assert!(format!("{err:#}").contains("the name"), "{err:#}");
    }
    assert_eq!(store.images().unwrap().len(), 2);
    sound(&store);
}

#[test]
fn what_is_removed_is_collected_and_what_others_share_stays() {
    let dir = setup("image-remove");
    let store = store(&dir);
    let one = add(&store, "one", &["base", "one"]);
    add(&store, "two", &["base", "two"]);
    store.tag("one", "uno").unwrap();
    let removed = store.remove("one").unwrap();
    assert_eq!((removed.references, removed.image), (vec![name("one")], None));
    assert_eq!(store.collect_garbage().unwrap().blobs, 0);
    assert_eq!(store.remove("uno").unwrap().image, Some(one.digest()));
    let collected = store.collect_garbage().unwrap();
    assert_eq!(collected.blobs, 3, "manifest, configuration and one layer");
    assert_eq!(collected.freed.bytes(), one.size() - 4);
    assert!(store.blob(&Digest::of("base")).is_ok());
    assert_eq!(store.blob(&Digest::of("one")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.remove("one").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(names(&store, "trash").is_empty());
    sound(&store);
}

#[test]
fn an_image_of_several_names_is_removed_by_id_only_by_force() {
    let dir = setup("image-remove-id");
    let store = store(&dir);
    let one = add(&store, "one", &["one"]);
    store.tag("one", "uno").unwrap();
    let err = store.remove(&one.id().short()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Busy);
    assert!(format!("{err:#}").contains("one:latest, uno:latest"), "{err:#}");
    let removed = store.remove_forced(&one.id().short()).unwrap();
    assert_eq!((removed.references.len(), removed.image), (2, Some(one.digest())));
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn a_pinned_image_is_removed_by_force_alone_and_its_content_stays() {
    let dir = setup("image-pin");
    let store = store(&dir);
    let one = add(&store, "one", &["one"]);
    store.tag("one", "uno").unwrap();
    store.pin("container-1", &one).unwrap();
    assert_eq!(store.pins().unwrap(), [("container-1".to_owned(), vec![one.digest()])]);
    store.remove("uno").unwrap();
    let err = store.remove("one").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Busy);
    assert!(format!("{err:#}").contains("container-1"), "{err:#}");
    assert!(store.prune(&Filter::new()).unwrap().images.is_empty());
    let chain = one.chain_ids()[0];
    fs::create_dir_all(store.path().join("layers/vfs").join(chain.0.hex())).unwrap();
    store.remove_forced("one").unwrap();
    let collected = store.collect_garbage().unwrap();
    assert_eq!((collected.blobs, collected.layers), (0, 0));
    assert!(store.image("one").is_err());
    let found = store.pinned_image("container-1").unwrap();
    assert_eq!((&found, found.references()), (&one, &[][..]));
    store.unpin("container-1").unwrap();
    assert_eq!(store.pinned_image("container-1").unwrap_err().kind(), ErrorKind::NotFound);
    let collected = store.collect_garbage().unwrap();
    assert_eq!((collected.blobs, collected.layers), (3, 1));
    store.unpin("container-1").unwrap();
    for wrong in ["", "../x", "a/b", "a b", &"x".repeat(201)] {
        assert_eq!(store.pin(wrong, &one).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(store.pin("late", &one).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn work_in_progress_keeps_what_it_stored_and_looked_up() {
    let dir = setup("image-work");
    let store = store(&dir);
    let image = add(&store, "one", &["base"]);
    let work = store.work().unwrap();
    let blob = work.ingest(&b"new"[..], None).unwrap();
    let half = work.writer(None).unwrap();
    work.hold(&image).unwrap();
    store.remove("one").unwrap();
    assert_eq!(store.collect_garbage().unwrap().blobs, 0);
    assert_eq!(names(&store, "ingest").len(), 1);
    work.set_image(Some(&name("again")), image.descriptor()).unwrap();
    drop(half);
    let clone = work.clone();
    drop(work);
    assert_eq!(store.collect_garbage().unwrap().blobs, 0);
    drop(clone);
    let collected = store.collect_garbage().unwrap();
    assert_eq!((collected.blobs, collected.freed.bytes()), (1, blob.size));
    sound(&store);
}

#[test]
fn a_blob_that_is_not_what_was_expected_is_refused_and_leaves_nothing() {
    let dir = setup("image-expected");
    let store = store(&dir);
    let work = store.work().unwrap();
    let expected = Blob::of(b"right");
    for (content, why) in
        [("wrong", "damaged"), ("righ", "truncated"), ("right and more", "too long")]
    {
        let err = work.ingest(content.as_bytes(), Some(expected)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Malformed);
        let text = format!("{err:#}");
        assert!(text.contains(why) && text.contains(&expected.digest.to_string()), "{text}");
    }
    assert!(names(&store, "blobs/sha256").is_empty() && names(&store, "ingest").is_empty());
    // An endless stream ends.
    let err = work.ingest(std::io::repeat(0), Some(expected)).unwrap_err();
    assert!(format!("{err:#}").contains("too long"), "{err:#}");
    assert_eq!(work.ingest(&b"right"[..], Some(expected)).unwrap(), expected);
    assert!(work.has(&expected).unwrap());
}
