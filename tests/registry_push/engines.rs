//! What we push, docker and podman pull and run.

use std::fs;

use coracle::image::Store;
use serde_json::json;

use crate::common::engines::{Containers, Docker};
use crate::common::images::{CONFIG, Layout, MANIFEST, Packing, architecture};
use crate::common::registry::Registry;
use crate::common::{self, Missing, Sandbox, require};
use crate::fixture::{client, store};

/// An image that greets, whose program is busybox, and its id and digest.
fn greeting(sandbox: &Sandbox, packing: Packing) -> Result<(Store, String, String), Missing> {
    let busybox = fs::read("/bin/busybox")
        .map_err(|err| Missing::new("busybox-static", format!("/bin/busybox: {err}")))?;
    let mut layout = Layout::new(sandbox.join("layout"));
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in
        [("bin/busybox", 0o755, &busybox[..]), ("greeting", 0o644, b"from coracle\n")]
    {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).unwrap();
    }
    let layer = layout.layer(&tar.into_inner().unwrap()[..], packing);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": ["/bin/busybox", "cat", "/greeting"] },
        "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
    });
    let config = layout.blob(CONFIG, config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer.descriptor],
    });
    let manifest = layout.blob(MANIFEST, manifest.to_string().as_bytes());
    layout.name("latest", &manifest);
    let text = |value: &serde_json::Value| value["digest"].as_str().unwrap().to_owned();
    Ok((store(&layout), text(&config), text(&manifest)))
}

#[test]
fn docker_pulls_and_runs_what_we_push() {
    let sandbox = common::setup("push-docker");
    let registry = require!(Registry::start());
    let (store, id, digest) = require!(greeting(&sandbox, Packing::Gzip));
    let docker = require!(Docker::start(&sandbox, "vfs"));
    let name = registry.name("team/greeting:1");
    client().push(&store, "latest", &name).blocking().unwrap();
    let pulled = docker.run(&["pull", &name]);
    assert!(pulled.contains(&format!("Digest: {digest}")), "{pulled}");
    assert_eq!(docker.run_image(&name), "from coracle\n");
    let found = docker.run(&["image", "inspect", "--format", "{{.Id}}", &name]);
    assert_eq!(found.trim(), id);
    // And back.
    let again = registry.name("team/greeting:2");
    docker.run(&["tag", &name, &again]);
    docker.run(&["push", &again]);
    let image = client().pull(&again, &store).blocking().unwrap();
    assert_eq!(image.id().to_string(), id);
}

#[test]
fn podman_pulls_and_runs_what_we_push() {
    require!(common::root());
    require!(common::program("podman"));
    let sandbox = common::setup("push-podman");
    let registry = require!(Registry::start());
    let (store, id, digest) = require!(greeting(&sandbox, Packing::Zstd));
    let podman = Containers::new(&sandbox, "vfs");
    let name = registry.name("team/greeting:1");
    client().push(&store, "latest", &name).blocking().unwrap();
    podman.run("podman", &["pull", "--quiet", "--tls-verify=false", &name]);
    assert_eq!(podman.run_image(&name), "from coracle\n");
    assert_eq!(podman.id(&name), id);
    let found = podman.run("podman", &["image", "inspect", "--format", "{{.Digest}}", &name]);
    assert_eq!(found.trim(), digest);
}
