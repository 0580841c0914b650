//! Faults happen where they are asked for, and nowhere else.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::http::{Framing, Head, Request, Response, ask, ask_over, read_whole};
use crate::common::images::{Layout, Packing, Skopeo, noise, tar};
use crate::common::registry::Registry;
use crate::common::relay::{Fault, Relay, Rule, Seen};
use crate::common::server::Scripted;
use crate::common::{self, Missing, audit, require};
use crate::{round_trip, text};

/// Longer than what is read or buffered at once.
const SIZE: usize = 1_000_000;

/// A server with one blob, and a relay in front of it.
fn served() -> (Scripted, Relay, Vec<u8>) {
    let blob = noise(SIZE, 7);
    let theirs = blob.clone();
    let server = Scripted::start(move |request| match (request.path(), request.header("Range")) {
        ("/chunked", _) => Response::new(200).body(theirs.clone()).chunked(),
        ("/closed", _) => Response::new(200).body(theirs.clone()).until_closed(),
        ("/blob", None) => Response::new(200).body(theirs.clone()),
        ("/blob", Some(range)) => {
            let from = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
            let from: usize = from.and_then(|from| from.parse().ok()).unwrap();
            Response::new(206).body(&theirs[from..])
        }
        _ => Response::new(404).body("no such thing"),
    });
    let relay = Relay::start(&server.address());
    (server, relay, blob)
}

fn blob() -> Request {
    Request::new("GET", "/blob")
}

/// What comes of an answer, and how it ended.
fn partly(relay: &Relay, request: &Request) -> (Head, Vec<u8>, io::Result<()>) {
    let stream = TcpStream::connect(relay.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = request.clone().with_header("Host", "h").with_header("Connection", "close");
    request.write_head(&mut &stream).unwrap();
    let mut from = BufReader::new(&stream);
    let head = Head::read(&mut from).unwrap();
    let mut body = Vec::new();
    let end = from.read_to_end(&mut body);
    (head, body, end.map(drop))
}

/// Asks for the blob, and has read the head of the answer.
fn open(relay: &Relay) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(relay.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    blob().with_header("Host", "h").write_head(&mut &stream).unwrap();
    let mut from = BufReader::new(stream);
    Head::read(&mut from).unwrap();
    from
}

/// The whole of an answer.
fn whole(relay: &Relay, request: &Request) -> Vec<u8> {
    ask(&relay.address(), request).unwrap().body
}

fn last(relay: &Relay) -> Seen {
    relay.requests().pop().unwrap()
}

#[test]
fn a_connection_serves_many_requests_with_every_kind_of_body() {
    let (server, relay, blob) = served();
    let stream = TcpStream::connect(relay.address()).unwrap();
    let mut from = BufReader::new(&stream);
    for round in 0..3_u64 {
        for (method, path, status, body) in [
            ("GET", "/blob", 200, blob.as_slice()),
            ("HEAD", "/blob", 200, b""),
            ("GET", "/chunked?a=b", 200, &blob),
            ("GET", "/nothing", 404, b"no such thing"),
        ] {
            let request = Request::new(method, path).with_header("Host", "me:1");
            let answer = ask_over(&mut from, &request).unwrap();
            assert_eq!((answer.status, answer.body.len()), (status, body.len()), "{path}");
            assert!(answer.body == body, "{path}");
            let seen = last(&relay);
            assert_eq!((seen.sent, seen.status), (body.len() as u64, Some(status)));
            assert_eq!(seen.header("host"), Some("me:1"));
        }
        let put = Request::new("PUT", "/put").with_body(&blob[..300_000]);
        assert_eq!(ask_over(&mut from, &put).unwrap().status, 404);
        assert_eq!(relay.bytes_up(|path| path == "/put"), 300_000 * (round + 1));
    }
    assert_eq!(relay.connections(), 1);
    assert_eq!(relay.bytes_down(|path| path == "/chunked"), 3 * SIZE as u64);
    let asked = server.requests();
    assert_eq!(asked.len(), 15);
    assert_eq!(asked[0].header("Host"), Some("me:1"), "it goes through as it is");
    assert_eq!(asked[2].target, "/chunked?a=b");
    assert!(asked[14].body == blob[..300_000]);
    // Only the end of the connection ends this one.
    let request = Request::new("GET", "/closed").with_header("Host", "me:1");
    assert!(ask_over(&mut from, &request).unwrap().body == blob);
    assert_eq!(from.read(&mut [0]).unwrap(), 0);
}

#[test]
fn chunks_and_a_wait_for_the_go_ahead_come_through() {
    let (server, relay, _) = served();
    let mut stream = TcpStream::connect(relay.address()).unwrap();
    let head = "PATCH /up HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut from = BufReader::new(&stream);
    assert_eq!(Head::read(&mut from).unwrap().status, 100);
    (&stream).write_all(b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n").unwrap();
    let head = Head::read(&mut from).unwrap();
    let body = read_whole(&mut from, head.framing("PATCH").unwrap()).unwrap();
    assert_eq!((head.status, body.as_slice()), (404, &b"no such thing"[..]));
    assert_eq!(server.requests()[0].body, b"hello world");
    assert_eq!(last(&relay).received, 11);
}

#[test]
fn an_answer_is_cut_at_the_byte_every_time_and_resumed() {
    let (_server, relay, blob) = served();
    for at in [0, 1, 65_535, 65_536, 65_537, SIZE as u64 - 1] {
        relay.heal();
        relay.rule(Rule::get("/blob").fault(Fault::CutAfter(at)));
        let (head, body, end) = partly(&relay, &self::blob());
        assert_eq!(head.headers.get("Content-Length"), Some("1000000"));
        assert!(body == blob[..usize::try_from(at).unwrap()] && end.is_ok(), "{at}");
        let seen = last(&relay);
        assert!(seen.faulty && seen.sent == at);
        assert!(ask(&relay.address(), &self::blob()).is_err());
    }

    relay.heal();
    relay.rule(Rule::get("/blob").fault(Fault::CutAfter(150_000)));
    let before = relay.requests().len();
    let mut body = Vec::new();
    while body.len() < SIZE {
        let range = format!("bytes={}-", body.len());
        body.extend(partly(&relay, &self::blob().with_header("Range", range)).1);
    }
    assert!(body == blob);
    let seen = relay.requests().split_off(before);
    assert_eq!(seen.iter().map(|seen| seen.sent).sum::<u64>(), SIZE as u64);
    let faulty: Vec<_> = seen.iter().map(|seen| seen.faulty).collect();
    assert_eq!(faulty, [true, true, true, true, true, true, false]);
}

#[test]
fn a_reset_is_told_from_an_end() {
    let (_server, relay, blob) = served();
    relay.rule(Rule::get("/blob").fault(Fault::ResetAfter(200_000)));
    let (_, body, end) = partly(&relay, &self::blob());
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(body.len() <= 200_000 && body == blob[..body.len()]);
    relay.heal();
    relay.rule(Rule::get("/blob").fault(Fault::HangUp));
    let err = ask(&relay.address(), &self::blob()).err().unwrap();
    assert_eq!(err.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(last(&relay).status, None);
}

#[test]
fn chunks_are_cut_by_what_they_hold() {
    let (_server, relay, blob) = served();
    relay.rule(Rule::get("/chunked").fault(Fault::CutAfter(70_000)));
    let (head, body, _) = partly(&relay, &Request::new("GET", "/chunked"));
    assert_eq!(head.framing("GET").unwrap(), Framing::Chunked);
    assert_eq!(last(&relay).sent, 70_000);
    // The scripted server sends all in one chunk.
    assert!(body.ends_with(&blob[69_000..70_000]));
}

#[test]
fn an_answer_stalls_until_the_relay_is_gone() {
    let (_server, relay, blob) = served();
    relay.rule(Rule::get("/blob").fault(Fault::StallAfter(100_000)));
    let mut from = open(&relay);
    let mut body = vec![0; 100_000];
    from.read_exact(&mut body).unwrap();
    assert!(body == blob[..100_000]);
    from.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(from.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(last(&relay).ended.is_none());
    drop(relay);
    assert_eq!(from.read(&mut [0]).unwrap(), 0);
}

#[test]
fn one_byte_is_corrupt() {
    let (_server, relay, blob) = served();
    for at in [0, 65_536, SIZE - 1] {
        relay.heal();
        relay.rule(Rule::any("/").fault(Fault::CorruptAt(at as u64)));
        for path in ["/blob", "/chunked"] {
            let body = whole(&relay, &Request::new("GET", path));
            let wrong: Vec<_> = (0..SIZE).filter(|byte| body[*byte] != blob[*byte]).collect();
            assert_eq!((wrong, body.len()), (vec![at], SIZE));
        }
    }
    relay.heal();
    relay.rule(Rule::any("/").fault(Fault::CorruptAt(SIZE as u64)));
    assert!(whole(&relay, &self::blob()) == blob);
    assert!(!last(&relay).faulty, "it was never reached");
}

#[test]
fn rules_count_and_the_first_counts() {
    let (_server, relay, _) = served();
    let status = |status: u16| Fault::Respond(Response::new(status));
    relay.rule(Rule::get("/blob").skip(2).times(2).fault(status(429)));
    relay.rule(Rule::of("HEAD", "/blob").fault(status(500)));
    relay
        .rule(Rule::any("/b").when(|request| request.header("Range").is_some()).fault(status(503)));
    relay.decide(move |request| {
        let teapot = request.path() == "/nothing";
        teapot.then(|| status(418)).into_iter().collect()
    });
    let got = |request: Request| ask(&relay.address(), &request).unwrap().status;
    let five = [(); 5].map(|()| got(blob()));
    assert_eq!(five, [200, 200, 429, 429, 200]);
    assert_eq!(got(Request::new("HEAD", "/blob")), 500);
    assert_eq!(got(blob().with_header("Range", "bytes=1-")), 503);
    assert_eq!(got(Request::new("GET", "/nothing")), 418);
    relay.heal();
    assert_eq!(got(Request::new("HEAD", "/blob")), 200);
    assert_eq!(got(Request::new("GET", "/nothing")), 404);
}

#[test]
fn another_answer_comes_in_place_of_the_servers() {
    let (server, relay, _) = served();
    let elsewhere = Scripted::start(|_| Response::json(r#"{"here":true}"#));
    let get = |response: Response| {
        relay.heal();
        relay.rule(Rule::get("/blob").fault(Fault::Respond(response)));
        ask(&relay.address(), &blob()).unwrap()
    };
    let busy = get(Response::new(429).header("Retry-After", 7).body("slowly"));
    assert_eq!((busy.status, busy.headers.get("retry-after")), (429, Some("7")));
    assert_eq!(text(&busy), "slowly");
    let page = get(Response::html("<p>Welcome"));
    assert_eq!((page.status, text(&page).as_str()), (200, "<p>Welcome"));
    let moved = get(Response::redirect(307, format!("{}/x", elsewhere.url())));
    assert_eq!(moved.headers.get("Location"), Some(format!("{}/x", elsewhere.url()).as_str()));
    assert!(server.requests().is_empty() && elsewhere.requests().is_empty());
    let request = Request::new("GET", "/x?q=a%20b+c&q=%C3%A4").with_header("Authorization", "no");
    assert_eq!(text(&ask(&elsewhere.address(), &request).unwrap()), r#"{"here":true}"#);
    let asked = elsewhere.requests().remove(0);
    assert_eq!(asked.query("q"), ["a b c", "ä"]);
    assert_eq!(asked.header("authorization"), Some("no"));

    // The connection goes on, and a body that nobody wants is taken off it.
    let stream = TcpStream::connect(relay.address()).unwrap();
    let mut from = BufReader::new(&stream);
    relay.heal();
    relay.rule(Rule::of("PUT", "/").times(1).fault(Fault::Respond(Response::new(500).chunked())));
    let put = Request::new("PUT", "/put").with_header("Host", "h").with_body(noise(300_000, 1));
    assert_eq!(ask_over(&mut from, &put).unwrap().status, 500);
    assert_eq!(ask_over(&mut from, &put).unwrap().status, 404);
}

#[test]
fn an_answer_may_lie_or_never_end() {
    let (_server, relay, _) = served();
    let rule = |response: Response| {
        relay.heal();
        relay.rule(Rule::get("/blob").fault(Fault::Respond(response)));
    };
    for length in [3, 100] {
        rule(Response::new(200).body("twelve bytes").content_length(length));
        let (head, body, _) = partly(&relay, &blob());
        assert_eq!(head.headers.get("Content-Length"), Some(length.to_string().as_str()));
        assert_eq!(body, b"twelve bytes");
    }
    let endless = || Response::new(200).body(r#"{"a":""#).endless("xyz");
    for response in [endless(), endless().chunked(), endless().content_length(1 << 40)] {
        rule(response);
        let mut body = vec![0; 10_000_000];
        open(&relay).read_exact(&mut body).unwrap();
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains(r#"{"a":""#) && text.contains("xyzxyzxyz"));
        assert!(last(&relay).sent > 9_900_000 && last(&relay).status == Some(200));
    }
    // One more, which ends with the relay.
    let mut from = open(&relay);
    drop(relay);
    from.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn an_upload_is_cut_at_the_byte() {
    let (server, relay, blob) = served();
    relay.rule(Rule::of("PUT", "/").times(1).fault(Fault::CutUploadAfter(123_456)));
    let put = Request::new("PUT", "/put").with_body(blob.clone());
    assert!(ask(&relay.address(), &put).is_err());
    let seen = last(&relay);
    assert!(seen.faulty && seen.received == 123_456 && seen.status.is_none());
    assert!(server.requests().is_empty(), "it never got all of it");
    assert_eq!(ask(&relay.address(), &put).unwrap().status, 404);
    assert_eq!(last(&relay).received, SIZE as u64);
}

#[test]
fn requests_and_heads_are_changed_and_faults_add_up() {
    let (server, relay, blob) = served();
    let deaf = Fault::edit_request(|request| request.headers.remove("Range"));
    relay.rule(Rule::get("/blob").fault(deaf).fault(Fault::CutAfter(10)));
    let (head, body, _) = partly(&relay, &self::blob().with_header("Range", "bytes=5-"));
    assert_eq!((head.status, body.as_slice()), (200, &blob[..10]));
    assert_eq!(server.requests()[0].header("Range"), None);
    assert_eq!(last(&relay).header("Range"), Some("bytes=5-"));
    relay.heal();
    let wrong = Fault::edit_head(|head| head.headers.set("Docker-Content-Digest", "sha256:0"));
    relay.rule(Rule::get("/blob").fault(wrong));
    let answer = ask(&relay.address(), &self::blob()).unwrap();
    assert_eq!(answer.headers.get("Docker-Content-Digest"), Some("sha256:0"));
    assert!(answer.body == blob);
}

#[test]
fn a_delay_is_that_long_and_requests_side_by_side_are_counted() {
    let (_server, relay, _) = served();
    relay.rule(Rule::get("/blob").fault(Fault::Delay(Duration::from_millis(200))));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(whole(&relay, &blob()).len(), SIZE));
        }
        relay.wait_for(|seen| (seen.len() == 3).then_some(()));
    });
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(relay.most_at_once(|seen| seen.path() == "/blob"), 3);
    relay.heal();
    whole(&relay, &Request::new("GET", "/chunked"));
    whole(&relay, &Request::new("GET", "/chunked"));
    assert_eq!(relay.most_at_once(|seen| seen.path() == "/chunked"), 1);
}

#[test]
fn every_connection_is_cut_at_once() {
    let (_server, relay, _) = served();
    relay.rule(Rule::get("/blob").fault(Fault::StallAfter(5)));
    let mut from = open(&relay);
    from.read_exact(&mut [0; 5]).unwrap();
    relay.hang_up();
    assert_eq!(from.read(&mut [0]).unwrap(), 0);
    relay.heal();
    assert_eq!(whole(&relay, &blob()).len(), SIZE);
}

#[test]
fn nothing_is_left_of_a_relay() {
    common::alone(|| {
        let before = (audit::fds(), threads());
        let (server, relay, _) = served();
        relay.rule(Rule::get("/blob").fault(Fault::StallAfter(5)));
        relay.rule(Rule::get("/chunked").fault(Fault::Delay(Duration::from_secs(3600))));
        let open = ["/blob", "/chunked", "/nothing"].map(|path| {
            let stream = TcpStream::connect(relay.address()).unwrap();
            let request = Request::new("GET", path).with_header("Host", "h");
            request.write_head(&mut &stream).unwrap();
            stream
        });
        relay.wait_for(|seen| (seen.len() == 3).then_some(()));
        assert!(threads() > before.1);
        drop(relay);
        drop((server, open));
        assert_eq!(audit::fds(), before.0);
        // The kernel may list one for a moment after it was joined.
        let end = Instant::now() + Duration::from_secs(30);
        while threads() > before.1 {
            assert!(Instant::now() < end, "{} threads are left", threads() - before.1);
            std::thread::yield_now();
        }
    });
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// A registry with a layer of a few megabytes as app:1, behind a relay, and the layer's path.
fn registry() -> Result<(Registry, Relay, String), Missing> {
    let sandbox = common::setup("relay");
    let registry = Registry::start()?;
    let mut layout = Layout::new(sandbox.join("layout"));
    let layer = layout.layer(&tar(&[("noise", &noise(3_000_000, 3))])[..], Packing::Gzip);
    layout.image("latest", std::slice::from_ref(&layer));
    Skopeo::new(&registry)?.push(layout.path(), "latest", "app:1");
    let relay = Relay::start(registry.address());
    let path = format!("/v2/app/blobs/{}", layer.descriptor["digest"].as_str().unwrap());
    Ok((registry, relay, path))
}

#[test]
fn a_registry_works_behind_a_relay() {
    let sandbox = common::setup("behind");
    let registry = require!(Registry::start());
    let relay = Relay::start(registry.address());
    let skopeo = require!(Skopeo::at(&relay.address()));
    round_trip(&skopeo, &sandbox, "app:1");
    let requests = relay.requests();
    assert!(requests.iter().all(|seen| !seen.faulty && seen.ended.is_some()));
    // Uploads go where the registry says: it names the relay.
    assert!(requests.iter().any(|seen| seen.method() == "PATCH" && seen.received > 10_000));
    assert!(relay.bytes_down(|path| path.starts_with("/v2/app/blobs/")) > 10_000);
}

#[test]
fn a_registry_resumes_what_was_cut() {
    let (registry, relay, path) = require!(registry());
    let blob = ask(registry.address(), &Request::new("GET", &path)).unwrap().body;
    relay.rule(Rule::get("/v2/app/blobs/").fault(Fault::CutAfter(1 << 20)));
    let mut body = Vec::new();
    while body.len() < blob.len() {
        let range = format!("bytes={}-", body.len());
        let (head, part, _) =
            partly(&relay, &Request::new("GET", &path).with_header("Range", range));
        assert_eq!(head.status, 206);
        body.extend(part);
    }
    assert!(body == blob);
    assert_eq!(relay.requests().len(), blob.len().div_ceil(1 << 20));
    assert_eq!(relay.bytes_down(|down| down == path), blob.len() as u64);
}

#[test]
fn skopeo_sees_faults() {
    let sandbox = common::setup("faults");
    let (_registry, relay, path) = require!(registry());
    let skopeo = require!(Skopeo::at(&relay.address()));
    let pull = || skopeo.try_pull("app:1", &sandbox.join("back"), "latest");
    relay.rule(Rule::get(&path).fault(Fault::CorruptAt(1_500_000)));
    let err = pull().unwrap_err();
    assert!(err.contains("Digest did not match"), "{err}");
    relay.heal();
    let forbidden = r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#;
    let forbidden = Response::json(forbidden).status(403);
    relay.rule(Rule::get("/v2/app/manifests/").fault(Fault::Respond(forbidden)));
    let err = pull().unwrap_err();
    assert!(err.contains("not for you"), "{err}");
    relay.heal();
    pull().unwrap();
}
