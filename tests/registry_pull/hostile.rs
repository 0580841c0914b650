//! Registries that lie, stall and flood.

use serde_json::{Value, json};

use coracle::ErrorKind;
use coracle::image::Store;
use coracle::registry::Registry;

use crate::common::http::Response;
use crate::common::images::{MANIFEST, digest};
use crate::common::relay::{Fault, Rule};
use crate::common::server::Scripted;
use crate::common::{require, setup};
use crate::{client, says, scene};

const MANIFESTS: &str = "/v2/app/manifests/";
const BLOBS: &str = "/v2/app/blobs/";

/// What comes of a pull from a registry that answers everything with this.
#[track_caller]
fn fails(answer: Response) -> coracle::Error {
    let server = Scripted::start(move |_| answer.clone());
    let sandbox = setup("hostile");
    let store = Store::open(sandbox.join("store")).unwrap();
    let registry = Registry::builder().retries(0).build().unwrap();
    let name = format!("{}/app:1", server.address());
    let err = registry.pull(&name, &store).blocking().unwrap_err();
    assert!(store.images().unwrap().is_empty());
    assert!(format!("{err:?}").contains(&server.address()), "{err:?}");
    err
}

#[test]
fn what_is_no_manifest_is_named_for_what_it_is() {
    let manifest = |text: &str| Response::new(200).header("Content-Type", MANIFEST).body(text);
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for (answer, kind, words) in [
        (Response::html("<h1>Welcome</h1>"), ErrorKind::Malformed, "web page"),
        (Response::html("<h1>No</h1>").status(404), ErrorKind::NotFound, "404"),
        (manifest("hello"), ErrorKind::Malformed, "no JSON"),
        (manifest("[]"), ErrorKind::Malformed, "no JSON object"),
        (manifest("{}"), ErrorKind::Malformed, "fields"),
        (manifest(""), ErrorKind::Malformed, "no JSON"),
        (
            manifest(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
            ErrorKind::Malformed,
            "JSON",
        ),
        (
            Response::json("{\"schemaVersion\":1}").header("Content-Type", schema1),
            ErrorKind::Unsupported,
            "schema 1",
        ),
        (Response::json("{\"a\":1}"), ErrorKind::Malformed, "neither a manifest nor an index"),
        (Response::new(418), ErrorKind::Unavailable, "418"),
        (Response::new(204), ErrorKind::Malformed, "JSON"),
    ] {
        let err = fails(answer);
        says(&err, kind, &["pull", words]);
    }
}

#[test]
fn an_answer_without_an_end_is_not_read_to_it() {
    let manifest = || Response::new(200).header("Content-Type", MANIFEST);
    for answer in [
        manifest().endless("{\"schemaVersion\":2,"),
        manifest().content_length(1 << 40).endless(" "),
        manifest().chunked().endless("[[[[[[[["),
        manifest().until_closed().endless("\"\\"),
    ] {
        says(&fails(answer), ErrorKind::Malformed, &["more than 4194304 bytes"]);
    }
    says(&fails(Response::new(404).endless("no ")), ErrorKind::NotFound, &["404"]);
}

#[test]
fn a_redirect_that_goes_in_circles_or_away_from_tls_is_not_followed() {
    let circle = Response::redirect(302, "/v2/app/manifests/1");
    says(&fails(circle), ErrorKind::Malformed, &["redirects more than 5 times"]);
    for (to, words) in
        [("file:///etc/passwd", "file"), ("http://", "no address"), ("ftp://example.com/", "ftp")]
    {
        let err = fails(Response::redirect(307, to));
        assert!(format!("{err:?}").contains(words), "{err:?}");
    }
    // From this machine a plain registry leads on to a plain one.
    let err = fails(Response::redirect(307, "http://127.0.0.1:1/"));
    says(&err, ErrorKind::Unavailable, &["ECONNREFUSED"]);
}

#[test]
fn a_blob_is_as_long_as_its_manifest_says_or_none() {
    for (answer, words) in [
        (Response::new(200).until_closed().endless("x"), "the manifest says"),
        (Response::new(200).body("short"), "the manifest says"),
        (Response::new(200).body("short").chunked(), "bytes of the blob"),
        (Response::new(200).body("long".repeat(1_000_000)), "the manifest says"),
        (Response::new(200).content_length(1 << 60).endless("x"), "the manifest says"),
        (Response::new(206).header("Content-Range", "bytes 5-9/10").body("12345"), ""),
    ] {
        let scene = require!(scene("hostile-blob"));
        scene.relay.rule(Rule::get(BLOBS).fault(Fault::Respond(answer)));
        let registry = Registry::builder().retries(1).build().unwrap();
        says(&scene.fails(&registry), ErrorKind::Malformed, &["sha256:", words]);
    }
}

/// Serves the image of the scene with another manifest, and says what comes of it.
fn with_manifest(edit: impl FnOnce(&mut Value)) -> Option<coracle::Error> {
    let scene = match scene("hostile-manifest") {
        Ok(scene) => scene,
        Err(missing) => {
            // Reported by the caller's first `require!`.
            drop(missing);
            return None;
        }
    };
    let path = crate::common::images::blob_file(&scene.sandbox.join("layout"), &scene.digest);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut manifest);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let answer = Response::new(200).header("Content-Type", MANIFEST).body(bytes);
    scene.relay.rule(Rule::get(MANIFESTS).fault(Fault::Respond(answer)));
    Some(scene.fails(&client()))
}

#[test]
fn a_manifest_whose_parts_do_not_agree_makes_no_image() {
    require!(scene("hostile-manifest").map(drop));
    type Edit = Box<dyn FnOnce(&mut Value)>;
    let edits: Vec<(Edit, ErrorKind, &str)> = vec![
        (
            Box::new(|it| it["layers"][0]["size"] = json!(17)),
            ErrorKind::Malformed,
            "the manifest says 17",
        ),
        (
            Box::new(|it| it["layers"][0]["size"] = json!(1_u64 << 62)),
            ErrorKind::Malformed,
            "the manifest says",
        ),
        (
            Box::new(|it| it["config"]["size"] = json!(1_u64 << 40)),
            ErrorKind::Malformed,
            "no document",
        ),
        (
            Box::new(|it| it["layers"].as_array_mut().unwrap().truncate(1)),
            ErrorKind::Malformed,
            "1 layers",
        ),
        (
            Box::new(|it| it["layers"].as_array_mut().unwrap().swap(0, 1)),
            ErrorKind::Malformed,
            "has the content",
        ),
        (
            Box::new(|it| it["layers"][0]["digest"] = json!("sha256:../../etc/passwd")),
            ErrorKind::Malformed,
            "../../etc/passwd",
        ),
        (
            Box::new(|it| it["layers"][0]["digest"] = json!(digest(b"none"))),
            ErrorKind::NotFound,
            "BLOB_UNKNOWN",
        ),
        (
            Box::new(|it| it["config"]["mediaType"] = json!("text/plain")),
            ErrorKind::Unsupported,
            "something else than an image",
        ),
        (
            Box::new(|it| it["mediaType"] = json!("application/vnd.oci.image.index.v1+json")),
            ErrorKind::Malformed,
            "calls itself",
        ),
    ];
    for (edit, kind, words) in edits {
        if let Some(err) = with_manifest(edit) {
            says(&err, kind, &[words]);
        }
    }
}

#[test]
fn a_digest_that_is_asked_for_is_what_comes() {
    let scene = require!(scene("hostile-digest"));
    let registry = client();
    let wanted = format!("{}@{}", scene.relay.name("app"), digest(b"something else"));
    let manifest = crate::common::images::blob_file(&scene.sandbox.join("layout"), &scene.digest);
    let answer =
        Response::new(200).header("Content-Type", MANIFEST).body(std::fs::read(manifest).unwrap());
    scene.relay.rule(Rule::get(MANIFESTS).fault(Fault::Respond(answer.clone())));
    let err = registry.pull(&wanted, &scene.store).blocking().unwrap_err();
    says(&err, ErrorKind::Malformed, &["it has the digest", &digest(b"something else")]);
    scene.relay.heal();
    let lie = answer.header("Docker-Content-Digest", digest(b"another"));
    scene.relay.rule(Rule::get(MANIFESTS).fault(Fault::Respond(lie)));
    says(
        &scene.fails(&registry),
        ErrorKind::Malformed,
        &["it has the digest", &digest(b"another")],
    );
}

#[test]
fn an_index_of_thousands_is_read_and_a_longer_one_refused() {
    let entry = json!({"mediaType": MANIFEST, "digest": digest(b"x"), "size": 1,
        "platform": {"os": "plan9", "architecture": "vax"}});
    for (count, kind) in [(1000, ErrorKind::NotFound), (100_000, ErrorKind::Malformed)] {
        let index =
            json!({"schemaVersion": 2, "manifests": vec![entry.clone(); count]}).to_string();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let answer = Response::new(200).header("Content-Type", media_type).body(index);
        let err = fails(answer);
        assert_eq!(err.kind(), kind, "{err:?}");
    }
}
