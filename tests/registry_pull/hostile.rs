//! Registries that lie, stall and flood.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use coracle::ErrorKind;
use coracle::image::Store;
use coracle::registry::{Credentials, Registry};

use crate::common::http::Response;
use crate::common::images::{CONFIG, INDEX, MANIFEST, digest};
use crate::common::relay::{Fault, Rule};
use crate::common::server::Scripted;
use crate::common::{require, setup};
use crate::{Scene, client, says, scene};

const MANIFESTS: &str = "/v2/app/manifests/";
const BLOBS: &str = "/v2/app/blobs/";
/// No manifest, index or configuration may be longer.
const MAX_DOCUMENT: usize = 4 << 20;

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
fn with_manifest(scene: &Scene, edit: impl FnOnce(&mut Value)) -> coracle::Error {
    let path = crate::common::images::blob_file(&scene.sandbox.join("layout"), &scene.digest);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut manifest);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let answer = Response::new(200).header("Content-Type", MANIFEST).body(bytes);
    scene.relay.rule(Rule::get(MANIFESTS).fault(Fault::Respond(answer)));
    scene.fails(&client())
}

#[test]
fn a_manifest_whose_parts_do_not_agree_makes_no_image() {
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
        let scene = require!(scene("hostile-manifest"));
        says(&with_manifest(&scene, edit), kind, &[words]);
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
        let answer = Response::new(200).header("Content-Type", INDEX).body(index);
        let err = fails(answer);
        assert_eq!(err.kind(), kind, "{err:?}");
    }
}

/// Documents that name each other, and the descriptor of each.
#[derive(Default)]
struct Documents(HashMap<String, (&'static str, Vec<u8>)>);

impl Documents {
    fn add(&mut self, media_type: &'static str, content: &Value, length: usize) -> Value {
        let mut bytes = content.to_string().into_bytes();
        bytes.resize(length.max(bytes.len()), b' ');
        let (digest, size) = (digest(&bytes), bytes.len());
        self.0.insert(digest.clone(), (media_type, bytes));
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    fn index(&mut self, manifests: &[Value], length: usize) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.add(INDEX, &index, length)
    }

    /// A manifest without layers, unlike those with other numbers.
    fn manifest(&mut self, number: usize, config: &Value, length: usize) -> Value {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [], "annotations": {"number": number.to_string()}});
        self.add(MANIFEST, &manifest, length)
    }

    /// An image's configuration, unlike those with other numbers.
    fn config(&mut self, number: usize, length: usize) -> Value {
        let config = json!({"os": "linux", "architecture": "amd64", "author": number.to_string(),
            "config": {}, "rootfs": {"type": "layers", "diff_ids": []}});
        self.add(CONFIG, &config, length)
    }

    /// Pulls what a descriptor means. Returns the error, and how much was asked for.
    fn pull(self, root: &Value, all: bool) -> (coracle::Error, usize) {
        let (root, documents) = (root["digest"].as_str().unwrap().to_owned(), self.0);
        let server = Scripted::start(move |request| {
            let name = request.path().rsplit('/').next().unwrap();
            match documents.get(if name == "1" { &*root } else { name }) {
                Some((media_type, bytes)) => {
                    Response::new(200).header("Content-Type", media_type).body(bytes.clone())
                }
                None => Response::new(404),
            }
        });
        let sandbox = setup("hostile-bomb");
        let store = Store::open(sandbox.join("store")).unwrap();
        let registry = client();
        let pull = registry.pull(format!("{}/app:1", server.address()), &store);
        let pull = if all { pull.all_platforms() } else { pull };
        let err = pull.blocking().unwrap_err();
        assert!(store.images().unwrap().is_empty());
        (err, server.requests().len())
    }
}

#[test]
fn an_index_that_is_named_thousands_of_times_is_fetched_once() {
    let mut documents = Documents::default();
    let nested = documents.index(&[], MAX_DOCUMENT);
    let root = documents.index(&vec![nested; 5000], 0);
    let (err, requests) = documents.pull(&root, false);
    says(&err, ErrorKind::NotFound, &["no image for the platform"]);
    assert!(requests < 10, "{requests}");
}

#[test]
fn indexes_that_name_too_much_are_left_alone() {
    let too_many = |documents: &mut Documents| {
        let nested: Vec<_> = (0..1000).map(|length| documents.index(&[], 200 + length)).collect();
        documents.index(&nested, 0)
    };
    let too_long = |documents: &mut Documents| {
        let nested: Vec<_> =
            (0..20).map(|number| documents.index(&[], MAX_DOCUMENT - number)).collect();
        documents.index(&nested, 0)
    };
    let too_many_manifests = |documents: &mut Documents| {
        let entry = json!({"mediaType": MANIFEST, "digest": digest(b"x"), "size": 1});
        let nested: Vec<_> =
            (0..5).map(|number| documents.index(&vec![entry.clone(); 1000 + number], 0)).collect();
        documents.index(&nested, 0)
    };
    type Bomb<'a> = &'a dyn Fn(&mut Documents) -> Value;
    for (bomb, words) in [
        (&too_many as Bomb<'_>, "over 256 indexes"),
        (&too_long, "its manifests have over 67108864 bytes"),
        (&too_many_manifests, "over 4096 manifests"),
    ] {
        let mut documents = Documents::default();
        let root = bomb(&mut documents);
        let (err, requests) = documents.pull(&root, false);
        says(&err, ErrorKind::Malformed, &["pull", words]);
        assert!(requests < 10, "{requests}");
    }
}

#[test]
fn what_waits_in_memory_of_all_platforms_has_a_limit() {
    for (manifests, configs) in [(MAX_DOCUMENT, 0), (0, MAX_DOCUMENT)] {
        let mut documents = Documents::default();
        let mut manifest = |number| {
            let config = documents.config(number, configs);
            documents.manifest(number, &config, manifests)
        };
        let named: Vec<_> = (0..20).map(&mut manifest).collect();
        let root = documents.index(&named, 0);
        let (err, requests) = documents.pull(&root, true);
        says(&err, ErrorKind::Malformed, &["pull", "its manifests have over 67108864 bytes"]);
        // Of the manifests the index says how long they are; of the configurations only they do.
        assert!(requests < if configs == 0 { 10 } else { 40 }, "{requests}");
    }
}

/// How a registry answers a path of the image `app:1`; where it listens is known only then.
type Answers = fn(&str, &str) -> Response;

/// What comes of a pull with a password from a registry that answers like this.
fn refused(answers: Answers) -> (String, coracle::Error) {
    let address = Arc::new(OnceLock::<String>::new());
    let own = Arc::clone(&address);
    let server = Scripted::start(move |request| answers(request.path(), own.wait()));
    address.set(server.address()).unwrap();
    pull_from(&server.address())
}

fn pull_from(address: &str) -> (String, coracle::Error) {
    let sandbox = setup("hostile-hint");
    let store = Store::open(sandbox.join("store")).unwrap();
    let name = format!("{address}/app:1");
    let registry = Registry::builder()
        .no_proxy()
        .retries(0)
        .credentials(address, Credentials::password("anna", "hunter2"))
        .build()
        .unwrap();
    let err = registry.pull(&name, &store).blocking().unwrap_err();
    assert!(store.images().unwrap().is_empty());
    (name, err)
}

#[test]
fn whatever_goes_wrong_the_error_names_the_image_and_says_what_to_try() {
    fn manifest(text: &Value) -> Response {
        Response::new(200).header("Content-Type", MANIFEST).body(text.to_string())
    }
    fn image(config: &str, size: usize) -> Response {
        manifest(&json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": {"mediaType": CONFIG, "digest": config, "size": size}}))
    }
    fn wants_token(path: &str, address: &str, token: Response) -> Response {
        let realm = format!("Bearer realm=\"http://{address}/token\"");
        if path == "/token" { token } else { Response::new(401).header("WWW-Authenticate", realm) }
    }
    let cases: [(&str, Answers); 12] = [
        ("digest mismatch", |path, _| match path.contains("/blobs/") {
            true => Response::new(200).body("{}"),
            false => image(&digest(b"[]"), 2),
        }),
        ("size lies", |path, _| match path.contains("/blobs/") {
            true => Response::new(200).body("{}"),
            false => image(&digest(b"{}"), 3),
        }),
        ("a bomb of manifests", |_, _| {
            let nested = |number: usize| {
                json!({"mediaType": INDEX, "size": 9,
                "digest": digest(&number.to_ne_bytes())})
            };
            let nested: Vec<_> = (0..1000).map(nested).collect();
            let index = json!({"schemaVersion": 2, "manifests": nested}).to_string();
            Response::new(200).header("Content-Type", INDEX).body(index)
        }),
        ("a stream without an end", |_, _| manifest(&json!({})).chunked().endless(" ")),
        ("a web page", |_, _| Response::html("<h1>Welcome</h1>")),
        ("an unknown way to log in", |_, _| {
            Response::new(401).header("WWW-Authenticate", "Negotiate")
        }),
        ("no way to log in", |_, _| Response::new(401)),
        ("expired tokens", |path, address| {
            wants_token(path, address, Response::json("{\"token\": \"old\"}"))
        }),
        ("wrong credentials", |path, address| {
            wants_token(path, address, Response::json("{}").status(401))
        }),
        ("a missing tag", |_, _| {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such tag"}]}"#;
            Response::json(body).status(404)
        }),
        ("forbidden", |_, _| {
            let body = r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#;
            Response::json(body).status(403)
        }),
        ("a broken connection", |_, _| manifest(&json!({})).content_length(100)),
    ];
    let refusals = cases.map(|(case, answers)| (case, refused(answers)));
    let address = |case, address| (case, pull_from(address));
    let unreachable = [
        address("an unknown host", "no-such-host.invalid"),
        address("a refused connection", "127.0.0.1:1"),
    ];
    for (case, (name, err)) in refusals.into_iter().chain(unreachable) {
        let shown = format!("{err:?}");
        assert!(err.hint().is_some_and(|hint| !hint.is_empty()), "{case}: {shown}");
        assert!(shown.contains(&format!("pull {name}")), "{case}: {shown}");
        assert!(!shown.contains("hunter2"), "{case}: {shown}");
        let own_words = match case {
            "a missing tag" => "MANIFEST_UNKNOWN: no such tag",
            "forbidden" => "DENIED: not for you",
            _ => "",
        };
        assert!(shown.contains(own_words), "{case}: {shown}");
    }
}
