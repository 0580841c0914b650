//! Artifacts, and what is attached to images.

use std::fs;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex};

use coracle::ErrorKind;
use coracle::image::spec::{Descriptor, ImageManifest};
use coracle::registry::{Artifact, Registry as Client};
use serde_json::{Value, json};

use crate::common::http::{Request, Response};
use crate::common::images::{INDEX, MANIFEST, Skopeo, digest};
use crate::common::registry::Registry;
use crate::common::relay::{Fault, Rule};
use crate::common::server::Scripted;
use crate::common::{self, require};
use crate::fixture::{client, relayed, small, store};

fn manifest(name: &str) -> Value {
    serde_json::from_slice(client().manifest(name).blocking().unwrap().bytes()).unwrap()
}

fn types(listed: &[Descriptor]) -> Vec<String> {
    let types = listed.iter().map(|it| it.artifact_type().as_ref().unwrap().to_string());
    types.collect()
}

#[test]
fn an_artifact_is_of_files_and_bytes() {
    let sandbox = common::setup("artifact");
    let (registry, relay) = require!(relayed());
    let path = sandbox.file("long.bin", common::images::noise(1 << 20, 5));
    let artifact = || {
        Artifact::new("application/vnd.example.thing")
            .blob("text/plain", *b"hello")
            .file("application/octet-stream", &path)
            .annotation("b", "2")
            .annotation("a", "1")
    };
    let pushed = client().push_artifact(relay.name("thing:1"), artifact()).blocking().unwrap();
    assert_eq!(pushed.reference.to_string(), relay.name("thing:1"));
    let written = manifest(&registry.name("thing:1"));
    assert_eq!(written["artifactType"], "application/vnd.example.thing");
    assert_eq!(written["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    assert_eq!(written["annotations"], json!({ "a": "1", "b": "2" }));
    assert_eq!(written["layers"][0]["digest"], digest(b"hello"));
    assert_eq!(written["layers"][1]["annotations"]["org.opencontainers.image.title"], "long.bin");
    assert!(written.get("subject").is_none());
    for layer in written["layers"].as_array().unwrap() {
        let file = registry.blob_file(layer["digest"].as_str().unwrap());
        assert_eq!(file.metadata().unwrap().len(), layer["size"]);
    }
    // The same once more is the same, and costs nothing.
    let before = relay.requests().len();
    let again = client().push_artifact(relay.name("thing:2"), artifact()).blocking().unwrap();
    assert_eq!(again.digest, pushed.digest);
    assert!(relay.requests()[before..].iter().all(|it| it.method() != "POST"));

    let empty = client().push_artifact(relay.name("thing:3"), Artifact::new("a/b"));
    empty.blocking().unwrap();
    assert_eq!(manifest(&relay.name("thing:3"))["layers"][0]["size"], 2);

    // And back.
    let there = client().manifest(relay.name("thing:1")).blocking().unwrap();
    let there: ImageManifest = serde_json::from_slice(there.bytes()).unwrap();
    let (long, copy) = (&there.layers()[1], sandbox.join("copy"));
    let fetch = |to: &std::path::Path| {
        client().fetch_blob(relay.name("thing"), long, fs::File::create(to).unwrap()).blocking()
    };
    fetch(&copy).unwrap();
    assert!(fs::read(&copy).unwrap() == fs::read(&path).unwrap());
    relay.rule(Rule::get("/v2/thing/blobs/").times(1).fault(Fault::CorruptAt(1 << 19)));
    let err = fetch(&copy).unwrap_err();
    println!("{err:?}");
    assert_eq!(err.kind(), ErrorKind::Malformed);
    assert!(fs::read(&copy).unwrap().len() < 1 << 20);
    relay.rule(Rule::get("/v2/thing/blobs/").times(1).fault(Fault::CutAfter(1 << 19)));
    fetch(&copy).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    relay.rule(Rule::get("/v2/thing/blobs/").fault(Fault::StallAfter(1 << 19)));
    let file = fs::File::create(&copy).unwrap();
    let running = client().fetch_blob(relay.name("thing"), long, file).into_future();
    let running = runtime.spawn(running);
    relay.wait_for(|seen| seen.last()?.faulty.then_some(()));
    running.abort();
    assert!(runtime.block_on(running).unwrap_err().is_cancelled());
    relay.heal();

    let gone = Artifact::new("a/b").file("text/plain", sandbox.join("gone"));
    let err = client().push_artifact(relay.name("thing:4"), gone).blocking().unwrap_err();
    println!("{err:?}");
    assert_eq!(err.kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_attached_is_listed_under_a_tag_where_the_registry_keeps_no_list() {
    let sandbox = common::setup("attach");
    let registry = require!(Registry::start());
    let skopeo = require!(Skopeo::new(&registry));
    let (layout, subject) = small(&sandbox);
    let name = registry.name("team/app:1");
    client().push(&store(&layout), "latest", &name).blocking().unwrap();
    assert!(client().referrers(&name).blocking().unwrap().is_empty());

    let signature = || Artifact::new("application/vnd.example.signature").annotation("by", "anna");
    let pushed = client().attach(&name, signature()).blocking().unwrap();
    assert_eq!(pushed.reference.name(), registry.name("team/app"));
    assert_eq!(pushed.reference.digest(), Some(pushed.digest));
    let written = manifest(&pushed.reference.to_string());
    assert_eq!(written["subject"]["digest"], subject);
    assert_eq!(written["subject"]["mediaType"], MANIFEST);
    // By its digest, and twice: that is once.
    let by_digest = registry.name(&format!("team/app@{subject}"));
    client().attach(&by_digest, signature()).blocking().unwrap();
    let bill = Artifact::new("application/spdx+json").blob("application/spdx+json", *b"{}");
    client().attach(&name, bill).blocking().unwrap();

    for name in [&name, &by_digest] {
        let listed = client().referrers(name).blocking().unwrap();
        let expected = ["application/vnd.example.signature", "application/spdx+json"];
        assert_eq!(types(&listed), expected);
        assert_eq!(listed[0].digest().to_string(), pushed.digest.to_string());
        assert_eq!(listed[0].annotations().as_ref().unwrap()["by"], "anna");
    }
    let tag = format!("team/app:{}", subject.replace(':', "-"));
    let list: Value = serde_json::from_slice(&skopeo.raw(&tag).unwrap()).unwrap();
    assert_eq!(list["mediaType"], INDEX);
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2);
    // The image is what it was.
    assert_eq!(skopeo.inspect("team/app:1").unwrap()["Digest"], subject);

    let err = client().attach(registry.name("team/app:2"), signature()).blocking().unwrap_err();
    println!("{err:?}");
    assert_eq!(err.kind(), ErrorKind::NotFound);
    let err = client().referrers(registry.name("team/app:2")).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
}

#[test]
fn several_may_attach_at_once() {
    let sandbox = common::setup("attach-many");
    let registry = require!(Registry::start());
    let (layout, _) = small(&sandbox);
    let (client, name) = (client(), registry.name("app:1"));
    client.push(&store(&layout), "latest", &name).blocking().unwrap();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (client, name) = (client.clone(), &name);
            scope.spawn(move || {
                client.attach(name, Artifact::new(format!("a/{number}"))).blocking().unwrap();
            });
        }
    });
    let mut listed = types(&client.referrers(&name).blocking().unwrap());
    listed.sort();
    assert_eq!(listed, ["a/0", "a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7"]);
}

/// A registry of the specification's version 1.1, as far as this needs one: it lists one entry a page.
fn modern(subject: Vec<u8>) -> (Scripted, Arc<Mutex<Vec<Value>>>) {
    let listed = Arc::new(Mutex::new(Vec::<Value>::new()));
    let theirs = Arc::clone(&listed);
    let server = Scripted::start(move |request: &Request| {
        let path = request.path().to_owned();
        match (&*request.method, path.contains("/referrers/")) {
            ("GET", true) => {
                let listed = theirs.lock().unwrap();
                let from: usize = request.query("from").first().map_or(0, |it| it.parse().unwrap());
                let page: Vec<_> = listed.iter().skip(from).take(1).collect();
                let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": page });
                let answer = Response::json(list).header("Content-Type", INDEX);
                match from + 1 < listed.len() {
                    true => {
                        answer.header("Link", format!("<{path}?from={}>; rel=\"next\"", from + 1))
                    }
                    false => answer,
                }
            }
            ("PUT", _) if path.contains("/manifests/") => {
                let manifest: Value = serde_json::from_slice(&request.body).unwrap();
                theirs.lock().unwrap().push(json!({
                    "mediaType": MANIFEST, "digest": digest(&request.body),
                    "size": request.body.len(), "artifactType": manifest["artifactType"],
                }));
                let subject = manifest["subject"]["digest"].as_str().unwrap();
                Response::new(201).header("OCI-Subject", subject)
            }
            ("GET" | "HEAD", _) if path.ends_with("/manifests/1") => {
                let answer = Response::new(200).header("Content-Type", MANIFEST);
                let answer = answer.header("Docker-Content-Digest", digest(&subject));
                answer.header("Content-Length", subject.len()).body(subject.clone())
            }
            ("HEAD", _) if path.contains("/blobs/") => Response::new(200),
            _ => Response::new(404),
        }
    });
    (server, listed)
}

#[test]
fn a_registry_that_keeps_the_list_is_let() {
    let sandbox = common::setup("attach-modern");
    let (layout, subject) = small(&sandbox);
    let subject = fs::read(layout.blob_file(&subject)).unwrap();
    let (server, listed) = modern(subject);
    let name = format!("{}/app:1", server.address());
    for kind in ["a/1", "a/2", "a/3"] {
        client().attach(&name, Artifact::new(kind)).blocking().unwrap();
    }
    assert_eq!(listed.lock().unwrap().len(), 3);
    assert_eq!(types(&client().referrers(&name).blocking().unwrap()), ["a/1", "a/2", "a/3"]);
    let tags = server.requests();
    assert!(tags.iter().all(|it| !it.path().contains("/manifests/sha256-")));
}

/// A registry that keeps no lists itself, in which another program replaces the list each time that it is written, so many
/// times, by one that it has read before.
fn contested(subject: Vec<u8>, times: usize) -> (Scripted, Arc<Mutex<Option<Value>>>) {
    let list = Arc::new(Mutex::new(None::<Value>));
    let kept = Arc::clone(&list);
    let left = Mutex::new(times);
    let server = Scripted::start(move |request: &Request| {
        let manifest = |bytes: Vec<u8>, media_type: &str| {
            let answer = Response::new(200).header("Content-Type", media_type);
            answer.header("Docker-Content-Digest", digest(&bytes)).body(bytes)
        };
        let path = request.path();
        let mut list = kept.lock().unwrap();
        match (&*request.method, path.contains("/manifests/sha256-"), &*list) {
            ("GET", true, Some(list)) => manifest(list.to_string().into(), INDEX),
            ("PUT", true, _) => {
                let mut written: Value = serde_json::from_slice(&request.body).unwrap();
                let mut left = left.lock().unwrap();
                if *left > 0 {
                    *left -= 1;
                    let other = json!({ "mediaType": MANIFEST, "size": 2, "digest": digest(left.to_string().as_bytes()) });
                    let entries = written["manifests"].as_array_mut().unwrap();
                    *entries.last_mut().unwrap() = other;
                }
                *list = Some(written);
                Response::new(201)
            }
            ("PUT", false, _) if path.contains("/manifests/") => Response::new(201),
            ("GET" | "HEAD", false, _) if path.ends_with("/manifests/1") => {
                manifest(subject.clone(), MANIFEST)
            }
            ("HEAD", ..) if path.contains("/blobs/") => Response::new(200),
            _ => Response::new(404),
        }
    });
    (server, list)
}

#[test]
fn what_another_program_takes_out_of_the_list_is_put_back() {
    let sandbox = common::setup("attach-contested");
    let (layout, subject) = small(&sandbox);
    let subject = fs::read(layout.blob_file(&subject)).unwrap();
    for (times, listed) in [(0, true), (1, true), (4, true), (5, false)] {
        let (server, list) = contested(subject.clone(), times);
        let name = format!("{}/app:1", server.address());
        let attached = client().attach(&name, Artifact::new("a/1")).blocking();
        let list = list.lock().unwrap().clone().unwrap();
        let entries = list["manifests"].as_array().unwrap();
        let ours = entries.iter().filter(|it| it["artifactType"] == "a/1").count();
        assert_eq!((ours, entries.len()), (usize::from(listed), times + usize::from(listed)));
        match attached {
            Ok(_) => assert!(listed),
            Err(err) => {
                assert!(!listed, "{err:?}");
                assert_eq!(err.kind(), ErrorKind::Busy, "{err:?}");
                assert!(format!("{err:#}").contains("taken it out 5 times"), "{err:#}");
            }
        }
    }
}

#[test]
fn a_list_that_is_none_is_not_believed() {
    for (answer, why) in [
        (Response::html("<html>").status(200), "web page"),
        (Response::json("[]"), "no JSON object"),
        (Response::json(r#"{"schemaVersion":2,"manifests":[{}]}"#), "mediaType"),
        (
            Response::json(r#"{"schemaVersion":2,"manifests":[]}"#)
                .header("Link", "</v2/app/referrers/x>; rel=\"next\""),
            "pages",
        ),
    ] {
        let server = Scripted::start(move |_| answer.clone());
        let name = format!("{}/app@sha256:{}", server.address(), "0".repeat(64));
        let err = Client::new().unwrap().referrers(&name).blocking().unwrap_err();
        println!("{err:?}\n");
        assert_eq!(err.kind(), ErrorKind::Malformed, "{err:?}");
        assert!(format!("{err:#}").contains(why), "{err:#}");
    }
}
