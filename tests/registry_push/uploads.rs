//! What the specification lets registries ask of an upload, played by a server that does.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle::ErrorKind;
use coracle::registry::Registry as Client;

use crate::common::http::{Request, Response};
use crate::common::images::{Skopeo, digest};
use crate::common::relay::{Fault, Rule};
use crate::common::server::{Connection, Server};
use crate::common::{self, require};
use crate::fixture::{blobs, client, relayed, small, store};

/// How the server behaves.
#[derive(Clone, Default)]
struct Manners {
    /// A connection that has brought so many bytes of a body is cut. What came stays.
    cut: Option<usize>,
    /// Longer bodies are refused, before they are read.
    longest: Option<usize>,
    /// What a chunk must have.
    least: Option<usize>,
    /// How long it pauses at every 256 KiB.
    pace: Option<Duration>,
}

#[derive(Default)]
struct Shelf {
    uploads: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    requests: Vec<Request>,
}

/// Takes uploads as the specification says, and remembers what came when a connection breaks.
struct Keeper {
    server: Server,
    shelf: Arc<Mutex<Shelf>>,
}

impl Keeper {
    fn start(manners: Manners) -> Self {
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let theirs = Arc::clone(&shelf);
        let server = Server::start(move |connection| {
            let mut from = BufReader::new(&connection.stream);
            while let Ok(Some(request)) = Request::read_head(&mut from) {
                let length = request.header("Content-Length").and_then(|it| it.parse().ok());
                let length = length.unwrap_or(0);
                theirs.lock().unwrap().requests.push(request.clone());
                let refused = manners.longest.is_some_and(|longest| length > longest);
                let answer = match refused {
                    true => Ok(Response::new(413).header("Connection", "close")),
                    false => serve(&manners, &theirs, connection, &request, &mut from, length),
                };
                let Ok(answer) = answer else { return };
                let sent = answer.write(&request, &mut &connection.stream, |_| {});
                if refused || sent.is_err() {
                    return;
                }
            }
        });
        Self { server, shelf }
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.server.address())
    }

    /// The requests for uploads: method, range, length.
    fn uploads(&self) -> Vec<(String, Option<String>, usize)> {
        let shelf = self.shelf.lock().unwrap();
        let uploads = shelf.requests.iter().filter(|it| it.path().starts_with("/up/"));
        let upload = |it: &Request| {
            let length = it.header("Content-Length").unwrap_or("0").parse().unwrap();
            (it.method.clone(), it.header("Content-Range").map(str::to_owned), length)
        };
        uploads.map(upload).collect()
    }

    /// That it has these blobs and no others.
    #[track_caller]
    fn has(&self, expected: &[(String, Vec<u8>)]) {
        let shelf = self.shelf.lock().unwrap();
        assert_eq!(shelf.blobs.len(), expected.len());
        for (name, content) in expected {
            assert!(shelf.blobs[&format!("sha256:{name}")] == *content, "{name}");
        }
    }
}

fn serve(
    manners: &Manners,
    shelf: &Mutex<Shelf>,
    connection: &Connection,
    request: &Request,
    from: &mut impl Read,
    length: usize,
) -> io::Result<Response> {
    let path = request.path().to_owned();
    let location = |upload: &str| format!("/up/{upload}?state=a%2Fb");
    match (&*request.method, path.strip_prefix("/up/")) {
        ("HEAD", _) => Ok(Response::new(404)),
        ("POST", _) => {
            let mut shelf = shelf.lock().unwrap();
            let upload = shelf.uploads.len().to_string();
            shelf.uploads.insert(upload.clone(), Vec::new());
            let answer = Response::new(202).header("Location", location(&upload));
            Ok(match manners.least {
                Some(least) => answer.header("OCI-Chunk-Min-Length", least),
                None => answer,
            })
        }
        ("GET", Some(upload)) => {
            assert_eq!(request.query("state"), ["a/b"]);
            let shelf = shelf.lock().unwrap();
            let range = format!("0-{}", shelf.uploads[upload].len().saturating_sub(1));
            Ok(Response::new(204).header("Range", range).header("Location", location(upload)))
        }
        (method @ ("PUT" | "PATCH"), Some(upload)) => {
            let end = length.min(manners.cut.unwrap_or(usize::MAX));
            let mut body = Vec::new();
            while body.len() < end {
                let piece = (end - body.len()).min(256 << 10) as u64;
                from.by_ref().take(piece).read_to_end(&mut body)?;
                connection.pause(Some(manners.pace.unwrap_or_default()));
            }
            let mut shelf = shelf.lock().unwrap();
            let bytes = shelf.uploads.get_mut(upload).unwrap();
            if let Some(range) = request.header("Content-Range") {
                let first: usize = range.split('-').next().unwrap().parse().unwrap();
                if first != bytes.len() {
                    return Ok(Response::new(416));
                }
            }
            bytes.extend(&body);
            if end < length {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if method == "PATCH" {
                let range = format!("0-{}", bytes.len() - 1);
                return Ok(Response::new(202)
                    .header("Range", range)
                    .header("Location", location(upload)));
            }
            let (bytes, wanted) = (bytes.clone(), request.query("digest").remove(0));
            if digest(&bytes) != wanted {
                return Ok(Response::new(400).body("not that digest"));
            }
            shelf.blobs.insert(wanted, bytes);
            Ok(Response::new(201))
        }
        ("PUT", None) => {
            let mut body = vec![0; length];
            from.read_exact(&mut body)?;
            shelf.lock().unwrap().blobs.insert(digest(&body), body);
            Ok(Response::new(201))
        }
        (method, _) => panic!("{method} {path}"),
    }
}

#[test]
fn an_upload_goes_on_where_it_broke() {
    let sandbox = common::setup("upload-resumed");
    let (layout, _) = small(&sandbox);
    let keeper = Keeper::start(Manners { cut: Some(100_000), ..Manners::default() });
    client().push(&store(&layout), "latest", keeper.name("app:1")).blocking().unwrap();
    keeper.has(&blobs(layout.path()));
    let (long, _) = blobs(layout.path()).iter().map(|(_, it)| (it.len(), ())).max().unwrap();
    let uploads = keeper.uploads();
    let lengths: Vec<_> = uploads.iter().filter(|it| it.2 > 20_000).map(|it| it.2).collect();
    // Nothing that has come is sent again.
    assert_eq!(lengths, [long, long - 100_000, long - 200_000, long - 300_000][..lengths.len()]);
    assert!(lengths.len() >= 3, "{uploads:?}");
    let resumed = format!("100000-{}", long - 1);
    assert!(uploads.iter().any(|it| it.1.as_ref() == Some(&resumed)), "{uploads:?}");
}

#[test]
fn chunks_are_as_long_as_both_sides_want() {
    let sandbox = common::setup("upload-chunks");
    let (layout, _) = small(&sandbox);
    for (asked, least, expected) in [(50_000, None, 50_000), (10, Some(120_000), 120_000)] {
        let keeper = Keeper::start(Manners { least, ..Manners::default() });
        let push = client().push(&store(&layout), "latest", keeper.name("app:1"));
        push.chunked(asked).blocking().unwrap();
        keeper.has(&blobs(layout.path()));
        let uploads = keeper.uploads();
        let patches: Vec<_> = uploads.iter().filter(|it| it.0 == "PATCH").collect();
        assert_eq!(patches.iter().map(|it| it.2).max(), Some(expected));
        assert!(patches.iter().all(|it| it.1.is_some()));
        assert!(uploads.iter().filter(|it| it.0 == "PUT").all(|it| it.2 == 0));
    }
}

#[test]
fn chunks_that_are_cut_go_on_too() {
    let sandbox = common::setup("upload-cut-chunks");
    let (layout, _) = small(&sandbox);
    let keeper = Keeper::start(Manners { cut: Some(70_000), ..Manners::default() });
    let push = client().push(&store(&layout), "latest", keeper.name("app:1"));
    push.chunked(100_000).blocking().unwrap();
    keeper.has(&blobs(layout.path()));
}

#[test]
fn where_long_bodies_are_refused_shorter_ones_are_sent() {
    let sandbox = common::setup("upload-413");
    let mut layout = common::images::Layout::new(sandbox.join("layout"));
    let long = common::images::noise(9 << 20, 7);
    let layer = layout.layer(&long[..], common::images::Packing::Plain);
    layout.image("latest", &[layer]);
    let keeper = Keeper::start(Manners { longest: Some(5 << 20), ..Manners::default() });
    client().push(&store(&layout), "latest", keeper.name("app:1")).blocking().unwrap();
    keeper.has(&blobs(layout.path()));
    let keeper = Keeper::start(Manners { longest: Some(100_000), ..Manners::default() });
    let err = client().push(&store(&layout), "latest", keeper.name("app:1")).blocking();
    let err = err.unwrap_err();
    println!("{err:?}");
    assert!(format!("{err:#}").contains("413"), "{err:#}");
}

#[test]
fn an_upload_that_goes_on_may_take_longer_than_a_registry_may_be_silent() {
    let sandbox = common::setup("upload-slow");
    let mut layout = common::images::Layout::new(sandbox.join("layout"));
    let long = common::images::noise(24 << 20, 7);
    let layer = layout.layer(&long[..], common::images::Packing::Plain);
    layout.image("latest", &[layer]);
    let pace = Duration::from_millis(40);
    let keeper = Keeper::start(Manners { pace: Some(pace), ..Manners::default() });
    // It takes 96 times the pause.
    let patient = Client::builder().read_timeout(Duration::from_secs(2)).retries(0);
    let push = patient.build().unwrap().push(&store(&layout), "latest", keeper.name("app:1"));
    push.blocking().unwrap();
    keeper.has(&blobs(layout.path()));
}

#[test]
fn a_real_registry_takes_chunks_and_begins_anew_where_one_is_cut() {
    let sandbox = common::setup("upload-real");
    let (registry, relay) = require!(relayed());
    let skopeo = require!(Skopeo::new(&registry));
    let (layout, _) = small(&sandbox);
    let is_full = |request: &Request| request.header("Content-Length") == Some("65536");
    let cut = Rule::of("PATCH", "/v2/app/blobs/uploads/").when(is_full).skip(3).times(1);
    relay.rule(cut.fault(Fault::CutUploadAfter(20_000)));
    let push = client().push(&store(&layout), "latest", relay.name("app:1"));
    push.chunked(64 << 10).blocking().unwrap();
    let patches = relay.requests().iter().filter(|seen| seen.method() == "PATCH").count();
    assert!(patches > 7, "{patches}");
    assert!(relay.requests().iter().any(|seen| seen.faulty));
    skopeo.pull("app:1", &sandbox.join("back"), "latest");
    assert_eq!(blobs(layout.path()), blobs(&sandbox.join("back")));
}

#[test]
fn a_place_elsewhere_or_nowhere_is_told_apart() {
    let sandbox = common::setup("upload-nowhere");
    let (layout, _) = small(&sandbox);
    let (_registry, relay) = require!(relayed());
    for (location, why) in [
        (None, "does not say where"),
        (Some("http://"), "no address"),
        (Some("ftp://127.0.0.1/x"), "away from TLS"),
    ] {
        let edit = Fault::edit_head(move |head| match location {
            Some(location) => head.headers.set("Location", location),
            None => head.headers.remove("Location"),
        });
        relay.rule(Rule::of("POST", "/v2/app/blobs/uploads/").fault(edit));
        let push = client().push(&store(&layout), "latest", relay.name("app:1"));
        let err = push.blocking().unwrap_err();
        relay.heal();
        println!("{err:?}\n");
        assert!(format!("{err:#}").contains(why), "{err:#}");
        let kinds = [ErrorKind::Malformed, ErrorKind::SafetyViolation];
        assert!(kinds.contains(&err.kind()), "{err:?}");
    }
}
