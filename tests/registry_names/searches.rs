//! What is found by looking for it.

use coracle::ErrorKind;
use coracle::registry::{Registry, SearchResult};

use crate::common::http::{Request, Response};
use crate::common::images::Skopeo;
use crate::common::registry::Registry as Server;
use crate::common::require;
use crate::common::server::Scripted;
use crate::{client, fill, filled};

/// As Docker Hub writes.
const FOUND: &str = r#"{"num_results":3,"query":"debian","page":1,"page_size":25,"results":[
    {"name":"debian","description":"Debian is a Linux distribution.","star_count":5000,"is_official":true,"is_automated":false},
    {"name":"team/debian","description":null,"star_count":7,"is_official":false,"is_automated":true,"is_trusted":true},
    {"name":"other/debian"}]}"#;

/// A proxy that is asked for Docker Hub and answers itself, and a client that goes through it.
fn hub(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> (Scripted, Registry) {
    let hub = Scripted::start(answer);
    let client = Registry::builder().proxy(hub.url()).plain_http("index.docker.io").retries(0);
    (hub, client.build().unwrap())
}

fn names(found: &[SearchResult]) -> Vec<&str> {
    found.iter().map(|found| found.name.as_str()).collect()
}

#[test]
fn docker_hub_is_asked_as_docker_asks_it() {
    let (hub, client) = hub(|_| Response::json(FOUND));
    let found = client.search("library/debian").blocking().unwrap();
    assert_eq!(names(&found), ["debian", "team/debian", "other/debian"]);
    assert!(found[0].official && !found[0].automated && found[0].stars == 5000);
    assert_eq!(found[0].description, "Debian is a Linux distribution.");
    assert!(!found[1].official && found[1].automated && found[1].description.is_empty());
    client.search("docker.io/a b&c").limit(3).blocking().unwrap();
    let asked = hub.requests();
    let (path, _) = asked[0].target.split_once('?').unwrap();
    assert_eq!(path, "http://index.docker.io/v1/search");
    assert_eq!(
        (asked[0].query("q"), asked[0].query("n")),
        (vec!["debian".into()], vec!["25".into()])
    );
    assert_eq!(
        (asked[1].query("q"), asked[1].query("n")),
        (vec!["a b&c".into()], vec!["3".into()])
    );

    let few = client.search("debian").limit(2).blocking().unwrap();
    assert_eq!(few.len(), 2, "it may give more than it was asked for");
    let only = client.search("debian").official(true).blocking().unwrap();
    assert_eq!(names(&only), ["debian"]);
    let others = client.search("debian").official(false).stars(1).blocking().unwrap();
    assert_eq!(names(&others), ["team/debian"]);
    let automated = client.search("debian").automated(true).blocking().unwrap();
    assert_eq!(names(&automated), ["team/debian"]);
}

#[test]
fn what_docker_hub_refuses_is_told() {
    let (_hub, client) = hub(|_| Response::json(r#"{"message":"too fast"}"#).status(429));
    let err = client.search("debian").blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    let told = format!("{err:#}");
    assert!(told.contains("search for \"debian\"") && told.contains("too fast"), "{told}");
    let malformed = ["<html>", "[]", r#"{"results":5}"#, r#"{"results":[{"name":5}]}"#];
    for answer in malformed {
        let (_hub, client) = hub(move |_| Response::json(answer));
        let err = client.search("debian").blocking().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Malformed, "{answer}: {err:?}");
    }
    for search in [
        client.search(""),
        client.search("docker.io/"),
        client.search("debian").limit(0),
        client.search("debian").limit(101),
        client.search("a_b.c/x"),
    ] {
        assert_eq!(search.blocking().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn a_registry_that_cannot_search_is_looked_through() {
    let server = require!(filled(&["app:1", "team/app:1", "team/tool:1"]));
    let at = |name: &str| server.name(name);
    let search = |term: &str| client().search(at(term)).blocking().unwrap();
    assert_eq!(names(&search("app")), [at("app"), at("team/app")]);
    assert_eq!(names(&search("TEAM/")), [at("team/app"), at("team/tool")]);
    assert_eq!(search("").len(), 3);
    assert!(search("nothing").is_empty());
    let one = client().search(at("")).limit(1).blocking().unwrap();
    assert_eq!(names(&one), [at("app")]);
    assert!(client().search(at("app")).stars(1).blocking().unwrap().is_empty());
}

#[test]
fn a_registry_that_can_search_is_asked() {
    let server = Scripted::start(|request| match request.path() {
        "/v1/search" => Response::json(FOUND),
        _ => Response::new(404),
    });
    let found = client().search(format!("{}/debian", server.address())).blocking().unwrap();
    assert_eq!(found[0].name, format!("{}/debian", server.address()));
    assert_eq!(found[0].stars, 5000);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_registry_that_does_neither_is_told_of() {
    let server = Scripted::start(|_| Response::new(404));
    let err = client().search(format!("{}/x", server.address())).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(format!("{err:#}").contains("/v2/_catalog"), "{err:#}");
    assert!(err.hint().unwrap().contains("many registries"));
    let err = client().search("127.0.0.1:1/x").blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unavailable);
    let locked = require!(Server::builder().htpasswd("anna", "sesame").start());
    fill(&locked, &require!(Skopeo::new(&locked)), &["app:1"]);
    let err = client().search(locked.name("app")).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
}
