//! What there is in a registry: tags, repositories, and what is found by looking for it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod lists;
mod searches;

use common::images::{Layout, Packing, Skopeo, tar};
use common::registry::Registry as Server;
use common::{Missing, setup};
use coracle::registry::Registry;

/// Pushes one small image under all of these names.
fn fill(server: &Server, skopeo: &Skopeo, names: &[&str]) {
    let sandbox = setup("names");
    let mut layout = Layout::new(sandbox.join("layout"));
    let layer = layout.layer(&tar(&[("a", b"a")])[..], Packing::Plain);
    layout.image("a", &[layer]);
    assert!(!server.address().is_empty());
    names.iter().for_each(|name| drop(skopeo.push(layout.path(), "a", name)));
}

/// A registry with these names in it.
fn filled(names: &[&str]) -> Result<Server, Missing> {
    let server = Server::start()?;
    fill(&server, &Skopeo::new(&server)?, names);
    Ok(server)
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn client() -> Registry {
    Registry::builder().retries(0).build().unwrap()
}
