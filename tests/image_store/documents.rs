//! Manifests, indexes and configurations, good and bad.

use coracle::ErrorKind;
use coracle::image::spec::{Descriptor, MediaType};
use coracle::image::{Blob, Digest, Image, Platform, Store, Work};

use crate::common::setup;
use crate::fixture::{add, config, config_for, manifest, name, names, of, sound, store};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

fn ingest(work: &Work, text: &str, media_type: &str) -> Descriptor {
    work.ingest(text.as_bytes(), None).unwrap().descriptor(media_type.into())
}

fn json(descriptor: &Descriptor) -> String {
    serde_json::to_string(descriptor).unwrap()
}

/// An index of images for these architectures, each of one layer, and all in the store but those with a `-`.
fn index(work: &Work, architectures: &[&str]) -> Descriptor {
    let entry = |architecture: &&str| {
        let name = architecture.trim_start_matches('-');
        let config = config_for(name, &[name], "");
        let manifest = if name == *architecture {
            manifest(work, &[name], &config)
        } else {
            Blob::of(b"elsewhere").descriptor(MediaType::ImageManifest)
        };
        let manifest = json(&manifest);
        format!(
            r#"{},"platform":{{"os":"linux","architecture":"{name}"}}}}"#,
            &manifest[..manifest.len() - 1]
        )
    };
    let entries: Vec<_> = architectures.iter().map(entry).collect();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
        entries.join(",")
    );
    ingest(work, &text, INDEX)
}

fn set(
    store: &Store,
    reference: &str,
    make: impl FnOnce(&Work) -> Descriptor,
) -> coracle::Result<Image> {
    let work = store.work().unwrap();
    work.set_image(Some(&name(reference)), &make(&work))
}

#[test]
fn usage_counts_all_platforms_that_are_here() {
    let dir = setup("image-platforms-usage");
    let store = store(&dir);
    let host = Platform::host();
    let image = set(&store, "app", |work| index(work, &["-s390x", host.architecture(), "riscv64"]));
    let usage = store.usage().unwrap();
    assert_eq!(usage.images[0].size, usage.total);
    assert!(usage.total.blobs > image.unwrap().size(), "{usage:?}");
    assert_eq!((usage.garbage.bytes(), usage.reclaimable), (0, usage.total));
}

#[test]
fn a_pin_keeps_the_platform_that_was_pinned() {
    let dir = setup("image-platforms-pin");
    let store = store(&dir);
    let host = Platform::host();
    set(&store, "app", |work| index(work, &[host.architecture(), "riscv64"])).unwrap();
    let other = store.image_for("app", &"linux/riscv64".parse().unwrap()).unwrap();
    store.pin("box", &other).unwrap();
    assert_eq!(store.pinned_image("box").unwrap().references(), [name("app")]);
    store.remove_forced("app").unwrap();
    store.collect_garbage().unwrap();
    let found = store.pinned_image("box").unwrap();
    assert_eq!((&found, found.platform()), (&other, other.platform()));
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn an_index_gives_the_host_s_image_and_each_other_that_is_asked_for() {
    let dir = setup("image-platforms");
    let store = store(&dir);
    let host = Platform::host().architecture().to_owned();
    let image =
        set(&store, "app", |work| index(work, &["riscv64", &host, "s390x", "-mips"])).unwrap();
    assert_eq!(image.platform(), Platform::host());
    assert_ne!(image.digest(), image.manifest_blob().digest);
    let other = store.image_for("app", &"linux/s390x".parse().unwrap()).unwrap();
    assert_eq!(other.platform().to_string(), "linux/s390x");
    assert_eq!(other.digest(), image.digest());
    let err = store.image_for("app", &"linux/ppc64le".parse().unwrap()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(err.hint().unwrap().contains("linux/riscv64"), "{err:?}");
    // Not fetched.
    let err = store.image_for("app", &"linux/mips".parse().unwrap()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert_eq!(store.collect_garbage().unwrap().blobs, 0);
    sound(&store);
    // Of one image alone the platform is checked as well.
    add(&store, "one", &["one"]);
    let err = store.image_for("one", &"linux/s390x".parse().unwrap()).unwrap_err();
    assert!(format!("{err:#}").contains("linux/s390x"), "{err:#}");
    store.remove("app").unwrap();
    store.remove("one").unwrap();
    store.collect_garbage().unwrap();
    assert_eq!(names(&store, "blobs/sha256"), [""; 0]);
}

#[test]
fn an_image_for_another_machine_is_listed_too() {
    let dir = setup("image-other-platform");
    let store = store(&dir);
    let image = set(&store, "app", |work| index(work, &["-amd64", "-arm64", "s390x"])).unwrap();
    assert_eq!(image.platform().to_string(), "linux/s390x");
    assert_eq!(store.images().unwrap(), [image]);
    let err = set(&store, "none", |work| index(work, &["-amd64", "-arm64"])).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    sound(&store);
}

#[test]
fn damage_to_one_platform_leaves_the_others() {
    let dir = setup("image-platform-damage");
    let store = store(&dir);
    set(&store, "app", |work| index(work, &["riscv64", "s390x"])).unwrap();
    std::fs::remove_file(crate::fixture::blob_file(&store, Digest::of("riscv64"))).unwrap();
    let verified = store.verify().unwrap();
    assert_eq!(verified.damage.len(), 1, "{:?}", verified.damage);
    assert!(store.repair().unwrap().images.is_empty());
    sound(&store);
    assert_eq!(store.image("app").unwrap().platform().to_string(), "linux/s390x");
}

#[test]
fn docker_s_schema_2_is_read_and_its_configuration_kept_as_it_is() {
    let dir = setup("image-docker");
    let store = store(&dir);
    let extra = r#","config":{"Cmd":["sh"],"Healthcheck":{"Test":["NONE"]},"OnBuild":null,"Labels":{"a":"b"}},
        "container_config":{"Hostname":"x"},"created":"2024-05-06T07:08:09.123456789Z""#;
    let image = set(&store, "app", |work| {
        let config = ingest(work, &config(&["layer"], extra), DOCKER_CONFIG);
        let layer = ingest(work, "compressed", DOCKER_LAYER);
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{},"layers":[{}]}}"#,
            json(&config),
            json(&layer)
        );
        let manifest = json(&ingest(work, &text, DOCKER_MANIFEST));
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{DOCKER_INDEX}","manifests":[{manifest}]}}"#
        );
        ingest(work, &text, DOCKER_INDEX)
    });
    let image = image.unwrap();
    assert_eq!(image.config().raw()["config"]["Healthcheck"]["Test"][0], "NONE");
    assert_eq!(image.config().raw()["container_config"]["Hostname"], "x");
    assert_eq!(image.config().spec().config().as_ref().unwrap().cmd().as_ref().unwrap(), &["sh"]);
    assert_eq!(image.config().label("a"), Some("b"));
    assert!(image.created().is_some());
    sound(&store);
}

#[test]
fn what_makes_no_image_is_refused_with_the_blob_and_the_reason() {
    type Make = fn(&Work) -> Descriptor;
    let cases: [(&str, Make, ErrorKind, &str); 14] = [
        (
            "no manifest",
            |_| Blob::of(b"none").descriptor(MediaType::ImageManifest),
            ErrorKind::NotFound,
            "ENOENT",
        ),
        (
            "a layer too few",
            |work| {
                let config = ingest(
                    work,
                    &config(&["a", "b"], ""),
                    "application/vnd.oci.image.config.v1+json",
                );
                let layer = ingest(work, "a", "application/vnd.oci.image.layer.v1.tar");
                work.add_manifest(&of(config, vec![layer])).unwrap()
            },
            ErrorKind::Malformed,
            "has 1 layers, but its configuration",
        ),
        (
            "a missing layer",
            |work| {
                let config =
                    ingest(work, &config(&["a"], ""), "application/vnd.oci.image.config.v1+json");
                let layer = Blob::of(b"missing").descriptor(MediaType::ImageLayer);
                work.add_manifest(&of(config, vec![layer])).unwrap()
            },
            ErrorKind::NotFound,
            "open the blob sha256:",
        ),
        (
            "a wrong size",
            |work| {
                let config =
                    ingest(work, &config(&["a"], ""), "application/vnd.oci.image.config.v1+json");
                let mut layer = work.ingest(&b"a"[..], None).unwrap();
                layer.size = 2;
                let layer = layer.descriptor(MediaType::ImageLayer);
                work.add_manifest(&of(config, vec![layer])).unwrap()
            },
            ErrorKind::Malformed,
            "is truncated: it has 1 bytes and should have 2",
        ),
        (
            "a layer of an unknown type",
            |work| {
                let config =
                    ingest(work, &config(&["a"], ""), "application/vnd.oci.image.config.v1+json");
                let layer = ingest(work, "a", "application/x-rar");
                work.add_manifest(&of(config, vec![layer])).unwrap()
            },
            ErrorKind::Unsupported,
            "application/x-rar",
        ),
        (
            "no image's configuration",
            |work| {
                let config = ingest(work, "{}", "application/vnd.oci.empty.v1+json");
                work.add_manifest(&of(config, vec![])).unwrap()
            },
            ErrorKind::Unsupported,
            "application/vnd.oci.empty.v1+json",
        ),
        (
            "a configuration without sense",
            |work| {
                let config = ingest(work, "{}", "application/vnd.oci.image.config.v1+json");
                work.add_manifest(&of(config, vec![])).unwrap()
            },
            ErrorKind::Malformed,
            "read the configuration sha256:",
        ),
        (
            "an unknown type",
            |work| ingest(work, "{}", "text/plain"),
            ErrorKind::Unsupported,
            "text/plain",
        ),
        ("no JSON", |work| ingest(work, "{", MANIFEST), ErrorKind::Malformed, "no JSON"),
        (
            "a JSON bomb",
            |work| ingest(work, &"{\"a\":".repeat(600_000), MANIFEST),
            ErrorKind::Malformed,
            "recursion limit",
        ),
        (
            "over 4 MiB",
            |work| ingest(work, &" ".repeat((4 << 20) + 1), MANIFEST),
            ErrorKind::Malformed,
            "no document has over 4194304",
        ),
        (
            "a manifest and index at once",
            |work| {
                let good = manifest(work, &["a"], &config(&["a"], ""));
                let good = work.store().blob(&good.digest().as_ref().parse().unwrap()).unwrap();
                let good = std::io::read_to_string(good).unwrap();
                ingest(work, &good.replacen('{', r#"{"manifests":[],"#, 1), MANIFEST)
            },
            ErrorKind::Malformed,
            "its fields",
        ),
        (
            "an index of itself only in name",
            |work| ingest(work, r#"{"schemaVersion":2,"manifests":[]}"#, INDEX),
            ErrorKind::NotFound,
            "no image for the platform",
        ),
        (
            "a manifest that is called an index",
            |work| {
                let good = manifest(work, &["a"], &config(&["a"], ""));
                let size = good.size();
                let digest = good.digest().as_ref().parse().unwrap();
                Blob { digest, size }.descriptor(MediaType::ImageIndex)
            },
            ErrorKind::Malformed,
            "it calls itself",
        ),
    ];
    let dir = setup("image-bad-documents");
    let store = store(&dir);
    add(&store, "app", &["good"]);
    for (what, make, kind, why) in cases {
        let mut digest = String::new();
        let err = set(&store, "app", |work| {
            let root = make(work);
            digest = root.digest().to_string();
            root
        })
        .unwrap_err();
        let said = format!("{err:#}");
        assert_eq!(err.kind(), kind, "{what}: {said}");
        assert!(said.contains(why) && said.contains("app:latest"), "{what}: {said}");
        assert!(said.contains("sha256:"), "{what}: {said}");
        assert_eq!(store.image("app").unwrap().diff_ids().len(), 1, "{what}");
    }
    store.collect_garbage().unwrap();
    assert_eq!(names(&store, "blobs/sha256").len(), 3);
    sound(&store);
}

#[test]
fn a_name_with_another_digest_is_refused() {
    let dir = setup("image-name-digest");
    let store = store(&dir);
    let image = add(&store, "app", &["one"]);
    let work = store.work().unwrap();
    let wrong = format!("app@{}", Digest::of("x"));
    let err = work.set_image(Some(&name(&wrong)), image.descriptor()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    let right = format!("other@{}", image.digest());
    work.set_image(Some(&name(&right)), image.descriptor()).unwrap();
    assert_eq!(store.image(&right).unwrap(), image);
    assert_eq!(store.image(&right).unwrap().references().len(), 2);
}
