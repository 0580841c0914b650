//! Other tools read the store where it lies, and it reads what they make.

use std::process::Command;

use coracle::image::Store;

use crate::common::{program, require, setup};
use crate::fixture::{add_with, sound, store};

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

#[test]
fn skopeo_inspects_an_image_in_place() {
    let skopeo = require!(program("skopeo"));
    let dir = setup("image-skopeo");
    let store = store(&dir);
    let extra = r#","config":{"Labels":{"a":"b"}},"created":"2024-01-02T03:04:05Z""#;
    let image = add_with(&store, "host.example:5000/team/app:1", &["base", "app"], extra);
    add_with(&store, "debian", &["base"], "");
    let inspect = |reference: &str| {
        let place = format!("oci:{}:{reference}", store.path().display());
        let said = run(Command::new(&skopeo).args(["inspect", &place]));
        serde_json::from_str::<serde_json::Value>(&said).unwrap()
    };
    let found = inspect("host.example:5000/team/app:1");
    assert_eq!(found["Digest"], image.digest().to_string());
    assert_eq!(found["Labels"]["a"], "b");
    assert_eq!(found["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(inspect("docker.io/library/debian:latest")["Layers"].as_array().unwrap().len(), 1);
}

#[test]
fn umoci_lists_the_names_and_finds_nothing_to_collect() {
    let umoci = require!(program("umoci"));
    let dir = setup("image-umoci");
    let store = store(&dir);
    add_with(&store, "app:1", &["base", "app"], "");
    add_with(&store, "debian", &["base"], "");
    let list = || run(Command::new(&umoci).args(["ls", "--layout"]).arg(store.path()));
    let mut names: Vec<_> = list().lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["docker.io/library/app:1", "docker.io/library/debian:latest"]);
    run(Command::new(&umoci).args(["gc", "--layout"]).arg(store.path()));
    sound(&store);
    assert_eq!(store.images().unwrap().len(), 2);
}

#[test]
fn a_layout_that_umoci_made_and_filled_is_a_store() {
    let umoci = require!(program("umoci"));
    let dir = setup("image-umoci-made");
    let path = dir.join("layout");
    run(Command::new(&umoci).args(["init", "--layout"]).arg(&path));
    let store = Store::open(&path).unwrap();
    assert!(store.images().unwrap().is_empty());
    let place = format!("{}:app", path.display());
    run(Command::new(&umoci).args(["new", "--image", &place]));
    let image = store.image("app").unwrap();
    assert!(image.diff_ids().is_empty());
    store.tag("app", "other").unwrap();
    store.remove("app").unwrap();
    store.collect_garbage().unwrap();
    sound(&store);
    let list = run(Command::new(&umoci).args(["ls", "--layout"]).arg(&path));
    assert_eq!(list.trim(), "docker.io/library/other:latest");
}
