//! A store of 1,000 images of ten layers, on the disk that holds the temporary directory.

use coracle::image::spec::{Descriptor, ImageManifestBuilder, MediaType};
use coracle::image::{Digest, Store, Work};
use criterion::Criterion;

const IMAGES: u32 = 1000;

/// An image upon nine layers that all have in common.
fn manifest(work: &Work, own: &str) -> coracle::Result<Descriptor> {
    let layers: Vec<_> = (1..10).map(|n| format!("layer {n}")).chain([own.to_owned()]).collect();
    let ids: Vec<_> = layers.iter().map(|it| format!("\"{}\"", Digest::of(it))).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},
            "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    let mut blobs = Vec::new();
    for layer in layers {
        blobs.push(work.ingest(layer.as_bytes(), None)?.descriptor(MediaType::ImageLayer));
    }
    let config = work.ingest(config.as_bytes(), None)?.descriptor(MediaType::ImageConfig);
    let manifest = ImageManifestBuilder::default().schema_version(2u32).config(config);
    work.add_manifest(&manifest.layers(blobs).build().expect("all fields are set"))
}

fn store(c: &mut Criterion) -> coracle::Result<()> {
    let dir = tempfile::tempdir().expect("make a directory");
    let store = Store::open(dir.path().join("images"))?;
    let work = store.work()?;
    for number in 0..IMAGES {
        let name = format!("app-{number}:1").parse()?;
        work.set_image(Some(&name), &manifest(&work, &number.to_string())?)?;
    }
    drop(work);
    c.bench_function("open and find one of 1,000 images", |b| {
        b.iter(|| Store::open(store.path()).and_then(|it| it.image("app-500:1")).expect("find it"));
    });
    c.bench_function("list 1,000 images", |b| b.iter(|| store.images().expect("list")));
    c.bench_function("usage of 1,000 images", |b| b.iter(|| store.usage().expect("measure")));
    let mut number = 0;
    c.bench_function("tag one of 1,000 images", |b| {
        b.iter(|| {
            number += 1;
            store.tag("app-500:1", &format!("app:{}", number % 2)).expect("tag");
            store.remove(&format!("app:{}", number % 2)).expect("remove");
        });
    });
    let work = store.work()?;
    let top = manifest(&work, "more")?;
    let name = "more:1".parse()?;
    c.bench_function("store an image of one new layer", |b| {
        b.iter(|| {
            number += 1;
            let top = manifest(&work, &format!("more {number}")).expect("store the blobs");
            work.set_image(Some(&name), &top).expect("name it");
        });
    });
    work.set_image(Some(&name), &top)?;
    drop(work);
    c.bench_function("collect no garbage of 1,000 images", |b| {
        b.iter(|| store.collect_garbage().expect("collect"));
    });
    Ok(())
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    store(&mut c).expect("make a store");
    c.final_summary();
}
